"""A tiny GRPO run in this process, with a criterion that a tiny model meets now and then."""

import functools
from pathlib import Path

import pytest
import yaml

from tests.training.small_sft import save_start
from training.core import fused_head
from training.core.grpo_recipe import GrpoArguments, GrpoDataArguments, GrpoModelArguments, RewardArguments
from training.core.recipe import parse_recipe
from training.evals import rewards, subject
from training.evals.completions import Completion
from training.grpo import main

_load_tokenizer_once = functools.cache(subject._load_tokenizer)

CONTEXT = 96
ARMS = ("baseline", "mul_tokens")
RECIPE = {
    "prompts": [{"synthetic": "multiplications", "documents": 40, "held_out": 4}],
    "pool_prompts": 6,
    "pool_samples": 4,
    "episode_steps": 2,
    "ignore_gate": True,
    "rewards": {"exact_answer": 1.0, "length_limit": 0.1},
    "soft_limit_bytes": 40,
    "hard_limit_bytes": 100,
    "max_completion_length": 12,
    "mask_truncated_completions": False,
    "max_steps": 6,
    "total_batch_items": 8,
    "num_generations": 4,
    "num_generations_eval": 2,
    "per_device_train_batch_size": 4,
    "decode_batch_size": 16,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "beta": 0.1,
    "bf16": False,
    "logging_steps": 2,
    "eval_steps": 3,
    "save_steps": 3,
    "save_total_limit": 9,
}


def save_starts(folder: Path) -> Path:
    """Write a checkpoint of each arm, and the recipe that trains from it in a second."""
    for arm in ARMS:
        save_start(folder, arm, CONTEXT)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return folder


def is_even(completion: Completion) -> float:
    """A criterion that chance meets: an even number of bytes."""
    return float(completion.bytes % 2 == 0)


def reinforce(
    starts: Path, run: Path, *arguments: object, arm: str = "mul_tokens", right=is_even, recipe: Path | None = None
) -> int:
    """Run `training/grpo.py`'s main in this process on the shared recipe, and return its exit code.

    right: what exact_answer stands for here, since a tiny model answers nothing right.
    """
    command = [recipe or starts / "recipe.yaml", "--output_dir", run, "--model_name_or_path", starts / arm, *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "_load_tokenizer", _load_tokenizer_once)
        patch.setattr(fused_head, "_BLOCK", 16)
        patch.setitem(
            rewards.FUNCTIONS, "exact_answer", rewards.RewardFunction(right, wrong=(0.0, 0.0), right=(1.0, 1.0))
        )
        groups = [GrpoModelArguments, GrpoDataArguments, RewardArguments, GrpoArguments]
        return main(*parse_recipe(groups, list(map(str, command))))
