"""What tests of publishing share: a small run with measured results, and the program in this process."""

import runpy
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT, pretrain_here

EVALUATION = {
    "name": "quick",
    "tasks": [{"task": "text_loss", "synthetic": "word_problems", "documents": 6, "seed": 9}],
}
REPOSITORY = "you/tiny"


def train_run(recipe: Path, folder: Path, *arguments: object) -> Path:
    """Pretrain into `folder/run`, with checkpoints 4 and 8 and an evaluation of both."""
    evaluation = folder / "quick.yaml"
    evaluation.write_text(yaml.safe_dump(EVALUATION), encoding="utf-8")
    assert pretrain_here(recipe, folder / "run", "--eval_recipe", evaluation, *arguments) == 0
    return folder / "run"


def push(*arguments: object) -> int:
    """Run `training/push.py` as the main module of this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(PROJECT / "training" / "push.py"), *map(str, arguments)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code
    return 0
