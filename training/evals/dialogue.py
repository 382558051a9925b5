"""A person's questions to one model: what it reads of the conversation so far, and what it replies.

A question is encoded as in evaluation, and the exchanges before it as in fine-tuning: each role's text alone, an end
of text behind each reply. So the first reply is the one that an evaluation would get.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers.utils import cached_file

from training.core.provenance import RUN_FILE
from training.evals.decoding import Decoding
from training.evals.generation import Reply
from training.evals.reply_measures import seed_of
from training.evals.streaming import stream_reply
from training.evals.subject import Subject

_LEAST_SHARE = 4  # one part in so many of the context is kept free for a reply while older exchanges can make room


class Dialogue:
    """A conversation with a model, or texts that it continues one by one where it `completes`.

    note: is told what a person should know, such as exchanges that no longer fit. A completion begins like a document,
    behind an end of text; nothing but its length or the model ends it, and nothing of it is remembered. The n-th reply
    is drawn like that of item n of an evaluation with this seed, so a question that is asked again is drawn anew.
    """

    def __init__(
        self,
        subject: Subject,
        decoding: Decoding,
        note: Callable[[str], None],
        *,
        seed: int = 0,
        completes: bool = False,
    ):
        self.subject, self.note, self.seed, self.completes = subject, note, seed, completes
        self.decoding = replace(decoding, stop_strings=[], one_answer=False) if completes else decoding
        self.exchanges: list[tuple[str, str]] = []  # question, reply as the model said it
        self._asked = 0

    def start_over(self) -> None:
        """Forget what was said."""
        self.exchanges.clear()

    def prompt(self, question: str) -> list[int]:
        """Return the ids that the model reads before its reply.

        Leaves out the oldest exchanges where they do not fit, and notes it. Raises `ValueError` for a question that
        leaves no room for a reply.
        """
        subject = self.subject
        if self.completes:
            ids = [subject.end_of_text_id, *subject.encode(question)]
        else:
            ids = subject.encode(subject.prompt(question))
        if len(ids) >= subject.context:
            raise ValueError(
                f"the question has {len(ids):,} tokens with its format, and the context of the model holds "
                f"{subject.context:,} together with the reply; shorten it"
            )
        before = [
            [*subject.encode(subject.prompt(asked)), *subject.encode(reply), subject.end_of_text_id]
            for asked, reply in self.exchanges
        ]
        room = subject.context - min(self.decoding.max_new_tokens, subject.context // _LEAST_SHARE) - len(ids)
        dropped = 0
        while sum(map(len, before[dropped:])) > room and dropped < len(before):
            dropped += 1
        if dropped:
            del self.exchanges[:dropped]
            what = "the oldest exchange" if dropped == 1 else f"the oldest {dropped} exchanges"
            self.note(f"the context of {subject.context:,} tokens is full: {what} left out from here on")
        return [*(token_id for exchange in before[dropped:] for token_id in exchange), *ids]

    def ask(
        self,
        question: str,
        say: Callable[[str], None],
        *,
        show_facts: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Reply:
        """Return the model's reply to a question, after handing it to `say` in pieces, as `stream_reply` does.

        Raises `ValueError` as `prompt` does.
        """
        prompt, seed = self.prompt(question), seed_of(self.seed, self._asked, 0)
        self._asked += 1
        reply = stream_reply(
            self.subject, prompt, self.decoding, say, seed=seed, show_facts=show_facts, stopped=stopped
        )
        if not self.completes and (reply.ids or reply.finish != "stopped"):
            self.exchanges.append((question, reply.text))
        return reply

    def read_as(self, question: str) -> str:
        """Return the question as the model reads it, facts by their names."""
        if self.completes:
            return self.subject.decode(self.subject.encode(question))
        text = self.subject.decode(self.subject.encode(self.subject.prompt(question)))
        before, after = self.subject.prompt("\0").split("\0")
        return text.removeprefix(before).removesuffix(after)


def was_fine_tuned(name: str, revision: str | None = None) -> bool | None:
    """Return whether a checkpoint, a folder or a repository on the Hub, started from a model; None if nothing tells.

    The `run.json` of its run tells, in it or beside it, and so does the model card of a checkpoint.
    """
    run_file = _find(name, RUN_FILE, revision)
    if run_file is None and Path(name).is_dir():
        run_file = _find(str(Path(name).resolve().parent), RUN_FILE, None)
    facts = {} if run_file is None else json.loads(Path(run_file).read_text(encoding="utf-8"))
    if "recipe" in facts:
        return facts["recipe"].get("model_name_or_path") is not None
    card = _find(name, "README.md", revision)
    text = "" if card is None else Path(card).read_text(encoding="utf-8")
    return "\n| started from |" in text if "\n| arm |" in text else None


def _find(name: str, file: str, revision: str | None) -> str | None:
    return cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
