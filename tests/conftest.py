"""What tests share: offline Hugging Face libraries, a small corpus, a tiny recipe, and ways to run the real
programs."""

import functools
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that spin while they wait make several processes on two cores many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# The programs choose their threads, in this process as in one of their own.
os.environ.pop("OMP_NUM_THREADS", None)

import pytest
import torch
import yaml
from safetensors.torch import load_file

from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments

PROJECT = Path(__file__).resolve().parents[1]

CORPUS = {
    "sources": [
        {"synthetic": "drills", "documents": 300},
        {"synthetic": "tables", "documents": 60},
        {"synthetic": "word_problems", "documents": 300, "seed": 1},
    ],
    "validation_fraction": 0.1,
    "validation_synthetic": True,
    "piece_bytes": 100 * 8192,  # 100 synthetic documents
}

RECIPE = {
    "condition": "mul_tokens",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 64,
    "eval_documents": 20,
    "max_steps": 8,
    "total_batch_tokens": 512,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 2e-3,
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 2,
    "bf16": False,
    "full_determinism": torch.cuda.is_available(),
    "logging_steps": 1,
    "eval_steps": 4,
    "save_steps": 4,
}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Put the long files first: the last to start must not be the last to end by minutes."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    # Accelerate collects garbage several times in a training run, and each time looks through all that was imported.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread_setting():
    """The programs choose their threads; tests that compare bits need one choice throughout."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory) -> Path:
    """A synthetic corpus for both arms, in several pieces."""
    folder = tmp_path_factory.mktemp("corpus")
    prepare_corpus(CorpusArguments(**CORPUS, output_dir=str(folder)), report=lambda line: None)
    return folder


@pytest.fixture(scope="session")
def recipe(tmp_path_factory, corpus_dir) -> Path:
    """A recipe that trains a tiny model in about a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "corpus_dir": str(corpus_dir)}), encoding="utf-8")
    return path


def pretrain_here(recipe: Path, run: Path, *arguments: object) -> int:
    """Run `training/pretrain.py`'s main in this process and return its exit code."""
    from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
    from training.core.recipe import parse_recipe
    from training.pretrain import main

    argv = [str(recipe), "--output_dir", str(run), *map(str, arguments)]
    return main(*parse_recipe([ModelArguments, DataArguments, PretrainArguments], argv))


@pytest.fixture
def pretrain(recipe, tmp_path):
    """`pretrain_here` into this test's own folder: pretrain("--seed", "1", …)."""
    return functools.partial(pretrain_here, recipe, tmp_path / "run")


def program_environment(**extra: str) -> dict[str, str]:
    """The environment of a subprocess: the interpreter's folder on PATH (ninja lives there), nothing of a
    launcher's."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "OMP_NUM"))}
    path = os.pathsep.join([os.path.dirname(sys.executable), inherited.get("PATH", "")])
    return inherited | {"PATH": path} | extra


def launch(*arguments: object, config: str | None = None, processes: int = 1, **extra: str) -> list[str]:
    """The command line of `accelerate launch` for one of the project's programs."""
    options = ["--main_process_port", "0"]
    if config:
        options += [
            "--config_file",
            str(PROJECT / "accelerate_configs" / f"{config}.yaml"),
            "--num_processes",
            str(processes),
        ]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *map(str, arguments)]


def run_command(command: list[str], **options) -> subprocess.CompletedProcess:
    """Run a command from the project's root and capture its output."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=PROJECT,
        env=program_environment(**options),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def rows_with(run: Path, key: str) -> dict[int, float]:
    """The values of one key in a run's metrics, by step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(row["step"], row[key]) for row in rows if key in row]
    assert len(dict(found)) == len(found), f"a step stands twice in {run}"
    return dict(found)


def assert_same_run(run: Path, other: Path, step: int) -> None:
    """Weights, optimiser state and metrics are equal bit for bit."""
    first, second = (load_file(folder / f"checkpoint-{step}" / "model.safetensors") for folder in (run, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = (
        torch.load(folder / f"checkpoint-{step}" / "optimizer.pt", weights_only=True) for folder in (run, other)
    )
    assert all(
        torch.equal(first["state"][p][key], second["state"][p][key])
        for p in first["state"]
        for key in first["state"][p]
    )
    for key in ("loss", "grad_norm", "learning_rate", "eval_bits_per_byte"):
        assert rows_with(run, key) == rows_with(other, key)


def assert_close_run(run: Path, other: Path, step: int, tolerance: float) -> None:
    """Losses and weights agree within an absolute tolerance, at the same steps."""
    for key in ("loss", "eval_bits_per_byte"):
        first, second = rows_with(run, key), rows_with(other, key)
        assert first.keys() == second.keys()
        assert max(abs(first[at] - second[at]) for at in first) < tolerance
    first, second = (load_file(folder / f"checkpoint-{step}" / "model.safetensors") for folder in (run, other))
    assert first.keys() == second.keys()
    assert {weight.dtype for weight in first.values()} == {torch.float32}
    assert max((first[name] - second[name]).abs().max().item() for name in first) < tolerance
