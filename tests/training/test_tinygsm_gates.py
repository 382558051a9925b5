"""What stops a program from becoming a row, and what does not."""

from fractions import Fraction

import pytest

from tests.training.tinygsm_programs import program
from training.data.tinygsm.conversion import GATES, ConversionSettings, Converter, Refusal, convert_program

BOXES = "There are 24 boxes with 6 melons each. How many melons are there in them?"


def gate(question: str, *lines: str, **keys) -> tuple[str, str] | str:
    """Where a program is stopped and why, or the answer of its row."""
    outcome = Converter(ConversionSettings(**keys))(question, program(*lines))
    return (outcome.gate, outcome.reason) if isinstance(outcome, Refusal) else outcome.answer


@pytest.mark.parametrize(
    ("code", "stopped"),
    [
        ("", ("subset", "no function")),
        ("def f(:", ("parse", "syntax")),
        ("def f():\nreturn 1", ("parse", "syntax")),
        ("import os\ndef f():\n    return 6 * 9", ("subset", "import os")),
        (program("return open('x')"), ("subset", "call: open")),
        (program("return 1 / 0"), ("subset", "ZeroDivisionError")),
        (program("return missing"), ("subset", "NameError")),
        (program("return [1][3]"), ("subset", "IndexError")),
        (program("return 'a' + 1"), ("subset", "TypeError")),
        (program("return math.sqrt(-4)"), ("subset", "ValueError")),
        (program("assert 1 > 2", "return 3"), ("subset", "AssertionError")),
        (program("return 10 ** 400"), ("subset", "large number")),
        (program("while True:", "    x = 1"), ("subset", "iterations")),
        (program("return math.sqrt(2)"), ("subset", "irrational root")),
        (program("return '54'"), ("subset", "result: str")),
        (program("return 6, 9"), ("subset", "result: tuple")),
        (program("return 6 > 9"), ("subset", "result: bool")),
        (program("x = 6 * 9"), ("subset", "result: NoneType")),
        (program("return int(0.29 * 100)"), ("evaluations_disagree", "trunc")),
        (program("return 5 if 0.1 + 0.2 == 0.3 else 6"), ("evaluations_disagree", "comparison")),
        (program("return round(1000 * 1.05 ** 3, 2)"), ("evaluations_disagree", "round")),
        (program("return 1 // 0.1"), ("evaluations_disagree", "floor")),
        (program("return 24 * 10 ** 8"), ("result", "large")),
        (program("return 24 / 7"), ("result", "decimals")),
        (program("return 24 / 1000"), ("result", "decimals")),
        (program("return 6 - 24"), ("result", "negative")),
        (program("return 24"), ("result", "no operation")),
        (program("total = 6", "for i in range(20):", "    total += 6", "return total"), ("result", "many operations")),
        (program("return 24 * 17"), ("literals", "unknown number")),
        (program("part = 1 / 3", *["part = part * 7"] * 8, "return round(part)"), ("equations", "many parentheses")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_gate_stops_what_it_is_for(code, stopped):
    outcome = Converter(ConversionSettings())(BOXES, code)
    assert (outcome.gate, outcome.reason) == stopped


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("", "short"),
        ("   What is 24 * 6?   ", "short"),
        ("There are 24 boxes with 6 melons each, and that is that.", "asks nothing"),
        ("How many melons are in 24 boxes of 6? \ud800", "surrogate"),
    ],
)
def test_question_must_be_one(question, reason):
    code = ["return 24 * 6"] if "24 *" not in question and question else ["return 12 * 6"]
    assert gate(question, *code) == ("question", reason)


def test_every_gate_is_one_of_the_listed():
    assert set(GATES) == {"parse", "subset", "evaluations_disagree", "result", "literals", "question", "equations"}


@pytest.mark.parametrize(
    ("first", "second", "question", "lines"),
    [
        ("evaluations_disagree", "result", BOXES, ["return int(0.29 * 100) - 99"]),
        ("result", "literals", BOXES, ["return 17 - 99"]),
        ("literals", "question", "Short?", ["return 17 * 99"]),
        ("question", "equations", "Short?", ["part = 1 / 3", *["part = part * 7"] * 8, "return round(part)"]),
    ],
)
def test_gates_are_tried_in_their_order(first, second, question, lines):
    assert GATES.index(first) < GATES.index(second)
    assert gate(question, *lines)[0] == first


def test_conversion_of_a_program_alone_asks_no_gate_of_the_row():
    assert convert_program("", program("return 17 - 99")).answer == "-82"


def test_most_operations_are_a_setting():
    lines = ["total = 6", "for i in range(12):", "    total += 6", "return total"]
    assert gate(BOXES, *lines) == "78"
    assert gate(BOXES, *lines, max_operations=11) == ("result", "many operations")


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("$1,200", "1200"),
        ("15% off", "85"),
        ("a 15% tip", "115"),
        ("15%", "15"),
        ("$0.45", "45"),
        ("$3.50", "350"),
        ("twenty-five", "25"),
        ("three hundred", "300"),
        ("one hundred and twenty", "120"),
        ("1.5 million", "1_500_000"),
        ("2.5k", "2500"),
        ("the 20th", "20"),
        ("30-day", "30"),
        ("18/20 points", "20"),
        ("his fourteenth", "14"),
        ("two weeks", "14"),
        ("5 dozen", "60"),
        ("6 feet", "72"),
        ("3 hours", "180"),
        ("3 years", "36"),
        ("9:30 pm", "21"),
        ("6 p.m.", "18"),
        ("a pound", "16"),
        ("in Fahrenheit", "32"),
        ("-165", "165"),
        ("a year", "365"),
        ("half", "50"),
        ("nothing", "12"),
        ("nothing", "2.54"),
    ],
)
def test_number_that_is_told_or_known_may_be_calculated_with(told, number):
    assert gate(f"There is {told}. How much is three times as much?", f"return {number} * 3") == str(
        Fraction(number.replace("_", "")) * 3 if "." not in number else 7.62
    )


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("15%", "86"),
        ("6 am", "18"),
        ("a team of six", "18"),
        ("two days", "14"),
        ("2.5", "2500"),
        ("$0.45", "46"),
        ("nothing", "13"),
        ("nothing", "12.5"),
        ("someone", "17"),
        ("thirty", "33"),
    ],
)
def test_number_from_nowhere_may_not(told, number):
    outcome = gate(f"There is {told}. How much is three times as much?", f"return {number} * 3")
    assert outcome == ("literals", "unknown number")


def test_number_from_nowhere_that_the_result_needs_not_does_no_harm():
    assert gate(BOXES, "unused = 777 * 2", "return 24 * 6") == "144"


@pytest.mark.parametrize(
    "question",
    [
        "Tom has $6 and spends $24. How much does he owe?",
        "Tom has $6 and $24 of debt. How much is that in all?",
        "It is 6 degrees and falls by 24. How far below zero is it?",
        "He bought it for $24 and sold it for $6. What is the profit or loss?",
        "It was -24 degrees and is 6 degrees warmer now. How cold is it?",
    ],
)
def test_negative_result_is_kept_where_the_question_expects_one(question):
    assert gate(question, "return 6 - 24") == "-18"


@pytest.mark.parametrize(
    "question",
    [
        "Tom has $6 and spends $24. How much change does he get?",
        "Tom lost 24 of his 6 marbles. How many has he left?",
        "What is the difference of 6 and 24 apples, or pears?",
        "On day 6 of a 6-24 score, how many points are left?",
    ],
)
def test_negative_result_is_dropped_where_it_makes_no_sense(question):
    assert gate(question, "return 6 - 24") == ("result", "negative")


@pytest.mark.parametrize(
    "asked",
    ["How far is it?", "Calculate the total.", "Find the sum.", "Determine it.", "She wants to know what it costs."],
)
def test_question_may_ask_without_a_question_mark(asked):
    assert gate(f"There are 24 boxes with 6 melons each. {asked}", "return 24 * 6") == "144"
