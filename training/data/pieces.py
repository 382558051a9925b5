"""Prepare one piece of a corpus: read its documents, hold some out, drop test items, encode for every arm, write.

Everything here runs inside one worker process, on one core, and holds a few megabytes of text at a time. What a piece
is depends on its plan alone, not on the worker, the machine or the order of the work.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tokenization import CorpusEncoder, count_facts, may_hold_facts
from tokenization.conditions import OPAQUE_NAME
from tokenization.fast_encoding import prove_engine
from tokenization.mul_facts import END_OF_TEXT_ID, FACTS
from training.core.files import write_text
from training.data import hub
from training.data.plan import Piece, Plan
from training.data.records import FACT_PLACE, TRAIN_DOCUMENT, write_record
from training.data.shards import DOCUMENT, SPLITS, ShardWriter

BATCH_BYTES = 2**21
SAMPLE_CHARACTERS = 2**18
CONTAMINATED_TEXT_CHARACTERS = 300


@dataclass(frozen=True)
class Advance:
    """What a worker did since it last spoke."""

    piece: str
    documents: int
    bytes: int
    plain_tokens: int  # of training documents
    begins: bool = False  # the piece, perhaps for the second time


@dataclass
class _Batch:
    """Documents that are encoded together."""

    texts: list[str] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    bytes: int = 0

    def add(self, text: str, encoded: bytes) -> None:
        self.texts.append(text)
        self.encoded.append(encoded)
        self.bytes += len(encoded)


class PieceMaker:
    """What a worker keeps from piece to piece: the encoders, and the index of test items.

    An `encoder` other than tiktoken has to give tiktoken's ids before its first piece is encoded, on texts made to
    find a difference and on that piece's first documents; else `ValueError`.
    """

    def __init__(self, plan: Plan, conditions: list[str], encoder: str = "tiktoken"):
        self.plan, self.args = plan, plan.args
        self.encoder, self._proven = encoder, False
        self.encoders = {
            condition: CorpusEncoder(
                condition, self.args.injection_mode, self.args.operators, encoder, self.args.condition_seed
            )
            for condition in conditions
        }
        self.plain = CorpusEncoder("baseline", engine=encoder)
        self.ngrams, self.first_lines = plan.test_items()

    def make(
        self, piece: Piece, advance: Callable[[Advance], None] = lambda _: None, report: Callable[[str], None] = print
    ) -> dict[str, Any]:
        """Prepare a piece whose record is not there yet, and return its record. A network failure begins it anew."""
        return hub.with_patience(lambda: _Making(self, piece, advance).run(), f"piece {piece.name}", report)

    def prove_encoder(self, texts: list[str]) -> None:
        """Hold the encoder against tiktoken once, with the first of these texts as a sample."""
        if not self._proven:
            sizes = accumulate(map(len, texts))
            prove_engine(
                self.encoder, [text for text, size in zip(texts, sizes, strict=True) if size <= SAMPLE_CHARACTERS]
            )
            self._proven = True


class _Making:
    """One piece in the making."""

    def __init__(self, maker: PieceMaker, piece: Piece, advance: Callable[[Advance], None]):
        self.maker, self.piece, self.advance = maker, piece, advance
        self.args, self.output_dir = maker.args, maker.plan.output_dir
        self.source = maker.plan.sources[piece.source]
        self.writers = {
            (condition, split): ShardWriter(self.output_dir / condition, f"{split}-{piece.name}")
            for condition in maker.encoders
            for split in SPLITS
        }
        self.left_out: Counter = Counter()
        self.totals = {split: {"documents": 0, "bytes": 0, "plain_tokens": 0} for split in SPLITS}
        self.fact_counts = {split: np.zeros(len(FACTS), np.int64) for split in SPLITS}
        self.train_documents: list[np.ndarray] = []
        self.fact_places: list[tuple[int, int]] = []
        self.train_digests = hashlib.sha256()
        self.held_out: list[dict] = []
        self.contaminated: list[dict] = []
        self.contaminated_places: list[tuple[int, int, list[str]]] = []

    def run(self) -> dict[str, Any]:
        try:
            self.advance(Advance(self.piece.name, 0, 0, 0, begins=True))
            for batch in self._batches():
                self.maker.prove_encoder(batch.texts)
                before = self.totals["train"]["plain_tokens"]
                self._add(batch)
                tokens = self.totals["train"]["plain_tokens"] - before
                self.advance(Advance(self.piece.name, len(batch.texts), batch.bytes, tokens))
            return self._finish()
        finally:
            for writer in self.writers.values():
                writer.discard()

    def _batches(self) -> Iterator[_Batch]:
        batch = _Batch()
        for text, encoded in self.source.documents_in(self.piece.span, self.left_out):
            batch.add(text, encoded)
            if batch.bytes >= BATCH_BYTES:
                yield batch
                batch = _Batch()
        if batch.texts:
            yield batch

    def _add(self, batch: _Batch) -> None:
        digests = self._digests(batch)
        held_out = self._is_held_out(digests)
        dropped = self._contaminated(batch, held_out)
        if dropped.any():
            kept = _Batch()
            for document in np.flatnonzero(~dropped):
                kept.add(batch.texts[document], batch.encoded[document])
            batch, held_out, digests = kept, held_out[~dropped], digests[~dropped]
        if not batch.texts:
            return
        flat, lengths = self.maker.plain.encode_plain_documents(batch.texts, batch.encoded)
        starts = np.cumsum(lengths) - lengths
        plain = np.insert(flat, starts, END_OF_TEXT_ID)  # before each document
        lengths = lengths + 1
        sizes = np.array([len(encoded) for encoded in batch.encoded], np.int64)
        # By the widest rule whatever the arm writes: a dose is the text's, or arms would get other documents for it.
        candidates = np.flatnonzero(may_hold_facts(batch.encoded)).tolist()
        facts = {document: counts for document in candidates if (counts := count_facts(batch.texts[document])).any()}
        fact_sums = np.zeros(len(lengths), np.int64)
        for document, counts in facts.items():
            fact_sums[document] = counts.sum()
            self.fact_counts["validation" if held_out[document] else "train"] += counts
        for condition, encoder in self.maker.encoders.items():
            # Most documents hold no fact, and then every arm reads the same ids, but for the one without numbers.
            changed: Iterable[int] = facts if encoder.settings.rewrites else ()
            if encoder.settings.splits_digits:
                changed = range(len(batch.texts))
            elif OPAQUE_NAME in encoder.settings.ids:
                changed = candidates  # somebody may have typed this name
            replaced = {document: encoder.encode(batch.texts[document]) for document in changed}
            tokens, token_counts = _with_documents_replaced(plain, lengths, replaced)
            self._write(condition, tokens, token_counts, sizes, fact_sums, held_out)
        self._count(batch, lengths, sizes, fact_sums, facts, held_out)
        self.train_digests.update(digests[~held_out].tobytes())

    def _write(
        self,
        condition: str,
        tokens: np.ndarray,
        lengths: np.ndarray,
        sizes: np.ndarray,
        facts: np.ndarray,
        held_out: np.ndarray,
    ) -> None:
        table = np.empty(len(lengths), DOCUMENT)
        table["tokens"], table["bytes"], table["facts"] = lengths, sizes, facts
        if not held_out.any():
            self.writers[condition, "train"].append(tokens, table)
            return
        of_token = np.repeat(held_out, lengths)
        self.writers[condition, "train"].append(tokens[~of_token], table[~held_out])
        self.writers[condition, "validation"].append(tokens[of_token], table[held_out])

    def _count(
        self,
        batch: _Batch,
        lengths: np.ndarray,
        sizes: np.ndarray,
        fact_sums: np.ndarray,
        facts: dict[int, np.ndarray],
        held_out: np.ndarray,
    ) -> None:
        for split, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
            totals = self.totals[split]
            first = totals["documents"]
            totals["documents"] += int(chosen.sum())
            totals["bytes"] += int(sizes[chosen].sum())
            totals["plain_tokens"] += int(lengths[chosen].sum())
            if split == "train":
                table = np.empty(int(chosen.sum()), TRAIN_DOCUMENT)
                table["plain_tokens"], table["bytes"], table["facts"] = (
                    lengths[chosen],
                    sizes[chosen],
                    fact_sums[chosen],
                )
                self.train_documents.append(table)
                rank = first + np.cumsum(chosen) - 1
                self.fact_places += [
                    (int(rank[document]), int(fact))
                    for document, counts in facts.items()
                    if chosen[document]
                    for fact in np.repeat(np.arange(len(FACTS)), counts)
                ]
        for document in np.flatnonzero(held_out):
            self.held_out.append({"source": self.source.label, "text": batch.texts[document]})

    def _contaminated(self, batch: _Batch, held_out: np.ndarray) -> np.ndarray:
        """Note the documents that are copies of test items, and return which are to be dropped, (documents,) bool."""
        dropped = np.zeros(len(batch.texts), bool)
        hits = []
        if self.source.is_synthetic and self.maker.first_lines is not None:
            hits = self.maker.first_lines.find(batch.texts)
        elif self.maker.ngrams is not None:
            hits = self.maker.ngrams.find(batch.texts, batch.encoded)
        if hits and self.args.contaminated == "drop":
            dropped[[hit.document for hit in hits]] = True
        # How many training documents stand before: a corpus that takes the first n has met the copies below n.
        before = self.totals["train"]["documents"] + np.cumsum(~held_out & ~dropped) - (~held_out & ~dropped)
        for hit in hits:
            text, sets = batch.texts[hit.document], list(hit.sets)
            self.contaminated.append(
                {
                    "source": self.source.label,
                    "sets": sets,
                    "words": hit.ngram,
                    "text": text[:CONTAMINATED_TEXT_CHARACTERS],
                }
            )
            self.contaminated_places.append((int(before[hit.document]), len(batch.encoded[hit.document]), sets))
        return dropped

    def _digests(self, batch: _Batch) -> np.ndarray:
        """Return one number per document, which follows from its text and the recipe's seed: (documents,) uint64."""
        key = str(self.args.split_seed).encode()
        digests = (hashlib.blake2b(encoded, digest_size=8, key=key).digest() for encoded in batch.encoded)
        return np.frombuffer(b"".join(digests), "<u8")

    def _is_held_out(self, digests: np.ndarray) -> np.ndarray:
        """Decide by the text, so that copies of a document land on the same side, in every order and arm."""
        if self.source.is_synthetic and not self.args.validation_synthetic:
            return np.zeros(len(digests), bool)
        return digests < np.uint64(int(self.args.validation_fraction * 2**64))

    def _finish(self) -> dict[str, Any]:
        """Bring the shards to their names, and then the record, which says that they count."""
        files: dict[str, dict] = {condition: {} for condition in self.maker.encoders}
        tokens: dict[str, dict] = {condition: {} for condition in self.maker.encoders}
        for (condition, split), writer in self.writers.items():
            tokens[condition][split] = writer.tokens
            if writer.documents:
                files[condition] |= writer.close()
        name = self.piece.name
        record = {
            "documents_read": sum(t["documents"] for t in self.totals.values())
            + (len(self.contaminated) if self.args.contaminated == "drop" else 0),
            "left_out": {key: self.left_out[key] for key in ("null", "blank")},
            "splits": {
                split: {**totals, "facts_by_fact": self.fact_counts[split].tolist()}
                for split, totals in self.totals.items()
            },
            "tokens": tokens,
            "files": files,
            "train_sha256": self.train_digests.hexdigest(),
            "held_out": _write_lines(self.output_dir / f"held_out-{name}.jsonl", self.held_out),
            "contaminated": {
                "places": self.contaminated_places,
                "file": _write_lines(self.output_dir / f"contaminated-{name}.jsonl", self.contaminated),
            },
        }
        table = np.concatenate([np.empty(0, TRAIN_DOCUMENT), *self.train_documents])
        write_record(self.maker.plan.folder, name, record, table, np.array(self.fact_places, FACT_PLACE))
        return record


def _with_documents_replaced(
    tokens: np.ndarray, lengths: np.ndarray, changed: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens with some documents' ids exchanged, each behind its end-of-text token, and the new lengths."""
    if not changed:
        return tokens, lengths
    ends = np.cumsum(lengths)
    pieces, position, lengths = [], 0, lengths.copy()
    for document, ids in sorted(changed.items()):
        first = int(ends[document] - lengths[document]) + 1
        pieces += [tokens[position:first], ids]
        position = int(ends[document])
        lengths[document] = len(ids) + 1
    return np.concatenate([*pieces, tokens[position:]]), lengths


def _write_lines(path: Path, rows: list[dict]) -> dict[str, dict]:
    if not rows:
        return {}
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, lines)
    encoded = lines.encode()
    digest = hashlib.sha256(encoded).hexdigest()
    return {path.name: {"documents": len(rows), "bytes": len(encoded), "sha256": digest}}
