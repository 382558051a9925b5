import pytest

from tokenization import inject
from training.evals.completions import Completion
from training.evals.original_rewards import ORIGINAL_WEIGHTS
from training.evals.rewards import Rewards, maximum_of_wrong, minimum_of_right

RIGHT = "6*9=54\n54+7=61\n61-20=41\n#### 41"


def total(text: str) -> float:
    completion = Completion(text, True, "Ana has 6 bags of 9 apples, and 7 more. She gives away 20.", 41)
    return Rewards(ORIGINAL_WEIGHTS, symmetric=False).total(completion)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RIGHT, 1.0),
        ("The answer is 41", 1.0),
        ("41 " * 200, 1.0),
        ("", 0.1),
        ("5", 0.1),
        ("40", 0.4),
        ("44.9", 0.4),
        ("46", 0.1),
        ("#### 5", 0.2),
        ("6*9=54", 0.2),
        ("<MUL_6_9_54>", 0.3),
        ("40 <MUL_6_9_54> = 40", 0.7),
        ("one two three " * 3 + "four", -0.2),
        ("one two three " * 3, 0.1),
        ("one two three " * 60, -0.3),
        ("one two three four one two three five six seven", 0.1),
    ],
)
def test_rewards_are_those_of_the_original(text, expected):
    assert total(text) == pytest.approx(expected)


def test_they_pay_a_wrong_answer_up_to_seven_tenths():
    assert maximum_of_wrong(ORIGINAL_WEIGHTS) == pytest.approx(0.7)
    assert minimum_of_right(ORIGINAL_WEIGHTS) == 1


def test_they_differ_between_the_arms():
    assert total("6*9=54 #### 1") == pytest.approx(0.2)
    assert total(inject("6*9=54 #### 1")) == pytest.approx(0.4)
