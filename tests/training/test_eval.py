"""The program: both arms from recipe to results, interrupted, on two processes, over the checkpoints of a run."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.conftest import PROJECT, launch, program_environment, run_command
from tokenization import MulFactTokenizer
from training.core.recipe import parse_recipe
from training.eval import folder_of, main
from training.evals.eval_recipe import EvalArguments
from training.evals.subject import load_subject

pytestmark = pytest.mark.long
HELLASWAG = [
    {
        "ctx": f"A man is sitting on roof {i}. he",
        "label": i % 4,
        "endings": ["sings.", "is ripping tiles off.", "a", "b c"],
    }
    for i in range(12)
]
RECIPE = {
    "name": "tiny",
    "tasks": [
        {"task": "hellaswag", "path": "hellaswag.jsonl"},
        {"task": "probes", "sets": ["subtraction"]},
        {"task": "word_problems", "synthetic": "word_problems", "documents": 20, "seed": 1000000},
        {"task": "text_loss", "synthetic": "word_problems", "documents": 20, "seed": 1000000},
    ],
    "max_new_tokens": 4,
    "batch_size": 8,
    "batch_tokens": 256,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with two checkpoints, and a recipe with its data beside it."""
    folder = tmp_path_factory.mktemp("eval") / "run"
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = DomainGPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=128)
        DomainGPT2ForCausalLM(config).save_pretrained(folder / f"checkpoint-{seed}")
        MulFactTokenizer.build("mul_tokens").save_pretrained(folder / f"checkpoint-{seed}")
    (folder.parent / "hellaswag.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HELLASWAG))
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    return folder


def arguments(run, *more):
    return [str(run.parent / "recipe.yaml"), "--data_root", str(run.parent), *map(str, more)]


def evaluate(run, *more):
    return main(*parse_recipe([EvalArguments], arguments(run, *more)))


def files(folder):
    """The files that must be the same however the evaluation went; results.json names the model's folder alone."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


@pytest.fixture(scope="module")
def reference(run):
    """The results of one uninterrupted process."""
    folder = run.parent / "reference"
    assert evaluate(run, "--model", run / "checkpoint-1", "--output_dir", folder) == 0
    return folder


def test_every_task_writes_a_row_per_item_and_results(reference):
    results = json.loads((reference / "results.json").read_text())
    items = {"hellaswag": 12, "probes": 100, "word_problems": 20, "text_loss": 20}
    assert set(results["results"]) == set(items)
    for name, n in items.items():
        rows = [json.loads(line) for line in (reference / f"{name}.jsonl").read_text().splitlines()]
        assert [row["index"] for row in rows] == list(range(n))
    assert results["subject"]["condition"] == "mul_tokens"
    assert results["settings"]["word_problems"]["decoding"]["max_new_tokens"] == 4
    assert results["results"]["hellaswag"]["acc"]["n"] == 12
    assert results["results"]["word_problems"]["strict_accuracy"]["low"] is not None
    facts = json.loads((reference / "run.json").read_text())
    assert facts["recipe"]["tasks"][0]["path"] == "hellaswag.jsonl"
    assert facts["starts"][0]["versions"]["torch"]


def test_killed_and_stopped_evaluation_goes_on_and_two_processes_agree_with_one(run, reference, tmp_path):
    folder = tmp_path / "results"
    program = [
        PROJECT / "training" / "eval.py",
        *arguments(run, "--model", run / "checkpoint-1", "--output_dir", folder),
    ]
    process = subprocess.Popen(
        [sys.executable, *map(str, program)], cwd=PROJECT, env=program_environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.part-0.jsonl")) and not (folder / "hellaswag.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    # It may have been too quick to be stopped, and then there is nothing left to do below.
    assert process.returncode == 75 or "stopped" not in errors
    assert process.returncode in (0, 75), errors[-3000:]

    done = run_command(launch(*program, config="ddp", processes=2))
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"results: {folder / 'results.json'}" in done.stdout
    assert files(folder) == files(reference)


def test_every_checkpoint_of_a_run_is_measured_once_and_drawn(run, reference, capsys, monkeypatch):
    assert evaluate(run, "--every_checkpoint", run) == 0
    folder = run / "evals" / "tiny"
    curve = json.loads((folder / "curve.json").read_text())
    assert [point["step"] for point in curve["points"]] == [1, 2]
    assert (folder / "curve.png").is_file()
    first = json.loads((folder / "checkpoint-1" / "results.json").read_text())
    assert first["results"] == json.loads((reference / "results.json").read_text())["results"]

    shutil.rmtree(folder / "checkpoint-2")
    loaded = []
    monkeypatch.setattr(
        "training.eval.load_subject", lambda name, *more: loaded.append(name) or load_subject(name, *more)
    )
    assert evaluate(run, "--every_checkpoint", run) == 0
    assert f"finished before: {folder / 'checkpoint-1'}" in capsys.readouterr().out
    assert loaded == [str(run / "checkpoint-2")], "what is finished is not even loaded"
    assert [point["step"] for point in json.loads((folder / "curve.json").read_text())["points"]] == [1, 2]
    with pytest.raises(ValueError, match="results of another recipe: max_new_tokens was 4 and is now 5"):
        evaluate(run, "--every_checkpoint", run, "--max_new_tokens", 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_chooses_and_writes_what_the_cpu_does(run, reference, tmp_path):
    command = [sys.executable, PROJECT / "training" / "eval.py"]
    more = ["--model", run / "checkpoint-1", "--output_dir", tmp_path]
    done = run_command([*command, *arguments(run, *more)], CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr[-3000:]
    for name, key in (("hellaswag", "predictions"), ("word_problems", "replies"), ("probes", "reply")):
        on_cpu, on_gpu = (
            [json.loads(line)[key] for line in (folder / f"{name}.jsonl").read_text().splitlines()]
            for folder in (tmp_path, reference)
        )
        assert on_cpu == on_gpu


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "name a checkpoint with --model"),
        (["--model", "a", "--every_checkpoint", "b"], "name a checkpoint with --model"),
        (["--every_checkpoint", "/nowhere"], "'/nowhere' has no checkpoint-N folders"),
        (["--model", "/nowhere"], "'/nowhere' cannot be loaded"),
    ],
)
def test_what_to_measure_has_to_be_said(run, more, message):
    with pytest.raises(ValueError, match=message):
        evaluate(run, *more)


def test_results_of_a_checkpoint_go_beside_it_in_its_run(run, tmp_path):
    assert folder_of(EvalArguments(model=str(run / "checkpoint-1"), name="x")) == run / "evals" / "x" / "checkpoint-1"
    assert str(folder_of(EvalArguments(model="you/model", revision="step-5"))) == "evals/eval/you--model@step-5"
    assert folder_of(EvalArguments(model="you/model", output_dir=str(tmp_path))) == tmp_path


def test_data_is_read_before_anything_is_measured(run, tmp_path):
    more = ["--model", run / "checkpoint-1", "--output_dir", tmp_path / "out"]
    with pytest.raises(FileNotFoundError, match="no file at .*correct path"):
        evaluate(run, *more, "--tasks", json.dumps({"task": "hellaswag", "path": "nothing.jsonl"}))
    assert not (tmp_path / "out").exists()
