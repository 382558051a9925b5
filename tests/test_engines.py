"""Pretraining under every engine agrees with one process."""

import shutil
from pathlib import Path

import pytest
import torch

from modeling import DomainGPT2ForCausalLM
from tests.conftest import RECIPE, assert_close_run, pretrain_here, rows_with, run_command
from tests.programs import NO_GPU, program_command, run_here, run_to_the_end

pytestmark = pytest.mark.long
on_cpu = pytest.mark.skipif(not NO_GPU, reason="checks what a machine without a GPU does")

STEPS = RECIPE["max_steps"]
# Two micro-steps: 2 sequences x 2 processes x 2 are the 8 of a step.
MICRO_STEPS = ("--per_device_train_batch_size", 2)


@pytest.fixture(scope="module")
def reference(recipe, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("reference") / "run"
    assert pretrain_here(recipe, run) == 0
    return run


def pretrain_on_two(config: str, recipe: Path, run: Path, *arguments: object) -> list[str]:
    return program_command("pretrain.py", recipe, run, *arguments, config=config, processes=2)


@pytest.fixture(scope="module")
def zero2(recipe, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("zero2") / "run"
    out = run_to_the_end(pretrain_on_two("zero2", recipe, run, *MICRO_STEPS))
    assert "engine DEEPSPEED-ZERO2" in out
    return run


def test_zero2_on_two_processes_agrees_with_one_process(reference, zero2):
    assert_close_run(reference, zero2, STEPS, tolerance=5e-5)


def test_zero2_resumes_bit_for_bit(recipe, zero2, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(zero2, run)
    shutil.rmtree(run / f"checkpoint-{STEPS}")
    out = run_to_the_end(pretrain_on_two("zero2", recipe, run, *MICRO_STEPS))
    assert f"continuing from {run / 'checkpoint-4'}" in out
    first, second = (
        DomainGPT2ForCausalLM.from_pretrained(folder / f"checkpoint-{STEPS}").state_dict() for folder in (zero2, run)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rows_with(zero2, "loss") == rows_with(run, "loss")


def test_zero_checkpoint_refuses_another_process_count_with_both_numbers(recipe, zero2, capsys):
    assert run_here("pretrain.py", recipe, zero2) == 2
    errors = capsys.readouterr().err
    assert "saved by 2 processes under DEEPSPEED-ZERO2, and this run has 1 under NO" in errors
    assert "Traceback" not in errors


def test_zero3_with_bf16_keeps_fp32_masters_and_agrees_with_one_process(recipe, reference, tmp_path):
    run = tmp_path / "run"
    out = run_to_the_end(pretrain_on_two("zero3", recipe, run, "--bf16", "true"))
    assert "engine DEEPSPEED-ZERO3" in out
    assert_close_run(reference, run, STEPS, tolerance=2e-2)
    weights = DomainGPT2ForCausalLM.from_pretrained(run / f"checkpoint-{STEPS}").state_dict()
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


@on_cpu
def test_fsdp_without_a_gpu_is_refused_instead_of_training_with_ddp(recipe, tmp_path):
    done = run_command(program_command("pretrain.py", recipe, tmp_path / "run", config="fsdp", processes=1))
    assert done.returncode != 0
    assert "Accelerate would silently train with DDP" in done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: Accelerate runs FSDP on GPUs only")
def test_fsdp_agrees_with_one_process(recipe, reference, tmp_path):
    run_to_the_end(pretrain_on_two("fsdp", recipe, tmp_path / "run"))
    assert_close_run(reference, tmp_path / "run", STEPS, tolerance=5e-5)
