from fractions import Fraction

import pytest

from tests.training.tinygsm_programs import source
from training.data.program_trace import Disagreement, Unwritable, given_numbers, operations_behind, trace
from training.evals.program_check import check_program


def traced(body: str):
    return trace(check_program(source(body)))


def kinds(body: str) -> list[str]:
    return [operation.kind for operation in operations_behind(traced(body))]


def test_decimals_of_the_program_are_exact():
    result = traced("return 0.1 + 0.2")
    assert result.exact == Fraction(3, 10) and result.value == 0.1 + 0.2 != 0.3


def test_only_operations_that_the_result_depends_on_are_behind_it():
    assert kinds("a = 3 * 5\nb = 3 + 5\nc = a - 1\nreturn b") == ["+"]


def test_operations_come_in_the_order_of_the_program():
    assert kinds("a = 3 * 5\nb = 8 - 2\nreturn b / a") == ["*", "-", "/"]


def test_label_is_the_first_variable_that_held_the_result():
    (operation,) = operations_behind(traced("days = 7 * 2\nresult = days\nreturn result"))
    assert operation.label == "days"


def test_what_a_decision_was_made_of_is_not_behind_the_result():
    assert kinds("if 3 * 5 > 10:\n    return 4 + 4\nreturn 1") == ["+"]


def test_beginning_of_a_sum_is_no_operation():
    assert kinds("total = 0\nfor price in (3, 4):\n    total += price\nreturn total") == ["+"]


def test_given_numbers_are_those_that_no_operation_made():
    assert sorted(given_numbers(traced("a = 24\nreturn a * 6 + 15"))) == [6, 15, 24]


@pytest.mark.parametrize(
    "body",
    [
        "return int(0.29 * 100)",
        "return 1 // 0.1",
        "return round(1000 * 1.05 ** 3, 2)",  # 1157.6250000000002 in floats
        "return 3 if 0.1 + 0.2 > 0.3 else 4",
        "x = 1.1 - 1.0 - 0.1\nreturn 3 if x else 4",
    ],
)
def test_floats_that_go_another_way_are_a_disagreement(body):
    with pytest.raises(Disagreement):
        traced(body)


@pytest.mark.parametrize(
    "body", ["import math\nreturn math.sqrt(3)", "return 2 ** 0.5", "import math\nreturn math.sin(1)"]
)
def test_numbers_without_an_exact_value_are_unwritable(body):
    with pytest.raises(Unwritable):
        traced(body)


@pytest.mark.parametrize("value", ["'3'", "[3]", "None", "True", "{3: 4}"])
def test_result_that_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="result: "):
        traced(f"return {value}")


@pytest.mark.parametrize(
    "expression, value",
    [
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("7 % -3", -2),
        ("7.5 // 2", 3),
        ("int(-7 / 2)", -3),
        ("round(2.5)", 2),
        ("round(-3.5)", -4),
        ("divmod(50, 8)[1]", 2),
        ("2 ** -2", 0.25),
        ("min([3, 2.5, 4])", 2.5),
        ("sorted([5, 3, 4])[0]", 3),
        ("abs(-3) ** 2", 9),
        ("sum([1, 2], 3)", 6),
        ("len([3, 4]) * 5", 10),
        ("sum(range(1, 5))", 10),
    ],
)
def test_results_are_those_of_python(expression, value):
    result = traced(f"return {expression}")
    assert result.value == value == float(result.exact)
