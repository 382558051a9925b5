import pytest

from tests.training.tinygsm_programs import source
from training.data.program_trace import Unwritable, trace
from training.data.worked_text import label_of, step_lines, work_out
from training.evals.program_check import check_program


def lines(body: str, style: str = "labelled", with_labels: bool = True, **keys) -> list[str]:
    return step_lines(work_out(trace(check_program(source(body))), **keys), style, with_labels)


@pytest.mark.parametrize(
    "name, label",
    [
        ("total_boxes", "total boxes"),
        ("num_boxes", "boxes"),
        ("number_of_boxes_per_day", "boxes per day"),
        ("boxesPerDay", "boxes per day"),
        ("HTTPCost", "http cost"),
        ("result", ""),
        ("x", ""),
        ("_", ""),
        (None, ""),
        ("cost_of_all_the_boxes_in_town", "cost of all the boxes"),
    ],
)
def test_label_is_what_the_variable_says(name, label):
    assert label_of(name) == label


def test_equations_stand_without_labels():
    assert lines("boxes = 24 * 6\nreturn boxes + 1", "equations") == ["24 * 6 = 144", "144 + 1 = 145"]


def test_long_multiplication_stands_before_the_line_that_uses_it():
    assert lines("boxes = 24 * 6\nreturn boxes", with_long_multiplication=True) == [
        "24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144",
        "boxes = 24 * 6 = 144",
    ]


def test_prose_makes_sentences_of_the_same_steps():
    (sentence,) = lines("boxes = 24 * 6\nreturn boxes", "prose")
    assert "boxes" in sentence and "24 * 6 = 144." in sentence


def test_step_that_a_loop_repeats_is_written_once():
    body = "total = 0\nfor day in range(2):\n    cost = 3 * 5\n    total += cost\nreturn total"
    assert lines(body) == ["cost = 3 * 5 = 15", "total = 15 + 15 = 30"]


def test_rounding_joins_the_line_of_what_it_rounds():
    assert lines("days = int(24 / 5)\nreturn days") == ["days = 24 / 5 = 4.8, rounded down to 4"]


def test_rounding_of_a_named_number_has_a_line_of_its_own():
    assert lines("rate = 24 / 5\ndays = int(rate)\nreturn days * rate") == [
        "rate = 24 / 5 = 4.8",
        "days = 4.8, rounded down to 4",
        "4 * 4.8 = 19.2",
    ]


def test_number_that_is_rounded_shows_as_many_decimals_as_tell_why():
    assert lines("return int(20.99 / 7)") == ["20.99 / 7 = 2.999, rounded down to 2"]


def test_negative_numbers_stand_in_parentheses_where_a_sign_could_be_misread():
    assert lines("low = 3 - 8\nreturn low * -2 + low") == [
        "low = 3 - 8 = -5",
        "(-5) * (-2) = 10",
        "10 - 5 = 5",
    ]


def test_too_many_parentheses_are_unwritable():
    body = "x = 1 / 3\n" + "".join(f"x = x + {n} / 7\n" for n in range(1, 10)) + "return x"
    with pytest.raises(Unwritable, match="parentheses"):
        lines(body)


def test_result_without_a_step_has_no_lines():
    assert lines("return 5") == []
