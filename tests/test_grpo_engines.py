"""GRPO on several processes and under DeepSpeed agrees with one process."""

import functools
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import rows_with
from tests.programs import program_command, run_here, run_to_the_end
from tests.training.small_grpo import RECIPE, save_starts

pytestmark = pytest.mark.long

STEPS = 3
# A tiny model answers nothing right: lengths and repetitions make the difference between completions.
CHANGES = {
    "rewards": {"exact_answer": 1.0, "length_limit": 0.4, "repetition": 0.4},
    "filter_prompts": False,
    "max_steps": STEPS,
    "logging_steps": 1,
    "adam_epsilon": 1e-6,  # it divides by gradients that rounding alone may make
}


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> Path:
    folder = save_starts(tmp_path_factory.mktemp("starts"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | CHANGES), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(starts, tmp_path_factory) -> Path:
    """A run in one process."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert run_here("grpo.py", starts / "recipe.yaml", run, "--model_name_or_path", starts / "mul_tokens") == 0
    return run


@pytest.fixture(scope="module")
def on_two(starts, tmp_path_factory) -> Callable[[str], Path]:
    """Run on two processes: on_two("ddp") is the run under that configuration of accelerate."""

    @functools.cache
    def train(config: str) -> Path:
        run = tmp_path_factory.mktemp(config) / "run"
        options = ("--model_name_or_path", starts / "mul_tokens", "--per_device_train_batch_size", 2)
        run_to_the_end(program_command("grpo.py", starts / "recipe.yaml", run, *options, config=config, processes=2))
        return run

    return train


@pytest.mark.parametrize("config", ["ddp", "zero3"])
def test_two_processes_agree_with_one(on_two, reference, config):
    run = on_two(config)
    for key in ("reward", "kl", "grad_norm", "tokens", "flops", "repeating", "eval_reward", "eval_pass_at_1"):
        first, second = rows_with(reference, key), rows_with(run, key)
        assert first.keys() == second.keys()
        assert all(second[step] == pytest.approx(first[step], rel=1e-3, abs=1e-5) for step in first), key
    for step in range(1, STEPS + 1):
        tables = [
            pandas.read_parquet(folder / "completions" / f"completions_{step:05}.parquet")
            for folder in (reference, run)
        ]
        assert list(tables[0]["completion"]) == list(tables[1]["completion"])
        assert list(tables[0]["advantage"]) == pytest.approx(list(tables[1]["advantage"]), abs=1e-6)
    first, second = (load_file(folder / f"checkpoint-{STEPS}" / "model.safetensors") for folder in (reference, run))
    assert first.keys() == second.keys()
    assert {weight.dtype for weight in second.values()} == {torch.float32}
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 5e-5


@pytest.mark.parametrize("config", ["ddp", "zero3"])
def test_what_is_measured_does_not_depend_on_the_engine(on_two, reference, config):
    for name in ("pool/episode-0/pool.jsonl", "dev/checkpoint-0/drawn.jsonl", "dev/checkpoint-0/greedy.jsonl"):
        assert (on_two(config) / name).read_text() == (reference / name).read_text()
