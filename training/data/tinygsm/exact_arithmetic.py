"""Calculate exactly and in floats at the same time, and record each operation as a person would write it."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from training.data.tinygsm.quantities import (
    Disagreement,
    Exact,
    Operation,
    Quantity,
    Unwritable,
    number_of,
    reduced,
)
from training.evals.program_functions import OverBudget, bounded, power

TOLERANCE = 1e-6  # relative, between the exact result and that in floats

_SIGNS: dict[str, Callable] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}
_ZERO = Quantity(0, 0)


class ExactArithmetic:
    """The operations of one calculation, numbered in the order in which they come.

    A decision that the two values of a number would take differently is a `Disagreement`.
    """

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, kind: str, operands: tuple[Quantity, ...], value: int | float, exact: Exact) -> Quantity:
        """Return the result of an operation that is the next."""
        self.recorded += 1
        return Quantity(value, exact, Operation(kind, operands, exact, self.recorded))

    def calculate(self, sign: str, a: Quantity, b: Quantity) -> Quantity:
        """Return `a` and `b` with one of the four signs between them."""
        calculate = _SIGNS[sign]
        value = bounded(calculate(a.value, b.value))
        if sign == "/":
            exact = reduced(Fraction(a.exact) / b.exact)
        else:
            exact = calculate(a.exact, b.exact)
            exact = bounded(exact) if type(exact) is int else reduced(exact)
        # Where a total begins: nothing is calculated, so there is nothing to write.
        if sign == "+" and a.exact == 0 and a.operation is None:
            return Quantity(value, exact, b.operation)
        if sign in "+-" and b.exact == 0 and b.operation is None:
            return Quantity(value, exact, a.operation)
        return self.record(sign, (a, b), value, exact)

    def negative(self, number: Quantity) -> Quantity:
        """Return a number with the other sign as a person calculates it: -(3 - 8) is 8 - 3, -(-x // y) rounds up."""
        operation, value = number.operation, -number.value
        if operation is None:
            return Quantity(value, -number.exact)
        first, *others = operation.operands
        if operation.kind == "-":
            result = self.calculate("-", *others, first)
        elif operation.kind == "/" and first.exact < 0:
            result = self.calculate("/", self.negative(first), *others)
        elif operation.kind in ("floor", "ceil") and number.exact < 0:
            kind = "ceil" if operation.kind == "floor" else "floor"
            result = self.rounded(kind, self.negative(first), -number.exact, value)
        else:
            result = self.calculate("-", _ZERO, number)
        return Quantity(value, result.exact, result.operation)

    def power(self, base: Quantity, exponent: Quantity) -> Quantity:
        """Return a power as products, or as a root."""
        value = power(base.value, exponent.value)
        if exponent.exact == Fraction(1, 2):
            return self.square_root(base)
        if type(exponent.exact) is not int:
            raise Unwritable("fractional power")
        if abs(exponent.exact) > 64:
            raise OverBudget("large number")
        result = Quantity(1, 1) if exponent.exact == 0 else base
        for _ in range(abs(exponent.exact) - 1):
            result = self.calculate("*", result, base)
        if exponent.exact < 0:
            result = self.calculate("/", Quantity(1, 1), result)
        return Quantity(value, result.exact, result.operation)

    def floor_quotient(self, a: Quantity, b: Quantity) -> Quantity:
        """Return how many whole times `b` goes into `a`."""
        quotient = self.calculate("/", a, b)
        return self.rounded("floor", quotient, math.floor(quotient.exact), a.value // b.value)

    def remainder(self, a: Quantity, b: Quantity, times: Quantity) -> Quantity:
        """Return what is left of `a` when `b` goes into it so many whole times."""
        value = a.value % b.value
        if times.exact == 0:
            return Quantity(value, a.exact, a.operation)
        rest = self.calculate("-", a, self.calculate("*", times, b))
        if abs(rest.exact - value) > TOLERANCE * max(1, abs(rest.exact)):
            raise Disagreement("remainder")
        return Quantity(value, rest.exact, rest.operation)

    def rounded(self, kind: str, number: Quantity, exact: Exact, value: int | float) -> Quantity:
        """Return a number rounded to an exact one and to Python's value, which must be the same."""
        if value != (exact if type(value) is int else float(exact)):
            raise Disagreement(kind)
        if exact == number.exact:
            return Quantity(value, exact, number.operation)
        return self.record(kind, (number,), value, exact)

    def square_root(self, value: Any) -> Quantity:
        """Return a root that is a fraction; raises `Unwritable` for another."""
        number = number_of(value)
        fraction = Fraction(number.exact)
        if fraction < 0:
            raise ValueError("root of a negative number")
        top, bottom = math.isqrt(fraction.numerator), math.isqrt(fraction.denominator)
        if top * top != fraction.numerator or bottom * bottom != fraction.denominator:
            raise Unwritable("irrational root")
        exact = reduced(Fraction(top, bottom))
        return self.record("sqrt", (number,), math.sqrt(number.value), exact)
