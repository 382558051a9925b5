import json
import random
import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.training.tinygsm_programs import PROGRAMS, equations, program, result_in_python, source
from tokenization import count_facts, inject, render
from tokenization.mul_facts import FACTS
from training.data.tinygsm.conversion import (
    GATES,
    STYLES,
    ConversionSettings,
    Converter,
    Refusal,
    Row,
    convert_program,
)
from training.data.tinygsm.drills import synthetic_row
from training.evals.answers import gold_number, read_answer
from training.evals.equations import find_equations
from training.evals.interpreter import run_program

CODES = {name: source(body) for name, (body, _) in PROGRAMS.items()}
QUESTION = "A farm packs 24 crates with 6 melons each, and 15 loose ones. How many melons are there?"
STRAIGHT = program("boxes_per_week = 24 * 6", "result = boxes_per_week + 15", "return result")
WAYS = [(style, long) for style in STYLES for long in (False, True) if not (long and style == "program")]
every_row = pytest.mark.parametrize(
    ("name", "style", "long"), [(name, *way) for name in PROGRAMS for way in WAYS], ids=str
)


# Each program, in each style.


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_becomes_the_lines_that_a_person_would_write(name):
    assert convert_program(QUESTION, CODES[name]).text == PROGRAMS[name][1]


@every_row
def test_answer_is_the_result_of_python(name, style, long):
    row = convert_program(QUESTION, CODES[name], style, long)
    expected = result_in_python(CODES[name])
    _, _, decimals = row.answer.partition(".")
    assert abs(Fraction(row.answer) - Fraction(expected)) <= (Fraction(1, 2 * 10 ** len(decimals)) if decimals else 0)
    assert row.text.splitlines()[-1] == f"#### {row.answer}"
    assert read_answer(row.text).strict == float(row.answer)


@every_row
def test_both_arms_say_the_same_true_equations(name, style, long):
    row = convert_program(QUESTION, CODES[name], style, long)
    injected = inject(row.text)
    assert read_answer(row.text) == read_answer(injected)
    assert find_equations(row.text) == find_equations(injected)
    if style != "program":
        for text in (row.text, render(injected)):
            found = list(equations(text))
            assert len(found) == len(row.steps)
            assert all(abs(value - stated) <= rounding for _, value, stated, rounding in found)


@every_row
def test_listed_facts_are_those_that_injection_makes(name, style, long):
    row = convert_program(QUESTION, CODES[name], style, long)
    counts = count_facts(row.text)
    expected = {f"{fact.a}*{fact.b}": int(count) for fact, count in zip(FACTS, counts, strict=True) if count}
    assert Counter(row.facts) == expected


@pytest.mark.parametrize("index", range(100))
def test_synthetic_problems_are_true_in_both_arms(index):
    question, code = synthetic_row(7, index)
    row = convert_program(question, code, long_multiplication=True)
    for text in (row.text, render(inject(row.text))):
        assert all(abs(value - stated) <= rounding for _, value, stated, rounding in equations(text))
        assert len(list(equations(text))) == len(row.steps)
    assert read_answer(row.text).strict == read_answer(inject(row.text)).strict == run_program(code).value
    assert len(row.facts) == count_facts(row.text).sum()


def test_long_multiplication_makes_facts():
    plain, long = (convert_program(QUESTION, STRAIGHT, "labelled", each) for each in (False, True))
    assert plain.facts == []
    assert long.facts == ["4*6", "2*6"]
    assert plain.answer == long.answer


def test_row_of_each_style():
    texts = {style: convert_program(QUESTION, STRAIGHT, style).text for style in STYLES}
    assert texts["equations"] == "24 * 6 = 144\n144 + 15 = 159\n#### 159"
    assert texts["labelled"] == "boxes per week = 24 * 6 = 144\n144 + 15 = 159\n#### 159"
    assert texts["prose"] == "So the boxes per week is 24 * 6 = 144.\n144 + 15 = 159.\n#### 159"
    assert texts["program"] == (
        "def simple_math_problem() -> int:\n    import math\n    boxes_per_week = 24 * 6\n"
        "    result = boxes_per_week + 15\n    return result\n#### 159"
    )


def test_row_as_json_has_what_a_shard_needs():
    row = convert_program(QUESTION, STRAIGHT)
    assert json.loads(json.dumps(row.to_json())) == {
        "question": QUESTION,
        "text": "boxes per week = 24 * 6 = 144\n144 + 15 = 159\n#### 159",
        "answer": "159",
        "style": "labelled",
        "steps": ["24 * 6 = 144", "144 + 15 = 159"],
        "facts": [],
    }


def test_seed_chooses_the_sentences_of_prose():
    assert len({convert_program(QUESTION, STRAIGHT, "prose", seed=seed).text for seed in range(20)}) > 4
    assert len({convert_program(QUESTION, STRAIGHT, "labelled", seed=seed).text for seed in range(20)}) == 1


def test_rows_do_not_depend_on_their_order():
    names = list(CODES)
    for style, long in WAYS:
        there = {name: convert_program(QUESTION, CODES[name], style, long) for name in names}
        random.Random(1).shuffle(names)
        assert there == {name: convert_program(QUESTION, CODES[name], style, long) for name in names}


def test_several_rows_are_converted_in_their_order():
    rows = [(QUESTION, STRAIGHT), (QUESTION, "1 +"), (QUESTION, STRAIGHT)]
    outcomes = list(Converter(ConversionSettings()).convert_all(rows))
    assert [type(outcome) for outcome in outcomes] == [Row, Refusal, Row]


# The program as the text.


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def f():\n    '''doc'''\n    return 6 * 9\n\nprint(f())\n", "def f():\n    return 6 * 9"),
        ("def f(): return 6 * 9", "def f(): return 6 * 9"),
        ("def f(): 'doc'; return 6 * 9", "def f(): 'doc'; return 6 * 9"),
        ("def f():\n    'doc'; a = 6\n    return a * 9", "def f():\n    'doc'; a = 6\n    return a * 9"),
        ("def f():\r\n    '''doc\r\n    '''  \r\n    return 6 * 9  \r\n", "def f():\n    return 6 * 9"),
        ("def f():\n    return 6 * 9  # 6 * 9 = 54", "def f():\n    return 6 * 9  # 6 * 9 = 54"),
    ],
)
def test_program_is_its_own_text_without_the_question(code, text):
    assert convert_program(QUESTION, code, "program").text == f"{text}\n#### 54"


def test_program_as_text_still_runs():
    row = convert_program(QUESTION, STRAIGHT, "program")
    assert run_program(row.text).value == 159


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        ("# 30 / 4 = 7", "false comment"),
        ("# 2 + 2 == 5", "false comment"),
        ("#### 12", "answer misread"),
        ("# text <|endoftext|>", "answer misread"),
    ],
)
def test_comment_that_would_be_misread_is_no_text(comment, reason):
    code = f"def f():\n    {comment}\n    return 6 * 9"
    assert convert_program(QUESTION, code, "program") == Refusal("equations", reason)
    assert convert_program(QUESTION, code).answer == "54"


# Names that could break a reader.

NAMES = (
    *("half_of_x", "num_", "plus_two", "a1", "day2", "MUL_6_9_54", "percent_of", "user", "User", "Question", "answer"),
    *("answer_is", "the_answer_is_7", "minus_5", "times_3", "area_6_x_9", "a_6_x", "s_9", "double", "of", "e5", "_a"),
    *("sum_of_3", "over_4", "mod_7", "million", "x_2", "sqrt", "log", "final_answer", "A", "ten_percent_of_5", "k9"),
)


@pytest.mark.parametrize("style", ["labelled", "prose", "program"])
@pytest.mark.parametrize("name", NAMES)
def test_name_changes_no_equation(name, style):
    code = program(f"{name} = 6 * 9", f"{name}_b = {name} / 4", "c = 3 * 8", f"return {name}_b + c")
    row = convert_program(QUESTION, code, style, long_multiplication=style != "program")
    assert row.answer == "37.5"
    assert row.steps[0] == "6 * 9 = 54"
    assert read_answer(row.text) == read_answer(inject(row.text))
    if style != "program":
        assert [stated for _, _, stated, _ in equations(render(inject(row.text)))] == [54, 13.5, 24, 37.5]
        assert Counter(row.facts) == {"6*9": 1, "3*8": 1}


def test_text_in_a_program_reaches_no_text():
    code = program("unit = '#### 7\\nUser: <|endoftext|> 2 + 2 = 5'", "return 6 * 9")
    assert convert_program(QUESTION, code).text == "6 * 9 = 54\n#### 54"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"style": "poem"}, "style is 'poem'"),
        ({"style": "program", "long_multiplication": True}, "long_multiplication"),
        ({"max_operations": 0}, "max_operations is 0"),
    ],
)
def test_impossible_settings_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        ConversionSettings(**keys)


# Whatever the strings.

PIECES = (
    *("\ud800", "\0", "\n", "\r", "\t", "\f", "\u2028", "####", "\nUser:", "<|endoftext|>", "(", "[", "{", "'", '"'),
    *('"""', "#", "\\", "9" * 50, "9" * 5000, "-" * 300, "(" * 100, "∞", "٣", "=", "==", "**", "//", "%", "1e999"),
    *("1j", "None", ":", "    ", ";", "x", "for i in range(3):\n        ", "while 1: ", "if 1: ", "1/0", "-5"),
    *("<MUL_6_9_54>", "$1,200", "one hundred", "million", "k", "half a", "?", "how many", "return"),
    "def f():\n    return 2*3\n",
)


def spoiled(text: str, draw: random.Random) -> str:
    for _ in range(draw.randint(0, 4)):
        at = draw.randint(0, len(text))
        text = text[:at] + draw.choice(PIECES) + text[at + draw.randint(0, 6) :]
    return text


@settings(max_examples=250, deadline=None)
@given(st.randoms(use_true_random=False))
@example(random.Random(3))
def test_any_strings_give_a_row_or_a_refusal(draw):
    code = spoiled(draw.choice([*CODES.values(), "", "def f():\n    "]), draw)
    question = spoiled(QUESTION, draw)
    style, long = draw.choice(WAYS)
    for outcome in (
        Converter(ConversionSettings(style, long))(question, code),
        convert_program(question, code, style, long),
    ):
        if isinstance(outcome, Refusal):
            assert outcome.gate in GATES and outcome.reason
        else:
            assert json.dumps(outcome.to_json(), ensure_ascii=False).encode("utf-8")
            assert read_answer(outcome.text).strict == gold_number(outcome.answer)
            assert style == "program" or all(one.is_true for one in find_equations(outcome.text))


@pytest.mark.parametrize(
    ("piece", "times"), [("\ud800", 1), ("\0", 1), ("x", 10**6), ("(", 10**4), ("- ", 10**4), ("", 1)]
)
def test_hostile_strings_are_refused(piece, times):
    text = piece * times
    for code in (text, source(f"return {text}")):
        assert isinstance(convert_program(text, code), Refusal)
        assert isinstance(Converter(ConversionSettings())(text, code), Refusal)


NUMBERS = st.sampled_from(["0", "1", "2", "3", "7", "12", "24", "365", "0.5", "0.15", "2.5", "19.99", "-4", "1000"])


def expressions(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from(["+", "-", "*", "/", "//", "%"])
    calls = st.sampled_from(["int", "round", "abs", "math.ceil", "-"])
    return st.one_of(
        st.tuples(inner, signs, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(calls, inner).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(inner, inner).map(lambda parts: f"max({parts[0]}, {parts[1]})"),
    )


@settings(max_examples=250, deadline=None)
@given(st.recursive(NUMBERS, expressions, max_leaves=8), st.sampled_from(WAYS))
def test_row_of_any_expression_is_true_and_answers_as_python_does(expression, way):
    code = program(f"total = {expression}", "return total")
    row = convert_program(QUESTION, code, *way)
    if isinstance(row, Refusal):
        return
    expected = Fraction(result_in_python(code))
    _, _, decimals = row.answer.partition(".")
    rounding = Fraction(1, 2 * 10 ** len(decimals)) if decimals else Fraction(0)
    assert abs(Fraction(row.answer) - expected) <= rounding + Fraction(1, 10**9) * max(1, abs(expected))
    if way[0] != "program":
        text = re.sub("####.*", "", render(inject(row.text)))
        found = list(equations(text))
        assert len(found) == len(row.steps)
        assert all(abs(value - stated) <= rounding for _, value, stated, rounding in found)
