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
    shutil.copytree(run, tmp_path / "other", symlinks=True)
    assert reinforce(starts, run, *options) == 0
    assert_went_on(run, whole, 4)
    # In micro-batches of another size as well, but for the last digits.
    assert reinforce(starts, tmp_path / "other", *options, "--per_device_train_batch_size", 8) == 0
    for key in ("loss", "grad_norm"):
        assert rows_with(tmp_path / "other", key)[4] == pytest.approx(rows_with(whole, key)[4], rel=1e-3, abs=1e-6)


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


def test_launch_under_fsdp_is_refused(starts, tmp_path, monkeypatch):
    monkeypatch.setattr("training.grpo.launched_with_fsdp", lambda: True)
    with pytest.raises(ValueError, match="does not run under FSDP.*ddp.yaml or a ZeRO"):
        reinforce(starts, tmp_path / "run")


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
    subject = load_subject(str(starts / "mul_tokens"))
    table = pandas.read_parquet(tmp_path / "run" / "completions" / "completions_00001.parquet")
    assert list(table["completion"]) == [reply.text for reply in replies]
    questions = [text.removeprefix("User: ").removesuffix("\nAssistant:") for text in table["prompt"]]
    assert prompts == [prompt_ids(subject, question) for question in questions]
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
    """The start says yes, no or end of text with the same probability, and hardly anything else."""
    model, tokenizer = DomainGPT2ForCausalLM.from_pretrained(starts / "mul_tokens"), tokenizer_of("mul_tokens")
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = 10.0
        model.transformer.wte.weight[:, 0] = 0.0
        model.transformer.wte.weight[[*tokenizer(" yes no").input_ids, END_OF_TEXT], 0] = 1.5
    model.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")

    def says_yes(completion: Completion) -> float:
        return float(completion.text.strip() == "yes")

    options = ("--learning_rate", 1e-2, "--max_steps", 12, "--episode_steps", 12, "--logging_steps", 3, "--beta", 0)
    options += ("--rewards", '{"exact_answer": 1.0}', "--filter_prompts", "false", "--num_generations", 8)
    options += ("--total_batch_items", 16, "--eval_strategy", "no", "--save_steps", 12)
    assert (
        reinforce(tmp_path, tmp_path / "run", *options, arm="start", right=says_yes, recipe=starts / "recipe.yaml")
        == 0
    )
    rewards = list(rows_with(tmp_path / "run", "reward").values())
    assert rewards[0] < 0.5 and rewards[-1] > rewards[0] + 0.4, rewards


# What is drawn


def test_completions_do_not_depend_on_how_they_are_batched(finished, starts, tmp_path):
    options = ("--per_device_train_batch_size", 2, "--decode_batch_size", 3, "--max_steps", 2)
    assert reinforce(starts, tmp_path / "run", *options) == 0
    for name in ("pool/episode-0/pool.jsonl", "dev/checkpoint-0/drawn.jsonl"):
        assert (tmp_path / "run" / name).read_text() == (finished / name).read_text()
    first, second = (
        pandas.read_parquet(run / "completions" / "completions_00002.parquet") for run in (finished, tmp_path / "run")
    )
    assert list(first["completion"]) == list(second["completion"])
    for key in ("loss", "grad_norm", "reward"):
        assert rows_with(finished, key)[2] == pytest.approx(rows_with(tmp_path / "run", key)[2], abs=1e-4), key


@pytest.fixture(scope="module")
def scripted_arms(starts, tmp_path_factory):
    """A step of each arm on completions with the same words, and the completions that its criterion saw."""
    texts = ["9 bags of 6: 6*9=54, 54+2=56.\n#### 56", "7 × 8 = 56 and 7 × 8 = 56", "2*3=6", "#### 6"]
    weights = {"exact_answer": 1.0, **dict.fromkeys(("length_limit", "repetition", "verified_steps"), 0.1)}
    options = (*ONE_STEP, "--filter_prompts", "false", "--rewards", json.dumps(weights))
    folder, seen = tmp_path_factory.mktemp("arms"), {arm: [] for arm in ARMS}
    for arm in ARMS:

        def look(completion: Completion, arm=arm) -> float:
            seen[arm] += [completion]
            return is_even(completion)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policy_trainer, "decode", scripted(texts, arm))
            assert reinforce(starts, folder / arm, *options, arm=arm, right=look) == 0
    return folder, seen, texts


def test_arms_earn_the_same_for_the_same_words(scripted_arms):
    folder, _, _ = scripted_arms
    tables = [pandas.read_parquet(folder / arm / "completions" / "completions_00001.parquet") for arm in ARMS]
    assert list(tables[0]["completion"]) != list(tables[1]["completion"])
    for key in ("prompt", "exact_answer", "length_limit", "repetition", "verified_steps", "advantage"):
        assert list(tables[0][key]) == list(tables[1][key]), key


def test_arms_begin_with_the_same_prompts_weights_and_ceilings(scripted_arms):
    folder, _, _ = scripted_arms
    facts = [json.loads((folder / arm / "run.json").read_text()) for arm in ARMS]
    for key in ("prompts_sha256", "initial_weights_sha256", "maximum_of_wrong", "minimum_of_right"):
        assert facts[0][key] == facts[1][key]


def test_decoding_of_trl_feeds_rewards_that_see_facts(scripted_arms):
    folder, seen, texts = scripted_arms
    of_training = {each.text for each in seen["mul_tokens"] if "bags of" in each.text}
    assert of_training == {"9 bags of 6: <MUL_6_9_54>, 54+2=56.\n#### 56"}
    assert {each.reading for each in seen["mul_tokens"] if each.text in of_training} == {texts[0]}
    assert all(each.ended for arm in ARMS for each in seen[arm] if "bags of" in each.text)
    # What was used and how long it was stands beside the reward, the length as both arms would have it.
    rows = {arm: {key: rows_with(folder / arm, key)[1] for key in ("fact_tokens", "products")} for arm in ARMS}
    assert rows["mul_tokens"]["fact_tokens"] > 0 == rows["baseline"]["fact_tokens"]
    assert rows["mul_tokens"]["products"] == rows["baseline"]["products"]
    lengths = [rows_with(folder / arm, "completions/mean_bytes")[1] for arm in ARMS]
    assert lengths[0] == lengths[1]


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


def test_patience_ends_a_run(finished, starts, tmp_path, capsys):
    held_out = {json.loads(line)["question"] for line in (finished / "prompts" / "dev.jsonl").open()}

    def never_when_held_out(completion: Completion) -> float:
        return 0.0 if completion.question in held_out else is_even(completion)

    options = ("--eval_steps", 1, "--save_steps", 1, "--early_stopping_patience", 1, "--num_generations_eval", 1)
    assert reinforce(starts, tmp_path / "run", *options, right=never_when_held_out) == 0
    assert list(rows_with(tmp_path / "run", "eval_pass_at_1")) == [0, 1, 2]
    assert "finished: " in capsys.readouterr().out
