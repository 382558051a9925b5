"""The loss on given texts: bits per byte, with and without facts, on the facts themselves, and on what follows them.

Loss per token is not comparable between arms, because the tokens are different ones. Comparable are bits per byte over
documents without facts, bits per byte outside of the facts, and the loss on the tokens after a fact, which are the
same in both arms; the last two are taken over documents that fit into the context, for where a longer one is cut
depends on the arm. Over text with facts the injected arm has the easier task, as `6*9` and `9 × 6 = 54` are one to it:
its bits are a lower bound.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from training.analysis.intervals import ratio
from training.evals.bits_per_byte import cut_into_rows, score_rows
from training.evals.fact_places import AFTER_FACT, find_places, token_ends
from training.evals.subject import Subject
from training.evals.task import Row, Task

NOT_COMPARABLE = ("tokens", "loss_per_token", "fact_tokens")
_OPENING = 80  # characters of a document that its result repeats


class TextLoss(Task):
    """Score every token of the documents once, each document on its own.

    Special names in a document are text. An end of text comes before it, and a document that is longer than the
    context goes on in new rows, cut as in `FixedDocuments`: there the first token is predicted from the one before it
    alone. `batch_tokens` bounds the padded tokens that are scored at once, as far as a single row does.

    Raises `ValueError` for documents that are empty or hold half of a surrogate pair.
    """

    headline: ClassVar = ("bits_per_byte", "bits_per_byte_without_facts", "loss_after_fact")

    def __init__(self, name: str, texts: Sequence[str], batch_tokens: int = 4096):
        super().__init__(name)
        if not texts:
            raise ValueError(f"task '{name}' has no documents; give it at least one")
        for index, text in enumerate(texts):
            try:
                size = len(text.encode("utf-8"))
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"document {index} of task '{name}' holds half of a surrogate pair at character {error.start}, "
                    "which is no Unicode text; repair or drop it"
                ) from error
            if size == 0:
                raise ValueError(f"document {index} of task '{name}' is empty; leave it out")
        self.texts = list(texts)
        self.batch_tokens = batch_tokens
        self._encoded: tuple[Any, list[np.ndarray]] = (None, [])

    def settings(self) -> dict[str, Any]:
        return {"documents": len(self.texts), "tokens_after_fact": AFTER_FACT}

    def batches(self, subject: Subject) -> list[list[int]]:
        sizes = [len(ids) - 1 for ids in self._ids(subject)]
        longest_first = sorted(range(len(sizes)), key=lambda index: -sizes[index])
        batches: list[list[int]] = []
        used = width = 0  # rows of the last batch, and the tokens of its longest
        for index in longest_first:
            rows = math.ceil(sizes[index] / subject.context)
            if not batches or (used + rows) * width > self.batch_tokens:
                batches.append([])
                used, width = 0, min(sizes[index], subject.context)
            batches[-1].append(index)
            used += rows
        return batches

    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        documents = [self._ids(subject)[index] for index in batch]
        return [
            self._row(subject, index, ids[1:], nats)
            for index, ids, nats in zip(batch, documents, self._score(subject, documents), strict=True)
        ]

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        with_facts = [row for row in rows if row["facts"]]
        without_facts = [row for row in rows if not row["facts"]]
        # Where a document is cut differs between arms, and with it what a token is predicted from.
        whole = [row for row in rows if row["windows"] == 1]
        followed = [row for row in whole if row["after_fact_tokens"]]
        totals = {key: sum(row[key] for row in rows) for key in ("bytes", "characters", "tokens", "facts")}
        return {
            "documents": len(rows),
            "documents_with_facts": len(with_facts),
            **totals,
            "bits_per_byte": _bits(rows, "nats", "bytes"),
            "bits_per_byte_without_facts": _bits(without_facts, "nats", "bytes"),
            "bits_per_byte_with_facts": _bits(with_facts, "nats", "bytes"),
            "bits_per_byte_outside_facts": ratio(
                [(row["nats"] - row["fact_nats"]) / math.log(2) for row in whole],
                [row["bytes"] - row["fact_bytes"] for row in whole],
            ),
            "bits_per_fact": _bits(with_facts, "fact_nats", "facts"),
            "fact_tokens": sum(row["fact_tokens"] for row in rows),
            "loss_after_fact": {
                **ratio([row["after_fact_nats"] for row in followed], [row["after_fact_tokens"] for row in followed]),
                "tokens": sum(row["after_fact_tokens"] for row in followed),
            },
            "documents_longer_than_context": len(rows) - len(whole),
            "loss_per_token": sum(row["nats"] for row in rows) / totals["tokens"],
            "not_comparable_between_arms": list(NOT_COMPARABLE),
        }

    def _ids(self, subject: Subject) -> list[np.ndarray]:
        """Return the ids of all documents, the end of text before each; encoded once for a tokenizer."""
        if self._encoded[0] is not subject.tokenizer:
            ids = [np.array([subject.end_of_text_id, *subject.encode(text)], np.int64) for text in self.texts]
            self._encoded = (subject.tokenizer, ids)
        return self._encoded[1]

    def _score(self, subject: Subject, documents: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the nats of every token after the end of text, float64, for each document."""
        nats = [np.empty(len(ids) - 1) for ids in documents]
        # Each row with the place where its nats belong, longest first.
        rows = [
            (row, nats[document][number * subject.context :][: len(row) - 1])
            for document, ids in enumerate(documents)
            for number, row in enumerate(cut_into_rows(ids, subject.context))
        ]
        rows.sort(key=lambda row: -len(row[0]))
        while rows:
            count = max(1, self.batch_tokens // (len(rows[0][0]) - 1))
            scored = score_rows(subject.model, [row for row, _ in rows[:count]], subject.device, subject.autocast)
            for values, (_, place) in zip(scored.double().cpu().numpy(), rows[:count], strict=True):
                place[:] = values[: len(place)]
            rows = rows[count:]
        if not all(np.isfinite(of_one).all() for of_one in nats):
            raise ValueError(f"the model '{subject.name}' gives losses that are not finite; its training has diverged")
        return nats

    def _row(self, subject: Subject, index: int, ids: np.ndarray, nats: np.ndarray) -> Row:
        text = self.texts[index]
        places = find_places(text)
        plain_tokens = len(ids) if not places.expressions else places.plain_tokens
        of_fact, after_fact = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
        if places.expressions:
            ends = token_ends(text, ids, places.expressions)
            for start, end in places.facts:
                of_fact |= (ends > start) & (ends <= end)
            after_fact = np.isin(ends, [end for _, end in places.after])
            assert after_fact.sum() == len(places.after), "these tokens are in every arm"
        return {
            "index": index,
            "opening": text[:_OPENING],
            "characters": len(text),
            "bytes": len(text.encode()),
            "tokens": len(ids),
            # Of plain GPT-2, which never has fewer: whether the document is cut is then the same in every arm.
            "windows": math.ceil(plain_tokens / subject.context),
            "nats": float(nats.sum()),
            # As the rule finds them with all its signs, whatever this subject writes.
            "facts": len(places.expressions),
            # Of the bytes in `FactPlaces.facts`, a leading blank among them, as this subject writes them.
            "fact_bytes": sum(end - start for start, end in places.facts),
            "fact_tokens": int(of_fact.sum()),
            "fact_nats": float(nats[of_fact].sum()),
            "after_fact_tokens": int(after_fact.sum()),
            "after_fact_nats": float(nats[after_fact].sum()),
        }


def _bits(rows: list[Row], nats: str, units: str) -> dict[str, float | int | None]:
    return ratio([row[nats] / math.log(2) for row in rows], [row[units] for row in rows])
