"""Fine-tuning on several processes and under DeepSpeed agrees with one process, and a stopped run goes on."""

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import assert_close_run, assert_same_run, rows_with
from tests.programs import program_command, run_here, run_to_the_end, start, wait_for_step
from tests.training.small_sft import save_sources, start_of
from training.core.checkpoint import checkpoint_step, list_checkpoints

pytestmark = pytest.mark.long

STEPS = 10
SCIENCE = ("--max_steps", STEPS, "--eval_steps", 8, "--save_steps", 4, "--logging_steps", 1, "--save_total_limit", 9)
# Adam divides by the size of a gradient; where that is next to nothing, only rounding would decide.
SCIENCE += ("--adam_epsilon", "1e-6")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    return save_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def reference(sources, tmp_path_factory) -> Path:
    """A run in one process, without interruption."""
    run = tmp_path_factory.mktemp("reference") / "run"
    assert run_here("sft.py", sources / "recipe.yaml", run, *start_of(sources), *SCIENCE) == 0
    return run


def sft_command(sources: Path, run: Path, *arguments: object, **launcher: object) -> list[str]:
    options = (*start_of(sources), *SCIENCE, *arguments)
    return program_command("sft.py", sources / "recipe.yaml", run, *options, **launcher)


@pytest.fixture(scope="module")
def on_two(sources, tmp_path_factory) -> Callable[[str], Path]:
    """Run on two processes: on_two("ddp") is the run under that configuration of accelerate."""

    @functools.cache
    def train(config: str) -> Path:
        run = tmp_path_factory.mktemp(config) / "run"
        micro_batch = ("--per_device_train_batch_size", 1)
        out = run_to_the_end(sft_command(sources, run, *micro_batch, config=config, processes=2))
        assert f"2 process(es), engine {'MULTI_' if config == 'ddp' else 'DEEPSPEED-ZERO1'}" in out
        return run

    return train


@pytest.mark.parametrize("config", ["ddp", "zero1"])
def test_two_processes_agree_with_one(on_two, reference, config):
    assert_close_run(reference, on_two(config), STEPS, tolerance=5e-5)
    for key in ("tokens", "bytes", "flops"):
        assert rows_with(on_two(config), key) == rows_with(reference, key)


@pytest.mark.parametrize("config", ["ddp", "zero1"])
def test_what_a_run_says_of_its_start_does_not_depend_on_the_engine(on_two, reference, config):
    facts, expected = (json.loads((run / "run.json").read_text()) for run in (on_two(config), reference))
    for key in expected.keys() - {"recipe", "starts"}:
        assert facts[key] == expected[key], key


def test_run_that_is_told_to_stop_saves_and_goes_on_to_the_same_bits(sources, reference, tmp_path, capsys):
    run = tmp_path / "run"
    process = start(sft_command(sources, run))
    wait_for_step(process, run, 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate()
    assert process.returncode == 75, out[-3000:]
    stopped_at = checkpoint_step(list_checkpoints(run)[-1])
    assert 2 <= stopped_at < STEPS
    assert f"stopped: {run / f'checkpoint-{stopped_at}'}" in out

    assert run_here("sft.py", sources / "recipe.yaml", run, *start_of(sources), *SCIENCE) == 0
    assert f"continuing from {run / f'checkpoint-{stopped_at}'}" in capsys.readouterr().out
    assert_same_run(reference, run, STEPS)
