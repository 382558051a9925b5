"""Word problems as programs, and the drills that fill rare facts."""

import re

import numpy as np
import pytest

from tokenization import count_facts
from tokenization.mul_facts import FACTS
from training.data.synthetic import SyntheticDocuments
from training.data.tinygsm.conversion import ConversionSettings, Converter, Row
from training.data.tinygsm.drills import drill_rows, multiplication_row, synthetic_row
from training.evals.answers import read_answer
from training.evals.equations import find_equations


def counted(rows):
    return sum((count_facts(row.text) for row in rows), np.zeros(len(FACTS), np.int64))


@pytest.mark.parametrize("long_multiplication", [False, True])
def test_every_fact_reaches_the_minimum(long_multiplication):
    before = np.arange(len(FACTS))
    rows = list(drill_rows(before, 12, ConversionSettings(long_multiplication=long_multiplication)))
    assert (before + counted(rows)).min() >= 12
    assert (before + counted(rows[:-1])).min() < 12


def test_facts_that_occur_often_enough_need_no_drills():
    assert list(drill_rows(np.full(len(FACTS), 7), 7, ConversionSettings())) == []


def test_long_multiplication_brings_several_facts_per_row():
    short, long = (
        len(list(drill_rows(np.zeros(len(FACTS)), 10, ConversionSettings(long_multiplication=each))))
        for each in (False, True)
    )
    assert long < 0.7 * short


def test_drills_ask_different_questions_and_are_the_same_each_time():
    first, second = (list(drill_rows(np.zeros(len(FACTS)), 30, ConversionSettings())) for _ in range(2))
    assert [(row.question, row.text) for row in first] == [(row.question, row.text) for row in second]
    assert len({row.question for row in first}) == len(first)
    other = [row.question for row in drill_rows(np.zeros(len(FACTS)), 30, ConversionSettings(seed=1))]
    assert len(set(other) & {row.question for row in first}) < 0.2 * len(first)


def test_rows_that_are_not_accepted_are_replaced():
    settings = ConversionSettings()
    rows = list(drill_rows(np.zeros(len(FACTS)), 4, settings, accept=lambda row: "bakery" not in row.question))
    assert counted(rows).min() >= 4
    assert not any("bakery" in row.question for row in rows)


@pytest.mark.parametrize("long_multiplication", [False, True])
def test_held_out_facts_are_never_written(long_multiplication):
    settings = ConversionSettings(long_multiplication=long_multiplication)
    held_out = [(b, a) for a in range(1, 10) for b in range(a, 10) if (a * b) % 2]
    rows = list(drill_rows(np.zeros(len(FACTS)), 8, settings, held_out_facts=held_out))
    for fact, count in zip(FACTS, counted(rows), strict=True):
        assert count == 0 if fact.product % 2 else count >= 8


def test_held_out_facts_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="held_out_facts holds"):
        next(drill_rows(np.zeros(len(FACTS)), 3, ConversionSettings(), held_out_facts=[(0, 9)]))


def test_style_without_products_is_refused():
    with pytest.raises(ValueError, match=r"drill_minimum 1 is out of reach.*style is 'program'"):
        list(drill_rows(np.zeros(len(FACTS)), 1, ConversionSettings(style="program")))


def test_packaged_problems_convert_to_the_product_they_ask_for():
    converter = Converter(ConversionSettings())
    for index in range(300):
        question, code = synthetic_row(0, index)
        row = converter(question, code)
        assert isinstance(row, Row), (question, row)
        values = {name: int(value) for name, value in re.findall(r"^    (\w+) = (\d+)$", code, re.M)}
        steps = dict(re.findall(r"^    (\w+) = (\w+ [*+-] \w+)$", code, re.M))
        for name, step in steps.items():
            left, sign, right = step.split()
            a, b = values[left], values[right]
            values[name] = {"*": a * b, "+": a + b, "-": a - b}[sign]
        assert row.answer == str(values[name])


def test_sentences_are_not_those_of_synthetic_word_problems():
    """Those are evaluation items: nothing of a drill but the things may remind of them."""
    items = [text.split("\n")[0] for text in SyntheticDocuments("word_problems", 200)]
    sentences = {re.sub(r"[0-9]+|[A-Z]\w+", "", part) for item in items for part in re.split(r"(?<=[.?]) ", item)}
    for index in range(500):
        question, _ = synthetic_row(1, index)
        parts = {re.sub(r"[0-9]+|[A-Z]\w+", "", part) for part in re.split(r"(?<=[.?]) ", question)}
        assert not parts & sentences


DIGITS = [(left, right) for left in (1, 2, 3) for right in (1, 2, 3)]


@pytest.mark.parametrize("digits", DIGITS)
def test_multiplication_is_answered_right(digits):
    for index in range(60):
        question, answer = multiplication_row(0, index, digits)
        left, right, *extra = (int(number) for number in re.findall(r"\d+", question))
        change = {"brings": 1, "takes": -1}
        (sign,) = [change[word] for word in change if f" {word} " in question] or [0]
        assert len(extra) == abs(sign), question
        assert read_answer(answer).strict == left * right + sign * sum(extra), question


@pytest.mark.parametrize("digits", DIGITS)
def test_factors_of_a_multiplication_have_the_digits_asked_for(digits):
    for index in range(60):
        factors = re.findall(r"\d+", multiplication_row(1, index, digits)[0])[:2]
        assert tuple(map(len, factors)) == digits
        assert not {"0", "1"} & set(factors)


@pytest.mark.parametrize("digits", DIGITS)
def test_multiplication_is_written_out_in_true_products_of_digits(digits):
    for index in range(30):
        question, answer = multiplication_row(2, index, digits)
        left, right = re.findall(r"\d+", question)[:2]
        equations = list(find_equations(answer))
        assert all(equation.is_true for equation in equations), answer
        if "1" in (left.rstrip("0"), right.rstrip("0")):
            continue  # ten times a number takes no digits apart
        pairs = {frozenset((a, b)) for a in left for b in right if "0" not in (a, b)}
        written = {frozenset(pair) for pair in re.findall(r"\b(\d) \* (\d)(?= = )", answer)}
        assert pairs <= written, answer


def test_about_half_of_the_multiplications_have_a_second_step():
    numbers = [len(re.findall(r"\d+", multiplication_row(0, index, (2, 1))[0])) for index in range(400)]
    assert set(numbers) == {2, 3}
    assert 160 < numbers.count(3) < 240


def test_multiplication_is_a_function_of_seed_and_index():
    rows = {(seed, index): multiplication_row(seed, index, (2, 1)) for seed in (0, 1) for index in range(30)}
    assert len({question for question, _ in rows.values()}) == 60
    assert all(multiplication_row(*place, (2, 1)) == row for place, row in rows.items())


@pytest.mark.parametrize("digits", [(0, 1), (2, 4), (-1, 2), (2,), (1, 1, 1), ()])
def test_digits_outside_of_one_to_three_are_refused(digits):
    with pytest.raises(ValueError, match=r"factor_digits is \[.*\]; give two numbers from 1 to 3, such as \[2, 1\]"):
        multiplication_row(0, 0, digits)
