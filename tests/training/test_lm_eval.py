import json
import sys

import pytest
import torch
import yaml

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.conftest import run_command
from tokenization import MulFactTokenizer
from training.evals.likelihood import Choices, score
from training.evals.subject import load_subject

ROWS = [
    {
        "question": f"What is {a}*{b}, or {b} × {a}, if not {a * b + 1}?\nAnswer:",
        "choices": [f"{a * b}", f"{a * b + a}, she says", f"as much as {a + 1} x {b}", f"{a + b}"],
        "label": a % 4,
    }
    for a, b in [(6, 9), (2, 7), (8, 8), (3, 4), (9, 5), (4, 12), (7, 3), (5, 6)]
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(2)
    config = DomainGPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, initializer_range=0.2)
    DomainGPT2ForCausalLM(config).save_pretrained(folder)
    MulFactTokenizer.build("mul_tokens").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint):
    """The log-likelihoods of every row's choices."""
    subject = load_subject(str(checkpoint))
    requests = [
        Choices(subject.encode(row["question"]), [subject.encode(" " + choice) for choice in row["choices"]])
        for row in ROWS
    ]
    return [[-nats for nats in choices] for choices in score(subject, requests)]


@pytest.fixture(scope="module")
def harness(tmp_path_factory, checkpoint):
    """The folder that lm-eval's command line fills on a task of its user's own."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    folder = tmp_path_factory.mktemp("harness")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    task = {
        "task": "local_task",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tasks").mkdir()
    (folder / "tasks" / "local_task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    command = (
        f"-m lm_eval --model hf --model_args pretrained={checkpoint},dtype=float32 --device cpu --batch_size 8 "
        f"--tasks local_task --include_path {folder / 'tasks'} --output_path {folder / 'out'} --log_samples"
    )
    result = run_command([sys.executable, *command.split()], HF_HOME=str(folder / "cache"))
    assert result.returncode == 0, result.stderr
    return folder / "out"


@pytest.mark.slow
def test_command_line_of_lm_eval_reports_the_accuracy_of_our_likelihoods(harness, ours):
    (results,) = harness.rglob("results_*.json")
    right = sum(choices.index(max(choices)) == row["label"] for choices, row in zip(ours, ROWS, strict=True))
    assert 0 < right < len(ROWS)
    assert json.loads(results.read_text())["results"]["local_task"]["acc,none"] == right / len(ROWS)


@pytest.mark.slow
def test_command_line_of_lm_eval_gives_every_choice_our_likelihood(harness, ours):
    (samples,) = harness.rglob("samples_local_task_*.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    by_row = {line["doc_id"]: [float(reply[0]) for reply in line["filtered_resps"]] for line in lines}
    theirs = [by_row[row] for row in range(len(ROWS))]
    assert [value for row in ours for value in row] == pytest.approx([v for row in theirs for v in row], rel=1e-5)
