"""Word problems as programs, and the drills that fill rare facts."""

import re

import numpy as np
import pytest

from tokenization import count_facts
from tokenization.mul_facts import FACTS
from training.data.synthetic import SyntheticDocuments
from training.data.tinygsm.conversion import ConversionSettings, Converter, Row
from training.data.tinygsm.drills import drill_rows, synthetic_row


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
