import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokenization import inject
from tokenization.mul_facts import FACTS
from training.evals.answers import (
    Answer,
    canonical,
    first_number,
    first_number_in_digits,
    read_answer,
    read_numbers,
    reply,
    same_number,
)

FACT = "<MUL_6_9_54>"

# What replies are made of: facts in many spellings, other calculations, signs, marks, turns, and odd Unicode.
PIECES = [
    *("6*9", "6 x 9 = 54", "9×6=54", "6*9=55", "2*3*4", "7*8=5", "(6*9)", "10-2*3", "$6*9", FACT, "<MUL_2_3_6>"),
    *("<MUL_9_6_54>", "<MUL_", "<<6*9=54>>54", "12*30=360", "10 - 3 = 7", "1,234.5", "18.00", ".5", "1/2", "50%"),
    *("####", "#### ", "#", "The answer is ", "answer: ", "\nUser:", "\nQuestion:", "<|endoftext|>", "\n", " ", "  "),
    *(*"0123456789+-*/=×x÷−–.,:$€%()<>^_{}[]²½", " apples", "cm", "x", "é", "٣", "\ud800", "\0", "\u00a0", "\t"),
]
replies = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
fuzzed = settings(deadline=None, max_examples=400)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("18", 18),
        ("$18 per day for 7 days", 18),
        ("-$5", -5),
        ("$-5", -5),
        ("- 5", -5),
        ("-5", -5),
        ("\u22125", -5),
        ("−$1,000", -1000),
        ("–5", -5),
        ("(-5)", -5),
        ("+5", 5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1,234.56", 1234.56),
        ("1,234,567", 1234567),
        ("$1,150.00", 1150),
        ("50%", 50),
        ("18.", 18),
        ("18.00", 18),
        ("18,", 18),
        ("18!", 18),
        ("007", 7),
        ("-0", 0),
        ("1/2", 0.5),
        ("-1/2 cup", -0.5),
        ("6/3", 2),
        ("6*9=54", 54),
        ("6*9", 54),
        (FACT, 54),
        (f"${FACT}.", 54),
        (f"{FACT} apples", 54),
        ("(6*9)", 54),
        ("<<6*9=54>>54", 54),
        ("6*9=55", 55),
        ("10,400*.5 = 5,200", 5200),
        ("10 - 3 = 7", 7),
        ("2*3*4 = 24 eggs", 24),
        ("12*2 = 8*3 = 24", 24),
        ("x = 5", 5),
        ("total cost = $5", 5),
        ("= 5", 5),
        ("= - 5", -5),
        ("54 = 6*9", 54),
        ("24 = 2*3*4", 24),
        ("18 dollars - 3 = 15", 15),
        ("5 apples + 3 oranges = 8", 8),
        ("18 because 3*5=15", 18),
        ("**18**", 18),
        ("** 18 **", 18),
        ("**18** 20", 18),
        ("__18__", 18),
        ("\\boxed{18}", 18),
        ("$\\boxed{\\$18}$", 18),
        ("\\(18\\)", 18),
        (": 18", 18),
        ('"18"', 18),
        ("18kg", 18),
        ("18th", 18),
        ("18/day", 18),
        ("18 - that is all", 18),
        ("18 20", 18),
        ("18, 20", 18),
        ("5 million", 5),
        ("\u00a018\u00a0$", 18),
    ],
)
def test_number_after_the_mark_is_read(line, number):
    answer = read_answer(f"First 3.\n#### {line}\nThen 99.")
    assert answer == Answer(number, number)
    assert type(answer.strict) is type(number)


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            "none",
            "1/0",
            "10 - 3",
            "10-3",
            "10 -3",
            "2*3*4",
            "2*3*4*5 eggs",
            "-6*9",
            "100-6*9",
            "$5 - $3",
            "6*4=12*2",
        ),
        *(
            "1,2,3",
            "12,34",
            "0,500",
            "1234,567",
            "1,23",
            "1.2.3",
            "3:30",
            "1/2/3",
            "2 1/2",
            "18 000",
            "5²",
            "5½",
            "5^2",
        ),
        *("2**3", "2 ** 3", "12 eggs * 2", "10-20", "5 cm x 3 cm", "18 - 3 of them"),
        *("x2", "covid-19", "1e5", "2e-3", "٣", "5٣", "x >= 5", "a != 5", "The answer is 5", "USD 18", "--5"),
        *("1" * 31, "1" * 5000, "0." + "1" * 31, "-" + "9" * 31, "1/" + "9" * 31, "*" * 40 + "18"),
    ],
)
def test_line_without_one_clear_number_has_no_strict_answer(line):
    assert read_answer(f"First 3.\n#### {line}\nThen 99.").strict is None


def test_mark_is_four_or_more_number_signs():
    assert [read_answer("#" * count + "7").strict for count in range(2, 8)] == [None, None, 7, 7, 7, 7]


def test_strict_number_stands_on_the_line_of_the_mark():
    assert read_answer("####\n18") == Answer(None, 18)


def test_number_of_thirty_digits_is_an_answer_and_one_of_more_is_none():
    assert read_answer("#### " + "9" * 30) == Answer(int("9" * 30), int("9" * 30))
    assert read_answer("#### " + "9" * 31) == Answer(None, None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,234", 1234),
        ("The answer is 1,234. I used 7 steps.", 1234),
        ("the ANSWER IS: $18 of 20", 18),
        ("Answer: 18 (of 20)", 18),
        ("**Answer:** 18 of 20", 18),
        ("**Answer**: **18** of 20", 18),
        ("The answer is 10-3=7 of 20", 7),
        ("The answer is -5, not 20", -5),
        ("The answer is - 5, not 20", -5),
        ("The answer is that 5 of 20 remain", 5),
        (f"The answer is {FACT} of 60", 54),
        ("The answer is 6 x 9 of 60", 54),
        ("The answer is 3. No, the answer is 4 of 20", 4),
        ("The answer is 10 - 3", 3),
        ("The answer is below.\n18 and 20", 20),
        ("The answers are 18 and 20", 20),
        ("6*9=54", 54),
        ("She has 12*3=36 apples", 36),
        ("10-5", 5),
        ("10 - 5", 5),
        ("10 -5", 5),
        ("10 – 5", 5),
        ("$10-$5", 5),
        ("50% -5", 5),
        ("(2+3)-5", 5),
        ("x-5", 5),
        ("covid-19", 19),
        ("- 5 apples", 5),
        ("it is -5", -5),
        ("=-5", -5),
        ("5-10 = - 5", -5),
        ("(-5)", -5),
        ("$-5", -5),
        ("-$5", -5),
        ("<<5-10=-5>>-5", -5),
        ("it is **-5**", -5),
        ("half of it, 1/2", 0.5),
        ("on 1/2/2020", 2020),
        ("1,2,3", 3),
        ("12,34", 34),
        ("at 3:30", 30),
        ("wait...20", 20),
        ("It costs 5.", 5),
        ("12x3", 3),
        ("5 and x2", 5),
        ("5 and x2.7", 5),
        ("5 and v1.2.3", 5),
        ("5 and 1.2.3", 5),
        ("5 and 1e7", 5),
        ("5 and ٣", 5),
        ("no number", None),
        ("", None),
        ("8 and 1/0", None),
        ("8 and " + "1" * 31, None),
    ],
)
def test_flexible_answer_follows_answer_is_or_is_the_last_number(text, number):
    assert read_answer(text) == Answer(None, number)


def test_strict_answer_goes_before_answer_is():
    assert read_answer("The answer is 5.\n#### 7\nSo 9.") == Answer(7, 7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nUser: b", "a"),
        ("a\nQuestion: b", "a"),
        ("a<|endoftext|>b", "a"),
        ("#### 1\n#### 2", "#### 1\n"),
        ("#### 1 ##### 2", "#### 1 "),
        ("#### 1 ### 2", "#### 1 ### 2"),
        ("User: a", "User: a"),
        ("Question: a\nQuestion: b", "Question: a"),
        ("\nUser: a", ""),
        ("a User: b", "a User: b"),
        ("a\nUsers: b", "a\nUsers: b"),
        ("########", "########"),
        ("a\nUser: #### 1 #### 2<|endoftext|>", "a"),
        ("", ""),
    ],
)
def test_reply_ends_where_generation_stops(text, expected):
    assert reply(text) == expected


@given(replies, replies)
@fuzzed
def test_what_follows_a_cut_never_matters(text, more):
    cut = reply(text)
    assert reply(cut) == cut
    if cut != text:
        assert reply(text + more) == cut
        assert read_answer(text + more) == read_answer(cut)


@given(replies)
@example("#### 6*9")
@example("6*9 #### ####")
@fuzzed
def test_reply_and_its_injected_twin_are_read_alike(text):
    twin = inject(text)
    assert canonical(twin) == canonical(text)
    assert reply(twin) == inject(reply(text))
    assert read_answer(twin) == read_answer(text)
    assert first_number(twin) == first_number(text)
    assert first_number_in_digits(twin) == first_number_in_digits(text)


@given(st.one_of(replies, st.text(max_size=60)))
@fuzzed
def test_every_number_is_an_int_or_a_finite_float_that_is_not_whole(text):
    answer = read_answer(text)
    for number in [answer.strict, answer.flexible, first_number(text), *read_numbers(text)]:
        assert number is None or type(number) is int or (type(number) is float and math.isfinite(number))
        assert not isinstance(number, float) or not number.is_integer()
    assert answer.strict is None or answer.flexible == answer.strict


@pytest.mark.parametrize(
    "unit",
    [
        *("#", "1", "1,", "111,", "1.", "1/", "1e", "a1", "*", " ", "-", "=", "1=", "1+", "2*3=", FACT, "$", "("),
        *("\\a{", "answer is 1+", "\ud800", "\0", "٣", "1 a ", "\nUser"),
    ],
)
@pytest.mark.parametrize("before", ["", "#### ", "The answer is "])
def test_hundred_kilobytes_of_anything_are_read(before, unit):
    # A reader that is quadratic would take minutes.
    text = before + unit * (100_000 // len(unit))
    assert isinstance(read_answer(text), Answer)
    first_number_in_digits(text)


@pytest.mark.parametrize(
    ("text", "number", "in_digits"),
    [
        (" 54.", 54, 54),
        (" 6 * 9 = 54", 54, None),
        (" <MUL_6_9_54>", 54, None),
        (" 6x9", 54, None),
        (" -5 and 6*9", -5, -5),
        (" 6 * 9 = 55", 6, 6),
        (" 12 * 9 = 108", 12, 12),
        (" 54, since 6*9=54", 54, 54),
        (f" 3{FACT}", 3, 3),
        (f" 1/{FACT}", 1 / 54, None),
        (" $54.00\nUser: 3", 54, 54),
        ("\nUser: 3", None, None),
        (" none", None, None),
        ("", None, None),
    ],
)
def test_first_number_tells_digits_from_facts(text, number, in_digits):
    assert first_number(text) == number
    assert first_number_in_digits(text) == in_digits


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.name)
def test_every_fact_is_read_as_its_product(fact):
    for written in [fact.name, f"{fact.a} * {fact.b}", f"{fact.b}×{fact.a}={fact.product}"]:
        assert read_answer(f"#### {written}") == Answer(fact.product, fact.product)
        assert first_number(f" {written}.") == fact.product
        assert first_number_in_digits(f" {written}.") is None


def test_numbers_are_the_same_only_when_equal():
    assert same_number(18, 18.0)
    assert same_number(0.5, 0.5)
    assert not same_number(17.999, 18)
    assert not same_number(None, None)
    assert not same_number(0, None)
