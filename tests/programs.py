"""How tests run the programs in `training/` as people run them, and wait for what they do."""

import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import PROJECT, launch, program_environment, rows_with, run_command

NO_GPU = not torch.cuda.is_available()
ONE_PROCESS = {"config": "cpu" if NO_GPU else "single_gpu"}


def program_command(program: str, recipe: Path, run: Path, *arguments: object, **launcher: object) -> list[str]:
    """The command line of `training/<program>`: under `accelerate launch` if its options are given."""
    command = [PROJECT / "training" / program, recipe, "--output_dir", run, *arguments]
    return launch(*command, **launcher) if launcher else [sys.executable, *map(str, command)]


def run_here(program: str, recipe: Path, run: Path, *arguments: object) -> int:
    """Run `training/<program>` as the main module of this process, which has imported the libraries already, and
    return its exit code."""
    command = [PROJECT / "training" / program, recipe, "--output_dir", run, *arguments]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", [str(part) for part in command])
        runpy.run_path(sys.argv[0], run_name="__main__")
    return end.value.code


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
