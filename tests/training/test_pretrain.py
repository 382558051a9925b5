"""The pretraining program in this process: what it writes, what it refuses, what it survives."""

import json
import resource
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.conftest import RECIPE, assert_close_run, assert_same_run, pretrain_here, rows_with
from tokenization import MulFactTokenizer
from training.core.checkpoint import list_checkpoints
from training.data.packing import PackedDocuments
from training.data.shards import Corpus

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A finished run of the tiny recipe."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert pretrain_here(recipe, run) == 0
    return run


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run where `pretrain` writes."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_checkpoint_loads_with_the_tokenizer_of_its_condition(finished):
    folder = finished / "checkpoint-8"
    assert MulFactTokenizer.from_pretrained(folder).condition == "mul_tokens"
    model = DomainGPT2ForCausalLM.from_pretrained(folder)
    assert model.config.use_cache
    assert model.generation_config.suppress_tokens == list(range(50257, 50304))
    assert model.generation_config.pad_token_id == 50257


def test_baseline_never_generates_facts_either(pretrain, tmp_path):
    assert pretrain("--condition", "baseline", "--max_steps", 1, "--eval_strategy", "no") == 0
    model = DomainGPT2ForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1")
    assert model.generation_config.suppress_tokens == list(range(50257, 50349))


def test_run_file_says_what_the_run_was(finished):
    run = json.loads((finished / "run.json").read_text())
    assert run["recipe"]["learning_rate"] == 2e-3
    assert run["recipe"]["init_seed"] == run["recipe"]["data_seed"] == 0
    assert run["processed_tokens"] == 8 * 512
    assert run["unique_tokens"] > 0
    assert len(run["initial_weights_sha256"]) == len(run["document_order_sha256"]) == 64
    assert run["starts"][0]["versions"]["torch"] == torch.__version__
    assert run["starts"][0]["device"]


def test_every_step_is_logged_with_its_figures(finished):
    row = json.loads((finished / "metrics.jsonl").read_text().splitlines()[0])
    expected = {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "mfu",
        "peak_memory_gib",
        "seconds_left",
        "tokens",
    }
    assert expected <= row.keys()
    assert list(rows_with(finished, "loss")) == list(range(1, 9))
    assert list(rows_with(finished, "eval_bits_per_byte")) == [4, 8]


def test_learning_rate_warms_up_and_falls_to_its_minimum(finished):
    rates = list(rows_with(finished, "learning_rate").values())
    assert rates[0] == 0
    assert rates[2] == max(rates) == 2e-3
    assert rates[2:] == sorted(rates[2:], reverse=True)
    scheduler = torch.load(finished / "checkpoint-8" / "scheduler.pt", weights_only=True)
    assert scheduler["_last_lr"][0] == pytest.approx(2e-4)


def test_only_matrices_decay(finished):
    groups = torch.load(finished / "checkpoint-8" / "optimizer.pt", weights_only=True)["param_groups"]
    by_decay = {group["weight_decay"]: len(group["params"]) for group in groups}
    weights = load_file(finished / "checkpoint-8" / "model.safetensors")
    matrices = sum(weight.ndim == 2 for weight in weights.values())
    assert by_decay == {0.1: matrices, 0.0: len(weights) - matrices}
    assert all(group["betas"] == (0.9, 0.95) and group["fused"] for group in groups)


def test_nothing_pickled_without_need_is_in_a_checkpoint(finished):
    assert not (finished / "checkpoint-8" / "training_args.bin").exists()


def test_a_finished_run_is_left_alone(copied, pretrain):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    assert pretrain() == 0
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_same_recipe_and_seed_give_the_same_bytes(finished, pretrain, tmp_path):
    assert pretrain() == 0
    assert_same_run(finished, tmp_path / "run", 8)


@pytest.mark.parametrize("micro_batch", [1, 8])
def test_micro_batch_does_not_change_the_trajectory(finished, pretrain, tmp_path, micro_batch):
    assert pretrain("--per_device_train_batch_size", micro_batch) == 0
    assert_close_run(finished, tmp_path / "run", 8, tolerance=1e-5)


@pytest.mark.parametrize("rows", [0, 40])
def test_rows_of_logits_at_a_time_do_not_change_the_trajectory(finished, pretrain, tmp_path, rows):
    assert pretrain("--loss_rows", rows) == 0
    assert_close_run(finished, tmp_path / "run", 8, tolerance=1e-5)


def test_steps_are_those_of_a_plain_loop_around_the_stock_model(pretrain, tmp_path, corpus_dir):
    assert pretrain("--max_steps", 4, "--eval_strategy", "no", "--save_steps", 4, "--max_grad_norm", 0.5) == 0
    tokenizer = MulFactTokenizer.build("mul_tokens")
    tokenizer.model_max_length = 64
    torch.manual_seed(0)
    sizes = {key: RECIPE[key] for key in ("n_layer", "n_head", "n_embd", "n_positions")}
    ours = DomainGPT2ForCausalLM(DomainGPT2Config(**sizes))
    model = GPT2LMHeadModel(ours.config).train()
    model.load_state_dict(ours.state_dict())
    windows = PackedDocuments(Corpus(corpus_dir / "mul_tokens", tokenizer).train, 64, 32, data_seed=0)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=False)
    losses, norms, rates = (rows_with(tmp_path / "run", key) for key in ("loss", "grad_norm", "learning_rate"))
    for step in range(1, 5):
        batch = [windows[(step - 1) * 8 + number] for number in range(8)]
        ids, labels = (torch.stack([window[key] for window in batch]) for key in ("input_ids", "shift_labels"))
        loss = F.cross_entropy(model(ids).logits.flatten(0, 1), labels.flatten())
        assert losses[step] == pytest.approx(loss.item(), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert norms[step] == pytest.approx(norm.item(), rel=1e-4)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
    trained = DomainGPT2ForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-4").state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(trained[name], weight, rtol=1e-3, atol=1e-5, msg=name)


def test_bf16_autocast_keeps_fp32_masters(finished, pretrain, tmp_path):
    assert pretrain("--bf16", "true") == 0
    assert_close_run(finished, tmp_path / "run", 8, tolerance=5e-2)
    weights = load_file(tmp_path / "run" / "checkpoint-8" / "model.safetensors")
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights.values())


def test_seeds_of_weights_and_data_are_apart(finished, pretrain, tmp_path):
    def run_file():
        return json.loads((tmp_path / "run" / "run.json").read_text())

    before = json.loads((finished / "run.json").read_text())
    short = ("--max_steps", 1, "--eval_strategy", "no", "--save_strategy", "no")
    assert pretrain("--init_seed", 1, *short) == 0
    assert run_file()["initial_weights_sha256"] != before["initial_weights_sha256"]
    assert run_file()["document_order_sha256"] == before["document_order_sha256"]


def test_evaluation_that_a_crash_cost_is_made_up_for(copied, finished, pretrain):
    """The run died after it had saved checkpoint-4, before it had evaluated there."""
    shutil.rmtree(copied / "checkpoint-8")
    rows = (copied / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_text(
        "".join(row for row in rows if json.loads(row)["step"] <= 4 and "eval_loss" not in row)
    )
    assert pretrain() == 0
    assert_same_run(finished, copied, 8)


def test_log_lines_that_average_over_a_checkpoint_are_the_same_after_a_restart(pretrain, tmp_path):
    assert pretrain("--logging_steps", 3) == 0
    shutil.copytree(tmp_path / "run", tmp_path / "uninterrupted")
    shutil.rmtree(tmp_path / "run" / "checkpoint-8")
    assert pretrain("--logging_steps", 3) == 0
    assert list(rows_with(tmp_path / "run", "loss")) == [3, 6]
    assert_same_run(tmp_path / "uninterrupted", tmp_path / "run", 8)


def test_corrupt_checkpoint_falls_back_to_the_one_before(copied, finished, pretrain, capsys):
    with open(copied / "checkpoint-8" / "optimizer.pt", "r+b") as file:
        file.truncate(1000)
    assert pretrain() == 0
    out = capsys.readouterr().out
    assert "optimizer.pt has 1,000 bytes instead of" in out
    assert "continuing from" in out
    assert "checkpoint-4" in out
    assert_same_run(finished, copied, 8)


def test_run_without_a_whole_checkpoint_is_not_overwritten_by_another_recipe(copied, pretrain):
    for folder in copied.glob("checkpoint-*"):
        (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="learning_rate was 0.002 and is now 0.005"):
        pretrain("--learning_rate", "5e-3")
    assert list(rows_with(copied, "loss")) == list(range(1, 9))


def test_output_dir_that_is_a_file_is_refused(pretrain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        pretrain("--output_dir", tmp_path / "file")


def test_the_last_checkpoints_are_kept(pretrain, tmp_path):
    assert pretrain("--save_steps", 2, "--save_total_limit", 2, "--eval_strategy", "no") == 0
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning_rate", "1e-3"], "learning_rate was 0.002 and is now 0.001"),
        (["--max_steps", "9"], "max_steps was 8 and is now 9"),
        (["--data_seed", "1"], "data_seed was 0 and is now 1"),
        (["--injection_mode", "strict"], "another tokenizer"),
    ],
)
def test_resuming_with_a_changed_recipe_is_refused_with_both_values(copied, pretrain, arguments, words):
    with pytest.raises(ValueError, match=r"\w") as error:
        pretrain(*arguments)
    assert words in str(error.value)


def test_resuming_with_another_vocabulary_is_refused(copied, pretrain, tmp_path, corpus_dir):
    run = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(run | {"tokenizer": "0" * 64}))
    with pytest.raises(ValueError, match="its tokenizer was '0000"):
        pretrain()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--total_batch_tokens", "500"],
            "total_batch_tokens (500) must be a multiple of 256 = 4 sequences x 64 tokens x 1",
        ),
        (["--gradient_accumulation_steps", "2"], "follows from total_batch_tokens"),
        (["--max_steps", "0"], "max_steps is 0"),
        (["--eval_documents", "0"], "eval_documents is 0"),
        (["--eval_steps", "0.5"], "eval_steps is 0.5"),
        (["--per_device_eval_batch_size", "0"], "per_device_eval_batch_size is 0"),
        (["--n_positions", "0"], "n_positions (0)"),
        (["--save_only_model", "true"], "save_only_model is True, which would change the run in silence"),
        (["--train_sampling_strategy", "random"], "train_sampling_strategy is 'random'"),
        (["--fp16", "true"], "fp16 is True"),
        (["--max_epochs", "0.01"], "above max_epochs 0.01"),
        (["--condition", "mul_token"], "mul_token"),
        (["--lr_scheduler_kwargs", '{"min_lr": 0.0001}'], "min_lr_rate"),
        (["--n_head", "3"], "n_head"),
    ],
)
def test_bad_recipe_is_refused_before_anything_is_written(pretrain, tmp_path, arguments, words):
    with pytest.raises(ValueError, match=r"\w") as error:
        pretrain(*arguments)
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_corpus_of_the_wrong_condition_is_refused(pretrain, corpus_dir):
    with pytest.raises(ValueError, match="made for condition 'mul_tokens'"):
        pretrain("--condition", "baseline", "--corpus_dir", corpus_dir / "mul_tokens")


def test_missing_corpus_says_how_to_make_one(pretrain, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"training/prepare_data.py"):
        pretrain("--corpus_dir", tmp_path / "nowhere")


def test_corpus_is_prepared_on_first_use(pretrain, tmp_path):
    recipe = tmp_path / "corpus.yaml"
    recipe.write_text(
        f"output_dir: {tmp_path / 'made'}\nsources: [{{synthetic: drills, documents: 200}}]\nvalidation_fraction: "
        "0.2\nvalidation_synthetic: true\n"
    )
    short = ("--max_steps", 1, "--eval_strategy", "no")
    assert pretrain("--corpus_recipe", recipe, "--corpus_dir", tmp_path / "made", *short) == 0
    assert (tmp_path / "made" / "mul_tokens" / "manifest.json").is_file()
    recipe.write_text(recipe.read_text().replace("200", "300"))
    with pytest.raises(ValueError, match="holds another corpus"):
        pretrain("--corpus_recipe", recipe, "--corpus_dir", tmp_path / "made", *short)


def test_trackers_of_transformers_can_be_named(pretrain, tmp_path):
    assert pretrain("--max_steps", 1, "--eval_strategy", "no", "--report_to", "tensorboard") == 0
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


def test_loss_that_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(pretrain, tmp_path):
    with pytest.raises(FloatingPointError, match=r"not finite between step \d+ and step \d+.*checkpoint-\d+") as error:
        pretrain("--learning_rate", "1e30", "--save_steps", 1, "--save_total_limit", 9)
    last = list_checkpoints(tmp_path / "run")[-1]
    assert f"The last good checkpoint is {last}." in str(error.value)
    assert all(weight.isfinite().all() for weight in load_file(last / "model.safetensors").values())


def test_full_disk_leaves_the_last_checkpoint_whole(copied, finished, pretrain):
    """A limit on the size of files stands in for a disk that fills up while the second checkpoint is written."""
    shutil.rmtree(copied / "checkpoint-8")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (copied / "checkpoint-4" / "model.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        with pytest.raises(
            RuntimeError, match=r"could not save .*checkpoint-8: .*The last good checkpoint is .*checkpoint-4"
        ):
            pretrain()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in list_checkpoints(copied)] == ["checkpoint-4"]
    assert not (copied / ".saving").exists()
    assert pretrain() == 0
    assert_same_run(finished, copied, 8)


def test_recipe_of_these_tests_trains(finished):
    losses = list(rows_with(finished, "loss").values())
    assert losses[-1] < losses[0] - 0.05
    assert RECIPE["max_steps"] == len(losses)
