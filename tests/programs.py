"""How tests launch `training/pretrain.py` as people launch it, and wait for what it does."""

import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.conftest import PROJECT, launch, program_environment, rows_with, run_command

STEPS = 24
SCIENCE = ("--max_steps", STEPS, "--eval_steps", 8, "--save_steps", 4, "--save_total_limit", 9)
NO_GPU = not torch.cuda.is_available()


def pretrain_command(recipe: Path, run: Path, *arguments: object, **launcher: object) -> list[str]:
    program = [PROJECT / "training" / "pretrain.py", recipe, "--output_dir", run, *SCIENCE, *arguments]
    return launch(*program, **launcher) if launcher else [sys.executable, *map(str, program)]


def run_to_the_end(command: list[str]) -> str:
    done = run_command(command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


def start(command: list[str], **options) -> subprocess.Popen:
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=PROJECT, env=program_environment(), **pipe, **options)


def wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    """Wait until the metrics show a step; the process is then in the middle of a later one."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and any(at >= step for at in rows_with(run, "loss")):
            return
        assert process.poll() is None, process.communicate()[0][-6000:]
        time.sleep(0.02)
    raise AssertionError(f"no step {step} after 300 seconds")


def run_reference(recipe: Path, run: Path) -> Path:
    """Run without interruption in one process, launched as the README says."""
    out = run_to_the_end(pretrain_command(recipe, run, config="cpu" if NO_GPU else "single_gpu"))
    assert f"finished: {run / f'checkpoint-{STEPS}'}" in out
    return run
