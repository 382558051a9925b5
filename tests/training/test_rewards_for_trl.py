"""Rewards as TRL calls them: with lists by name, of which each place is one completion."""

import inspect

import pytest

from tests.training.tiny_subjects import tokenizer_of
from tokenization import inject
from tokenization.mul_facts import END_OF_TEXT_ID
from training.evals.completions import Completion
from training.evals.generation import repeats
from training.evals.rewards import Rewards, RewardSettings
from training.rl.rewards_for_trl import reward_functions

QUESTION = "Ana has 6 bags of 9 apples, and 7 more. She gives away 20."
RIGHT, WRONG = "6*9=54\n54+7=61\n61-20=41\n#### 41", "6*9=54\n54-7=47\n#### 47"
CIRCLES = "and 3*4=12 apples " * 12
WEIGHTS = {"exact_answer": 1.0, "verified_steps": 0.1, "length_limit": 0.2, "repetition": 0.0}
REWARDS = Rewards(WEIGHTS, RewardSettings(soft_limit_bytes=20, hard_limit_bytes=400))


def columns(*texts, last=END_OF_TEXT_ID, question=QUESTION, gold=41):
    """What TRL gives for completions of one prompt, among it what no reward asks for."""
    ids = [[*tokenizer_of("mul_tokens").encode(text), last] for text in texts]
    return {
        "prompts": [f"User: {question}\nAssistant:"] * len(texts),
        "completions": list(texts),
        "completion_ids": ids,
        "question": [question] * len(texts),
        "gold": [gold] * len(texts),
        "trainer_state": object(),
        "environments": None,
    }


def values(rewards=REWARDS, **given):
    return {function.__name__: function(**given) for function in reward_functions(rewards)}


class Log(dict):
    """What TRL's `log_metric` is: the last value by its name, and how often each was given."""

    def __init__(self):
        self.calls = []

    def __call__(self, name, value):
        self.calls.append(name)
        self[name] = value


def test_there_is_one_function_for_each_reward_by_its_name():
    assert [function.__name__ for function in reward_functions(REWARDS)] == list(WEIGHTS)


def test_functions_are_not_coroutines_and_can_be_called_with_keywords():
    for function in reward_functions(REWARDS):
        assert callable(function)
        assert not inspect.iscoroutinefunction(function)
        assert len(function(**columns(RIGHT, WRONG, CIRCLES))) == 3


def test_values_are_those_of_the_rewards_in_the_order_of_the_completions():
    texts = (RIGHT, WRONG, CIRCLES, "")
    given = values(**columns(*texts))
    for place, text in enumerate(texts):
        expected = REWARDS(Completion(text, True, QUESTION, 41))
        assert {name: column[place] for name, column in given.items()} == expected
    assert given["exact_answer"] == [1, 0, 0, 0]


def test_each_completion_has_its_own_question_and_answer():
    one, other = columns("#### 41"), columns("#### 41", question="7?", gold=7)
    given = {key: one[key] + other[key] for key in ("completions", "completion_ids", "question", "gold")}
    assert values(**given)["exact_answer"] == [1, 0]


@pytest.mark.parametrize(("last", "value"), [(END_OF_TEXT_ID, 1), (50257, 0), (198, 0)])
def test_only_end_of_text_as_the_last_id_ends_a_completion(last, value):
    given = columns(RIGHT, last=last)
    given["completion_ids"][0].insert(0, END_OF_TEXT_ID)  # elsewhere it ends nothing
    assert values(**given)["exact_answer"] == [value]


def test_completion_without_a_single_id_has_not_ended():
    assert values(**(columns(RIGHT) | {"completion_ids": [[]]}))["exact_answer"] == [0]


def test_completion_and_its_injected_twin_earn_the_same():
    texts = (RIGHT, WRONG, CIRCLES)
    twins = tuple(map(inject, texts))
    assert all("<MUL_" in twin for twin in twins)
    log, twin_log = Log(), Log()
    assert values(**columns(*texts), log_metric=log) == values(**columns(*twins), log_metric=twin_log)
    tokens = log.pop("fact_tokens"), twin_log.pop("fact_tokens")
    assert tokens == (0, pytest.approx(14 / 3))
    assert log == twin_log


def test_measures_are_logged_once_as_means_over_completions():
    texts = (RIGHT, WRONG, CIRCLES)
    log = Log()
    values(**columns(*texts), log_metric=log)
    assert len(log.calls) == len(set(log.calls))
    assert log["completions/mean_bytes"] == pytest.approx(sum(map(len, texts)) / 3)
    assert log["repeating"] == pytest.approx(sum(map(repeats, texts)) / 3) == pytest.approx(1 / 3)
    assert (log["products"], log["fact_tokens"]) == (pytest.approx(14 / 3), 0)


def test_rewards_are_the_same_without_a_log():
    assert values(**columns(RIGHT, WRONG)) == values(**columns(RIGHT, WRONG), log_metric=Log())


def test_limits_of_length_are_those_of_the_recipe():
    loose = Rewards(WEIGHTS, RewardSettings(soft_limit_bytes=400, hard_limit_bytes=800))
    assert values(**columns(RIGHT))["length_limit"] == [pytest.approx((20 - len(RIGHT)) / 380)]
    assert values(loose, **columns(RIGHT))["length_limit"] == [0]
