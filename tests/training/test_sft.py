"""Fine-tuning in this process: what it computes, what both arms share, and what it writes."""

import functools
import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modeling import DomainGPT2ForCausalLM
from tests.conftest import rows_with
from tests.training.small_sft import (
    ARMS,
    CONTEXT,
    CONVERSATIONS,
    fine_tune,
    held_out_of,
    metrics_of,
    plain_nats,
    report_of,
    rows_of,
)
from tests.training.tiny_subjects import tokenizer_of
from tokenization import MulFactTokenizer
from training.core.provenance import sha256_of_weights
from training.core.sft_recipe import SftDataArguments
from training.data.sft_rows import prepare_rows

# One step on everything, in which a weight changes by its gradient.
ONE_STEP = (
    *("--max_steps", 1, "--eval_on_start", "false", "--warmup_steps", 0, "--logging_steps", 1),
    *("--optim", "sgd", "--learning_rate", 1, "--weight_decay", 0, "--max_grad_norm", 0),
)


@pytest.fixture(scope="module")
def finished(finished_sft):
    return finished_sft("mul_tokens")


@pytest.fixture(scope="module")
def one_step(sft_sources, tmp_path_factory):
    """Train one step on all rows: one_step(arm, packed, micro_batches) gives the run and the number of items."""

    @functools.cache
    def train(arm, packed, micro_batches):
        folder = tmp_path_factory.mktemp("one_step")
        datasets = [rows_of(sft_sources / "rows.jsonl")]
        data_args = SftDataArguments(datasets=datasets, pack=packed)
        rows = prepare_rows(data_args, tokenizer_of(arm), folder / "rows", CONTEXT, seed=0, say=lambda line: None)
        items = len(rows.train.dataset)
        micro_batch = {"one": items, "many": 1}[micro_batches]
        batch = ("--total_batch_items", items, "--per_device_train_batch_size", micro_batch)
        arguments = (*ONE_STEP, *batch, "--datasets", *datasets, "--pack", packed)
        assert fine_tune(sft_sources, folder / "run", *arguments, arm=arm) == 0
        return folder / "run", items

    return train


@pytest.fixture(scope="module")
def plain_step(sft_sources):
    """The loss of all rows, each alone through the model, and the weights after one step: plain_step(arm)."""

    @functools.cache
    def compute(arm):
        model = DomainGPT2ForCausalLM.from_pretrained(sft_sources / arm).train()
        nats, tokens = plain_nats(model, CONVERSATIONS, tokenizer_of(arm))
        (nats / tokens).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= parameter.grad
        return (nats / tokens).item(), model.state_dict()

    return compute


ONE_STEPS = [("baseline", True, "one"), ("baseline", False, "many"), ("mul_tokens", True, "many")]
ONE_STEPS += [("mul_tokens", False, "one"), ("mul_tokens", True, "one")]


@pytest.mark.parametrize(("arm", "packed", "micro_batches"), ONE_STEPS)
def test_loss_is_that_of_the_rows_alone(one_step, plain_step, arm, packed, micro_batches):
    run, items = one_step(arm, packed, micro_batches)
    assert items < len(CONVERSATIONS) if packed else items == len(CONVERSATIONS)
    assert rows_with(run, "rows") == {1: len(CONVERSATIONS)}
    assert rows_with(run, "loss")[1] == pytest.approx(plain_step(arm)[0], rel=1e-6)


@pytest.mark.parametrize(("arm", "packed", "micro_batches"), ONE_STEPS)
def test_step_follows_the_gradient_of_the_rows_alone(one_step, plain_step, arm, packed, micro_batches):
    weights = load_file(one_step(arm, packed, micro_batches)[0] / "checkpoint-1" / "model.safetensors")
    expected = plain_step(arm)[1]
    assert max((weights[name] - expected[name]).abs().max().item() for name in weights) < 2e-6


def test_micro_batch_does_not_change_the_weights(one_step):
    one, many = (
        load_file(one_step("mul_tokens", True, each)[0] / "checkpoint-1" / "model.safetensors")
        for each in ("one", "many")
    )
    assert max((one[name] - many[name]).abs().max().item() for name in one) < 1e-6


@pytest.mark.parametrize("arm", ARMS)
def test_evaluation_is_that_of_the_held_out_rows_alone(finished_sft, arm):
    run, tokenizer = finished_sft(arm), tokenizer_of(arm)
    rows = held_out_of(run, tokenizer)
    assert len(rows) == report_of(run)["held_out"] == 8
    model = DomainGPT2ForCausalLM.from_pretrained(run / "checkpoint-8").eval()
    for key, some in (("", rows), ("_without_facts", [each for each in rows if "Greet" in each[-2]["content"]])):
        with torch.no_grad():
            nats, tokens = plain_nats(model, some, tokenizer)
        replies = [message["content"] for messages in some for message in messages if message["role"] == "assistant"]
        bits_per_byte = nats.item() / math.log(2) / sum(len(f" {reply}".encode()) for reply in replies)
        assert rows_with(run, f"eval_bits_per_byte{key}")[8] == pytest.approx(bits_per_byte, rel=1e-5)
        assert rows_with(run, f"eval_loss{key}")[8] == pytest.approx(nats.item() / tokens, rel=1e-5)


def test_rows_are_learnt(finished):
    evaluations = list(rows_with(finished, "eval_bits_per_byte").values())
    assert evaluations[-1] < evaluations[0] - 0.05


def test_arms_train_on_the_same_rows_and_bytes_in_the_same_steps(finished_sft):
    plain, injected = ([row for row in metrics_of(finished_sft(arm)) if "loss" in row] for arm in ARMS)
    assert [row["step"] for row in plain] == [3, 6]
    for one, other in zip(plain, injected, strict=True):
        for key in ("step", "rows", "bytes", "supervised_bytes", "epoch", "learning_rate"):
            assert one[key] == other[key]
        assert other["tokens"] < one["tokens"] and other["flops"] < one["flops"]


def test_arms_start_with_the_same_weights_and_prepare_the_same_rows(finished_sft):
    plain, injected = (json.loads((finished_sft(arm) / "run.json").read_text()) for arm in ARMS)
    for key in ("rows_sha256", "items", "initial_weights_sha256"):
        assert plain[key] == injected[key]
    assert plain["tokenizer"] != injected["tokenizer"]
    plain, injected = (report_of(finished_sft(arm)) for arm in ARMS)
    assert plain["sources"] == injected["sources"]
    for part in ("train", "held_out_items"):
        assert plain[part]["sha256"] == injected[part]["sha256"]
        assert plain[part]["tokens"] > injected[part]["tokens"]


def test_checkpoint_loads_with_the_tokenizer_of_its_condition(finished_sft):
    for arm in ARMS:
        folder = finished_sft(arm) / "checkpoint-8"
        tokenizer, model = MulFactTokenizer.from_pretrained(folder), DomainGPT2ForCausalLM.from_pretrained(folder)
        assert tokenizer.condition == arm
        assert tokenizer("6*9=54").input_ids == tokenizer_of(arm)("6*9=54").input_ids
        assert tokenizer.chat_template == tokenizer_of(arm).chat_template
        assert model.config.use_cache and model.dtype == torch.float32
        assert model.generation_config.suppress_tokens == tokenizer.unseen_ids
        assert type(AutoModelForCausalLM.from_pretrained(folder)).__name__ == "GPT2LMHeadModel"


def test_nothing_pickled_without_need_is_in_a_checkpoint(finished):
    assert not list(finished.rglob("training_args.bin"))


def test_best_is_a_relative_link_to_the_checkpoint_with_the_best_evaluation(finished):
    evaluations = {step: value for step, value in rows_with(finished, "eval_bits_per_byte").items() if step}
    best = min(evaluations, key=evaluations.get)
    assert os.readlink(finished / "best") == f"checkpoint-{best}"
    assert (finished / "best" / "model.safetensors").is_file()


def test_model_card_says_what_the_checkpoint_is_and_where_nothing_lies(finished, sft_sources):
    card = (finished / "checkpoint-8" / "README.md").read_text()
    for words in ("mul_tokens", "step 8", "| conversations so far | ", "trained on", "mul_tokens-s0"):
        assert words in card
    assert not any(str(folder) in card for folder in (sft_sources.parent, finished.parent))


def test_run_file_says_what_the_run_was(finished, sft_sources):
    run = json.loads((finished / "run.json").read_text())
    report = report_of(finished)
    assert run["condition"] == "mul_tokens"
    assert run["tokenizer"] == tokenizer_of("mul_tokens").fingerprint
    start = DomainGPT2ForCausalLM.from_pretrained(sft_sources / "mul_tokens")
    assert run["initial_weights_sha256"] == sha256_of_weights(start)
    assert run["parameters"] == start.num_parameters()
    assert run["rows_sha256"] == report["train"]["sha256"]
    assert run["items"] == report["train"]["items"]
    assert run["recipe"]["max_length"] == CONTEXT
    assert run["recipe"]["data_seed"] == 0
    assert run["recipe"]["gradient_accumulation_steps"] == 2
    assert run["starts"][0]["versions"]["trl"]


def test_report_says_what_became_of_the_rows(finished):
    report = report_of(finished)
    assert (report["rows"], report["held_out"]) == (32, 8)
    assert report["train"]["kept"] == 32 and report["held_out_items"]["kept"] == 8
    assert report["train"]["items"] < 32 and report["held_out_items"]["items"] == 8
    assert sorted(path.name for path in (finished / "rows").iterdir()) == ["held_out", "report.json", "train"]


def test_every_log_line_has_its_figures(finished):
    work = {"rows", "tokens", "bytes", "supervised_bytes", "flops"}
    speed = {"tokens_per_second", "mfu", "peak_memory_gib", "seconds_left"}
    rows = [row for row in metrics_of(finished) if "loss" in row]
    assert [row["step"] for row in rows] == [3, 6]
    for row in rows:
        assert work | speed | {"learning_rate", "grad_norm", "epoch", "mean_token_accuracy", "entropy"} <= row.keys()
    assert [row["epoch"] for row in rows] == [4 * step / report_of(finished)["train"]["items"] for step in (3, 6)]


def test_rows_of_evaluations_hold_no_averages_of_training(finished):
    evaluations = [row for row in metrics_of(finished) if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [0, 4, 8]
    assert all(key in ("step", "epoch") or key.startswith("eval_") for row in evaluations for key in row)
    assert not any("num_tokens" in key for row in metrics_of(finished) for key in row)
