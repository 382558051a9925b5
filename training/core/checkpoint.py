"""Checkpoints on disk: written aside, sealed with hashes, renamed; verified before anything resumes from them.

`checkpoint-N/` is a `from_pretrained` folder plus the training state. `checkpoint.json` inside it lists every file
with its size and sha256. A folder of that name is always whole: it appears by a rename after all its files are on
disk.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from training.core.files import sync_folder

SEAL = "checkpoint.json"
STAGING = ".saving"
DAMAGED = "damaged-"
BEST = "best"  # a link to the checkpoint that did best where a run selects one
_NAME = re.compile(r"checkpoint-(\d+)")


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """Return the run's `checkpoint-N` folders, oldest step first."""
    run_dir = Path(run_dir)
    found = [path for path in run_dir.iterdir() if _NAME.fullmatch(path.name)] if run_dir.is_dir() else []
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """Return the N of `checkpoint-N`."""
    match = _NAME.fullmatch(path.name)
    assert match, path
    return int(match[1])


def seal(folder: Path, facts: dict) -> None:
    """Flush every file of a finished checkpoint folder to disk and write `checkpoint.json` about them and `facts`."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != SEAL:
            with open(path, "rb") as file:
                files[str(path.relative_to(folder))] = {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
                os.fsync(file.fileno())
    with open(folder / SEAL, "w", encoding="utf-8") as file:
        json.dump({**facts, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def publish(staged: Path, run_dir: Path) -> Path:
    """Rename a sealed folder into the run, where it becomes the newest checkpoint in one step."""
    target = run_dir / staged.name
    if target.exists():
        shutil.rmtree(target)  # the same step, saved before; only a run that fell back behind it gets here
    os.rename(staged, target)
    sync_folder(run_dir)
    return target


def read_seal(folder: Path) -> dict:
    """Return a checkpoint's `checkpoint.json`; raises `ValueError` when it is missing or unreadable."""
    try:
        sealed = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} has no readable {SEAL} ({error})") from error
    if not isinstance(sealed, dict) or not {"step", "num_processes", "engine", "files"} <= sealed.keys():
        raise ValueError(f"{folder / SEAL} does not say what the checkpoint holds")
    return sealed


def verify_checkpoint(folder: Path) -> dict:
    """Return the seal of a whole checkpoint; raises `ValueError` that names the file which is missing or changed."""
    sealed = read_seal(folder)
    for name, facts in sealed["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        if path.stat().st_size != facts["bytes"]:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes instead of {facts['bytes']:,}")
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                raise ValueError(f"{path} is not what was written (sha256 differs)")
    return sealed


def newest_checkpoint(run_dir: str | Path, warn: Callable[[str], None]) -> Path | None:
    """Return the newest whole checkpoint of a run, or None.

    A damaged one is renamed to `damaged-checkpoint-N` and reported through `warn`, and the one before it is tried.
    Call it in one process only.
    """
    for path in reversed(list_checkpoints(run_dir)):
        try:
            verify_checkpoint(path)
            return path
        except (ValueError, OSError) as error:
            aside = path.with_name(DAMAGED + path.name)
            if aside.exists():
                shutil.rmtree(aside)
            os.rename(path, aside)
            warn(
                f"{path} is damaged: {error}. It was renamed to {aside.name}; falling back to the checkpoint before "
                "it."
            )
    return None


def remove_old_checkpoints(run_dir: str | Path, keep: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one; None keeps all."""
    if keep is not None:
        best = (Path(run_dir) / BEST).resolve().name
        for path in list_checkpoints(run_dir)[: -max(keep, 1)]:
            if path.name == best:
                continue
            doomed = path.with_name(
                ".removing-" + path.name
            )  # half of a checkpoint must not bear the name of a whole one
            os.rename(path, doomed)
            shutil.rmtree(doomed)


def link_best(run_dir: Path, checkpoint: Path) -> None:
    """Make `best` a link to a checkpoint of the run, in one step; it is relative, so that a run can be moved."""
    if (run_dir / BEST).is_symlink() and os.readlink(run_dir / BEST) == checkpoint.name:
        return
    partial = run_dir / f".{BEST}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(checkpoint.name)
    os.replace(partial, run_dir / BEST)


def check_process_count(folder: Path, num_processes: int, engine: str) -> None:
    """Refuse to resume sharded optimiser state at another process count or under another engine.

    DDP and single-process state is whole in every process and may continue at any count. Raises `ValueError` with
    both.
    """
    sealed = read_seal(folder)
    saved = sealed["num_processes"], sealed["engine"]
    sharded = any(name in engine + sealed["engine"] for name in ("DEEPSPEED", "FSDP"))
    if sharded and saved != (num_processes, engine):
        raise ValueError(
            f"{folder} was saved by {saved[0]} processes under {saved[1]}, and this run has {num_processes} under "
            f"{engine}; its optimiser state is split among processes. Launch it as it was saved, or start a new run "
            "in another output_dir"
        )
