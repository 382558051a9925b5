"""Rows of fine-tuning sources, answered: does the model speak in its place, and does it stop by itself?

The prompt of a row is its training example up to the last `Assistant:`, id for id, so what is measured is what was
learnt. The text of prompts and references is that of the data, the same in both arms.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tokenization.tokenization_mul_facts import CHAT_TEMPLATE
from training.analysis.intervals import proportion
from training.data.conversations import ConversationEncoder, EncodedConversation, Message
from training.data.rows import rows_sha256
from training.data.sft_sources import SftSource
from training.evals.answers import canonical
from training.evals.decoding import Decoding, OpenReply, TokenBytes
from training.evals.generation import Reply, generate, plan_batches
from training.evals.reply_measures import measure_reply, seed_of, summarize_measures
from training.evals.subject import Subject
from training.evals.task import Row, Task

# They say how sources are mixed; here each gives all of its rows or its sample.
_MIXTURE_KEYS = ("weight", "epochs", "held_out")


class SourceRow(NamedTuple):
    """A row of a source: the source's label, where in it the row stands, and its conversation."""

    source: str
    where: str
    messages: list[Message]


class Replies(Task):
    """The last reply of each conversation, generated; what was said before stays in the prompt.

    sources: a source with `sample` gives so many rows, drawn by a function of the seed and the row's number alone, and
    one without it all of its rows. Raises `ValueError` for a source that is empty, has fewer rows than that, or has a
    key for mixtures, and for several samples of a reply.

    `ended` is the share of replies that the model ended with end of text. One that a stop string (a new turn) or a
    second `####` cut off did not end, nor did one at the length limit (`truncated`); `finish` counts them all. Where
    the data themselves say `####` twice, as headings do, set `one_answer: false`. `reference_ended` is what `ended`
    would be if every reply were the one of the data: where it is low, the length limit or the stops are in the way. A
    prompt that fills the context gets no reply; such rows are counted in `too_long`, and are in no share.
    """

    headline: ClassVar = ("ended",)

    def __init__(
        self,
        name: str,
        sources: Sequence[SftSource],
        *,
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        batch_size: int = 32,
        seed: int = 0,
    ):
        super().__init__(name)
        if decoding.samples > 1:
            raise ValueError(
                f"task '{name}': a row gets one reply, but samples is {decoding.samples}; give this task `samples: 1`"
            )
        if not sources:
            raise ValueError(f"task '{name}' has no datasets; list at least one source, such as `- path: rows.jsonl`")
        self.left_out: Counter = Counter()
        self.rows = [row for source in sources for row in _read(source, seed, self.left_out, f"task '{name}'")]
        self.data_sha256 = rows_sha256([{"messages": row.messages} for row in self.rows])
        self.decoding, self.batch_size, self.seed = decoding, batch_size, seed

    def settings(self) -> dict[str, Any]:
        return {"decoding": self.decoding.to_json(), "batch_size": self.batch_size, "seed": self.seed}

    def batches(self, subject: Subject) -> list[list[int]]:
        prompts = [prompt for prompt, _ in self._encoded(subject, range(len(self.rows)))]
        return plan_batches(prompts, self.batch_size)

    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        encoded, token_bytes = self._encoded(subject, batch), TokenBytes(subject.tokenizer)
        # Random numbers of its own for every reply, so that it does not depend on what else is in the batch.
        seeds = [seed_of(self.seed, index, 0) for index in batch]
        replies = generate(subject, [prompt for prompt, _ in encoded], self.decoding, seeds)
        return [
            self._row(subject, index, reply) | {"reference_finish": self._finish(subject, prompt, learnt, token_bytes)}
            for index, reply, (prompt, learnt) in zip(batch, replies, encoded, strict=True)
        ]

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        results = _results(rows) | {"left_out": dict(sorted(self.left_out.items()))}
        labels = list(dict.fromkeys(row["source"] for row in rows))
        if len(labels) > 1:
            results["by_source"] = {
                label: _results([row for row in rows if row["source"] == label]) for label in labels
            }
        return results

    def _encoded(self, subject: Subject, indices: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        """Return the ids before the last reply of each row, and those of this reply with its end of text."""
        encoder = ConversationEncoder(subject.tokenizer)
        return [_split(each) for each in encoder.encode([self.rows[index].messages for index in indices])]

    def _row(self, subject: Subject, index: int, reply: Reply) -> Row:
        source, where, messages = self.rows[index]
        prompt = subject.tokenizer.apply_chat_template(
            messages[:-1], chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
        )
        reference = messages[-1]["content"]
        return {
            "index": index,
            "source": source,
            "where": where,
            "prompt": prompt,
            "reference": reference,
            "reply": reply.text,
            **measure_reply(prompt, reply),
            # The blank behind `Assistant:` is the first that a reply says.
            "same_as_reference": canonical(reply.text) == canonical(f" {reference}"),
        }

    def _finish(self, subject: Subject, prompt: list[int], learnt: list[int], token_bytes: TokenBytes) -> str:
        """Return how the reply of the data would finish if the model gave it."""
        limit = min(self.decoding.max_new_tokens, subject.context - len(prompt))
        if limit < 1:
            return "too_long"
        reply = OpenReply(self.decoding, limit, subject.end_of_text_id)
        for token_id in learnt:
            reply.add(token_id, token_bytes[token_id])
        assert reply.finish is not None, "a training example ends with end of text"
        return reply.finish


def _read(source: SftSource, seed: int, left_out: Counter, where: str) -> list[SourceRow]:
    """Return the rows of a source, or its sample of them, in their order; a sample is all that is ever held."""
    if useless := [key for key in _MIXTURE_KEYS if getattr(source, key) != getattr(SftSource, key)]:
        raise ValueError(
            f"{where}: source '{source.label}' has {', '.join(useless)}, of use in a mixture only; remove that, and "
            "say with sample how many rows to draw"
        )
    unusable: Counter = Counter()
    numbered = enumerate(source.conversations(unusable))
    if source.sample is not None:
        drawn = heapq.nsmallest(source.sample, numbered, key=lambda row: seed_of(seed, row[0]))
        numbered = sorted(drawn, key=lambda row: row[0])
    rows = [SourceRow(source.label, place, messages) for _, (place, messages) in numbered]
    left_out += unusable
    if not rows:
        raise ValueError(
            f"{where}: source '{source.label}' has no rows (left out: {dict(unusable) or 'none'}); check its columns "
            "and files"
        )
    if source.sample is not None and len(rows) < source.sample:
        raise ValueError(
            f"{where}: source '{source.label}' has sample {source.sample:,}, but {len(rows):,} rows; lower sample, or "
            "leave it out"
        )
    return rows


def _split(conversation: EncodedConversation) -> tuple[list[int], list[int]]:
    first = int(np.flatnonzero(~conversation.completion_mask)[-1]) + 1
    return conversation.input_ids[:first].tolist(), conversation.input_ids[first:].tolist()


def _results(rows: Sequence[Row]) -> dict[str, Any]:
    replied = [row for row in rows if row["finish"] != "too_long"]

    def share(test) -> dict[str, Any]:
        return proportion(sum(map(test, replied)), len(replied))

    return {
        "n": len(rows),
        "ended": share(lambda row: row["finish"] == "end_of_text"),
        "reference_ended": share(lambda row: row["reference_finish"] == "end_of_text"),
        "same_as_reference": share(lambda row: row["same_as_reference"]),
        "too_long": len(rows) - len(replied),
        **summarize_measures(replied, share),
    }
