"""Fine-tuning that is interrupted, starts again, ends early, or may not go on."""

import json
import os
import shutil

import pytest

from modeling import DomainGPT2ForCausalLM
from tests.conftest import assert_same_run, rows_with
from tests.training.small_sft import CONVERSATIONS, SHORT, fine_tune, metrics_of, only_checkpoint, report_of, rows_of
from training.core.checkpoint import list_checkpoints


@pytest.fixture(scope="module")
def finished(finished_sft):
    return finished_sft("mul_tokens")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run where `tune` writes."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def test_run_that_died_goes_on_to_the_same_bits(finished, tune, tmp_path):
    run = only_checkpoint(finished, tmp_path / "run", 4)
    assert tune() == 0
    assert_same_run(finished, run, 8)
    for key in ("mean_token_accuracy", "entropy", "tokens", "flops"):
        assert rows_with(finished, key) == rows_with(run, key)
    assert os.readlink(run / "best") == os.readlink(finished / "best")


@pytest.fixture(scope="module")
def restarted(finished, sft_sources, tmp_path_factory):
    """A run that died before its first checkpoint, and began again; what its report looked like before."""
    run = tmp_path_factory.mktemp("restarted") / "run"
    only_checkpoint(finished, run, step=0)
    before = (run / "rows" / "report.json").stat().st_mtime_ns
    assert fine_tune(sft_sources, run) == 0
    return run, before


def test_run_without_a_checkpoint_begins_again_and_no_step_stands_twice(finished, restarted):
    assert_same_run(finished, restarted[0], 8)
    assert list(rows_with(restarted[0], "eval_loss")) == [0, 4, 8]


def test_rows_of_unchanged_sources_are_prepared_once(restarted):
    run, before = restarted
    assert (run / "rows" / "report.json").stat().st_mtime_ns == before


def test_rows_of_a_changed_source_are_prepared_again(copied, tune, sft_sources, tmp_path):
    for folder in copied.glob("checkpoint-*"):
        shutil.rmtree(folder)
    (tmp_path / "rows.jsonl").write_text((sft_sources / "rows.jsonl").read_text() * 2)
    assert tune("--data_root", tmp_path, *SHORT) == 0
    report = report_of(copied)
    assert report["rows"] + report["held_out"] == 2 * len(CONVERSATIONS)


def test_evaluation_that_a_crash_cost_is_made_up_for(finished, tune, tmp_path):
    """The run died after it had saved checkpoint-4, before it had evaluated there."""
    run = only_checkpoint(finished, tmp_path / "run", 4)
    (run / "best").unlink()
    rows = [row for row in metrics_of(run) if row["step"] <= 4 and not (row["step"] == 4 and "eval_loss" in row)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tune() == 0
    assert_same_run(finished, run, 8)
    assert os.readlink(run / "best") == os.readlink(finished / "best")


def test_finished_run_is_left_alone(copied, tune, capsys):
    before = {path: path.lstat().st_mtime_ns for path in copied.rglob("*")}
    assert tune() == 0
    assert f"finished before: {copied / 'checkpoint-8'}, best checkpoint-" in capsys.readouterr().out
    assert {path: path.lstat().st_mtime_ns for path in copied.rglob("*")} == before


def test_link_to_the_best_checkpoint_that_a_crash_cost_is_made_up_for(copied, tune):
    """The run died after its last evaluation, before it had linked the best checkpoint."""
    best = os.readlink(copied / "best")
    (copied / "best").unlink()
    assert tune() == 0
    assert os.readlink(copied / "best") == best


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rate", "1e-3"], "learning_rate was 0.002 and is now 0.001"),
        (["--max_steps", "9"], "max_steps was 8 and is now 9"),
        (["--use_peft", "true"], "use_peft was False and is now True"),
        (["--max_length", "60"], "max_length was 64 and is now 60"),
        (["--data_seed", "1"], "data_seed was 0 and is now 1"),
    ],
)
def test_resuming_with_a_changed_recipe_is_refused_with_both_values(copied, tune, arguments, words):
    with pytest.raises(ValueError, match=words):
        tune(*arguments)
    assert list_checkpoints(copied)


def test_resuming_from_another_start_is_refused(copied, tune, sft_sources, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(sft_sources / "mul_tokens", other)
    model = DomainGPT2ForCausalLM.from_pretrained(other)
    model.transformer.wpe.weight.data[-1, -1] += 1
    model.save_pretrained(other)
    with pytest.raises(ValueError, match="its initial_weights_sha256 was .* and is now"):
        tune("--model_name_or_path", other)
    with pytest.raises(ValueError, match="its condition was 'mul_tokens' and is now 'baseline'"):
        tune(arm="baseline")


def test_resuming_on_changed_rows_is_refused(copied, tune, sft_sources, tmp_path):
    lines = (sft_sources / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match="its (items|rows_sha256|work) was .* and is now"):
        tune("--data_root", tmp_path)


# Nothing is learnt in the first step, and what there was is spoilt in the next ones.
SPOILT = ("--max_steps", 9, "--eval_steps", 1, "--save_steps", 1, "--logging_steps", 1, "--save_total_limit", 1)
SPOILT += ("--early_stopping_patience", 2, "--learning_rate", 10, "--lr_scheduler_type", "constant_with_warmup")
SPOILT += ("--per_device_train_batch_size", 4)


@pytest.fixture(scope="module")
def spoilt(sft_sources, tmp_path_factory):
    """A run that is evaluated at every step, is best at its first evaluation, and ends early."""
    run = tmp_path_factory.mktemp("spoilt") / "run"
    assert fine_tune(sft_sources, run, *SPOILT) == 0
    return run


def test_run_ends_when_patience_does(spoilt):
    evaluations = rows_with(spoilt, "eval_bits_per_byte")
    assert list(evaluations) == [0, 1, 2, 3]
    assert evaluations[0] == evaluations[1] < min(evaluations[2], evaluations[3])
    assert list(rows_with(spoilt, "loss")) == [1, 2, 3]


def test_best_checkpoint_outlives_the_limit_of_checkpoints(spoilt):
    assert [path.name for path in list_checkpoints(spoilt)] == ["checkpoint-1", "checkpoint-3"]
    assert os.readlink(spoilt / "best") == "checkpoint-1"


def test_run_that_ended_early_is_finished(spoilt, sft_sources, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(spoilt, run, symlinks=True)
    metrics = (run / "metrics.jsonl").read_bytes()
    assert fine_tune(sft_sources, run, *SPOILT) == 0
    assert f"finished before: {run / 'checkpoint-3'}, best checkpoint-1" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_evaluation_that_is_made_up_for_can_end_the_run(spoilt, sft_sources, tmp_path, capsys):
    """The run died after it had saved checkpoint-3, before the evaluation that would have ended it."""
    run = tmp_path / "run"
    shutil.copytree(spoilt, run, symlinks=True)
    rows = [row for row in metrics_of(run) if row["step"] < 3 or "loss" in row]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert fine_tune(sft_sources, run, *SPOILT) == 0
    assert f"finished: {run / 'checkpoint-3'}, best checkpoint-1" in capsys.readouterr().out
    assert rows_with(run, "eval_bits_per_byte") == rows_with(spoilt, "eval_bits_per_byte")
    assert list(rows_with(run, "loss")) == [1, 2, 3]


def test_run_that_evaluates_nothing_links_its_last_checkpoint(tune, tmp_path):
    assert tune("--eval_strategy", "no", "--max_steps", 2, "--save_steps", 1) == 0
    assert os.readlink(tmp_path / "run" / "best") == "checkpoint-2"
    assert not any("eval_loss" in row for row in metrics_of(tmp_path / "run"))


def test_without_held_out_rows_nothing_is_evaluated_and_the_last_checkpoint_is_the_best(tune, tmp_path):
    assert tune("--datasets", rows_of("rows.jsonl"), "--max_steps", 2, "--save_steps", 1, "--eval_steps", 1) == 0
    assert not any("eval_loss" in row for row in metrics_of(tmp_path / "run"))
    assert os.readlink(tmp_path / "run" / "best") == "checkpoint-2"
