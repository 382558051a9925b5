"""Pretraining that evaluates on its way: the same measurements as afterwards, and the same training as without."""

import json

import pytest
import yaml

from tests.conftest import rows_with
from training.core.checkpoint import checkpoint_step, list_checkpoints
from training.core.recipe import parse_recipe
from training.eval import main as evaluate
from training.evals.eval_recipe import EvalArguments

TASKS = [
    {"task": "probes", "sets": ["subtraction"]},
    # Sampled, because drawing numbers is what could disturb the training.
    {"task": "word_problems", "synthetic": "word_problems", "documents": 6, "samples": 2, "temperature": 1.0},
]


@pytest.fixture
def eval_recipe(tmp_path):
    path = tmp_path / "quick_eval.yaml"
    path.write_text(yaml.safe_dump({"name": "quick", "tasks": TASKS, "max_new_tokens": 4}))
    return path


def test_training_goes_on_as_without_and_the_program_finds_the_same_results(pretrain, eval_recipe, tmp_path):
    run = tmp_path / "run"
    assert pretrain("--eval_recipe", eval_recipe) == 0
    with_evals = rows_with(run, "loss")
    shares = rows_with(run, "eval_word_problems_strict_accuracy")
    assert set(shares) == set(rows_with(run, "eval_bits_per_byte"))
    assert pretrain("--output_dir", tmp_path / "plain") == 0
    assert rows_with(tmp_path / "plain", "loss") == with_evals
    last = list_checkpoints(run)[-1]
    plain = list_checkpoints(tmp_path / "plain")[-1]
    assert (last / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()

    again = ["--model", last, "--output_dir", tmp_path / "again"]
    assert evaluate(*parse_recipe([EvalArguments], [str(eval_recipe), *map(str, again)])) == 0
    during = run / "evals" / "quick" / f"checkpoint-{checkpoint_step(last)}"
    for name in ("probes.jsonl", "word_problems.jsonl"):
        assert (during / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    # The curve goes through what was measured on the way, also where no checkpoint is kept.
    assert evaluate(*parse_recipe([EvalArguments], [str(eval_recipe), "--every_checkpoint", str(run)])) == 0
    points = json.loads((during.parent / "curve.json").read_text())["points"]
    assert {point["step"] for point in points} >= set(shares)


def test_recipe_that_names_a_model_is_refused_before_training(pretrain, eval_recipe, tmp_path):
    eval_recipe.write_text(yaml.safe_dump({"tasks": TASKS, "model": "x"}))
    with pytest.raises(ValueError, match="names a model to evaluate"):
        pretrain("--eval_recipe", eval_recipe)
    assert not list_checkpoints(tmp_path / "run")
