"""What the preparation remembers of each finished piece, until the manifests are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.core.files import sync_folder, write_json
from training.data.plan import Piece
from training.data.shards import write_array

# What is needed to choose a prefix of a piece's training documents: per document its plain GPT-2 tokens (end of text
# included), and per fact the document that holds it and which of `FACTS` it is.
TRAIN_DOCUMENT = np.dtype([("plain_tokens", "<u4"), ("bytes", "<u4"), ("facts", "<u4")])
FACT_PLACE = np.dtype([("document", "<u4"), ("fact", "u1")])


def documents_path(folder: Path, name: str) -> Path:
    """Return where a piece keeps its `TRAIN_DOCUMENT` rows."""
    return folder / f"{name}.documents.npy"


def facts_path(folder: Path, name: str) -> Path:
    """Return where a piece keeps its `FACT_PLACE` rows."""
    return folder / f"{name}.facts.npy"


def write_record(
    folder: Path, name: str, record: dict[str, Any], train_documents: np.ndarray, fact_places: np.ndarray
) -> None:
    """Say that a piece is finished: everything that it wrote is on disk before the record is."""
    write_array(documents_path(folder, name), train_documents)
    write_array(facts_path(folder, name), fact_places)
    for condition in record["files"]:
        if (folder.parent / condition).is_dir():
            sync_folder(folder.parent / condition)
    sync_folder(folder.parent)
    write_json(folder / f"{name}.json", record)


def read_record(folder: Path, piece: Piece, conditions: list[str]) -> dict[str, Any] | None:
    """Return the record of a piece that is finished for all these conditions, None otherwise.

    A record whose shards or texts are gone or cut does not count: the piece is done again.
    """
    path = folder / f"{piece.name}.json"
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if not set(conditions) <= set(record["files"]):
        return None
    sizes = {documents_path(folder, piece.name): None, facts_path(folder, piece.name): None}
    for condition in conditions:
        sizes |= {folder.parent / condition / name: file["bytes"] for name, file in record["files"][condition].items()}
    for texts in (record["held_out"], record["contaminated"]["file"]):
        sizes |= {folder.parent / name: file["bytes"] for name, file in texts.items()}
    whole = all(file.is_file() and size in (None, file.stat().st_size) for file, size in sizes.items())
    return record if whole else None


def finished_names(folder: Path) -> list[str]:
    """Return the names of the pieces that have a record, sorted."""
    return sorted(file.stem for file in folder.glob("[0-9]*-[0-9]*.json"))
