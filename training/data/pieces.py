"""Prepare one piece of a corpus: read its documents, hold some out, drop test items, encode for every arm, write.

Everything here runs inside one worker process, on one core, and holds a few megabytes of text at a time. What a piece
is depends on its plan alone, not on the worker, the machine or the order of the work.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from tokenization import CorpusEncoder, count_facts, may_hold_facts
from tokenization.fast_encoding import prove_engine
from tokenization.mul_facts import END_OF_TEXT_ID, FACTS
from training.core.files import write_json, write_text
from training.data import hub
from training.data.plan import Piece, Plan
from training.data.shards import DOCUMENT, SPLITS, ShardWriter, write_array

BATCH_BYTES = 2**21
SAMPLE_CHARACTERS = 2**18
CONTAMINATED_TEXT_CHARACTERS = 300

# What is needed to choose a prefix of a piece's training documents: per document its plain GPT-2 tokens (end of text
# included), and per fact the document that holds it and which of `FACTS` it is.
TRAIN_DOCUMENT = np.dtype([("plain_tokens", "<u4"), ("bytes", "<u4"), ("facts", "<u4")])
FACT_PLACE = np.dtype([("document", "<u4"), ("fact", "u1")])


@dataclass(frozen=True)
class Advance:
    """What a worker did since it last spoke."""

    piece: str
    documents: int
    bytes: int
    plain_tokens: int  # of training documents


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

    An `encoder` other than tiktoken has to give tiktoken's ids before its first piece is encoded, on texts made to find
    a difference and on that piece's first documents; else `ValueError`.
    """

    def __init__(self, plan: Plan, conditions: list[str], encoder: str = "tiktoken"):
        self.plan, self.args = plan, plan.args
        self.encoder, self._proven = encoder, False
        self.encoders = {
            condition: CorpusEncoder(condition, self.args.injection_mode, self.args.operators, engine=encoder)
            for condition in conditions
        }
        self.plain = CorpusEncoder("baseline", engine=encoder)
        self.ngrams = plan.ngrams()

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
        self.train_text = hashlib.sha256()
        self.held_out: list[dict] = []
        self.contaminated: list[dict] = []
        self.contaminated_sets: Counter = Counter()
        self.contaminated_bytes = 0

    def run(self) -> dict[str, Any]:
        try:
            for batch in self._batches():
                self.maker.prove_encoder(batch.texts)
                read = len(batch.texts), batch.bytes
                before = self.totals["train"]["plain_tokens"]
                self._add(batch)
                tokens = self.totals["train"]["plain_tokens"] - before
                self.advance(Advance(self.piece.name, *read, tokens))
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
        batch = self._decontaminated(batch)
        if not batch.texts:
            return
        flat, lengths = self.maker.plain.encode_plain_documents(batch.texts)
        starts = np.cumsum(lengths) - lengths
        plain = np.insert(flat, starts, END_OF_TEXT_ID)  # before each document
        lengths = lengths + 1
        sizes = np.array([len(encoded) for encoded in batch.encoded], np.int64)
        held_out = np.array([self._is_held_out(encoded) for encoded in batch.encoded], bool)
        facts = {
            int(document): counts
            for document in np.flatnonzero(may_hold_facts(batch.texts))
            if (counts := count_facts(batch.texts[document], self.args.injection_mode, self.args.operators)).any()
        }
        fact_sums = np.zeros(len(lengths), np.int64)
        for document, counts in facts.items():
            fact_sums[document] = counts.sum()
            self.fact_counts["validation" if held_out[document] else "train"] += counts
        for condition, encoder in self.maker.encoders.items():
            # Most documents hold no fact, and then every arm reads the same ids.
            changed = {document: encoder.encode(batch.texts[document]) for document in facts}
            tokens, token_counts = _with_documents_replaced(plain, lengths, changed)
            self._write(condition, tokens, token_counts, sizes, fact_sums, held_out)
        self._count(batch, lengths, sizes, fact_sums, facts, held_out)

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
        for document, encoded in enumerate(batch.encoded):
            if held_out[document]:
                self.held_out.append({"source": self.source.label, "text": batch.texts[document]})
            else:
                self.train_text.update(b"%d/" % len(encoded))
                self.train_text.update(encoded)

    def _decontaminated(self, batch: _Batch) -> _Batch:
        """Note the documents that share words with a test item, and leave them out if the recipe says so.

        Numbers do not count in that comparison, so it would take all synthetic problems for copies of the synthetic
        probes; those are kept apart by their seeds and held-out facts.
        """
        hits = [] if self.maker.ngrams is None or self.source.is_synthetic else self.maker.ngrams.find(batch.texts)
        for hit in hits:
            self.contaminated.append(
                {
                    "source": self.source.label,
                    "sets": list(hit.sets),
                    "words": hit.ngram,
                    "text": batch.texts[hit.document][:CONTAMINATED_TEXT_CHARACTERS],
                }
            )
            self.contaminated_sets.update(hit.sets)
            self.contaminated_bytes += len(batch.encoded[hit.document])
        if not hits or self.args.contaminated == "report":
            return batch
        dropped = {hit.document for hit in hits}
        kept = _Batch()
        for document, (text, encoded) in enumerate(zip(batch.texts, batch.encoded, strict=True)):
            if document not in dropped:
                kept.add(text, encoded)
        return kept

    def _is_held_out(self, encoded: bytes) -> bool:
        """Decide by the text, so that copies of a document land on the same side, in every order and arm."""
        if self.source.is_synthetic and not self.args.validation_synthetic:
            return False
        digest = hashlib.blake2b(encoded, digest_size=8, key=str(self.args.split_seed).encode()).digest()
        return int.from_bytes(digest, "little") < self.args.validation_fraction * 2**64

    def _finish(self) -> dict[str, Any]:
        """Bring the shards to their names, and then the record, which says that they count."""
        files: dict[str, dict] = {condition: {} for condition in self.maker.encoders}
        tokens: dict[str, dict] = {condition: {} for condition in self.maker.encoders}
        for (condition, split), writer in self.writers.items():
            tokens[condition][split] = writer.tokens
            if writer.documents:
                files[condition] |= writer.close()
        folder, name = self.maker.plan.folder, self.piece.name
        table = np.concatenate(self.train_documents) if self.train_documents else np.empty(0, TRAIN_DOCUMENT)
        write_array(documents_path(folder, name), table)
        write_array(facts_path(folder, name), np.array(self.fact_places, FACT_PLACE))
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
            "train_sha256": self.train_text.hexdigest(),
            "held_out": _write_lines(self.output_dir / f"held_out-{name}.jsonl", self.held_out),
            "contaminated": {
                "documents": len(self.contaminated),
                "bytes": self.contaminated_bytes,
                "by_set": dict(sorted(self.contaminated_sets.items())),
                "file": _write_lines(self.output_dir / f"contaminated-{name}.jsonl", self.contaminated),
            },
        }
        write_json(record_path(folder, name), record)
        return record


def record_path(folder: Path, name: str) -> Path:
    """Return where the record of a piece is; it is written last."""
    return folder / f"{name}.json"


def documents_path(folder: Path, name: str) -> Path:
    """Return where a piece keeps its `TRAIN_DOCUMENT` rows."""
    return folder / f"{name}.documents.npy"


def facts_path(folder: Path, name: str) -> Path:
    """Return where a piece keeps its `FACT_PLACE` rows."""
    return folder / f"{name}.facts.npy"


def read_record(folder: Path, piece: Piece, conditions: list[str]) -> dict[str, Any] | None:
    """Return the record of a piece that is finished for all these conditions, None otherwise."""
    path = record_path(folder, piece.name)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return record if set(conditions) <= set(record["files"]) else None


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
    return {path.name: {"documents": len(rows), "sha256": hashlib.sha256(lines.encode()).hexdigest()}}
