import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.conftest import PROJECT
from tokenization import inject
from training.evals.answers import canonical
from training.evals.completions import Completion
from training.evals.original_rewards import ORIGINAL_WEIGHTS
from training.evals.rewards import (
    CRITERIA,
    FUNCTIONS,
    Rewards,
    RewardSettings,
    exact_answer,
    exact_program,
    length_limit,
    maximum_of_wrong,
    minimum_of_right,
    repetition,
    verified_steps,
)

QUESTION, GOLD = "Ana has 6 bags of 9 apples, and 7 more. She gives away 20.", 41
RIGHT = "6*9=54\n54+7=61\n61-20=41\n#### 41"
WEIGHTS = {"exact_answer": 1.0, "verified_steps": 0.1, "length_limit": 0.2, "repetition": 0.2}
SYMMETRIC = [name for name, entry in FUNCTIONS.items() if entry.is_symmetric]
TIGHTEST = [
    {"exact_answer": 1.0, "verified_steps": 0.25},
    {"exact_answer": 1.0, "verified_steps": 0.15, "length_limit": 0.2, "repetition": 0.2},
    {"exact_program": 1.0, "verified_steps": 0.2, "length_limit": 0.1, "repetition": 0.1},
    {"exact_answer": 2.0, "repetition": 1.5},
]

PIECES = [
    *(
        "6*9=54",
        "9 x 6 = 54",
        "9×6=54",
        "<MUL_6_9_54>",
        "<MUL_2_3_6>",
        "<MUL_9_6_54>",
        "<MUL_",
        "6*9",
        "2*3*4",
        "$6*9",
    ),
    *("54+7=61", "61-20=41", "54+7=60", "10-2*3", "(6*9)/2=27", "41", "5*", "4*", "50%", "#### 41", "#### ", "####"),
    *("def f():\n    return ", "6*9-13", "\n", "\n", " ", " apples", "The answer is ", "\nUser:", "<|endoftext|>"),
    *("é", "٣", "\ud800", "\u00a0", "\0", "x", ",", ".", "=", "word " * 12, "9" * 40),
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
completions = st.builds(
    Completion,
    text=st.one_of(texts, st.text(max_size=60)),
    ended=st.booleans(),
    question=st.sampled_from([QUESTION, "How many?", "A 2x4 board, and a <MUL_6_9_54>", ""]),
    gold=st.sampled_from([41, 54, 61, -3, 0, 0.5]),
)
fuzzed = settings(deadline=None, max_examples=300)


def completion(text: str, ended: bool = True, question: str = QUESTION, gold: float = GOLD) -> Completion:
    return Completion(text, ended, question, gold)


@pytest.mark.parametrize(
    "text", [RIGHT, "#### 41", " #### $41.00 apples", "####41\n", "#### 61-20=41", "41?\n#### 41."]
)
def test_right_number_behind_the_mark_earns_one(text):
    assert exact_answer(completion(text)) == 1


@pytest.mark.parametrize("text", ["#### <MUL_6_9_54>", "#### 6*9", "#### 6 x 9 = 54", "#### 54"])
def test_right_answer_as_a_fact_earns_one(text):
    assert exact_answer(completion(text, gold=54)) == 1


@pytest.mark.parametrize(
    "text",
    [
        *("", "41", "The answer is 41", "### 41", "####\n41", "#### 42", "#### 41²", "#### 40 + 1", "#### ٤١"),
        *("#### 4 #### 41", "#### 41 #### 41", "#### 41\n#### 41", "#### 41\nUser: and 9?", "#### 41<|endoftext|>9"),
        "".join(f"#### {number}\n" for number in range(100)),
    ],
)
def test_anything_but_one_strict_answer_earns_nothing(text):
    assert exact_answer(completion(text)) == 0


def test_answer_that_was_cut_off_earns_nothing():
    assert exact_answer(completion(RIGHT, ended=False)) == 0
    assert verified_steps(completion(RIGHT, ended=False)) == 0
    assert exact_program(completion("def f():\n    return 41", ended=False)) == 0


def test_verified_steps_are_paid_beside_any_answer():
    assert verified_steps(completion(RIGHT)) == 1
    assert verified_steps(completion("6*9=54\n54-20=34\n#### 34")) == 1


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0), (800, 0), (900, -0.25), (1000, -0.5), (1199, -0.9975), (1200, -1), (9999, -1)]
)
def test_length_costs_from_the_soft_limit_to_the_hard_one(length, value):
    assert length_limit(completion("a" * length)) == pytest.approx(value)


def test_length_is_measured_in_bytes_of_written_out_facts():
    limits = RewardSettings(soft_limit_bytes=0, hard_limit_bytes=100)
    assert length_limit(completion("é" * 10), limits) == -0.2
    assert length_limit(completion("<MUL_6_9_54>"), limits) == -0.06
    assert length_limit(completion("\ud800"), limits) == -0.01


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("54 54 54", 0),
        ("a b c d e", 0),
        ("a b c d a b c d", -1 / 5),
        ("6*9=54, so 54", 0),
        ("ab " * 40, -36 / 37),
        ("1" * 90, -6 / 7),
    ],
)
def test_repetition_costs_the_share_of_runs_that_stood_before(text, value):
    assert repetition(completion(text)) == pytest.approx(value)


@pytest.mark.parametrize("unit", ["6*9=54", "6*9=54 ", "<MUL_6_9_54>", "#### 54 ", "so ", "٣ ", "= ", "a" * 30, "_"])
def test_nobody_repeats_without_cost(unit):
    assert repetition(completion(unit * 40)) < -0.8


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("def f():\n    return 41", 1),
        ("```python\ndef f():\n    bags = 6\n    return bags * 9 + 7 - 20\n```", 1),
        ("def f():\n    return <MUL_6_9_54> + 7 - 20", 1),
        ("def f():\n    return 6 * 9 - 13\n#### 41", 1),
        ("def f():\n    return 42", 0),
        ("def f():\n    return True", 0),
        ("def f():\n    while True: pass", 0),
        ("def f():\n    import os\n    return 41", 0),
        ("class A:\n    def __eq__(self, other): return True\ndef f():\n    return A()", 0),
        ("def f():\n    return 41\nUser: ", 0),
        ("#### 41", 0),
        ("", 0),
    ],
)
def test_program_earns_one_if_it_returns_the_answer(text, value):
    assert exact_program(completion(text)) == value


# None of these answers 41.
GAMES = {
    "empty": "",
    "blank": " \n ",
    "constant answer": "#### 4",
    "mark": "####",
    "marks": "####" * 50,
    "answers": "#### 41 #### 54 " * 20,
    "all numbers": " ".join(map(str, range(100))),
    "token": "<MUL_6_9_54>",
    "tokens": "<MUL_1_1_1>" * 50 + "\n#### 1",
    "useful tokens": "<MUL_6_9_54>" * 50 + "\n#### 54",
    "every token": " ".join(f"<MUL_{a}_{b}_{a * b}>" for a in range(1, 10) for b in range(a, 10)) + "\n#### 54",
    "fake steps": "1+1=2\n2+2=4\n#### 4",
    "doubling": "20+20=40\n40+40=80\n80+80=160\n#### 160",
    "copied steps": "48/2=24\n48+24=72\n#### 72",
    "trivial steps": "6*1=6\n6+0=6\n6=6\n9/1=9\n#### 9",
    "one step": "6*9=54\n#### 54",
    "one step, often": "6*9=54\n9*6=54\n6*9=54\n54*1=54\n54=54\n#### 54",
    "detour": "6*9=54\n54*2=108\n108/2=54\n#### 54",
    "steps without an answer": RIGHT.removesuffix("#### 41"),
    "answer in words": "6*9=54, 54+7=61, 61-20=41. The answer is 41",
    "steps behind the answer": "#### 34\n6*9=54\n54-20=34",
    "other digits": "٦*٩=٥٤\n#### ٥٤",
    "hidden mark": "#\u200b### 41",
    "false steps": "6*9=55\n55+7=62\n62-20=42\n#### 42",
    "new turn": "#### 34\nUser: 6*9=54, 54-20=34",
    "typed end": "#### 41<|endoftext|>",
    "long": "so " * 5000 + "#### 42",
}


@pytest.mark.parametrize("text", GAMES.values(), ids=GAMES)
def test_games_earn_nothing(text):
    rewards = Rewards(WEIGHTS)
    for twin in (text, inject(text), canonical(text)):
        assert rewards.total(completion(twin)) <= 0


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_empty_completion_earns_nothing_from_any_function(text):
    assert Rewards(WEIGHTS)(completion(text)) == dict.fromkeys(WEIGHTS, 0)
    assert exact_program(completion(text)) == 0


@given(completions)
@example(completion("5*<MUL_2_3_6> and 2*5*3"))
@example(completion("def f():\n    x = 2*3*n\n    return 6*9==54"))
@fuzzed
def test_completion_and_its_twins_earn_the_same(one):
    # As the other arm writes it, and as people read that.
    for twin in (inject(one.text), canonical(one.text)):
        other = Completion(twin, one.ended, one.question, one.gold)
        for name in SYMMETRIC:
            assert FUNCTIONS[name].function(other) == FUNCTIONS[name].function(one), name


@given(completions)
@fuzzed
def test_values_lie_in_the_ranges_that_bound_the_sum(one):
    values = {name: entry.function(one) for name, entry in FUNCTIONS.items()}
    for criterion in CRITERIA:
        for name, entry in FUNCTIONS.items():
            # Right for one criterion may be wrong for another, so the original's values hang on their own.
            if entry.is_symmetric or criterion == "original_exact":
                least, most = entry.right if values[criterion] == 1 else entry.wrong
                if name not in CRITERIA or name == criterion:
                    assert least <= values[name] <= most, (criterion, name)


@pytest.mark.parametrize("weights", TIGHTEST, ids=str)
@given(one=completions)
@example(one=completion("6*9=54\n54-20=34\n#### 34"))
@settings(deadline=None, max_examples=100)
def test_wrong_answer_stays_below_a_quarter_of_every_right_one(weights, one):
    rewards = Rewards(weights)
    criterion = next(name for name in CRITERIA if name in weights)
    if rewards(one)[criterion] == 0:
        assert rewards.total(one) <= maximum_of_wrong(weights) <= minimum_of_right(weights) / 4 + 1e-12
    else:
        assert rewards.total(one) >= minimum_of_right(weights) > 0


@pytest.mark.parametrize("write", [lambda text: text, inject], ids=["baseline", "mul_tokens"])
def test_ceilings_are_reached_in_both_arms(write):
    rewards = Rewards(WEIGHTS)
    wrong, right = completion(write("6*9=54\n54-20=34\n#### 34")), completion(write(RIGHT))
    assert rewards.total(wrong) == pytest.approx(maximum_of_wrong(WEIGHTS)) == pytest.approx(0.1)
    assert rewards.total(right) == pytest.approx(1.1)


def test_total_is_the_weighted_sum_of_the_values():
    rewards = Rewards(WEIGHTS, RewardSettings(soft_limit_bytes=0, hard_limit_bytes=62))
    values = rewards(completion(RIGHT))
    assert values == {"exact_answer": 1, "verified_steps": 1, "length_limit": -0.5, "repetition": 0}
    assert rewards.total(completion(RIGHT)) == rewards.weigh(values) == pytest.approx(1)


def test_weight_of_nothing_only_shows_the_value():
    rewards = Rewards({"exact_answer": 1, "verified_steps": 0, "length_limit": "2e-1"})
    assert rewards(completion(RIGHT))["verified_steps"] == 1
    assert rewards.total(completion(RIGHT)) == 1
    assert rewards.weights["length_limit"] == 0.2


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"exact_anwser": 1.0}, r"no reward 'exact_anwser' \(did you mean 'exact_answer'\?\)"),
        ({"exact_answer": 1.0, 5: 1.0}, "no reward '5'; there are exact_answer,"),
        ({"exact_answer": -1.0}, "'exact_answer' is -1.0; give a number of at least 0"),
        ({"exact_answer": True}, "'exact_answer' is True"),
        ({"exact_answer": "much"}, "'exact_answer' is 'much'"),
        ({"exact_answer": float("inf")}, "'exact_answer' is inf"),
        ({"exact_answer": None}, "'exact_answer' is None"),
        ({}, "nothing among the rewards says what a right answer is"),
        ({"exact_answer": 0, "verified_steps": 0.1}, "nothing among the rewards"),
        ({"exact_answer": 1, "exact_program": 1}, "exact_answer and exact_program among the rewards"),
        (
            {"exact_answer": 1, "verified_steps": 0.3},
            "sum up to 0.3 .* to 1; .* at most 0.25 of it: raise exact_answer",
        ),
        ({**WEIGHTS, "verified_steps": 0.2}, "up to 0.2 .* to 0.6; .* or lower verified_steps, length_limit, repet"),
        ({"exact_answer": 1, "repetition": 1}, "up to 0 .* to 0; the second must be above 0"),
        ({"exact_answer": 1, "original_short": 0.1}, "original_short differ between the arms; .* `symmetric: false`"),
        (ORIGINAL_WEIGHTS, "`symmetric: false`"),
    ],
)
def test_weights_that_break_a_promise_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        Rewards(weights)


def test_asymmetric_rewards_must_be_and_pay_right_answers_more():
    with pytest.raises(ValueError, match="all of the rewards are symmetric"):
        Rewards(WEIGHTS, symmetric=False)
    with pytest.raises(ValueError, match="could sum up to 2"):
        Rewards({"exact_answer": 1, "original_uses_tokens": 2}, symmetric=False)


@pytest.mark.parametrize("limits", [(100, 100), (200, 100), (-1, 100)])
def test_limits_that_leave_no_room_are_refused(limits):
    with pytest.raises(ValueError, match="soft_limit_bytes"):
        RewardSettings(*limits)


def test_rewards_need_no_torch():
    code = "import sys, training.evals.rewards; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
