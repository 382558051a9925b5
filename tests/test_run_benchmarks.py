"""The benchmarks of whole pretraining runs, run as a user runs them, at the smallest size."""

import json
import subprocess
import sys

import pytest
import yaml

from modeling import DomainGPT2Config
from tests.conftest import PROJECT, RECIPE, program_environment

pytestmark = [pytest.mark.deep, pytest.mark.long]


def run_benchmark(name, folder, *options):
    command = [sys.executable, PROJECT / "benchmarks" / name, *options, "--json", "out.json"]
    environment = program_environment() | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def test_growth_with_width_is_put_beside_the_growth_of_parameters_and_flops(tmp_path):
    recipe = RECIPE | {"corpus_dir": "unused", "eval_steps": 1000}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    options = "--base base.yaml --layers --widths 64 --contexts --processes --rounds 2 --no-bf16"
    report = run_benchmark("scaling.py", tmp_path, *options.split())

    base, wide = report["axes"]["widths"]
    assert list(report["axes"]) == ["widths"] and (base["value"], wide["value"]) == (16, 64)
    configs = [DomainGPT2Config(n_layer=2, n_head=2, n_positions=64, n_embd=width) for width in (16, 64)]
    flops = [config.flops_per_token(64) for config in configs]
    assert wide["arithmetic_over_base"] == pytest.approx(flops[1] / flops[0])
    # Matrices and embeddings, next to which biases and norms are few.
    assert wide["parameters"] == pytest.approx(64 * (50349 + 64) + 2 * 12 * 64**2, rel=0.01)
    assert base["time_over_base_quartiles"] == [1, 1, 1] and len(wide["seconds"]) == 2
    tokens = report["base"]["tokens_per_step"]
    assert tokens == 4 * 64
    for entry, of_token in zip((base, wide), flops, strict=True):
        assert entry["flops_per_second"] == pytest.approx(entry["tokens_per_second"] * of_token)
        assert 0.1 < entry["before_training_gib"] <= entry["peak_memory_gib"] < 8
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_checkpoints_of_ours_and_of_the_trainer_are_measured_alike(tmp_path):
    options = "--parts save --sizes tiny --rounds 2 --no-bf16"
    saves = run_benchmark("start_and_save.py", tmp_path, *options.split())["tiny"]["save"]

    assert set(saves) == {"ours", "trainer"}
    parameters = 16 * (50349 + 64) + 12 * 16**2
    for variant in saves.values():
        assert len(variant["seconds"]) == len(variant["time_over_ours"]) == 2
        stood_still, on_disk = variant["medians"]["seconds"], variant["medians"]["seconds_until_on_disk"]
        assert 0 < stood_still < on_disk
        # Weights and AdamW's two moments; a tokenizer beside them takes 3.5 MB.
        assert 12 * parameters < variant["medians"]["bytes"] < 12 * parameters + 5e6
        assert 0.1 < variant["peak_memory_gib"] < 8
    assert saves["ours"]["time_over_ours"] == [1, 1]


def test_stages_of_a_start_add_up_to_the_seconds_to_its_first_step(tmp_path):
    options = "--parts start --sizes tiny --rounds 2 --no-bf16 --ways python"
    starts = run_benchmark("start_and_save.py", tmp_path, *options.split())["tiny"]["start"]

    assert set(starts) == {"import torch", "ours, python", "trainer, python"}
    for name in ("ours, python", "trainer, python"):
        stages = [starts[name][stage] for stage in ("launcher", "imports", "data_and_model", "to_first_step")]
        assert all(seconds >= 0 for stage in stages for seconds in stage)
        assert [sum(parts) for parts in zip(*stages, strict=True)] == pytest.approx(starts[name]["seconds"])
        assert starts[name]["launcher"] == [0, 0] and min(starts[name]["imports"]) > 0
