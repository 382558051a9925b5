"""Completions of prompts: how they are drawn, when one is right, and what the results say of them."""

import itertools
import json

import pytest

from tests.training.scripted_replies import Script, prompts_with_passes
from tests.training.small_sft import plain_ids
from tests.training.tiny_subjects import CONTEXT, pieces, prompts_of_lengths, subject_of, tape
from tokenization import inject
from training.evals.completions import Completion
from training.evals.generation import Reply, generate
from training.evals.rewards import Rewards, RewardSettings
from training.rl import samples
from training.rl.prompts import Prompt
from training.rl.samples import Samples, decode, free_decoding, prompt_ids

REWARDS = Rewards({"exact_answer": 1.0, "length_limit": 0.2, "verified_steps": 0.0}, RewardSettings(10, 40))
PROMPTS = [
    Prompt(question, 6, f"row {row}", 0) for row, question in enumerate(("2*3?", "What is 2 * 3?", "6? Say it."))
]


def drawn(count, tokens=8, temperature=1.0):
    return free_decoding(tokens, temperature, count, top_p=1.0, top_k=0)


def rows_of(task, subject):
    rows = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
    return sorted(rows, key=lambda row: row["index"])


@pytest.fixture(scope="module")
def subject():
    return subject_of("baseline")


@pytest.fixture
def play(subject, monkeypatch):
    """Score given texts as the completions of one prompt: play("#### 54", …, gold=54) returns the row's replies."""

    def run(*texts, gold, rewards=REWARDS, question="6*9?"):
        monkeypatch.setattr(samples, "generate", Script({question: texts}))
        task = Samples("pool", [Prompt(question, gold, "row 0", 0)], rewards, drawn(len(texts)), 8, seed=0)
        return rows_of(task, subject)[0]["replies"]

    return run


# How completions are drawn


def test_no_stop_string_and_no_second_answer_ends_a_completion():
    ids = pieces("9", "\n", "User", ":", "####", "1", "####", "2")
    decoding = free_decoding(len(ids) + 1, 0.0, 1, top_p=1.0, top_k=0)
    (reply,) = generate(tape("baseline", [*ids, 50256]), [[50]], decoding)
    assert reply == Reply(ids, "9\nUser:####1####2", "end_of_text")


def test_limit_ends_a_completion():
    (reply,) = generate(tape("baseline", pieces("9", "9", "9", "9")), [[50]], drawn(1, tokens=3, temperature=0.0))
    assert (reply.text, reply.finish) == ("999", "length")


def test_likeliest_completion_ignores_what_restricts_draws():
    decoding = free_decoding(8, 0.0, 1, top_p=0.9, top_k=5)
    assert (decoding.temperature, decoding.top_p, decoding.top_k) == (0.0, 1.0, 0)
    decoding = free_decoding(8, 0.7, 4, top_p=0.9, top_k=5)
    assert (decoding.temperature, decoding.samples, decoding.top_p, decoding.top_k) == (0.7, 4, 0.9, 5)


def test_ids_before_a_completion_are_those_of_a_fine_tuning_example(subject):
    for arm in (subject, subject_of("mul_tokens")):
        ids, learnt = plain_ids(
            [{"role": "user", "content": "6*9?"}, {"role": "assistant", "content": "54"}], arm.tokenizer
        )
        assert prompt_ids(arm, "6*9?") == ids[: learnt.index(True)]


def test_replies_come_in_the_order_of_the_prompts(subject):
    prompts, seeds = prompts_of_lengths(3, 20, 1, 9, 20, 5), list(range(6))
    alone = [generate(subject, [prompt], drawn(1), [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert len({reply.text for reply in alone}) == 6
    assert decode(subject, prompts, drawn(1), seeds, 2) == alone


def test_size_of_batches_changes_no_completion(subject):
    prompts = prompts_of_lengths(3, 20, 1, 9)
    one, many = (decode(subject, prompts, drawn(1), [5, 6, 7, 8], size) for size in (1, 64))
    assert one == many


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_rows_do_not_depend_on_the_size_of_batches(subject, batch_size):
    expected = rows_of(Samples("pool", PROMPTS, REWARDS, drawn(2), 4, seed=3), subject)
    assert rows_of(Samples("pool", PROMPTS, REWARDS, drawn(2), batch_size, seed=3), subject) == expected


def test_other_prompts_change_no_completion(subject):
    alone = rows_of(Samples("pool", PROMPTS[:1], REWARDS, drawn(2), 4, seed=3), subject)
    assert rows_of(Samples("pool", PROMPTS, REWARDS, drawn(2), 4, seed=3), subject)[:1] == alone


def test_seed_changes_the_completions_and_each_sample_has_its_own(subject):
    rows = [rows_of(Samples("pool", PROMPTS, REWARDS, drawn(3), 4, seed=seed), subject) for seed in (0, 1)]
    texts = [reply["text"] for each in rows for row in each for reply in row["replies"]]
    assert len(set(texts)) == len(texts)


def test_both_arms_draw_with_the_same_random_numbers(subject, monkeypatch):
    seeds = []
    for arm in (subject, subject_of("mul_tokens")):
        prompts, script = prompts_with_passes([1, 2, 0], samples=4)
        monkeypatch.setattr(samples, "generate", script)
        rows_of(Samples("pool", prompts, REWARDS, drawn(4), 8, seed=5), arm)
        seeds.append(script.seeds)
    assert seeds[0] == seeds[1]
    assert len(set(itertools.chain(*seeds[0].values()))) == 12


@pytest.mark.parametrize(("batch_size", "prompts_at_once"), [(12, 3), (8, 2), (3, 1)])
def test_batches_hold_as_many_prompts_as_there_is_room_for_samples(subject, batch_size, prompts_at_once):
    prompts, _ = prompts_with_passes([0] * 7, samples=4)
    batches = Samples("pool", prompts, REWARDS, drawn(4), batch_size, seed=0).batches(subject)
    assert sorted(itertools.chain(*batches)) == list(range(7))
    assert max(map(len, batches)) == prompts_at_once


def test_no_more_completions_are_decoded_at_once_than_the_batch_size(subject, monkeypatch):
    prompts, script = prompts_with_passes([0] * 3, samples=5)
    monkeypatch.setattr(samples, "generate", script)
    rows_of(Samples("pool", prompts, REWARDS, drawn(5), 2, seed=0), subject)
    assert script.batches == [2, 2, 1] * 3


# When one is right, and what it earns


def test_row_says_what_was_asked_and_what_the_rewards_say_of_the_answers(subject):
    rows = rows_of(Samples("pool", PROMPTS, REWARDS, drawn(2), 4, seed=0), subject)
    assert json.loads(json.dumps(rows)) == rows
    for row, (index, prompt) in zip(rows, enumerate(PROMPTS), strict=True):
        asked = {key: row[key] for key in ("index", "question", "gold", "where")}
        assert asked == {"index": index, "question": prompt.question, "gold": prompt.gold, "where": prompt.where}
        assert len(row["replies"]) == 2
        for reply in row["replies"]:
            completion = Completion(reply["text"], reply["finish"] == "end_of_text", prompt.question, prompt.gold)
            assert reply["values"] == REWARDS(completion)
            assert reply["reward"] == REWARDS.total(completion)


def test_right_and_wrong_completions_are_told_apart_whatever_else_they_earn(play):
    replies = play("#### 54", "#### 55", "#### 54…", "long " * 9 + "#### 54", "6*9=54", gold=54)
    assert [reply["right"] for reply in replies] == [True, False, False, True, False]
    assert [reply["reward"] for reply in replies] == pytest.approx([1, 0, 0, 0.8, 0])
    assert [reply["finish"] for reply in replies] == ["end_of_text"] * 2 + ["length"] + ["end_of_text"] * 2


def test_completion_that_goes_on_with_the_users_turn_is_wrong(play):
    assert [each["right"] for each in play("#### 54\nUser: and 7*8?", "#### 54\n#### 54", gold=54)] == [False, False]


def test_program_is_right_by_the_criterion_of_programs(play):
    program, answer = "def f():\n    return 6*9", "#### 54"
    by_program = play(program, answer, gold=54, rewards=Rewards({"exact_program": 1.0, "exact_answer": 0.0}))
    by_answer = play(program, answer, gold=54, rewards=Rewards({"exact_program": 0.0, "exact_answer": 1.0}))
    assert [reply["right"] for reply in by_program] == [True, False]
    assert [reply["right"] for reply in by_answer] == [False, True]
    assert [reply["values"] for reply in by_program] == [reply["values"] for reply in by_answer]


def test_injected_twin_is_as_right_and_earns_the_same(play):
    texts = ("6*9=54\n54-4=50\n#### 50", "#### 6*9=54", "6*9=54 and 6*9=54")
    plain, twins = (play(*each, gold=50, question="6 bags of 9, without 4?") for each in (texts, map(inject, texts)))
    assert all("<MUL_" in reply["text"] for reply in twins)
    for key in ("right", "reward", "values", "bytes", "finish", "repeats"):
        assert [reply[key] for reply in plain] == [reply[key] for reply in twins]


# Results


def summary_of(subject, monkeypatch, passes, count):
    prompts, script = prompts_with_passes(passes, count)
    monkeypatch.setattr(samples, "generate", script)
    task = Samples("pool", prompts, REWARDS, drawn(count), 16, seed=0)
    rows = rows_of(task, subject)
    return task.summarize(rows), rows


@pytest.mark.parametrize(("count", "ks"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_pass_at_k_is_the_chance_that_one_of_k_drawn_replies_is_right(subject, monkeypatch, count, ks):
    results, rows = summary_of(subject, monkeypatch, [0, 1, count // 2, count], count)
    assert [name for name in results if name.startswith("pass_at_")] == [f"pass_at_{k}" for k in ks]
    for k in ks:
        draws = [
            [any(each) for each in itertools.combinations([r["right"] for r in row["replies"]], k)] for row in rows
        ]
        expected = sum(sum(each) / len(each) for each in draws) / len(draws)
        assert results[f"pass_at_{k}"]["value"] == pytest.approx(expected)


def test_prompts_with_right_and_wrong_answers_are_informative(subject, monkeypatch):
    results, _ = summary_of(subject, monkeypatch, [0, 1, 3, 4, 4], 4)
    assert results["informative"]["value"] == pytest.approx(2 / 5)
    assert (results["n"], results["samples"]) == (5, 4)


def test_reward_and_its_parts_are_means_over_completions(subject, monkeypatch):
    results, rows = summary_of(subject, monkeypatch, [0, 1, 3], 4)
    replies = [reply for row in rows for reply in row["replies"]]
    assert results["rewards"]["exact_answer"] == pytest.approx(4 / 12)
    assert results["reward"] == pytest.approx(sum(reply["reward"] for reply in replies) / 12)
    assert set(results["rewards"]) == set(REWARDS.weights)


def test_truncated_and_repeating_completions_are_counted(subject, monkeypatch):
    monkeypatch.setattr(samples, "generate", Script({"0?": ["a b c d " * 9, "#### 1…"], "1?": ["#### 1…", "#### 1"]}))
    task = Samples("pool", prompts_with_passes([0, 0], 2)[0], REWARDS, drawn(2), 16, seed=0)
    results = task.summarize(rows_of(task, subject))
    assert (results["truncated"]["value"], results["repeating"]["value"]) == (0.5, 0.25)
    assert results["finish"] == {"end_of_text": 2, "length": 2}


def test_prompt_that_fills_the_context_has_wrong_answers(subject):
    task = Samples("pool", [Prompt("long " * CONTEXT, 1, "row 0", 0)], REWARDS, drawn(2), 4, seed=0)
    (row,) = rows_of(task, subject)
    assert [(reply["right"], reply["finish"]) for reply in row["replies"]] == [(False, "too_long")] * 2


def test_settings_and_data_tell_different_samples_apart():
    def identity(prompts=PROMPTS, rewards=REWARDS, count=2, seed=0):
        task = Samples("pool", prompts, rewards, drawn(count), 4, seed)
        return json.dumps([task.settings(), task.data_sha256], sort_keys=True)

    other_gold = [*PROMPTS[:2], Prompt(PROMPTS[2].question, 7, "row 2", 0)]
    kinds = [
        identity(),
        identity(prompts=PROMPTS[::-1]),
        identity(prompts=other_gold),
        identity(rewards=Rewards({"exact_answer": 1.0})),
        identity(count=3),
        identity(seed=1),
    ]
    assert len(set(kinds)) == len(kinds)
