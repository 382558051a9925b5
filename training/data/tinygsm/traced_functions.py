"""Python's functions on numbers that keep how they came about; each takes the arithmetic that records, then its
arguments."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from training.data.tinygsm.exact_arithmetic import ExactArithmetic
from training.data.tinygsm.quantities import (
    Disagreement,
    Quantity,
    Unwritable,
    number_of,
    plain,
    reduced,
    truth,
    whole_number_of,
)
from training.evals.program_functions import OverBudget, bounded, items_of

MOST_FACTORS = 30  # of a factorial
# Functions whose exact result is another number than a written calculation could give.
IRRATIONAL = frozenset(f"math.{name}" for name in "cos exp hypot isclose log log10 log2 radians sin tan".split())


def _round_to(kind: str, function: Callable) -> Callable:
    def call(arithmetic: ExactArithmetic, value: Any) -> Quantity:
        number = number_of(value)
        return arithmetic.rounded(kind, number, function(number.exact), function(number.value))

    return call


_truncated = _round_to("trunc", math.trunc)


def _int(arithmetic: ExactArithmetic, value: Any = 0) -> Any:
    return int(value) if isinstance(value, str) else _truncated(arithmetic, value)


def _round(arithmetic: ExactArithmetic, value: Any, ndigits: Any = None) -> Quantity:
    digits = None if ndigits is None else plain(ndigits)
    if digits is not None and (type(digits) is not int or abs(digits) > 20):
        raise TypeError("decimals")
    number = number_of(value)
    exact = round(Fraction(number.exact), digits)
    return arithmetic.rounded("round", number, reduced(Fraction(exact)), round(number.value, digits))


def _float(arithmetic: ExactArithmetic, value: Any = 0.0) -> Quantity:
    number = number_of(float(value) if isinstance(value, str) else value)
    return Quantity(float(number.value), number.exact, number.operation)


def _fraction(arithmetic: ExactArithmetic, numerator: Any, denominator: Any = 1) -> Quantity:
    if isinstance(numerator, str):
        raise Unwritable("fraction of a text")
    whole, parts = number_of(numerator), number_of(denominator)
    return whole if parts.exact == 1 else arithmetic.calculate("/", whole, parts)


def _absolute(arithmetic: ExactArithmetic, value: Any) -> Quantity:
    number = number_of(value)
    return arithmetic.negative(number) if number.exact < 0 else number


def _sum(arithmetic: ExactArithmetic, values: Any, start: Any = 0) -> Quantity:
    total = number_of(start)
    for value in items_of(values):
        total = arithmetic.calculate("+", total, number_of(value))
    return total


def _product(arithmetic: ExactArithmetic, values: Any) -> Quantity:
    total, *others = [number_of(value) for value in items_of(values)] or [Quantity(1, 1)]
    for value in others:
        total = arithmetic.calculate("*", total, value)
    return total


def _extreme(sign: int) -> Callable:
    def call(arithmetic: ExactArithmetic, *values: Any, default: Any = ...) -> Any:
        if len(values) > 1 and default is not ...:
            raise TypeError("a default beside several values")
        given = items_of(values[0]) if len(values) == 1 else values
        numbers = [number_of(value) for value in given]
        if not numbers and default is not ...:
            return default
        best = max(numbers, key=lambda number: sign * number.exact)
        if sign * best.value < max(sign * number.value for number in numbers):
            raise Disagreement("choice")
        return best

    return call


def _sorted(arithmetic: ExactArithmetic, values: Any, reverse: Any = False) -> list:
    numbers = [number_of(value) for value in items_of(values)]
    if not isinstance(plain(reverse), int):
        raise TypeError("the order of sorting")
    down = truth(reverse)
    ordered = sorted(numbers, key=lambda number: number.exact, reverse=down)
    if [number.value for number in ordered] != sorted((number.value for number in numbers), reverse=down):
        raise Disagreement("order")
    return ordered


def _whole_root(arithmetic: ExactArithmetic, value: Any) -> Quantity:
    root = arithmetic.square_root(whole_number_of(value))
    return Quantity(int(root.exact), root.exact, root.operation)


def _common(kind: str, function: Callable) -> Callable:
    def call(arithmetic: ExactArithmetic, *values: Any) -> Quantity:
        if len(values) < 2:
            raise Unwritable(f"{kind} of one number")
        numbers = [whole_number_of(value) for value in values]
        result = function(*(number.value for number in numbers))
        return arithmetic.record(kind, tuple(numbers), bounded(result), result)

    return call


def _falling(arithmetic: ExactArithmetic, n: Any, count: Any) -> Quantity:
    """Return n (n - 1) … with as many factors; what is multiplied are given numbers, whatever n comes from."""
    first, factors = whole_number_of(n), whole_number_of(count).value
    if not 0 <= factors <= first.exact:
        raise Unwritable("factorial")
    if factors > MOST_FACTORS:
        raise OverBudget("large number")
    result = first if factors else Quantity(1, 1)
    for factor in range(first.exact - 1, first.exact - factors, -1):
        result = arithmetic.calculate("*", result, Quantity(factor, factor))
    return result


def _factorial(arithmetic: ExactArithmetic, n: Any) -> Quantity:
    return _falling(arithmetic, n, max(whole_number_of(n).exact - 1, 0))


def _permutations(arithmetic: ExactArithmetic, n: Any, k: Any = None) -> Quantity:
    return _falling(arithmetic, n, n if k is None else k)


def _combinations(arithmetic: ExactArithmetic, n: Any, k: Any) -> Quantity:
    whole, taken = whole_number_of(n).exact, whole_number_of(k).exact
    if not 0 <= taken <= whole:
        raise Unwritable("combinations")
    taken = min(taken, whole - taken)
    result = _falling(arithmetic, n, taken)
    if taken > 1:
        result = arithmetic.calculate("/", result, _factorial(arithmetic, taken))
    return Quantity(int(result.exact), result.exact, result.operation)


def _power(arithmetic: ExactArithmetic, a: Any, b: Any) -> Quantity:
    return arithmetic.power(number_of(a), number_of(b))


def _divmod(arithmetic: ExactArithmetic, a: Any, b: Any) -> tuple[Quantity, Quantity]:
    a, b = number_of(a), number_of(b)
    times = arithmetic.floor_quotient(a, b)
    return times, arithmetic.remainder(a, b, times)


TRACED: dict[str, Callable] = {
    "abs": _absolute,
    "all": lambda arithmetic, values: all(map(truth, items_of(values))),
    "any": lambda arithmetic, values: any(map(truth, items_of(values))),
    "bool": lambda arithmetic, value: truth(value),
    "divmod": _divmod,
    "float": _float,
    "fractions.Fraction": _fraction,
    "int": _int,
    "math.ceil": _round_to("ceil", math.ceil),
    "math.comb": _combinations,
    "math.factorial": _factorial,
    "math.fabs": lambda arithmetic, value: _float(arithmetic, _absolute(arithmetic, value)),
    "math.floor": _round_to("floor", math.floor),
    "math.gcd": _common("gcd", math.gcd),
    "math.isqrt": _whole_root,
    "math.lcm": _common("lcm", math.lcm),
    "math.perm": _permutations,
    "math.pow": lambda arithmetic, a, b: _float(arithmetic, _power(arithmetic, a, b)),
    "math.prod": _product,
    "math.sqrt": lambda arithmetic, value: arithmetic.square_root(value),
    "math.trunc": _int,
    "max": _extreme(1),
    "min": _extreme(-1),
    "pow": _power,
    "round": _round,
    "sorted": _sorted,
    "sum": _sum,
}
