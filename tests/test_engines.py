"""Pretraining under every engine and launcher agrees with one process."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from modeling import DomainGPT2ForCausalLM
from tests.conftest import PROJECT, assert_close_run, rows_with, run_command
from tests.programs import NO_GPU, STEPS, pretrain_command, run_reference, run_to_the_end, start

on_cpu = pytest.mark.skipif(not NO_GPU, reason="checks what a machine without a GPU does")


@pytest.fixture(scope="module")
def reference(recipe, tmp_path_factory) -> Path:
    return run_reference(recipe, tmp_path_factory.mktemp("reference") / "run")


@pytest.fixture(scope="module")
def zero2(recipe, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("zero2") / "run"
    # Two micro-steps: 2 sequences x 2 processes x 2 are the 8 of a step.
    out = run_to_the_end(
        pretrain_command(recipe, run, "--per_device_train_batch_size", 2, config="zero2", processes=2)
    )
    assert "engine DEEPSPEED-ZERO2" in out
    return run


def test_zero2_on_two_processes_agrees_with_one_process(reference, zero2):
    assert_close_run(reference, zero2, STEPS, tolerance=5e-5)


def test_zero2_resumes_bit_for_bit(recipe, zero2, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(zero2, run)
    for step in range(12, STEPS + 1, 4):
        shutil.rmtree(run / f"checkpoint-{step}")
    out = run_to_the_end(
        pretrain_command(recipe, run, "--per_device_train_batch_size", 2, config="zero2", processes=2)
    )
    assert f"continuing from {run / 'checkpoint-8'}" in out
    first, second = (
        DomainGPT2ForCausalLM.from_pretrained(folder / f"checkpoint-{STEPS}").state_dict() for folder in (zero2, run)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert rows_with(zero2, "loss") == rows_with(run, "loss")


def test_zero_checkpoint_refuses_another_process_count_with_both_numbers(recipe, zero2):
    done = run_command(pretrain_command(recipe, zero2))
    assert done.returncode == 2
    assert "saved by 2 processes under DEEPSPEED-ZERO2, and this run has 1 under NO" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("config", ["zero1", "zero3"])
def test_zero_with_bf16_keeps_fp32_masters_and_agrees_with_one_process(recipe, reference, tmp_path, config):
    run = tmp_path / "run"
    out = run_to_the_end(pretrain_command(recipe, run, "--bf16", "true", config=config, processes=2))
    assert f"engine DEEPSPEED-{config.upper()}" in out
    assert_close_run(reference, run, STEPS, tolerance=2e-2)
    weights = DomainGPT2ForCausalLM.from_pretrained(run / f"checkpoint-{STEPS}").state_dict()
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


@on_cpu
def test_fsdp_without_a_gpu_is_refused_instead_of_training_with_ddp(recipe, tmp_path):
    done = run_command(pretrain_command(recipe, tmp_path / "run", config="fsdp", processes=2))
    assert done.returncode != 0
    assert "Accelerate would silently train with DDP" in done.stdout + done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs: Accelerate runs FSDP on GPUs only")
def test_fsdp_agrees_with_one_process(recipe, reference, tmp_path):
    run_to_the_end(pretrain_command(recipe, tmp_path / "run", config="fsdp", processes=2))
    assert_close_run(reference, tmp_path / "run", STEPS, tolerance=5e-5)


def test_two_machines_agree_with_one_process(recipe, reference, tmp_path):
    """Two launches, each with its own machine rank, meet at one address; here both are on this machine."""
    run, port = tmp_path / "run", str(20_000 + os.getpid() % 20_000)
    options = ("--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port)
    processes = []
    for rank in range(2):
        command = pretrain_command(recipe, run, config="multi_node", processes=2)
        # Later options win over the ones that `launch` gives.
        script = command.index(str(PROJECT / "training" / "pretrain.py"))
        processes.append(start([*command[:script], *options, "--machine_rank", str(rank), *command[script:]]))
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(out[-3000:] for out in outputs)
    assert_close_run(reference, run, STEPS, tolerance=5e-5)
