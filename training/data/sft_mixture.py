"""The mixture of a fine-tuning recipe: rows of all its sources, split from held-out rows, sampled and weighted.

Nothing here knows a tokenizer, so both arms get the same rows.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets

from training.core.files import partial_path
from training.data.conversations import Message
from training.data.decontaminate import NgramIndex
from training.data.exact_items import FirstLines
from training.data.packing import shuffled
from training.data.sft_sources import SftSource
from training.data.sources import Source

_ROWS_AT_ONCE = 2000
_SHOWN_HITS = 5  # of a source, in the report
_SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("source", pa.string()),
        ("where", pa.string()),
    ]
)


class Mixture(NamedTuple):
    """What `build_mixture` returns: data sets with the columns `messages`, `source` and `where`, and a report."""

    train: Dataset
    held_out: Dataset
    report: dict[str, Any]


def build_mixture(
    sources: Sequence[SftSource],
    seed: int,
    folder: Path,
    rows_total: int | None = None,
    evaluation_sets: Sequence[Source] = (),
) -> Mixture:
    """Read all sources, and choose the rows to train on and those to hold out.

    Each source is written to `folder` once, as an Arrow file that the data sets map into memory. Rows that share 13
    words in a row with an item of the evaluation sets are left out, and synthetic ones that ask its very question.
    What is held out depends on the texts alone, and never on `seed`; no question is both held out and trained on, in
    any source. Sources with weights give `rows_total` rows, or without it as many as no source runs out of.

    Raises `ValueError` for rows that are no conversations, for a source that has too few rows, and when nothing is
    left.
    """
    if not sources:
        raise ValueError("datasets is empty; a fine-tuning recipe lists at least one source under `datasets:`")
    weighted = [source.weight is not None for source in sources]
    if any(weighted) and not all(weighted):
        raise ValueError("some sources have a weight and others have none; give every source one, or none of them")
    if rows_total is not None and (rows_total < 1 or not all(weighted)):
        raise ValueError(f"rows_total is {rows_total}; it is a count above zero, and needs a weight for every source")
    folder.mkdir(parents=True, exist_ok=True)
    tests = _TestItems.read(evaluation_sets)
    loaded = [_Loaded.read(source, folder / f"source-{index}.arrow", tests) for index, source in enumerate(sources)]
    held_out_questions = np.unique(np.concatenate([each.questions[each.held_out] for each in loaded]))
    for each in loaded:
        each.keep_for_training(held_out_questions, seed)
    for each, rows in zip(loaded, _rows_of_each(loaded, rows_total), strict=True):
        each.take(rows)
    everything = concatenate_datasets([each.dataset for each in loaded])
    firsts = np.cumsum([0, *(len(each.questions) for each in loaded)])
    train = np.concatenate([first + each.chosen for first, each in zip(firsts, loaded, strict=False)])
    held_out = np.concatenate(
        [first + np.flatnonzero(each.held_out) for first, each in zip(firsts, loaded, strict=False)]
    )
    report = {
        "seed": seed,
        "rows": len(train),
        "held_out": len(held_out),
        "evaluation_sets": tests.ngrams.describe() if tests else None,
        "sources": [each.describe(len(train)) for each in loaded],
    }
    return Mixture(everything.select(train), everything.select(held_out), report)


class _TestItems(NamedTuple):
    """What finds copies of test items: shared 13-grams in real text, the very question in synthetic rows."""

    ngrams: NgramIndex
    first_lines: FirstLines

    @classmethod
    def read(cls, sets: Sequence[Source]) -> "_TestItems | None":
        texts = {source.label: source.texts_of_test_items() for source in sets}
        return cls(NgramIndex.build(texts), FirstLines.build(texts)) if texts else None

    def find(self, rows: list[list[Message]], is_synthetic: bool) -> dict[int, tuple[tuple[str, ...], str]]:
        """Return for each row that copies an item the evaluation sets and what it shares with them."""
        if not is_synthetic:
            texts = ["\n".join(message["content"] for message in messages) for messages in rows]
            return {hit.document: (hit.sets, hit.ngram) for hit in self.ngrams.find(texts)}
        asked = [(row, each["content"]) for row, messages in enumerate(rows) for each in messages if _is_user(each)]
        hits = self.first_lines.find([text for _, text in asked])
        return {asked[hit.document][0]: (hit.sets, hit.ngram) for hit in hits}


@dataclass
class _Loaded:
    """A source whose rows are read.

    questions: the hash of what each row asks, (rows,) uint64. held_out: (rows,) bool. free: the rows to train on, best
    ranked first. chosen: those that the mixture takes, in their order, repetitions one after the other.
    """

    source: SftSource
    dataset: Dataset
    questions: np.ndarray
    held_out: np.ndarray
    counts: dict[str, Any]
    free: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    chosen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def read(cls, source: SftSource, path: Path, tests: _TestItems | None) -> "_Loaded":
        """Write the rows of a source to `path`, without those that cannot be used."""
        left_out, per_set = Counter(), Counter()
        questions: list[int] = []
        contaminated: list[dict[str, Any]] = []
        digest = hashlib.sha256()
        copies = 0
        rows = source.conversations(left_out)
        partial = partial_path(path)
        try:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as writer:
                while batch := list(islice(rows, _ROWS_AT_ONCE)):
                    hits = tests.find([messages for _, messages in batch], bool(source.synthetic)) if tests else {}
                    for number, (sets, shared) in hits.items():
                        copies += 1
                        per_set.update(sets)
                        contaminated.append({"where": batch[number][0], "sets": list(sets), "shared": shared})
                    del contaminated[_SHOWN_HITS:]
                    batch = [row for number, row in enumerate(batch) if number not in hits]
                    for _, messages in batch:
                        questions.append(_question_hash(messages))
                        for message in messages:
                            digest.update(f"{message['role']}/{len(message['content'])}/".encode())
                            digest.update(message["content"].encode())
                    columns = [
                        [messages for _, messages in batch],
                        [source.label] * len(batch),
                        [at for at, _ in batch],
                    ]
                    arrays = [pa.array(values, column.type) for values, column in zip(columns, _SCHEMA, strict=True)]
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        if not questions:
            raise ValueError(
                f"source '{source.label}' has no rows to train on (left out: {dict(left_out) or 'none'}, copies of "
                f"test items: {copies}); check its columns and files"
            )
        hashes = np.array(questions, np.uint64)
        counts = {
            "rows": len(questions) + copies + left_out.total(),
            "left_out": dict(left_out),
            "contaminated": copies,
            "contaminated_by_set": dict(per_set),
            "contaminated_examples": contaminated,
            "sha256": digest.hexdigest(),
        }
        return cls(source, Dataset.from_file(str(path)), hashes, _held_out(source, hashes), counts)

    def keep_for_training(self, held_out_questions: np.ndarray, seed: int) -> None:
        """Rank the rows that ask nothing that is held out, and draw the sample."""
        is_free = ~np.isin(self.questions, held_out_questions)
        self.counts["asked_in_held_out"] = int(np.count_nonzero(~is_free & ~self.held_out))
        order = shuffled(len(self.questions), seed, epoch=0)
        self.free = order[is_free[order]]
        wanted = self.source.sample
        if wanted is not None and wanted > len(self.free):
            raise ValueError(
                f"source '{self.source.label}' has sample {wanted:,}, but {len(self.free):,} rows to train on; lower "
                "sample, or leave it out"
            )
        self.free = self.free[:wanted]
        if not len(self.free):
            raise ValueError(f"source '{self.source.label}' has no rows left beside the held-out ones; lower held_out")

    def take(self, rows: int) -> None:
        whole, rest = divmod(rows, len(self.free))
        repetitions = np.full(len(self.free), whole)
        repetitions[:rest] += 1
        by_number = np.argsort(self.free)
        self.chosen = np.repeat(self.free[by_number], repetitions[by_number])

    def describe(self, total: int) -> dict[str, Any]:
        return {
            "source": self.source.label,
            "synthetic": bool(self.source.synthetic),
            **self.counts,
            "held_out": int(np.count_nonzero(self.held_out)),
            "available": len(self.free),
            "train": len(self.chosen),
            "epochs": len(self.chosen) / len(self.free),
            "share": len(self.chosen) / total,
        }


def _rows_of_each(loaded: list[_Loaded], rows_total: int | None) -> list[int]:
    """Return how many rows each source gives; raises `ValueError` for one that would have to repeat too often."""
    if loaded[0].source.weight is None:
        return [len(each.free) for each in loaded]
    weights = np.array([each.source.weight for each in loaded])
    shares = weights / weights.sum()
    most = np.array([len(each.free) * each.source.epochs for each in loaded])
    if rows_total is None:
        return [max(1, int(rows)) for rows in np.minimum(np.floor((most / shares).min() * shares + 1e-6), most)]
    exact = rows_total * shares
    rows = np.floor(exact).astype(int)
    # What rounding leaves goes to the largest remainders.
    rows[np.argsort(rows - exact, kind="stable")[: rows_total - rows.sum()]] += 1
    for each, share, wanted, possible in zip(loaded, shares, rows.tolist(), most.tolist(), strict=True):
        if wanted > possible:
            raise ValueError(
                f"source '{each.source.label}' is to give {wanted:,} rows ({share:.1%} of rows_total {rows_total:,}), "
                f"but has {len(each.free):,} and may repeat them to {possible:,} (epochs {each.source.epochs}); raise "
                f"its epochs to {-(-wanted // len(each.free))}, or lower rows_total or its weight"
            )
    return rows.tolist()


def _held_out(source: SftSource, questions: np.ndarray) -> np.ndarray:
    """Return which rows are held out, (rows,) bool: those whose questions have the lowest hashes.

    A share is a bound on the hash, so that new rows change nothing for the others. Of equal questions all are held
    out, so a number may be exceeded by their repetitions.
    """
    if source.held_out is None:
        return np.zeros(len(questions), bool)
    if source.held_out < 1:
        return questions < np.uint64(int(source.held_out * 2**64))
    count = int(source.held_out)
    if count >= len(questions):
        raise ValueError(
            f"source '{source.label}' has held_out {count:,}, but {len(questions):,} rows; leave some to train on"
        )
    return questions <= np.partition(questions, count - 1)[count - 1]


def _question_hash(messages: list[Message]) -> int:
    """Return a hash of the first thing that a user asks, whatever its blanks and capitals."""
    question = next(message["content"] for message in messages if _is_user(message))
    digest = hashlib.blake2b(" ".join(question.lower().split()).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _is_user(message: Message) -> bool:
    return message["role"] == "user"
