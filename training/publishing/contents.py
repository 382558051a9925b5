"""What of a run is published: the branches, and the files in each of them."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.core.checkpoint import BEST, SEAL, checkpoint_step, list_checkpoints, read_seal
from training.core.lora import ADAPTER_FOLDER
from training.core.model_card import CARD
from training.core.provenance import RUN_FILE
from training.core.tracking import METRICS_FILE, read_metrics
from training.publishing.card import published_card
from training.publishing.data_facts import data_in_words
from training.publishing.run_identity import published_facts, without_folders

MAIN = "main"
# What `from_pretrained` reads; whatever else lies in a checkpoint is there for resuming.
_MODEL_FILE = re.compile(
    r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt"
    rf"|chat_template\.jinja|{ADAPTER_FOLDER}/adapter_config\.json|{ADAPTER_FOLDER}/adapter_model\.safetensors"
)
_NEEDED = ("config.json", "model", "tokenizer.json")


@dataclass(frozen=True)
class File:
    """A file to publish: a path, or the content itself."""

    content: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of_text(cls, text: str) -> "File":
        content = text.encode()
        return cls(content, len(content), hashlib.sha256(content).hexdigest())

    def git_sha1(self) -> str:
        """Return the name that git gives to the content."""
        content = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Branch:
    """A branch of the repository with all its files."""

    name: str
    step: int
    files: dict[str, File]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


def is_published(name: str) -> bool:
    """Return whether a file of the repository is one that is written by publishing, and removed by it."""
    return name in (CARD, RUN_FILE, METRICS_FILE) or _MODEL_FILE.fullmatch(name) is not None


def branches_of(run: Path, repository: str, license: str, checkpoints: Iterable[Path] | None = None) -> list[Branch]:
    """Return what of a run is published: `step-N` of each checkpoint, oldest first, `best` where the run has one, and
    the last checkpoint as `main`.

    checkpoints: these instead of all that the run's folder holds. Raises `ValueError` that names a file which is
    missing or damaged.
    """
    facts = published_facts(run)
    folders = {checkpoint_step(folder): folder for folder in list_checkpoints(run) if checkpoints is None}
    folders |= {checkpoint_step(folder): folder for folder in checkpoints or ()}
    if not folders:
        raise ValueError(f"'{run}' has no checkpoint-N folders; name the folder of a run")
    wanted = [(f"step-{step}", step) for step in sorted(folders)]
    best = run / BEST
    if best.is_symlink() and checkpoint_step(best.resolve()) in folders:
        wanted.append((BEST, checkpoint_step(best.resolve())))
    wanted.append((MAIN, max(folders)))
    data = without_folders(data_in_words(run, facts))  # once, because it counts through the whole corpus
    models = {step: _model_files(folder) for step, folder in folders.items()}
    return [
        Branch(
            name,
            step,
            models[step]
            | _run_files(run, step, facts)
            | {
                CARD: File.of_text(
                    published_card(
                        run, folders[step], facts, data, repository, None if name == MAIN else name, license
                    )
                )
            },
        )
        for name, step in wanted
    ]


def keep_published_files(checkpoint: Path, target: Path) -> None:
    """Give the files of a checkpoint that are published a second place, without a copy where the disk can do that."""
    for name in [SEAL, *filter(_MODEL_FILE.fullmatch, read_seal(checkpoint)["files"])]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(checkpoint / name, target / name)
        except OSError:
            shutil.copy2(checkpoint / name, target / name)


def _model_files(checkpoint: Path) -> dict[str, File]:
    """Return the files of a checkpoint that `from_pretrained` reads, after comparing them with its seal."""
    sealed, found = read_seal(checkpoint)["files"], {}
    for name, facts in sealed.items():
        if _MODEL_FILE.fullmatch(name) is None:
            continue
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(f"{path} is missing; publish another checkpoint, or put it back")
        with open(path, "rb") as file:
            seen = hashlib.file_digest(file, "sha256").hexdigest()
        if seen != facts["sha256"]:
            raise ValueError(
                f"{path} is not what was written (sha256 differs); remove that checkpoint, or put it back"
            )
        found[name] = File(path, facts["bytes"], seen)
    for needed in _NEEDED:
        if not any(name.startswith(needed) for name in found):
            raise ValueError(
                f"{checkpoint} holds no {needed} among {', '.join(found) or 'nothing'}; it cannot be loaded"
            )
    return found


def _run_files(run: Path, step: int, facts: dict[str, Any]) -> dict[str, File]:
    # Up to the step, so that a branch stays as it is while the run goes on.
    rows = [row for row in read_metrics(run / METRICS_FILE) if row["step"] <= step]
    return {
        RUN_FILE: File.of_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n"),
        METRICS_FILE: File.of_text("".join(json.dumps(row) + "\n" for row in rows)),
    }
