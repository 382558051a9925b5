"""The benchmarks, run as a user runs them, at the smallest size."""

import json
import subprocess
import sys

import pytest

from tests.conftest import PROJECT, program_environment

pytestmark = pytest.mark.long
SENTENCE = "The tower was built in the year 1889 and is known by all who live in the town below it . "
ARTICLES = "".join(f" = Tower {n} = \n\n = = History = = \n\n {SENTENCE * 8}\n" for n in range(60))


def test_comparison_of_corpus_preparations_measures_both_and_finds_equal_ids(tmp_path):
    (tmp_path / "prose.txt").write_text(ARTICLES, encoding="utf-8")
    program = PROJECT / "benchmarks" / "prepare_data.py"
    options = "--megabytes 0.1 --rounds 1 --workers 1 --encoders tiktoken --ways one_arm nanogpt_loop"
    command = [sys.executable, program, "--prose", "prose.txt", *options.split(), "--validation_fraction", "0.3"]
    done = subprocess.run(
        [*command, "--json", "out.json"], cwd=tmp_path, env=program_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    prose = {run["variant"]: run for run in report["runs"] if run["text"] == "prose"}
    assert set(prose) == {"ours, tiktoken, one arm", "build-nanogpt's loop"}
    # A worker may be gone before its memory is looked at: so little text says nothing about that.
    assert all(run["wall_seconds"] > 0 and run["cpu_seconds"] >= 0 for run in prose.values())
    ours, loop = (run["ids"]["baseline"] for run in prose.values())
    assert ours == loop and ours[0] > 10_000
    assert "hours for 10B tokens" in done.stdout


def test_comparison_of_evaluations_finds_equal_results_in_both_parts(tmp_path):
    endings = ["sits down.", "goes on to count to 6*9 = 54.", "leaves", "asks for a glass of water, please."]
    items = [{"ctx": f"Man {number} stands up. Then he", "endings": endings, "label": 0} for number in range(6)]
    (tmp_path / "hellaswag.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    questions = [{"question": f"How much is {number} apples and 3 pears?"} for number in (4, 1000)]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(map(json.dumps, questions)), encoding="utf-8")
    program = PROJECT / "benchmarks" / "evals.py"
    options = "--n_layer 1 --n_head 2 --n_embd 16 --n_positions 64 --rounds 2 --items 4 --prompts 2 --new_tokens 4"
    files = ["--hellaswag", "hellaswag.jsonl", "--gsm8k", "gsm8k.jsonl"]
    command = [sys.executable, program, *files, *options.split(), "--peers", "build_nanogpt"]
    done = subprocess.run(
        [*command, "--json", "out.json"], cwd=tmp_path, env=program_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    scored, written = report["hellaswag"]["variants"], report["generation"]["variants"]
    assert {"ours", "build_nanogpt"} == set(scored) and {"ours", "one_at_a_time"} <= set(written)
    for variant in [*scored.values(), *written.values()]:
        assert len(variant["seconds"]) == 2 and variant["median_time_over_ours"] > 0
    assert all(variant["peak_memory_gib"] > 0.1 for variant in scored.values())
    assert report["hellaswag"]["items"] == 4


def test_conversion_is_measured_in_every_style(tmp_path):
    code = "def simple_math_problem():\n    pencils = 24 * 6\n    return pencils + 15"
    rows = [{"question": "How many pencils are 6 boxes of 24 pencils and 15 more?", "code": code}] * 3
    (tmp_path / "programs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    program = PROJECT / "benchmarks" / "convert_tinygsm.py"
    options = ["--programs", "programs.jsonl", "--rounds", "1", "--json", "out.json"]
    done = subprocess.run(
        [sys.executable, program, *options], cwd=tmp_path, env=program_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ways = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["ways"]
    assert all(way["converted"] == way["answers_that_are_the_program's"] == 3 for way in ways.values())
    assert ways["labelled"]["equations"] == 2 * 3 and ways["labelled, long multiplication"]["equations"] == 5 * 3


def test_interpreter_is_measured_on_programs_and_on_hostile_ones(tmp_path):
    rows = [{"question": "?", "code": "def f():\n    return 6 * 9"}] * 20
    (tmp_path / "programs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = [sys.executable, PROJECT / "benchmarks" / "interpreter.py", "--programs", "programs.jsonl"]
    done = subprocess.run(
        [*command, "--rounds", "2", "--json", "out.json"],
        cwd=tmp_path,
        env=program_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "20 programs (20 ok)" in done.stdout and "hostile programs" in done.stdout
    assert report


def test_comparison_of_training_steps_takes_the_same_steps_in_every_variant(tmp_path):
    program = PROJECT / "benchmarks" / "train_step.py"
    options = "--n_layer 1 --n_head 2 --n_embd 16 --sequence_length 32 --accumulation 2 --rounds 2"
    variants = ["--peers", "nanogpt", "trainer_bf16", "--levers", "ours_plain_loss"]
    done = subprocess.run(
        [sys.executable, program, *options.split(), *variants, "--json", "out.json"],
        cwd=tmp_path,
        env=program_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert list(report["variants"]) == ["ours", "ours_plain_loss", "nanogpt", "trainer_bf16"]
    ours = report["variants"]["ours"]["first_losses"]
    assert ours[0] > 10 and ours != sorted(ours)[:1] * 3
    for variant in report["variants"].values():
        # One loss holds both micro-batches, and the third follows two updates.
        assert variant["first_losses"] == pytest.approx(ours, abs=5e-3)
        assert len(variant["seconds"]) == 2 and 0 < variant["share_of_floor"] < 1
        assert variant["peak_memory_gib"] > 0.1
    assert report["limits"]["bf16"] > 1e9 and report["parameters"] == 50349 * 16 + 32 * 16 + 3280 + 32
