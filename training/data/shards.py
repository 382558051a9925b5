"""Tokenised corpora on disk: uint16 shards, one row of facts about each document, and the manifest that vouches for
them.

A corpus folder holds, per split and piece, `train-00-00000.tokens.npy` (uint16, an end-of-text token before each
document) and `train-00-00000.documents.npy` (one `DOCUMENT` row per document), and `manifest.json`, which is written
last and names the shards of each split in their order.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.core.files import partial_path

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
SPLITS = ("train", "validation")

# tokens: with the leading end-of-text token. bytes: UTF-8 of the original text. facts: expressions that injection
# rewrites, counted in the original text, so that both arms agree on which documents hold one.
DOCUMENT = np.dtype([("tokens", "<u4"), ("bytes", "<u4"), ("facts", "<u4")])


class ShardWriter:
    """Write one shard batch by batch; nothing has the shard's name before `close`."""

    def __init__(self, folder: Path, stem: str):
        self.folder, self.stem = folder, stem
        self.tokens = 0
        self.documents = 0
        self._tables: list[np.ndarray] = []
        self._partial = partial_path(folder / stem)
        self._file = None

    def append(self, tokens: np.ndarray, documents: np.ndarray) -> None:
        """Add documents: their tokens, (tokens,) uint16, and one `DOCUMENT` row each."""
        assert tokens.dtype == np.uint16 and len(tokens) == int(documents["tokens"].sum())
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self._partial, "wb")  # noqa: SIM115 (`close` and `discard` close it)
            self._write_header()
        tokens.tofile(self._file)
        self.tokens += len(tokens)
        self.documents += len(documents)
        self._tables.append(documents)

    def close(self) -> dict[str, dict]:
        """Give the shard its name and return `{file name: {"bytes": …, "sha256": …}}`."""
        assert self._file is not None
        # NumPy leaves room in the header for a longer shape, so that it keeps its length.
        self._file.seek(0)
        self._write_header()
        self._file.close()
        self._file = None
        names = shard_files(self.stem)
        return {
            names[0]: _publish(self._partial, self.folder / names[0]),
            names[1]: write_array(self.folder / names[1], np.concatenate(self._tables)),
        }

    def discard(self) -> None:
        """Drop what was not closed."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._partial.unlink()

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file, {"descr": "<u2", "fortran_order": False, "shape": (self.tokens,)}
        )


def shard_files(stem: str) -> tuple[str, str]:
    """Return the names of a shard's two files: tokens and documents."""
    return f"{stem}.tokens.npy", f"{stem}.documents.npy"


def write_array(path: Path, array: np.ndarray) -> dict:
    """Write a `.npy` file that is there as a whole or not at all; returns its bytes and sha256."""
    partial = partial_path(path)
    with open(partial, "wb") as file:
        np.save(file, array, allow_pickle=False)
    return _publish(partial, path)


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

    def _check_file(self, name: str) -> None:
        path, facts = self.folder / name, self.manifest["files"][name]
        size = path.stat().st_size if path.is_file() else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {facts['bytes']:,}"
            raise ValueError(f"shard '{path}' {found}; delete '{self.folder}' and prepare the corpus again")

    def _open(self, split: str) -> TokenizedSplit:
        stems = self.manifest["splits"][split]["shards"]  # a source of several epochs stands here several times
        opened = {stem: self._open_shard(stem) for stem in dict.fromkeys(stems)}
        shards, tables = [opened[stem][0] for stem in stems], [opened[stem][1] for stem in stems]
        documents = np.concatenate(tables) if tables else np.empty(0, DOCUMENT)
        shard_of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        starts = [np.cumsum(table["tokens"], dtype=np.int64) - table["tokens"] for table in tables]
        start_of = np.concatenate(starts) if starts else np.empty(0, np.int64)
        return TokenizedSplit(shards, documents, shard_of, start_of)

    def _open_shard(self, stem: str) -> tuple[np.ndarray, np.ndarray]:
        for name in shard_files(stem):
            self._check_file(name)
        tokens, documents = (
            np.load(self.folder / name, mmap_mode="r", allow_pickle=False) for name in shard_files(stem)
        )
        if tokens.dtype != np.uint16 or len(tokens) != int(documents["tokens"].sum()):
            raise ValueError(
                f"shard '{self.folder / stem}' holds {len(tokens):,} tokens of type {tokens.dtype}, but its documents "
                f"add up to {int(documents['tokens'].sum()):,}; delete the folder and prepare the corpus again"
            )
        return tokens, documents


def _publish(partial: Path, path: Path) -> dict:
    """Bring a finished file to disk and to its name."""
    with open(partial, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    size = partial.stat().st_size
    os.replace(partial, path)
    return {"bytes": size, "sha256": digest}
