"""Write down what a run was: `run.json` with the resolved recipe, seeds, hashes, versions, device and commit."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.core.files import write_json

if TYPE_CHECKING:
    import torch

RUN_FILE = "run.json"
PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "trl",
    "datasets",
    "tokenizers",
    "tiktoken",
    "numpy",
    "safetensors",
)


def sha256_of_weights(model: "torch.nn.Module") -> str:
    """Return one hash of all parameters and their names, so that two arms can show that they began alike."""
    import torch  # here, because corpus preparation, which has no weights, does without it

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def environment(device: str) -> dict[str, Any]:
    """Return the commit of this project, the versions of what it stands on, and the device by its name."""
    return {
        "command": sys.argv,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "device": device,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def write_run_file(run_dir: Path, facts: dict[str, Any], device: str) -> None:
    """Write `run.json`; each later start of the same run adds a line to its `starts`."""
    path = run_dir / RUN_FILE
    starts = json.loads(path.read_text(encoding="utf-8")).get("starts", []) if path.is_file() else []
    write_json(path, {**facts, "starts": [*starts, environment(device)]})


def check_same_run(run_dir: Path, facts: dict[str, Any], free_keys: frozenset[str]) -> None:
    """Compare a run that is about to resume with its `run.json`.

    Raises `ValueError` for the first difference in a recipe key outside `free_keys`, or in a hash, with both values.
    """
    path = run_dir / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"'{run_dir}' has checkpoints but no {RUN_FILE}; choose another output_dir")
    before = json.loads(path.read_text(encoding="utf-8"))
    difference = first_difference(before, facts, free_keys)
    if difference is None:
        return
    key, old, new = difference
    if key in facts["recipe"]:
        raise ValueError(
            f"cannot resume '{run_dir}' with a changed recipe: {key} was {old!r} and is now {new!r}; put it back, "
            "or choose another output_dir for a new run"
        )
    raise ValueError(
        f"cannot resume '{run_dir}': its {key} was {old!r} and is now {new!r}; use the corpus and tokenizer that the "
        "run began with, or choose another output_dir"
    )


def first_difference(
    before: dict[str, Any], facts: dict[str, Any], free_keys: frozenset[str]
) -> tuple[str, Any, Any] | None:
    """Return the first key in which two runs differ, with both values, or None where they are one run.

    before: a `run.json`. facts: what must be equal there, with its `recipe`, of which `free_keys` may differ.
    """
    # A key that one side lacks came or went with a version of Transformers.
    for key in sorted((before["recipe"].keys() & facts["recipe"].keys()) - free_keys):
        if before["recipe"][key] != facts["recipe"][key]:
            return key, before["recipe"][key], facts["recipe"][key]
    for key, value in facts.items():
        if key != "recipe" and before.get(key) != value:
            return key, before.get(key), value
    return None


def _git_commit() -> str | None:
    """Return the commit, with `+changes` where the work tree differs from it; None outside a checkout."""
    folder = Path(__file__).resolve().parent
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
