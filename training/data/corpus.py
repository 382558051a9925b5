"""Prepare a tokenised corpus from sources, for all conditions in one pass over the same documents.

`prepare_corpus` writes `<output_dir>/<condition>/` (see `training/data/shards.py`) and
`<output_dir>/held_out-*.jsonl`, the original text of the validation documents. The work is cut into pieces; a piece
is done when `progress.json` says so.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from tokenization import MulFactTokenizer, count_facts
from tokenization.mul_facts import END_OF_TEXT_ID, FACTS
from training.core.files import write_json, write_text
from training.data.corpus_recipe import CorpusArguments
from training.data.mixture import Cursor, Mixture
from training.data.shards import DOCUMENT, FORMAT_VERSION, MANIFEST, SPLITS, read_manifest, write_shard
from training.data.sources import Source

PROGRESS = "progress.json"


def prepare_corpus(args: CorpusArguments, report: Callable[[str], None] = print) -> dict[str, dict]:
    """Prepare whatever `args` asks for that is not there yet, and return the manifest of each condition.

    A finished corpus is left alone, an interrupted preparation goes on behind its last finished piece, and two
    processes that want the same folder take turns. Raises `ValueError` when the folder holds another corpus, when a
    source runs out before the target, or when there is nothing to train or validate on.
    """
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with _alone_in(output_dir):
        sources = args.open_sources()
        tokenizers = {
            condition: MulFactTokenizer.build(condition, args.injection_mode, args.operators)
            for condition in args.conditions
        }
        request = _request(args, sources)
        missing = [
            condition
            for condition, tokenizer in tokenizers.items()
            if not _is_complete(output_dir / condition, request, tokenizer.fingerprint)
        ]
        if missing:
            preparation = _Preparation(
                args, sources, {condition: tokenizers[condition] for condition in missing}, request
            )
            preparation.run(report)
        else:
            report(f"{output_dir} is complete; nothing to do")
        return {condition: read_manifest(output_dir / condition) for condition in args.conditions}


@dataclass
class _Split:
    """Running totals of one split of one condition."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    synthetic_documents: int = 0
    facts: list[int] = field(default_factory=lambda: [0] * len(FACTS))
    synthetic_facts: int = 0


class _Preparation:
    def __init__(
        self, args: CorpusArguments, sources: list[Source], tokenizers: dict[str, MulFactTokenizer], request: dict
    ):
        self.args, self.sources, self.tokenizers, self.request = args, sources, tokenizers, request
        self.output_dir = Path(args.output_dir)
        self.encoders = {condition: tokenizer.corpus_encoder() for condition, tokenizer in tokenizers.items()}
        self.plain = MulFactTokenizer.build("baseline").corpus_encoder()
        self._load_progress()

    def _load_progress(self) -> None:
        """Continue behind the last finished piece of the same request, or begin."""
        identity = _sha256_of([self.request, {name: tok.fingerprint for name, tok in self.tokenizers.items()}])
        path = self.output_dir / PROGRESS
        saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if saved and saved["identity"] != identity:
            raise ValueError(
                f"'{self.output_dir}' holds an interrupted preparation with other sources, settings or conditions; "
                "give the same recipe again to finish it, or delete that folder to begin anew"
            )
        self.identity = identity
        self.pieces: int = saved.get("pieces", 0)
        self.target_count: int = saved.get("target_count", 0)
        self.order_sha256: str = saved.get("order_sha256", "")
        self.held_out_files: dict = saved.get("held_out_files", {})
        self.files: dict[str, dict] = saved.get("files", {condition: {} for condition in self.tokenizers})
        self.cursors = [Cursor(**cursor) for cursor in saved.get("cursors", [{}] * len(self.sources))]
        self.totals = {
            condition: {split: _Split(**saved.get("totals", {}).get(condition, {}).get(split, {})) for split in SPLITS}
            for condition in self.tokenizers
        }

    def run(self, report: Callable[[str], None]) -> None:
        for condition in self.tokenizers:
            (self.output_dir / condition).mkdir(exist_ok=True)
        if self.pieces:
            report(f"{self.output_dir}: continuing behind piece {self.pieces - 1}")
        mixture = Mixture(self.sources, self.cursors, weighted=self.sources[0].weight is not None)
        piece, piece_tokens = self._new_piece(), 0
        for index, text in mixture:
            piece_tokens += self._add(piece, index, text)
            if self._target_reached() or piece_tokens >= self.args.shard_tokens:
                self._finish_piece(piece, report)
                piece, piece_tokens = self._new_piece(), 0
            if self._target_reached():
                break
        if any(part["documents"] for part in piece.values()):
            self._finish_piece(piece, report)
        self._check_enough()
        self._write_manifests(report)

    def _new_piece(self) -> dict:
        return {key: {"tokens": [], "documents": []} for key in [(c, s) for c in self.tokenizers for s in SPLITS]} | {
            "held_out": {"documents": []}
        }

    def _add(self, piece: dict, index: int, text: str) -> int:
        """Encode one document into the piece; returns its number of plain GPT-2 training tokens."""
        source = self.sources[index]
        held_out = (self.args.validation_synthetic or not source.is_synthetic) and self._is_held_out(text)
        split = "validation" if held_out else "train"
        size = len(text.encode("utf-8"))
        facts = count_facts(text, self.args.injection_mode, self.args.operators)
        plain = self.plain.encode(text)
        for condition, encoder in self.encoders.items():
            # Most documents hold no fact, and then both arms read the same ids.
            ids = encoder.encode(text) if facts.any() else plain
            part, totals = piece[condition, split], self.totals[condition][split]
            part["tokens"] += [np.array([END_OF_TEXT_ID], np.uint16), ids]
            part["documents"].append((len(ids) + 1, size, int(facts.sum())))
            totals.documents += 1
            totals.tokens += len(ids) + 1
            totals.bytes += size
            totals.facts = [total + int(count) for total, count in zip(totals.facts, facts, strict=True)]
            if source.is_synthetic:
                totals.synthetic_documents += 1
                totals.synthetic_facts += int(facts.sum())
        if held_out:
            piece["held_out"]["documents"].append({"source": source.label, "text": text})
            return 0
        self.order_sha256 = hashlib.sha256(f"{self.order_sha256}{len(text)}/{text}".encode()).hexdigest()
        self.target_count += len(plain) + 1
        return len(plain) + 1

    def _is_held_out(self, text: str) -> bool:
        """Decide by the text, so that copies of a document land on the same side, in every order and arm."""
        digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=str(self.args.split_seed).encode()).digest()
        return int.from_bytes(digest, "little") < self.args.validation_fraction * 2**64

    def _target_reached(self) -> bool:
        return self.args.target_tokens is not None and self.target_count >= self.args.target_tokens

    def _finish_piece(self, piece: dict, report: Callable[[str], None]) -> None:
        """Write the piece's shards, then say in `progress.json` that they count."""
        held_out = piece.pop("held_out")["documents"]
        for (condition, split), part in piece.items():
            if part["documents"]:
                documents = np.array(part["documents"], DOCUMENT)
                written = write_shard(self.output_dir / condition, split, self.pieces, part["tokens"], documents)
                self.files[condition] |= written
        if held_out:
            name = f"held_out-{self.pieces:05d}.jsonl"
            lines = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in held_out)
            write_text(self.output_dir / name, lines)
            self.held_out_files[name] = {
                "documents": len(held_out),
                "sha256": hashlib.sha256(lines.encode()).hexdigest(),
            }
        self.pieces += 1
        write_json(
            self.output_dir / PROGRESS,
            {
                "identity": self.identity,
                "pieces": self.pieces,
                "target_count": self.target_count,
                "order_sha256": self.order_sha256,
                "held_out_files": self.held_out_files,
                "files": self.files,
                "cursors": [asdict(cursor) for cursor in self.cursors],
                "totals": {
                    name: {split: asdict(t) for split, t in totals.items()} for name, totals in self.totals.items()
                },
            },
        )
        goal = f" of {self.args.target_tokens:,}" if self.args.target_tokens else ""
        report(f"{self.output_dir}: piece {self.pieces - 1} written, {self.target_count:,}{goal} training tokens")

    def _check_enough(self) -> None:
        train, validation = (next(iter(self.totals.values()))[split] for split in SPLITS)
        if train.documents + validation.documents == 0:
            raise ValueError(
                f"the sources hold no text: {', '.join(source.label for source in self.sources)} gave no document"
            )
        if self.args.target_tokens is not None and not self._target_reached():
            read = ", ".join(
                f"'{source.label}' {cursor.documents:,} documents{' (ran out)' if cursor.finished else ''}"
                for source, cursor in zip(self.sources, self.cursors, strict=True)
            )
            raise ValueError(
                f"the sources ran out at {self.target_count:,} of target_tokens {self.args.target_tokens:,} (read: "
                f"{read}); add sources, raise `epochs` of the one that ran out, or lower its weight or the target"
            )
        if train.documents == 0 or validation.documents == 0:
            empty = "training" if train.documents == 0 else "validation"
            raise ValueError(
                f"of {train.documents + validation.documents:,} documents none fell to {empty} at validation_fraction "
                f"{self.args.validation_fraction}; change the fraction, or set validation_synthetic if every source "
                "is synthetic"
            )

    def _write_manifests(self, report: Callable[[str], None]) -> None:
        for condition, tokenizer in self.tokenizers.items():
            splits = {split: self._describe(self.totals[condition][split]) for split in SPLITS}
            manifest = {
                "format_version": FORMAT_VERSION,
                "condition": condition,
                "injection_mode": tokenizer.injection_mode,
                "tokenizer": tokenizer.fingerprint,
                "request": self.request,
                "splits": splits,
                "documents_sha256": self.order_sha256,
                "held_out": {"documents": splits["validation"]["documents"], "files": self.held_out_files},
                "files": self.files[condition],
            }
            write_json(self.output_dir / condition / MANIFEST, manifest)
            train = splits["train"]
            report(
                f"{self.output_dir / condition}: {train['documents']:,} training documents, {train['tokens']:,} "
                f"tokens, {train['bytes']:,} bytes of text, {train['facts_per_million_tokens']:,.1f} facts per "
                f"million tokens; {splits['validation']['documents']:,} documents held out"
            )
        (self.output_dir / PROGRESS).unlink(missing_ok=True)

    def _describe(self, totals: _Split) -> dict:
        facts = sum(totals.facts)
        return {
            "documents": totals.documents,
            "tokens": totals.tokens,
            "bytes": totals.bytes,
            "synthetic_documents": totals.synthetic_documents,
            "facts": facts,
            "synthetic_facts": totals.synthetic_facts,
            "facts_per_million_tokens": 1e6 * facts / max(totals.tokens, 1),
            "facts_by_name": {fact.name: count for fact, count in zip(FACTS, totals.facts, strict=True)},
        }


def _request(args: CorpusArguments, sources: list[Source]) -> dict:
    """Return what decides the documents of a corpus and their order; the tokenizer comes beside it."""
    keys = (
        "injection_mode",
        "operators",
        "target_tokens",
        "shard_tokens",
        "validation_fraction",
        "validation_synthetic",
    )
    request = {key: getattr(args, key) for key in keys}
    return request | {"split_seed": args.split_seed, "sources": [source.fingerprint() for source in sources]}


def _is_complete(folder: Path, request: dict, tokenizer: str) -> bool:
    """Return whether the folder holds this corpus; raises `ValueError` when it holds another or a damaged one."""
    if not (folder / MANIFEST).is_file():
        return False
    manifest = read_manifest(folder)
    made_for = {**manifest["request"], "tokenizer": manifest["tokenizer"]}
    for key, wanted in {**request, "tokenizer": tokenizer}.items():
        if made_for.get(key) != wanted:
            raise ValueError(
                f"'{folder}' holds another corpus: its {key} is {made_for.get(key)}, this recipe has {wanted}; choose "
                "another output_dir, or delete that folder"
            )
    for name, facts in manifest["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != facts["bytes"]:
            raise ValueError(f"shard '{folder / name}' is missing or truncated; delete '{folder}' and run again")
    return True


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: both arms may want to prepare the corpus they share at the same moment."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha256_of(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
