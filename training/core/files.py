"""Small files that are replaced as a whole, and folders that one process at a time writes to."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def partial_path(path: Path) -> Path:
    """Return where a file is written before it gets its name.

    It is this process's own: another one, of an earlier try or on another machine, may still be writing the same file.
    """
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part, also after a power loss."""
    partial = partial_path(path)
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON like `write_text`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to disk: a rename is not safe before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_HELD: dict[Path, IO[str]] = {}


def stay_alone_in(folder: Path, report: Callable[[str], None] = print) -> None:
    """Hold a lock on the folder until this process ends, after waiting for whoever holds it.

    For runs, which an interrupted process may still be saving while it is started again.
    """
    folder = folder.absolute()
    if folder not in _HELD:
        _HELD[folder] = _lock(folder, report)


@contextmanager
def alone_in(folder: Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Hold a lock on the folder, after waiting for whoever holds it; the folder is made if need be.

    Raises `ValueError` where the folder is a file.
    """
    with _lock(folder, report):
        yield


def _lock(folder: Path, report: Callable[[str], None]) -> IO[str]:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir '{folder}' is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / ".lock", "a")  # noqa: SIM115 - open as long as it is held
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report(f"{folder}: another process writes there; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def end_of_path(place: str) -> str:
    """Return the last names of a path; the folders above a run or its data are nobody's business."""
    path = Path(place)
    return "/".join(path.relative_to(path.anchor).parts[-3:])
