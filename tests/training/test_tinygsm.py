"""The conversion of programs, checked by an evaluator that shares no code with it."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.tinygsm_programs import PROGRAMS, source
from tokenization import count_facts, inject, render
from training.data.fact_drills import synthetic_row
from training.data.tinygsm import GATES, STYLES, ConversionSettings, Converter, Refusal, Row, convert_program
from training.evals.answers import read_answer
from training.evals.equations import find_equations
from training.evals.interpreter import run_program

QUESTION = "Ada has 24 boxes with 6 pencils in each. How many pencils does she have?"


def convert(body: str, question: str = QUESTION, **keys) -> Row | Refusal:
    return convert_program(question, source(body), **keys)


def judged(body: str, question: str = QUESTION, **keys) -> Row | Refusal:
    return Converter(ConversionSettings(**keys))(question, source(body))


def value_of(expression: str) -> Fraction:
    """Evaluate sums, products and parentheses by recursive descent, exactly."""
    tokens = re.findall(r"\d+(?:\.\d+)?|[-+*/()]", expression)
    assert "".join(tokens) == expression.replace(" ", "")

    def operand() -> Fraction:
        token = tokens.pop(0)
        if token == "(":
            value = total()
            assert tokens.pop(0) == ")"
            return value
        return -operand() if token == "-" else Fraction(token)

    def term() -> Fraction:
        value = operand()
        while tokens and tokens[0] in "*/":
            value = value * operand() if tokens.pop(0) == "*" else value / operand()
        return value

    def total() -> Fraction:
        value = term()
        while tokens and tokens[0] in "+-":
            value = value + term() if tokens.pop(0) == "+" else value - term()
        return value

    value = total()
    assert not tokens
    return value


def assert_true(step: str) -> None:
    left, right = step.rsplit(" = ", 1)
    decimals = len(right.partition(".")[2])
    rounding = Fraction(1, 2 * 10**decimals) if decimals and "/" in left else 0
    assert abs(value_of(left) - Fraction(right)) <= rounding, step


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_becomes_the_lines_that_a_person_would_write(name):
    body, text = PROGRAMS[name]
    assert convert(body).text == text


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_step_is_true_and_the_answer_is_the_programs(name, style):
    row = convert(PROGRAMS[name][0], style=style, long_multiplication=style != "program")
    for step in row.steps:
        assert_true(step)
    returned = run_program(source(PROGRAMS[name][0])).value
    assert float(row.answer) == pytest.approx(float(returned), abs=0.005)
    assert row.text.split("\n")[-1] == f"#### {row.answer}"


@pytest.mark.parametrize("index", range(150))
def test_synthetic_problems_are_true_in_both_arms(index):
    question, code = synthetic_row(7, index)
    row = convert_program(question, code, long_multiplication=True)
    for step in row.steps:
        assert_true(step)
    assert read_answer(row.text).strict == read_answer(inject(row.text)).strict == run_program(code).value
    rendered = find_equations(render(inject(row.text)))
    assert [one.text for one in rendered] == [one.text for one in find_equations(row.text)]
    assert all(one.is_true for one in rendered)
    assert len(row.facts) == count_facts(row.text).sum()


def test_long_multiplication_writes_each_partial_product_as_a_fact():
    row = convert("return 135 * 28", long_multiplication=True)
    assert row.facts == ["5*8", "3*8", "1*8", "2*5", "2*3", "1*2"]
    assert convert("return 135 * 28").facts == []


def test_style_program_keeps_the_code_without_its_docstring_and_answers_as_a_comment():
    row = convert("pencils = 24 * 6  # all of them\nreturn pencils", style="program")
    assert row.text == (
        "def simple_math_problem() -> int:\n    pencils = 24 * 6  # all of them\n    return pencils\n#### 144"
    )
    assert run_program(row.text).value == 144


def test_prose_says_the_same_equations_whatever_the_row_number():
    body = PROGRAMS["percent"][0]
    row = convert(body, style="prose")
    assert row.steps == convert(body).steps
    assert row == convert(body, style="prose")
    assert len({convert(body, style="prose", seed=seed).text for seed in range(20)}) > 1


@pytest.mark.parametrize("name", ["half_of_x", "plus_two", "MUL_6_9_54", "user", "answer_is", "percent_of", "times_3"])
def test_name_that_disturbs_the_reading_never_makes_a_false_row(name):
    row = convert(f"{name} = 24 / 3 + 2\nreturn {name} * 2")
    assert isinstance(row, Row)
    assert row.steps == ["24 / 3 = 8", "8 + 2 = 10", "10 * 2 = 20"]
    assert [one.is_true for one in find_equations(row.text)] == [True] * 3


@pytest.mark.parametrize(
    "body, gate, reason",
    [
        ("return 24 *", "parse", "syntax"),
        ("return open('x')", "subset", "call: open"),
        ("return [1]", "subset", "result: list"),
        ("return 24 > 6", "subset", "result: bool"),
        ("return 24 / 0", "subset", "ZeroDivisionError"),
        ("return 2 ** 0.3", "subset", "fractional power"),
        ("import math\nreturn math.sqrt(24)", "subset", "irrational root"),
        ("return int(0.29 * 100)", "evaluations_disagree", "trunc"),
        ("return 6 if 0.1 + 0.2 == 0.3 else 24", "evaluations_disagree", "comparison"),
        ("return 24 / 7", "result", "decimals"),
        ("return 6 - 24", "result", "negative"),
        ("return 24 * 10 ** 9", "result", "large"),
        ("return 24", "result", "no operation"),
        ("total = 24\nfor i in range(13):\n    total += 6\nreturn total", "result", "many operations"),
        ("return 24 * 17", "literals", "unknown number"),
    ],
)
def test_gates_say_why_a_row_is_not_kept(body, gate, reason):
    assert judged(body) == Refusal(gate, reason)
    assert gate in GATES


@pytest.mark.parametrize(
    "question, reason", [("24 * 6?", "short"), ("Ada has 24 boxes with 6 pencils.", "asks nothing")]
)
def test_question_has_to_ask(question, reason):
    assert judged("return 24 * 6", question) == Refusal("question", reason)


@pytest.mark.parametrize(
    "told", ["24", "twenty-four", "a dozen and 24", "1,024 and 24", "24%", "$24.00", "76% less", "24-day"]
)
def test_number_may_be_told_in_other_ways(told):
    assert isinstance(judged("return 24 * 6", f"With {told} and 6, how many pencils are there?"), Row)


def test_negative_result_is_kept_where_the_question_speaks_of_debt():
    assert judged("return 6 - 24", "Ben has 6 dollars and pays 24. How much does he owe?").answer == "-18"


@pytest.mark.parametrize(
    "keys", [{"style": "haiku"}, {"style": "program", "long_multiplication": True}, {"max_operations": 0}]
)
def test_settings_that_make_no_sense_are_refused(keys):
    with pytest.raises(ValueError, match=r"choose|at least one"):
        ConversionSettings(**keys)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(max_size=200))
def test_no_strings_make_it_raise(question, code):
    for text in (code, source(code), f"def f():\n    return 3\n{code}"):
        assert isinstance(convert_program(question, text), (Row, Refusal))
        assert isinstance(Converter(ConversionSettings())(question, text), (Row, Refusal))


@pytest.mark.parametrize("text", ["\ud800", "\0", "x" * 10**6, "(" * 10**4, "- " * 10**4 + "1"])
def test_hostile_strings_are_refused(text):
    assert isinstance(convert_program(text, text), Refusal)
    assert isinstance(convert_program(text, source(f"return {text}")), Refusal)
