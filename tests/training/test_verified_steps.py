from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization import inject
from training.evals.told_numbers import said_numbers, told_numbers
from training.evals.verified_steps import find_derivation

QUESTION = "Ana has 6 bags of 9 apples, and 7 more. She gives away 20."
RIGHT = "6*9=54\n54+7=61\n61-20=41\n#### 41"

PIECES = [
    *("6*9=54", "9 x 6 = 54", "<MUL_6_9_54>", "6*9", "54+7=61", "61 - 20 = 41", "54+7=60", "7*8=56", "54*1=54", "54"),
    *("54*2=108", "108/2=54", "24 * 6: ", "4*6=24", " -> 120", ", rounded up to 4", "50%", "(6*9)/2=27", "#### 41"),
    *("#### ", "#### 6*9", "####", "\n", "\n", " ", " and ", "=", "-", "\nUser:", "٣", "\ud800"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
fuzzed = settings(deadline=None, max_examples=300)


def share(text: str, question: str = QUESTION) -> float:
    return find_derivation(question, text).verified_share


def steps(text: str, question: str = QUESTION) -> list[tuple[str, bool, bool]]:
    return [(step.text, step.is_grounded, step.is_needed) for step in find_derivation(question, text).steps]


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,
        "6*9=<<6*9=54>>54 apples. 54+7=<<54+7=61>>61, and 61-20=<<61-20=41>>41.\n#### 41",
        "<MUL_6_9_54>\n54+7=61\n61-20=41\n#### 41",
        "9 x 6 = 54 apples. With 54 + 7 = 61 she keeps 61 - 20 = 41 apples.\n#### $41.00 in all",
        "6*9+7=61\n61-20=41\n#### 41",
        "20-7=13, and 6*9=54, so 54-13=41 #### 41",
    ],
)
def test_steps_from_the_question_to_the_answer_are_verified(text):
    assert share(text) == 1


def test_consistent_steps_to_a_wrong_answer_are_verified():
    assert share("6*9=54\n54-20=34\n#### 34") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6*9=54\n54+7=60\n60-20=40\n#### 40", 1 / 3),
        ("6*9=54\n54+7=61\n61-20=42\n#### 42", 2 / 3),
        ("6*9=54\n54+7=61\n61-20=41\n#### 61", 2 / 3),
        ("6*9=55\n55+7=62\n62-20=42\n#### 42", 0),
    ],
)
def test_nothing_is_verified_that_is_false_or_comes_from_it_or_leads_nowhere(text, expected):
    assert share(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["6*9=54\n54+7=61\n61-20=41", "6*9=54\n54+7=61\n#### none", "#### 41", "41", ""])
def test_without_steps_or_without_an_answer_nothing_is_verified(text):
    assert share(text) == 0


@pytest.mark.parametrize(
    "more",
    [
        *("6*9=54", "9*6=54", "<MUL_6_9_54>", "6*9", "54=54", "54*1=54", "54+0=54", "1*54=54", "54/1=54", "54-0=54"),
        *("50+4=54", "54*2=108\n108/2=54", "54+20=74\n74-20=54", "108/2=54", "45+9=54", "6*9=54\n" * 5),
    ],
)
def test_one_step_stays_one_whatever_stands_beside_it(more):
    question = "Ana has 6 bags of 9 apples, twice as many as Ben."
    assert share(f"6*9=54\n{more}\n#### 54", question) == share(f"{more}\n6*9=54\n#### 54", question) == 0


@pytest.mark.parametrize(
    "more", ["6*9=54", "9*6=54", "54*1=54", "7+54=61", "61+0=61", "0*5=0", "54=54", "6*9", "5*1=5"]
)
def test_repeated_reversed_and_trivial_equations_change_nothing(more):
    assert share(f"6*9=54\n54+7=61\n{more}\n61-20=41\n#### 41") == 1
    assert share(f"6*9=54\n54+7=61\n{more}\n61-20=42\n#### 42") == pytest.approx(2 / 3)


@pytest.mark.parametrize("more", ["7*8=56", "5+5=10", "6*9=55", "6+7=13", "54+0=55", "1+1=2"])
def test_step_beside_the_way_counts_once_however_often_it_stands(more):
    assert share(f"{more}\n{RIGHT}") == share(f"{more}\n{more}\n{RIGHT}") == 3 / 4


@pytest.mark.parametrize(
    "text",
    [
        "1+1=2\n2+2=4\n#### 4",
        "2*2=4\n4-1=3\n#### 3",
        "3*5=15\n15+2=17\n#### 17",
        "12*12=144\n144+1=145\n#### 145",
        "6+6=12\n12*12=144\n#### 144",
        "7*7=49\n49*7=343\n343*7=2401\n#### 2401",
    ],
)
def test_true_equations_that_are_not_about_the_question_are_not_verified(text):
    assert share(text) == 0


def test_false_way_to_a_number_of_the_question_is_not_needed():
    assert steps("3*3=9\n6*9=54\n#### 54") == [("3*3=9", False, False), ("6*9=54", True, True)]
    assert steps("3*3=9\n5*9=45\n#### 45") == [("3*3=9", False, True), ("5*9=45", False, True)]


def test_step_needs_a_number_of_the_question_beside_ones():
    assert steps("1+1=2\n2*6=12\n#### 12")[0][1] is False
    assert steps("1+6=7\n#### 7") == [("1+6=7", True, True)]


def test_numbers_of_the_text_around_equations_are_not_the_question_s():
    assert share("There are 13 more. 54+13=67\n67-8=59\n#### 59", "6 bags of 54 apples") == 0


def test_half_of_the_numbers_of_the_question_must_be_used():
    text = "2*3=6\n6+2=8\n#### 8"
    assert find_derivation("2 boxes of 3, and 40 apples", text).use == pytest.approx(2 / 3)
    assert share(text, "2 boxes of 3, and 40 apples") == 1
    assert find_derivation("2 boxes of 3, 40 apples, 50 pears, and 60 plums", text).use == pytest.approx(2 / 5)
    assert share(text, "2 boxes of 3, 40 apples, 50 pears, and 60 plums") == 0
    assert find_derivation("1 box of 3, 1 of 2, and 1 apple", text).use == 1


def test_equations_below_the_answer_are_not_read():
    assert share(f"#### 41\n{RIGHT.removesuffix('#### 41')}") == 0
    assert share(f"{RIGHT}\n7*8=56") == 1


def test_answer_may_be_stated_as_the_last_equation():
    assert share("6*9=54\n54+7=61\n#### 61-20=41") == 1
    assert share("7-1=6\n#### 6*9", "7 bags, one is lost; 9 apples in each") == 1


@pytest.mark.parametrize(
    "multiplication",
    [
        "24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144\n24 * 6 = 144",
        "24 * 6: <MUL_4_6_24>, <MUL_2_6_12> -> 120, 24 + 120 = 144\n24 * 6 = 144",
    ],
)
def test_steps_of_a_long_multiplication_are_verified(multiplication):
    # 4 * 6 = 24 comes to a number of the question, 24 * 6 = 144 to one that is there.
    text = f"{multiplication}\n144 + 5 = 149\n#### 149"
    found = find_derivation("24 boxes of 6, and 5 more", text)
    assert found.verified_share == 1 and len(found.steps) == 4


@pytest.mark.parametrize("line", ["35 * 8: 5 * 8 = 40", "4 * 6 = 24, 2 * 6 = 12 -> 120", "24 * 6:\n4 * 6 = 24"])
def test_digits_are_given_only_by_the_long_multiplication_in_their_line(line):
    assert not any(grounded for _, grounded, _ in steps(f"{line}\n#### 1", "24 boxes of 6"))


@pytest.mark.parametrize(
    ("line", "goes_on"),
    [
        ("50 / 8 = 6.25, rounded up to 7", True),
        ("50 / 8 = 6.25, rounded down to 6", True),
        ("50 / 8 = 6.25, rounded to 6", True),
        ("50 / 8 = 6.25 -> 625", True),
        ("50 / 8 = 6.25, rounded up to 9", False),
        ("50 / 8 = 6.25 -> 7", False),
        ("50 / 8 = 6.25. So 7", False),
    ],
)
def test_result_goes_on_rounded_or_shifted(line, goes_on):
    number = line.split()[-1]
    found = steps(f"{line}\n{number} * 50 = {int(number) * 50}\n#### {int(number) * 50}", "50 people, 8 in a bus")
    assert found == [("50 / 8 = 6.25", True, goes_on), (f"{number} * 50 = {int(number) * 50}", goes_on, True)]


def test_percentage_goes_on_with_and_without_its_sign():
    assert share("20+5=25\n25/50=50%\n#### 50", "20 and 5 of 50") == 1
    assert share("20/50=40%\n40%*5=2\n#### 2", "20 of 50, 5") == 1


def test_negative_and_decimal_results_are_linked():
    assert share("5-20=-15\n-15+9=-6\n#### -6", "5 degrees fall by 20 and rise by 9") == 1
    assert share("$1.50*3=$4.50\n$10-$4.50=$5.50\n#### 5.5", "$1.50 each, 3 of them, $10") == 1


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("6 bags, Twenty-Five apples, five pears", {5, 6, 25}),
        ("sixty-plus people", {60}),
        ("$1,200.50", {Fraction(2401, 2)}),
        ("a 2x4 board", {2, 4}),
        ("a <MUL_2_4_8> board", {2, 4}),
        ("none", set()),
    ],
)
def test_question_says_its_numbers_in_digits_and_words(question, numbers):
    assert said_numbers(question) == numbers


@pytest.mark.parametrize(
    ("question", "number"),
    [
        ("twice as many", 2),
        ("half of them", Fraction(1, 2)),
        ("two-thirds of them", 3),
        ("a dozen eggs", 12),
        ("20% of them", Fraction(1, 5)),
        ("20% off", 80),
        ("20 percent more", Fraction(6, 5)),
        ("75 cents", Fraction(3, 4)),
        ("it costs $1.25", 125),
        ("every day of a week", 7),
        ("in an hour", 60),
        ("per year", 12),
    ],
)
def test_question_tells_more_numbers_than_it_says(question, number):
    assert number in told_numbers(question)
    assert number not in told_numbers("6 bags of 9 apples")


@given(texts)
@fuzzed
def test_reply_and_its_injected_twin_have_the_same_steps(text):
    assert find_derivation(QUESTION, inject(text)) == find_derivation(QUESTION, text)
    assert find_derivation(inject("a 2 x 4 board of 6 feet"), text) == find_derivation("a 2 x 4 board of 6 feet", text)


@given(texts)
@fuzzed
def test_more_equations_beside_the_way_never_raise_the_share(text):
    assert share("3*13=39\n" + text) <= share(text)


@given(st.one_of(texts, st.text(max_size=60)), st.one_of(texts, st.text(max_size=60)))
@fuzzed
def test_any_question_and_text_are_read(question, text):
    found = find_derivation(question, text)
    assert 0 <= found.verified_share <= 1 and 0 <= found.use <= 1


@pytest.mark.parametrize("unit", ["6*9=54 54+6=60 ", "24 * 6: 4*6=24, ", "12 * 13: ", " -> 1", "9" * 29 + "/1+", "1,"])
def test_long_text_of_anything_is_read(unit):
    # A reader that is quadratic would take minutes.
    assert 0 <= share(unit * (60_000 // len(unit)) + "#### 60") <= 1
