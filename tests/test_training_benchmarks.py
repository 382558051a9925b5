"""The benchmarks of fine-tuning and reinforcement learning, run as a user runs them, at the smallest size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT, program_environment

pytestmark = [pytest.mark.deep, pytest.mark.long]
SIZES = "--n_layer 1 --n_head 2 --n_embd 16 --n_positions 64 --rounds 2 --json out.json"


def run_benchmark(name: str, options: str, folder: Path) -> tuple[dict, str]:
    """Run a program of `benchmarks/` in a folder, and return its report and what it printed."""
    command = [sys.executable, PROJECT / "benchmarks" / name, *SIZES.split(), *options.split()]
    done = subprocess.run(command, cwd=folder, env=program_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "out.json").read_text(encoding="utf-8")), done.stdout


def test_comparison_of_fine_tuning_counts_the_tokens_of_conversations_and_not_their_padding(tmp_path):
    rows = [
        {"question": f"How much is {number} and 3?", "answer": f"It is {number + 3}." * (1 + number % 3)}
        for number in range(20)
    ]
    rows.append({"question": "Say it again. " * 60, "answer": "No."})  # longer than the context
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report, printed = run_benchmark(
        "fine_tuning.py", "--rows rows.jsonl --packs 2 --peers trl_fp32 trl_packed", tmp_path
    )
    counted, variants = report["conversations"], report["variants"]
    assert list(variants) == ["ours", "ours_padded", "trl_fp32", "trl_packed"]
    assert counted["given"] == 21 and counted["fit"] == 20
    assert "equal in all variants: conversations 20" in printed
    for variant in variants.values():
        for tokens, supervised, positions in zip(
            *(variant[key] for key in ("tokens", "supervised_tokens", "positions")), strict=True
        ):
            assert 0 < supervised < tokens <= positions
        assert variant["tokens_per_second"] > variant["supervised_tokens_per_second"] > 0
        assert variant["peak_memory_gib"] > 0.1
        assert abs(variant["first_loss"] - 10.8) < 0.3  # the logarithm of the vocabulary
    mean = counted["tokens"] / counted["fit"]
    for name in ("ours_padded", "trl_fp32"):
        steps = variants[name]["tokens"]
        assert abs(sum(steps) / len(steps) / counted["rows_per_step"] - mean) < 6  # tokens of one answer more or less
    assert variants["trl_packed"]["tokens"] == variants["trl_packed"]["positions"]
    assert variants["ours"]["time_per_token_over_ours"] == [1.0, 1.0]


def test_comparison_of_rollouts_draws_as_many_completions_for_the_same_prompts(tmp_path):
    options = "--prompts 2 --group 4 --micro_batch 4 --completion_length 6 --peers trl_bf16"
    report, _ = run_benchmark("rollouts.py", options, tmp_path)
    assert list(report["variants"]) == ["ours", "trl_bf16"]
    assert report["completions"] == 8 and len(report["prompts"]) == 2
    assert all(each["prompt"] == f"User: {each['question']}\nAssistant:" for each in report["prompts"])
    for variant in report["variants"].values():
        parts = (variant[part] for part in ("drawing_seconds", "rewards_seconds", "training_seconds"))
        for whole, *split in zip(variant["seconds"], *parts, strict=True):
            assert all(part > 0 for part in split) and sum(split) == pytest.approx(whole)
        assert all(8 <= tokens <= 8 * 6 for tokens in variant["tokens"])
        assert variant["completions_per_second"] > 0 and variant["peak_memory_gib"] > 0.1
