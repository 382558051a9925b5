from fractions import Fraction

import pytest

from tests.training.tinygsm_programs import PROGRAMS, equations, program, source
from training.data.tinygsm.program_trace import trace
from training.data.tinygsm.quantities import Unwritable
from training.data.tinygsm.worked_text import Worked, expected_numbers, label_of, step_lines, work_out
from training.evals.equations import find_equations
from training.evals.program_check import check_program


def worked(*lines: str, long_multiplication: bool = False) -> Worked:
    return work_out(trace(check_program(program(*lines))), long_multiplication)


def written(*lines: str, style: str = "labelled", labels: bool = True) -> list[str]:
    result = worked(*lines)
    return [*step_lines(result, style, labels), result.answer]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("boxes_per_week", "boxes per week"),
        ("num_boxes", "boxes"),
        ("number_of_boxes", "boxes"),
        ("numBoxesPerDay", "boxes per day"),
        ("totalCost", "total cost"),
        ("costPerTShirt", "cost per t shirt"),
        ("HTTPCost", "http cost"),
        ("_private__name_", "private name"),
        ("one_two_three_four_five_six", "one two three four five"),
        ("day2_total", "day2 total"),
        ("result", ""),
        ("ans", ""),
        ("x", ""),
        ("ab", ""),
        ("a_b", ""),
        ("_", ""),
        ("num_", "num"),
        ("area_6_x_9", ""),
        (None, ""),
    ],
)
def test_label_is_the_words_of_a_name(name, label):
    assert label_of(name) == label


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["cost = 6 * 9", "return cost"], ["cost = 6 * 9 = 54", "54"]),
        (["return 6 * 9 + 2"], ["6 * 9 = 54", "54 + 2 = 56", "56"]),
        (["hours = 100 / 3", "cost = hours * 6", "return cost"], ["cost = (100 / 3) * 6 = 200", "200"]),
        (["return 100 / 3 / 7 * 5"], ["((100 / 3) / 7) * 5 = 23.81", "23.81"]),
        (["return 10 / 3"], ["10 / 3 = 3.33", "3.33"]),
        (["return 2 / 3 / 1000"], ["(2 / 3) / 1000 = 0.000667", "0.000667"]),
        (
            ["return 2.5 * 0.001 * 0.001 * 0.001"],
            ["2.5 * 0.001 = 0.0025", "(0.0025 * 0.001) * 0.001 = 0.0000000025", "0.0000000025"],
        ),
        (["return 5 - 12 + 20"], ["5 - 12 = -7", "(-7) + 20 = 13", "13"]),
        (["return 20 + (5 - 12)"], ["5 - 12 = -7", "20 - 7 = 13", "13"]),
        (["return 20 - (5 - 12)"], ["5 - 12 = -7", "20 + 7 = 27", "27"]),
        (["return (5 - 12) * -3"], ["5 - 12 = -7", "(-7) * (-3) = 21", "21"]),
        (["trips = math.ceil(50 / 8)", "return trips"], ["trips = 50 / 8 = 6.25, rounded up to 7", "7"]),
        (["trips = 50 // 7", "return trips"], ["trips = 50 / 7 = 7.14, rounded down to 7", "7"]),
        (["share = 50 / 8", "return int(share)"], ["share = 50 / 8 = 6.25", "6.25, rounded down to 6", "6"]),
        (["share = 50 / 7", "return int(share)"], ["50 / 7 = 7.14, rounded down to 7", "7"]),
        (["return int(5.9)"], ["5.9, rounded down to 5", "5"]),
        (["return int(-5.9)"], ["-5.9, rounded up to -5", "-5"]),
        (["return -50 // 7"], ["(-50) / 7 = -7.14, rounded down to -8", "-8"]),
        (["return round(10 / 3, 2) * 3"], ["10 / 3 = 3.33", "3.33 * 3 = 9.99", "9.99"]),
        (["return round(1.1 * 1.15, 2)"], ["1.1 * 1.15 = 1.265, rounded to 1.26", "1.26"]),
        (["return round(20 / 7)"], ["20 / 7 = 2.86, rounded to 3", "3"]),
        (["side = math.sqrt(49)", "return side * 4"], ["side: the square root of 49 is 7", "7 * 4 = 28", "28"]),
        (["return math.sqrt(50 / 2)"], ["50 / 2 = 25", "the square root of 25 is 5", "5"]),
        (["return math.gcd(12, 18)"], ["the greatest common divisor of 12 and 18 is 6", "6"]),
        (["return math.lcm(4, 6)"], ["the least common multiple of 4 and 6 is 12", "12"]),
        (["return 42"], ["42"]),
        (["return int(20.99 / 7)"], ["20.99 / 7 = 2.999, rounded down to 2", "2"]),
        (["return (3 - 8) * -2 + (3 - 8)"], ["3 - 8 = -5", "(-5) * (-2) = 10", "10 - 5 = 5", "5"]),
        (["return 12.50"], ["12.5"]),
    ],
)
def test_calculation_is_written_one_step_a_line(lines, text):
    assert written(*lines) == text


def test_name_is_given_once_to_what_it_is_about():
    assert written("a_cost = 2 * 3", "b_cost = a_cost", "return b_cost + 4") == [
        "a cost = 2 * 3 = 6",
        "6 + 4 = 10",
        "10",
    ]


def test_the_same_step_under_another_name_is_written_again():
    assert written("monday = 5 * 8", "tuesday = 5 * 8", "return monday + tuesday") == [
        "monday = 5 * 8 = 40",
        "tuesday = 5 * 8 = 40",
        "40 + 40 = 80",
        "80",
    ]


def test_step_without_a_name_is_not_written_again():
    assert written("quotient = 100 // 7", "return 100 % 7 + quotient")[:2] == [
        "quotient = 100 / 7 = 14.29, rounded down to 14",
        "14 * 7 = 98",
    ]


def test_loop_that_calculates_the_same_says_it_once():
    lines = written("total = 0", "for day in range(3):", "    pages = 5 * 4", "    total += pages", "return total")
    assert lines.count("pages = 5 * 4 = 20") == 1


def test_styles_say_the_same_equations():
    result = worked("cost = 6 * 9", "share = cost / 4", "return math.ceil(share)")
    said = {
        style: [one.text for one in find_equations("\n".join(step_lines(result, style, True)))]
        for style in ("equations", "labelled", "prose")
    }
    assert said["equations"] == ["6*9=54", "54 / 4 = 13.5"]
    assert said["equations"] == said["labelled"] == said["prose"]


def test_equations_alone_have_no_words():
    assert written("cost = 6 * 9", "return cost + 2", style="equations") == ["6 * 9 = 54", "54 + 2 = 56", "56"]


def test_labels_can_be_left_out():
    assert written("cost = 6 * 9", "return cost", labels=False) == ["6 * 9 = 54", "54"]


# Sentences are chosen by a hash that is no process's own: another choice here would be another data set.
def test_prose_is_the_same_in_every_process():
    assert written("cost = 6 * 9", "share = cost / 4", "return share + 1", style="prose") == [
        "So the cost is 6 * 9 = 54.",
        "So the share is 54 / 4 = 13.5.",
        "Then 13.5 + 1 = 14.5.",
        "14.5",
    ]


def test_prose_does_not_depend_on_where_a_step_stands():
    both = worked("cost = 6 * 9", "share = 40 / 5", "return cost + share")
    lines = step_lines(both, "prose", True)
    swapped = Worked([both.steps[1], both.steps[0], both.steps[2]], both.answer)
    assert step_lines(swapped, "prose", True) == [lines[1], lines[0], lines[2]]


def test_seed_chooses_other_sentences():
    result = worked("cost = 6 * 9", "share = cost / 4", "rest = share - 3", "return rest * 8")
    assert len({tuple(step_lines(result, "prose", True, seed)) for seed in range(8)}) > 4


def test_prose_is_sentences():
    for name, (body, _) in PROGRAMS.items():
        for line in step_lines(work_out(trace(check_program(source(body)))), "prose", True):
            assert line[0].isupper() or not line[0].isalpha(), name
            assert line.endswith(".") and "  " not in line
            assert line.count(" is ") < 2, line


@pytest.mark.parametrize("long_multiplication", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_written_equation_is_true(name, long_multiplication):
    result = work_out(trace(check_program(source(PROGRAMS[name][0]))), long_multiplication)
    found = list(equations("\n".join(step_lines(result, "labelled", True))))
    assert [text for text, *_ in found] == result.equations
    assert [stated for _, _, stated, _ in found] == expected_numbers(result)
    for text, value, stated, rounding in found:
        assert abs(value - stated) <= rounding, text


def test_step_with_an_exact_result_is_not_rounded():
    for _, value, stated, _ in equations("\n".join(written("return 1 / 8 * 3 / 16"))):
        assert value == stated


def test_rounded_number_is_calculated_on_with_only_where_the_program_rounds():
    text = "\n".join(written("third = 100 / 3", "rounded = round(third, 1)", "return rounded * 3 + third * 3"))
    assert "33.3 * 3 = 99.9" in text and "(100 / 3) * 3 = 100" in text


def test_long_multiplication_stands_before_its_product():
    result = worked("cost = 24 * 6", "return cost", long_multiplication=True)
    assert step_lines(result, "labelled", True) == [
        "24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144",
        "cost = 24 * 6 = 144",
    ]
    assert expected_numbers(result) == [24, 12, 144, 144]


def test_product_of_repeating_decimals_is_not_taken_apart():
    result = worked("return 100 / 3 * 6", long_multiplication=True)
    assert [step.partial for step in result.steps] == [None]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["n = 1 / 3", *["n = n + 1 / 7"] * 9, "return n"], "many parentheses"),
        (["return 1.2345678901 ** 4"], "long number"),
        (["return math.sqrt(1 / 9) * 6"], "long root"),
        (["return 10 ** 20 / 3 * 10 ** 20"], "long number"),
        (["return 2 + 1 / 3_000_000"], "close to a whole number"),
        (["return math.floor(2 + 1 / 30_000_000)"], "close number"),
    ],
)
def test_number_that_cannot_be_read_back_is_unwritable(lines, reason):
    with pytest.raises(Unwritable, match=reason):
        worked(*lines)


def test_long_decimals_are_written_to_their_end():
    result = worked("return 1.0625 * 1.0625")
    assert Fraction(result.answer) == Fraction("1.0625") ** 2
    assert result.equations == ["1.0625 * 1.0625 = 1.12890625"]
