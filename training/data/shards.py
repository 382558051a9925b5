"""Tokenised corpora on disk: uint16 shards, one row of facts about each document, and the manifest that vouches for
them.

A corpus folder holds, per split and piece, `train-00000.tokens.npy` (uint16, an end-of-text token before each
document) and `train-00000.documents.npy` (one `DOCUMENT` row per document), and `manifest.json`, which is written
last.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
SPLITS = ("train", "validation")

# tokens: with the leading end-of-text token. bytes: UTF-8 of the original text. facts: expressions that injection
# rewrites, counted in the original text, so that both arms agree on which documents hold one.
DOCUMENT = np.dtype([("tokens", "<u4"), ("bytes", "<u4"), ("facts", "<u4")])


def write_shard(folder: Path, split: str, piece: int, tokens: Sequence[np.ndarray], documents: np.ndarray) -> dict:
    """Write one shard atomically and return `{file name: {"bytes": …, "sha256": …}}`."""
    stem = f"{split}-{piece:05d}"
    arrays = {f"{stem}.tokens.npy": np.concatenate(tokens), f"{stem}.documents.npy": documents}
    return {name: _write_atomically(folder / name, array) for name, array in arrays.items()}


def read_manifest(folder: Path) -> dict:
    """Return a corpus folder's manifest; raises `FileNotFoundError` or `ValueError` with what to do."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"no prepared corpus in '{folder}' ({MANIFEST} is missing); run training/prepare_data.py with this "
            "folder's recipe, which also finishes a preparation that was interrupted"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); delete the folder and prepare the corpus again") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format {version}, this version reads {FORMAT_VERSION}; prepare the corpus again")
    return manifest


@dataclass(frozen=True)
class TokenizedSplit:
    """One split of a corpus: memory-mapped shards and an index over their documents."""

    shards: list[np.ndarray]  # uint16, one per piece
    documents: np.ndarray  # DOCUMENT rows over all pieces
    shard_of: np.ndarray  # (documents,) which shard holds the document
    start_of: np.ndarray  # (documents,) where it starts there

    def __len__(self) -> int:
        return len(self.documents)

    def tokens(self, document: int) -> np.ndarray:
        """Return a document's ids, (tokens,) uint16, the leading end-of-text token included."""
        start = self.start_of[document]
        return self.shards[self.shard_of[document]][start : start + self.documents["tokens"][document]]


class Corpus:
    """A prepared corpus, opened for reading.

    Raises `ValueError` when it was made for another condition or by another tokenizer than `tokenizer`, when a shard
    is missing or does not have the size that the manifest states, or when it holds no training document.
    """

    def __init__(self, folder: str | Path, tokenizer):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self._check_tokenizer(tokenizer)
        self.train = self._open("train")
        self.validation = self._open("validation")
        if len(self.train) == 0:
            raise ValueError(f"the corpus in '{self.folder}' holds no training document; check the recipe's sources")

    def _check_tokenizer(self, tokenizer) -> None:
        made_for = self.manifest["condition"]
        if made_for != tokenizer.condition:
            raise ValueError(
                f"the corpus in '{self.folder}' was made for condition '{made_for}', but this run's condition is "
                f"'{tokenizer.condition}'; point corpus_dir at the folder that holds '{tokenizer.condition}'"
            )
        if self.manifest["tokenizer"] != tokenizer.fingerprint:
            raise ValueError(
                f"the corpus in '{self.folder}' was made by another tokenizer (fingerprint "
                f"{self.manifest['tokenizer'][:12]}, this run has {tokenizer.fingerprint[:12]}; injection mode "
                f"{self.manifest['injection_mode']} against {tokenizer.injection_mode}); prepare it again, or set "
                "injection_mode and operators as the corpus has them"
            )

    def _open(self, split: str) -> TokenizedSplit:
        shards, tables = [], []
        for name, facts in self.manifest["files"].items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != facts["bytes"]:
                found = "is missing" if size is None else f"has {size:,} bytes instead of {facts['bytes']:,}"
                raise ValueError(f"shard '{path}' {found}; delete '{self.folder}' and prepare the corpus again")
            if name.startswith(f"{split}-"):
                array = np.load(path, mmap_mode="r", allow_pickle=False)
                (shards if name.endswith(".tokens.npy") else tables).append(array)
        documents = np.concatenate(tables) if tables else np.empty(0, DOCUMENT)
        shard_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        starts = [np.cumsum(table["tokens"], dtype=np.int64) - table["tokens"] for table in tables]
        start_of = np.concatenate(starts) if starts else np.empty(0, np.int64)
        for shard, table in zip(shards, tables, strict=True):
            if shard.dtype != np.uint16 or len(shard) != int(table["tokens"].sum()):
                raise ValueError(
                    f"a shard in '{self.folder}' holds {len(shard):,} tokens of type {shard.dtype}, but its documents "
                    f"add up to {int(table['tokens'].sum()):,}; delete the folder and prepare the corpus again"
                )
        return TokenizedSplit(shards, documents, shard_of, start_of)


def _write_atomically(path: Path, array: np.ndarray) -> dict:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    with open(partial, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = partial.stat().st_size
    os.replace(partial, path)
    return {"bytes": size, "sha256": digest}
