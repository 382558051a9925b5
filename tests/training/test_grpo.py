"""`training/grpo.py` as a whole: what it computes, what it draws, and what it writes."""

import json
import math
import os
import shutil

import pandas
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from modeling import DomainGPT2ForCausalLM
from tests.conftest import rows_with
from tests.training.small_grpo import ARMS, is_even, reinforce, save_starts
from tests.training.small_sft import run_recipe
from tests.training.tiny_subjects import tokenizer_of
from training.core.checkpoint import list_checkpoints
from training.evals.completions import Completion
from training.evals.decoding import Decoding
from training.evals.generation import Reply
from training.evals.subject import load_subject
from training.rl import policy_trainer
from training.rl.samples import prompt_ids

END_OF_TEXT = 50256
ONE_STEP = ("--max_steps", 1, "--logging_steps", 1, "--eval_strategy", "no")


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    return save_starts(tmp_path_factory.mktemp("starts"))


@pytest.fixture(scope="module")
def finished(starts, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert reinforce(starts, run) == 0
    return run


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def scripted(texts, arm: str):
    """Stand in for `decode`: the completions are these texts, one after the other, each ended."""
    tokenizer = tokenizer_of(arm)
    ids = [tokenizer(text).input_ids for text in texts]

    def decode(subject, prompts, decoding, seeds, batch_size):
        assert isinstance(decoding, Decoding)
        places = [place % len(texts) for place in range(len(prompts))]
        return [Reply(ids[at], tokenizer.decode(ids[at]), "end_of_text") for at in places]

    return decode


@pytest.fixture
def recorded(monkeypatch):
    """Every batch that was drawn in training: the ids of prompts and replies, and the replies."""
    calls = []
    decode = policy_trainer.decode

    def record(subject, prompts, *arguments):
        replies = decode(subject, prompts, *arguments)
        calls.append((prompts, replies))
        return replies

    monkeypatch.setattr(policy_trainer, "decode", record)
    return calls


def weights_of(run, step):
    return load_file(run / f"checkpoint-{step}" / "model.safetensors")


def same_weights(run, other, step):
    first, second = weights_of(run, step), weights_of(other, step)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_went_on(run, finished, step):
    assert same_weights(run, finished, step)
    for key in ("loss", "grad_norm", "kl", "reward", "entropy", "repeating", "tokens", "flops", "eval_pass_at_1"):
        assert rows_with(run, key) == rows_with(finished, key), key


def only_first_checkpoint(run, copy):
    shutil.copytree(run, copy, symlinks=True)
    for folder in list_checkpoints(copy)[1:]:
        shutil.rmtree(folder)


# Interruptions


def test_run_that_died_goes_on_to_the_same_bits(finished, starts, tmp_path):
    """The pool of episode 2 was sampled behind the checkpoint, that of episode 1 before it."""
    run = tmp_path / "run"
    only_first_checkpoint(finished, run)
    shutil.rmtree(run / "pool" / "episode-2")
    assert reinforce(starts, run) == 0
    assert_went_on(run, finished, 6)
    assert os.readlink(run / "best") == os.readlink(finished / "best")
    for file in ("pool/episode-2/pool.jsonl", "dev/checkpoint-6/drawn.jsonl"):
        assert (run / file).read_bytes() == (finished / file).read_bytes()


def test_run_that_died_in_the_middle_of_its_completions_goes_on_to_the_same_bits(starts, tmp_path):
    """Four steps train on each batch of completions, and the checkpoint falls behind the third."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = ("--generation_batch_size", 16, "--num_iterations", 2, "--episode_steps", 4, "--max_steps", 4)
    options += ("--num_generations_eval", 1)
    assert reinforce(starts, whole, *options) == 0
    only_first_checkpoint(whole, run)
    assert reinforce(starts, run, *options) == 0
    assert_went_on(run, whole, 4)


def test_finished_run_is_left_alone(copied, starts, capsys):
    before = {path: path.lstat().st_mtime_ns for path in copied.rglob("checkpoint-*/*")}
    assert reinforce(starts, copied) == 0
    assert f"finished before: {copied / 'checkpoint-6'}, best checkpoint-" in capsys.readouterr().out
    assert {path: path.lstat().st_mtime_ns for path in copied.rglob("checkpoint-*/*")} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--beta", 0.2), "beta was 0.1 and is now 0.2"),
        (("--rewards", '{"exact_answer": 2.0}'), "rewards"),
        (("--data_seed", 5), "other prompts: seed was 0 and is now 5"),
    ],
)
def test_run_does_not_go_on_with_another_recipe(copied, starts, change, message):
    with pytest.raises(ValueError, match=message):
        reinforce(starts, copied, *change)


def test_samples_of_a_pool_survive_a_start_from_another_model(copied, starts):
    before = (copied / "pool" / "episode-0" / "pool.jsonl").read_bytes()
    with pytest.raises(ValueError, match="another model or tokenizer"):
        reinforce(starts, copied, arm="baseline")
    assert (copied / "pool" / "episode-0" / "pool.jsonl").read_bytes() == before


# What is computed


def test_loss_is_that_of_a_plain_computation(starts, tmp_path, recorded):
    """Dr. GRPO with a KL divergence, one completion at a time, without padding: the gradient of the first step, and
    the loss and the divergence of the second, which trains on the same completions."""
    options = ("--max_steps", 2, "--generation_batch_size", 8, "--num_iterations", 2, "--logging_steps", 1)
    options += (
        "--eval_strategy",
        "no",
        "--lr_scheduler_type",
        "constant",
        "--temperature",
        0.8,
        "--max_grad_norm",
        1e9,
    )
    assert reinforce(starts, tmp_path / "run", *options, "--save_steps", 1) == 0
    prompts, replies = recorded[0]
    table = pandas.read_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet")
    assert list(table["completion"]) == [reply.text for reply in replies]
    advantages = torch.tensor(table["advantage"])
    rewards = torch.tensor(table["exact_answer"] + 0.1 * table["length_limit"])
    groups = rewards.view(-1, 4)
    torch.testing.assert_close(advantages.view(-1, 4), groups - groups.mean(1, keepdim=True), atol=1e-6, rtol=0)

    def log_probs(model):
        rows = []
        for prompt, reply in zip(prompts, replies, strict=True):
            ids = reply.ids + [END_OF_TEXT] * (reply.finish == "end_of_text")
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.8
            rows.append(-F.cross_entropy(logits, torch.tensor(ids), reduction="none"))
        return rows

    start = DomainGPT2ForCausalLM.from_pretrained(starts / "mul_tokens").eval()
    before = log_probs(start)
    loss = -sum((each - each.detach()).exp().mul(a).sum() for each, a in zip(before, advantages, strict=True))
    (loss / (len(prompts) * 12)).backward()
    norm = math.sqrt(sum(weight.grad.double().square().sum().item() for weight in start.parameters()))
    assert rows_with(tmp_path / "run", "grad_norm")[1] == pytest.approx(norm, rel=1e-3)

    with torch.no_grad():
        policy = DomainGPT2ForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1").eval()
        after, divergence, loss, tokens = log_probs(policy), 0.0, 0.0, 0
        for old, new, advantage in zip(before, after, advantages, strict=True):
            ratio = (new - old).exp()
            kl = ((old - new).exp() - (old - new) - 1) * ratio  # TRL corrects it for completions of an earlier policy
            clipped = ratio.clamp(1 - 0.2, 1 + 0.28)
            loss += (-torch.minimum(ratio * advantage, clipped * advantage) + 0.1 * kl).sum().item()
            divergence, tokens = divergence + kl.sum().item(), tokens + len(new)
    assert rows_with(tmp_path / "run", "loss")[2] == pytest.approx(loss / (len(prompts) * 12), rel=1e-3, abs=1e-7)
    assert rows_with(tmp_path / "run", "kl")[2] == pytest.approx(divergence / tokens, rel=2e-2)


def test_policy_begins_at_its_reference(finished):
    """Prompts of different lengths are padded, and the positions of both do not count the padding."""
    kl = rows_with(finished, "kl")
    assert kl[2] < 1e-3 < rows_with(finished, "entropy")[2]
    assert kl[6] > kl[2]


def test_reference_agrees_with_the_policy_in_bf16_to_the_last_bit(starts, tmp_path):
    """Outside the autocast of the loss the reference would be fp32, and its divergence made of roundings."""
    options = ("--bf16", "true", *ONE_STEP)
    assert reinforce(starts, tmp_path / "run", *options) == 0
    assert rows_with(tmp_path / "run", "kl")[1] == pytest.approx(0, abs=1e-9)


def test_policy_learns_what_is_rewarded(starts, tmp_path):
    def is_short(completion: Completion) -> float:
        return float(completion.bytes < 72)  # two in five

    options = ("--learning_rate", 1e-2, "--max_steps", 16, "--episode_steps", 16, "--logging_steps", 4, "--beta", 0)
    options += ("--rewards", '{"exact_answer": 1.0}', "--filter_prompts", "false", "--num_generations", 8)
    options += ("--total_batch_items", 16, "--eval_strategy", "no", "--scale_rewards", "group", "--save_steps", 16)
    assert reinforce(starts, tmp_path / "run", *options, right=is_short) == 0
    rewards = list(rows_with(tmp_path / "run", "reward").values())
    assert rewards[-1] > rewards[0] + 0.3, rewards


# What is drawn


def test_completions_do_not_depend_on_how_they_are_batched(finished, starts, tmp_path):
    options = ("--per_device_train_batch_size", 2, "--decode_batch_size", 3)
    assert reinforce(starts, tmp_path / "run", *options) == 0
    for name in ("pool/episode-0/pool.jsonl", "dev/checkpoint-0/drawn.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (finished / name).read_text()
    first, second = (
        pandas.read_parquet(run / "completions" / "completions_00002.parquet") for run in (finished, tmp_path / "run")
    )
    assert list(first["completion"]) == list(second["completion"])
    for key in ("loss", "grad_norm", "reward"):
        first, second = rows_with(finished, key), rows_with(tmp_path / "run", key)
        assert all(first[step] == pytest.approx(second[step], abs=1e-4) for step in first), key


def test_prompts_of_completions_are_those_of_training_examples(starts, tmp_path, recorded):
    assert reinforce(starts, tmp_path / "run", *ONE_STEP) == 0
    subject = load_subject(str(starts / "mul_tokens"))
    table = pandas.read_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet")
    prompts, _ = recorded[0]
    for ids, text in zip(prompts, table["prompt"], strict=True):
        question = text.removeprefix("User: ").removesuffix("\nAssistant:")
        assert ids == prompt_ids(subject, question)


def test_arms_get_the_same_prompts_and_draws_in_the_same_order(starts, tmp_path, recorded):
    options = (*ONE_STEP, "--filter_prompts", "false")
    for arm in ARMS:
        assert reinforce(starts, tmp_path / arm, *options, arm=arm) == 0
    facts = [json.loads((tmp_path / arm / "run.json").read_text()) for arm in ARMS]
    for key in ("prompts_sha256", "initial_weights_sha256", "maximum_of_wrong", "minimum_of_right"):
        assert facts[0][key] == facts[1][key]
    # Neither these weights nor these texts hold a fact, so that the arms must draw the same completions.
    tables = [pandas.read_parquet(tmp_path / arm / "completions" / "completions_00001.parquet") for arm in ARMS]
    assert list(tables[0]["prompt"]) == list(tables[1]["prompt"])


def test_decoding_of_trl_feeds_rewards_that_see_facts(starts, tmp_path, monkeypatch):
    seen = []

    def look(completion: Completion) -> float:
        seen.append(completion)
        return is_even(completion)

    texts = ["9 bags: 6*9=54 apples.\n#### 54", "No idea."]
    monkeypatch.setattr(policy_trainer, "decode", scripted(texts, "mul_tokens"))
    assert reinforce(starts, tmp_path / "run", *ONE_STEP, right=look) == 0
    of_training = {each.text for each in seen if "apples" in each.text}
    assert of_training == {"9 bags: <MUL_6_9_54> apples.\n#### 54"}
    assert {each.reading for each in seen if each.text in of_training} == {texts[0]}
    assert all(each.ended for each in seen if each.text in of_training)
    # Beside the reward stand what was used and how long it was, as both arms would have it.
    assert rows_with(tmp_path / "run", "fact_tokens")[1] == 0.5
    assert rows_with(tmp_path / "run", "completions/mean_bytes")[1] == sum(map(len, texts)) / 2


def test_arms_earn_the_same_for_the_same_words(starts, tmp_path, monkeypatch):
    texts = ["9 bags of 6: 6*9=54, 54+2=56.\n#### 56", "7 × 8 = 56 and 7 × 8 = 56", "2*3=6", "#### 6"]
    tables = []
    for arm in ARMS:
        monkeypatch.setattr(policy_trainer, "decode", scripted(texts, arm))
        options = (*ONE_STEP, "--filter_prompts", "false")
        options += (
            "--rewards",
            '{"exact_answer": 1.0, "length_limit": 0.1, "repetition": 0.1, "verified_steps": 0.1}',
        )
        assert reinforce(starts, tmp_path / arm, *options, arm=arm) == 0
        tables.append(pandas.read_parquet(tmp_path / arm / "completions" / "completions_00001.parquet"))
    assert list(tables[0]["completion"]) != list(tables[1]["completion"])
    for key in ("exact_answer", "length_limit", "repetition", "verified_steps", "advantage"):
        assert list(tables[0][key]) == list(tables[1][key]), key


def test_program_that_returns_the_answer_is_right(starts, tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Q{n}?", "answer": "54"}) + "\n" for n in range(8)))
    programs = ["def f():\n    return 6*9", "def f():\n    return 6+9", "#### 54", "def f():\n    return 54"]
    monkeypatch.setattr(policy_trainer, "decode", scripted(programs, "mul_tokens"))
    options = ("--prompts", json.dumps({"path": str(rows)}), *ONE_STEP, "--filter_prompts", "false")
    assert reinforce(starts, tmp_path / "run", *options, "--rewards", '{"exact_program": 1.0}') == 0
    table = pandas.read_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet")
    assert list(table["exact_program"]) == [1, 0, 0, 1] * 2


# What is written


def test_start_without_signal_is_refused_with_its_numbers(starts, tmp_path):
    def never(completion: Completion) -> float:
        return 0.0

    with pytest.raises(ValueError, match=r"too little signal.*pass@1 0.000, pass@4 0.000 on 6 prompts.*ignore_gate"):
        reinforce(starts, tmp_path / "run", "--ignore_gate", "false", right=never)
    assert not list_checkpoints(tmp_path / "run")


def test_held_out_prompts_are_measured_at_every_evaluation(finished):
    rows = rows_with(finished, "eval_pass_at_1")
    assert list(rows) == [0, 3, 6]
    for step, value in rows.items():
        drawn = [json.loads(line) for line in (finished / "dev" / f"checkpoint-{step}" / "drawn.jsonl").open()]
        assert len(drawn) == 4 and all(len(row["replies"]) == 2 for row in drawn)
        assert value == sum(reply["right"] for row in drawn for reply in row["replies"]) / 8
    best = max(rows, key=lambda step: (rows[step], -step) if step else (-1, 0))
    assert os.readlink(finished / "best") == f"checkpoint-{best}"


def test_log_rows_hold_what_is_watched(finished):
    for key in (
        "frac_reward_zero_std kl entropy repeating fact_tokens products completions/clipped_ratio "
        "completions/mean_bytes rewards/exact_answer/mean rewards/length_limit/mean reward"
    ).split():
        assert list(rows_with(finished, key)) == [2, 4, 6], key
    for key in "accuracy pass_at_2 informative truncated repeating fact_tokens reward bytes".split():
        assert list(rows_with(finished, f"eval_{key}")) == [0, 3, 6], key


def test_checkpoint_loads_without_this_project(finished):
    card = (finished / "checkpoint-6" / "README.md").read_text()
    assert "synthetic: multiplications" in card and "| completions so far | 48 |" in card
    model = DomainGPT2ForCausalLM.from_pretrained(finished / "checkpoint-6")
    assert model.config.use_cache and model.dtype == torch.float32
    assert not (finished / "checkpoint-6" / "training_args.bin").exists()


def test_right_completions_of_the_first_pool_are_rows_for_fine_tuning(finished, starts, tmp_path):
    pool = [json.loads(line) for line in (finished / "pool" / "episode-0" / "pool.jsonl").open()]
    rows = [json.loads(line)["messages"] for line in (finished / "rejection_samples.jsonl").open()]
    assert {messages[0]["content"] for messages in rows} <= {row["question"] for row in pool}
    recipe = tmp_path / "sft.yaml"
    recipe.write_text(
        "datasets: [{path: rejection_samples.jsonl}]\nmax_steps: 1\ntotal_batch_items: 1\n"
        "per_device_train_batch_size: 1\nbf16: false\n"
    )
    options = ("--data_root", finished, "--output_dir", tmp_path / "run")
    assert run_recipe(recipe, "--model_name_or_path", starts / "mul_tokens", *options) == 0


def test_patience_ends_a_run(starts, tmp_path, capsys):
    def never_after_the_pool(completion: Completion) -> float:
        return is_even(completion) if completion.question not in held_out else 0.0

    held_out: set[str] = set()
    options = ("--eval_steps", 1, "--save_steps", 1, "--early_stopping_patience", 1, "--num_generations_eval", 1)
    reinforce(starts, tmp_path / "probe", *options, "--max_steps", 1)
    held_out |= {json.loads(line)["question"] for line in (tmp_path / "probe" / "prompts" / "dev.jsonl").open()}
    assert reinforce(starts, tmp_path / "run", *options, right=never_after_the_pool) == 0
    assert list(rows_with(tmp_path / "run", "eval_pass_at_1")) == [0, 1, 2]
    assert "finished: " in capsys.readouterr().out
