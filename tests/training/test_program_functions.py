import ast
import itertools
import math
from fractions import Fraction

import pytest

from training.evals.program_check import TYPES, imported_names
from training.evals.program_functions import (
    BUILTINS,
    CONSTANTS,
    KEYWORDS,
    MAX_BITS,
    MAX_ITEMS,
    MODULE_FUNCTIONS,
    OverBudget,
    Refused,
    bounded,
    items_of,
    iterable,
    power,
    size_of,
    text_of,
)

ITSELF: list = [1]
ITSELF.append(ITSELF)
NASTY = (
    *(0, -1, 2, True, 10**70, -(10**70), 2.5, -0.0, 1e308, 5e-324, math.inf, Fraction(1, 3), Fraction(2**255, 3**150)),
    *("", "12", "9" * 80, "1" * MAX_ITEMS, "nan", "1e999999999", None, (), [1, 2.5], [0] * MAX_ITEMS, ITSELF),
    *(range(10**12), range(10**70), range(3), {1: 2}, {1: 2}.items()),
)
FUNCTIONS = BUILTINS | MODULE_FUNCTIONS
FAILURES = (Refused, OverBudget, ArithmeticError, LookupError, TypeError, ValueError)


def check_size(value):
    """Whatever a function gives back, the interpreter measures; before that it must already be small."""
    if isinstance(value, (list, tuple, str)):
        assert len(value) <= MAX_ITEMS
    elif isinstance(value, int):
        assert value.bit_length() <= 4 * MAX_BITS
    elif isinstance(value, Fraction):
        assert value.denominator.bit_length() <= 2_000


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_bounds_its_arguments(name):
    for number in range(3):
        for values in itertools.product(NASTY, repeat=number):
            try:
                check_size(FUNCTIONS[name](*values))
            except FAILURES:
                continue


@pytest.mark.parametrize(
    "name", ["sum", "range", "pow", "max", "math.comb", "math.lcm", "math.hypot", "enumerate", "zip"]
)
def test_function_of_three_bounds_its_arguments(name):
    for values in itertools.product(NASTY, repeat=3):
        try:
            check_size(FUNCTIONS[name](*values))
        except FAILURES:
            continue


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("math.comb", (10**7, 5 * 10**6)),
        ("math.perm", (10**7, 10**6)),
        ("math.factorial", (10**7,)),
        ("math.lcm", tuple(range(1, 400))),
        ("math.prod", (range(1, 900),)),
        ("pow", (3, 10**10)),
        ("sum", (range(10**12),)),
        ("max", (range(10**70),)),
        ("sorted", (range(10**9),)),
        ("list", (range(10**9),)),
        ("round", (10**70, -(10**9))),
        ("round", (0.5, 10**9)),
    ],
)
def test_what_would_hang_is_over_budget(name, values):
    with pytest.raises(OverBudget):
        FUNCTIONS[name](*values)


@pytest.mark.parametrize(
    ("base", "exponent"),
    [
        *(
            (0, 0),
            (2, 10),
            (2, -2),
            (10, -300),
            (-8, 3),
            (4, 0.5),
            (2.5, 3),
            (True, 5),
            (7, 80),
            (2.0, -1074),
            (1, -7),
        ),
        *((Fraction(1, 4), Fraction(1, 2)), (Fraction(2, 3), -5), (4, Fraction(1, 2)), (2, Fraction(3, 1))),
    ],
)
def test_power_is_that_of_python(base, exponent):
    assert power(base, exponent) == base**exponent and type(power(base, exponent)) is type(base**exponent)


@pytest.mark.parametrize(
    ("base", "exponent"),
    [
        (2, 257),
        (10, 78),
        (3, 10**9),
        (2**200, 2),
        (1, 10**70),
        (0, 10**70),
        (Fraction(2, 3), -300),
        (7, Fraction(-500)),
    ],
)
def test_large_power_is_never_computed(base, exponent):
    with pytest.raises(OverBudget):
        power(base, exponent)


@pytest.mark.parametrize("value", [2**MAX_BITS, -(2**MAX_BITS), Fraction(2**MAX_BITS, 3), Fraction(3, 2**MAX_BITS)])
def test_large_number_is_over_budget(value):
    with pytest.raises(OverBudget, match="large number"):
        bounded(value)


def test_long_text_is_over_budget():
    assert bounded("a" * MAX_ITEMS)
    with pytest.raises(OverBudget, match="long text"):
        bounded("a" * (MAX_ITEMS + 1))


@pytest.mark.parametrize("value", [1j, math.nan, math.inf - math.inf])
def test_number_that_does_not_calculate_is_an_error(value):
    with pytest.raises(ArithmeticError):
        bounded(value)


@pytest.mark.parametrize("value", [5, -0.5, True, 2**MAX_BITS - 1, math.inf, Fraction(1, 3), "text", None, [1]])
def test_small_value_is_given_back(value):
    assert bounded(value) is value


@pytest.mark.parametrize(
    "value", [range(10**12), range(10**70), [0] * 1_001, zip(range(10**9)), reversed(range(10**9))]
)
def test_items_are_bounded(value):
    with pytest.raises(OverBudget, match="many items"):
        items_of(value)


@pytest.mark.parametrize("value", [5, None, 1.5, Fraction(1, 2), object()])
def test_what_has_no_items_cannot_be_gone_through(value):
    with pytest.raises(TypeError):
        iterable(value)


def test_size_of_a_range_beyond_all_bounds_is_more_than_allowed():
    assert size_of(range(10**70)) == size_of(range(10**12)) == MAX_ITEMS + 1
    assert size_of([1, 2]) == 2


def test_floats_are_added_from_left_to_right():
    assert BUILTINS["sum"]([0.1] * 10) == 0.9999999999999999


@pytest.mark.parametrize(
    ("name", "values", "result"),
    [
        ("round", (2.5,), 2),
        ("round", (2.675, 2), 2.67),
        ("round", (1234, -2), 1200),
        ("int", (" -7 ",), -7),
        ("int", (-2.9,), -2),
        ("float", ("1e3",), 1000.0),
        ("fractions.Fraction", ("3/4",), Fraction(3, 4)),
        ("fractions.Fraction", (0.5,), Fraction(1, 2)),
        ("fractions.Fraction", (3, Fraction(1, 2)), Fraction(6)),
        ("divmod", (-7, 2), (-4, 1)),
        ("max", (1, 1.0, True), 1),
        ("min", ("pear", "apple"), "apple"),
        ("sorted", ([3, 1, 2.5],), [1, 2.5, 3]),
        ("sum", ([1, 2], 10), 13),
        ("sum", ([],), 0),
        ("math.prod", ([2, 3, 7],), 42),
        ("math.lcm", (4, 6, 10), 60),
        ("math.gcd", (), 0),
        ("math.comb", (5, 2), 10),
        ("math.perm", (5,), 120),
        ("math.ceil", (2.1,), 3),
        ("math.pow", (2, 3), 8.0),
        ("len", (range(10**9),), 10**9),
        ("list", ("abc",), ["a", "b", "c"]),
    ],
)
def test_function_gives_what_python_gives(name, values, result):
    given = FUNCTIONS[name](*values)
    assert given == result and type(given) is type(result)


@pytest.mark.parametrize("name", ["max", "min", "sorted"])
def test_containers_are_not_compared(name):
    with pytest.raises(Refused):
        FUNCTIONS[name]([[1], [2]])


def test_text_of_a_container_is_refused():
    assert text_of(Fraction(1, 2)) == "1/2"
    with pytest.raises(Refused):
        text_of(ITSELF)


def test_every_name_of_a_module_can_be_imported():
    for name in [*MODULE_FUNCTIONS, *CONSTANTS, *(f"typing.{kind}" for kind in TYPES if kind[0].isupper())]:
        module, member = name.split(".")
        if name != "typing.Fraction":
            assert imported_names(ast.parse(f"from {module} import {member}").body[0]) == {member: name}


def test_keywords_belong_to_functions():
    assert KEYWORDS.keys() <= FUNCTIONS.keys()
