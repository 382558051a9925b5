from fractions import Fraction

import pytest

from tests.training.tinygsm_programs import PROGRAMS, program, result_in_python, source
from training.data.tinygsm.program_trace import trace
from training.data.tinygsm.quantities import Disagreement, Quantity, Unwritable, given_numbers, operations_behind
from training.evals.program_check import check_program


def traced(*lines: str) -> Quantity:
    return trace(check_program(program(*lines)))


def steps(*lines: str) -> list[tuple]:
    """(kind, operands, result) of each operation."""
    return [
        (one.kind, *(float(each.exact) for each in one.operands), float(one.result))
        for one in operations_behind(traced(*lines))
    ]


@pytest.mark.parametrize("name", PROGRAMS)
def test_result_is_that_of_python(name):
    code = source(PROGRAMS[name][0])
    result, expected = trace(check_program(code)), result_in_python(code)
    assert result.value == expected
    assert type(result.value) is type(expected)
    assert result.exact == pytest.approx(expected)


def test_floats_are_the_decimals_that_the_program_says():
    assert traced("return 0.1 + 0.2").exact == Fraction(3, 10)


def test_only_what_the_result_depends_on_is_kept():
    assert steps("a = 2 * 3", "b = a + 4", "c = b * 5", "return a - 1") == [("*", 2, 3, 6), ("-", 6, 1, 5)]


def test_loop_leaves_each_round_behind():
    assert steps("n = 5", "for i in range(3):", "    n = n + 2", "return n") == [
        ("+", 5, 2, 7),
        ("+", 7, 2, 9),
        ("+", 9, 2, 11),
    ]


def test_operations_are_in_the_order_of_their_time():
    numbers = [one.number for one in operations_behind(traced("a = 2 * 3", "b = 4 * 5", "return b - a"))]
    assert numbers == sorted(numbers) and len(numbers) == 3


def test_start_of_a_total_is_no_step():
    assert steps("total = 0", "total += 5", "total += 6", "return total") == [("+", 5, 6, 11)]


def test_zero_that_was_calculated_is_a_step():
    assert steps("a = 3 - 3", "return 5 + a") == [("-", 3, 3, 0), ("+", 5, 0, 5)]


def test_operation_takes_the_name_of_the_first_variable():
    result = traced("first = 2 * 3", "second = first", "return second")
    assert [one.label for one in operations_behind(result)] == ["first"]


def test_numbers_of_the_program_are_the_given_ones():
    assert sorted(given_numbers(traced("a = 24", "unused = 99", "b = a * 6", "return b + 15"))) == [6, 15, 24]


def test_what_a_decision_was_made_of_is_not_behind_the_result():
    assert steps("if 3 * 5 > 10:", "    return 4 + 4", "return 1") == [("+", 4, 4, 8)]


def test_number_alone_is_given():
    assert list(given_numbers(traced("return 42"))) == [42]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a = 3 - 8", "return -a"], [("-", 8, 3, 5)]),
        (["return abs(3 - 8)"], [("-", 8, 3, 5)]),
        (["return abs(8 - 3)"], [("-", 8, 3, 5)]),
        (["a = 50 * 2", "return -(-a // 8)"], [("*", 50, 2, 100), ("/", 100, 8, 12.5), ("ceil", 12.5, 13)]),
        (["return -(-50 // 8)"], [("/", 50, 8, 6.25), ("ceil", 6.25, 7)]),
        (["return -(-48 // 8)"], [("/", 48, 8, 6)]),
        (["return -math.ceil(25 / 8)"], [("/", 25, 8, 3.125), ("ceil", 3.125, 4), ("-", 0, 4, -4)]),
        (["a = 2 * 3", "return -a"], [("*", 2, 3, 6), ("-", 0, 6, -6)]),
        (["a = 2 * 3", "return -(-a)"], [("*", 2, 3, 6)]),
        (["a = 2 * 3", "return 9 + -a"], [("*", 2, 3, 6), ("-", 0, 6, -6), ("+", 9, -6, 3)]),
        (["return 5 * -3"], [("*", 5, -3, -15)]),
    ],
)
def test_change_of_sign_is_calculated_as_a_person_would(lines, expected):
    assert steps(*lines) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("7 // 2", [("/", 7, 2, 3.5), ("floor", 3.5, 3)]),
        ("-7 // 2", [("/", -7, 2, -3.5), ("floor", -3.5, -4)]),
        ("8 // 2", [("/", 8, 2, 4)]),
        ("7 % 4", [("/", 7, 4, 1.75), ("floor", 1.75, 1), ("*", 1, 4, 4), ("-", 7, 4, 3)]),
        ("divmod(7, 4)[1]", [("/", 7, 4, 1.75), ("floor", 1.75, 1), ("*", 1, 4, 4), ("-", 7, 4, 3)]),
        ("3 % 4", []),
        ("int(-3.5)", [("trunc", -3.5, -3)]),
        ("int(7.0)", []),
        ("math.ceil(2.1)", [("ceil", 2.1, 3)]),
        ("math.floor(2.1)", [("floor", 2.1, 2)]),
        ("math.trunc(2.9)", [("trunc", 2.9, 2)]),
        ("round(2.345, 1)", [("round", 2.345, 2.3)]),
        ("round(1250, -2)", [("round", 1250, 1200)]),
        ("2 ** 3", [("*", 2, 2, 4), ("*", 4, 2, 8)]),
        ("2 ** 0", []),
        ("2 ** -1", [("/", 1, 2, 0.5)]),
        ("math.pow(3, 2)", [("*", 3, 3, 9)]),
        ("pow(3, 2)", [("*", 3, 3, 9)]),
        ("math.sqrt(0.25)", [("sqrt", 0.25, 0.5)]),
        ("16 ** 0.5", [("sqrt", 16, 4)]),
        ("math.isqrt(16)", [("sqrt", 16, 4)]),
        ("math.gcd(12, 18, 8)", [("gcd", 12, 18, 8, 2)]),
        ("math.lcm(4, 6)", [("lcm", 4, 6, 12)]),
        ("math.factorial(3)", [("*", 3, 2, 6)]),
        ("math.factorial(0)", []),
        ("math.comb(5, 3)", [("*", 5, 4, 20), ("/", 20, 2, 10)]),
        ("math.comb(5, 1)", []),
        ("math.perm(5, 2)", [("*", 5, 4, 20)]),
        ("math.fabs(2 - 5)", [("-", 5, 2, 3)]),
        ("sum([2, 3, 4])", [("+", 2, 3, 5), ("+", 5, 4, 9)]),
        ("sum(n * 2 for n in [3, 4])", [("*", 3, 2, 6), ("*", 4, 2, 8), ("+", 6, 8, 14)]),
        ("math.prod([2, 3, 4])", [("*", 2, 3, 6), ("*", 6, 4, 24)]),
        ("max(2 * 3, 2 * 4)", [("*", 2, 4, 8)]),
        ("min([2 * 3, 2 * 4])", [("*", 2, 3, 6)]),
        ("sorted([9, 2 * 3, 7])[0]", [("*", 2, 3, 6)]),
        ("sorted([9, 2 * 3, 7], reverse=True)[2]", [("*", 2, 3, 6)]),
        ("{'tea': 2 * 3}['tea']", [("*", 2, 3, 6)]),
        ("[day * 2 for day in range(5) if day > 3][0]", [("*", 4, 2, 8)]),
        ("float('2.5') * 2", [("*", 2.5, 2, 5)]),
        ("int('12') * 2", [("*", 12, 2, 24)]),
        ("5 * 3 if 2 > 1 else 5 * 4", [("*", 5, 3, 15)]),
        ("(2 > 1) * 4", [("*", 1, 4, 4)]),
    ],
)
def test_expression_leaves_the_operations_of_written_arithmetic(expression, expected):
    assert steps(f"return {expression}") == expected


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["return int(0.29 * 100)"], "trunc"),
        (["return 2 if 0.1 + 0.2 == 0.3 else 3"], "comparison"),
        (["return 2 if 0.1 + 0.2 > 0.3 else 3"], "comparison"),
        (["return round(1000 * 1.05 ** 3, 2)"], "round"),
        (["return round(123456.785 * 1, 2)"], "round"),
        (["return 1 // 0.1"], "floor"),
        (["return 1 % 0.1"], "floor"),
        (["return math.floor(2.3 * 100_000_000)"], "floor"),
        (["return math.ceil(0.1 * 3 * 10)"], "ceil"),
        (["return 5 if 0.1 + 0.2 - 0.3 else 6"], "zero"),
        (["return max(0.3, 0.1 + 0.2)"], "choice"),
        (["return sorted([0.1 * 3, 0.3])[0]"], "order"),
        (["rate = 0.29 * 100", "return 5 if rate.is_integer() else 6"], "whole number"),
        (["n = 0", "while n < 1:", "    n += 0.1", "return n"], "comparison"),
        (["return 1e16 + 1 - 1e16"], "result"),
    ],
)
def test_floats_that_go_another_way_are_a_disagreement(lines, reason):
    with pytest.raises(Disagreement, match=reason):
        traced(*lines)


def test_float_that_is_only_noisy_is_no_disagreement():
    assert traced("return 0.1 + 0.2 - 0.05").exact == Fraction(1, 4)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("math.sqrt(2)", "irrational root"),
        ("math.isqrt(2)", "irrational root"),
        ("2 ** 0.3", "fractional power"),
        ("math.log2(8)", "math.log2"),
        ("math.sin(1)", "math.sin"),
        ("math.inf", "not finite"),
        ("float('nan')", "not finite"),
        ("math.comb(3, 5)", "combinations"),
        ("math.factorial(-2)", "factorial"),
        ("math.gcd(4)", "gcd of one number"),
    ],
)
def test_number_that_cannot_be_written_out_is_unwritable(expression, reason):
    with pytest.raises(Unwritable, match=reason):
        traced(f"return {expression}")


@pytest.mark.parametrize(
    "expression", ["math.factorial(4.0)", "math.comb(4.0, 2)", "math.gcd(4.0, 2)", "math.isqrt(16.0)", "range(2.0)[0]"]
)
def test_whole_numbers_are_demanded_where_python_does(expression):
    with pytest.raises(TypeError):
        traced(f"return {expression}")


@pytest.mark.parametrize(
    ("expression", "kind"),
    [("'54'", "str"), ("(1, 2)", "tuple"), ("[1]", "list"), ("None", "NoneType"), ("2 > 1", "bool"), ("{}", "dict")],
)
def test_result_that_is_no_number_says_what_it_is(expression, kind):
    with pytest.raises(TypeError, match=f"result: {kind}"):
        traced(f"return {expression}")


def test_exact_number_is_the_answer_where_floats_are_off():
    result = traced("return 0.1 * 3")
    assert (result.exact, result.value) == (Fraction(3, 10), 0.1 * 3)


@pytest.mark.parametrize(
    ("expression", "value"),
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
def test_result_of_an_expression_is_that_of_python(expression, value):
    result = traced(f"return {expression}")
    assert result.value == value == float(result.exact)


@pytest.mark.parametrize("expression", ["max(1, 2, default=3)", "sorted([2, 1], reverse='down')[0]"])
def test_arguments_that_python_rejects_are_rejected(expression):
    with pytest.raises(TypeError):
        traced(f"return {expression}")
