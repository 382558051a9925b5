"""Numbers of a program that know how they came about: Python's value, the exact one, and the operation between."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from training.evals.program_functions import bounded

Exact = int | Fraction


class Disagreement(Exception):
    """The exact numbers and the floats take different ways, or come to different results."""


class Unwritable(Exception):
    """A number has no exact value, such as a root; the argument says of what kind."""


class Operation:
    """One step of a calculation.

    kind: `+`, `-`, `*`, `/`; a rounding (`floor`, `ceil`, `trunc`, `round`); or a note (`sqrt`, `gcd`, `lcm`).
    label: the first variable that held its result. number: its place in time.
    """

    __slots__ = ("kind", "label", "number", "operands", "result")

    def __init__(self, kind: str, operands: tuple["Quantity", ...], result: Exact, number: int):
        self.kind, self.operands, self.result, self.number = kind, operands, result, number
        self.label: str | None = None


class Quantity:
    """A number of the program: Python's value, the exact one, and the operation that it comes from, None if given."""

    __slots__ = ("exact", "operation", "value")

    def __init__(self, value: int | float, exact: Exact, operation: Operation | None = None):
        self.value, self.exact, self.operation = value, exact, operation


def operations_behind(result: Quantity) -> list[Operation]:
    """Return the operations that a result depends on, as they came one after the other."""
    found: set[Operation] = set()
    stack = [result]
    while stack:
        operation = stack.pop().operation
        if operation is not None and operation not in found:
            found.add(operation)
            stack += operation.operands
    return sorted(found, key=lambda operation: operation.number)


def given_numbers(result: Quantity) -> Iterator[Exact]:
    """Yield the numbers that no operation made and the result depends on."""
    if result.operation is None:
        yield result.exact
    for operation in operations_behind(result):
        yield from (each.exact for each in operation.operands if each.operation is None)


def reduced(number: Fraction) -> Exact:
    """Return a fraction as an int where it is whole; raises `OverBudget` if it is too large to go on with."""
    return bounded(number.numerator if number.denominator == 1 else number)


def quantity_of(value: Any) -> Quantity | None:
    """Return a number as a quantity, None for anything else; raises `Unwritable` for one that is not finite."""
    if type(value) is Quantity:
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise Unwritable("not finite")
        # The shortest digits that give this float are those of the program's text: 0.15 is 3/20.
        return Quantity(value, reduced(Fraction(repr(value))))
    if isinstance(value, int):
        return Quantity(int(value), int(value))
    if isinstance(value, Fraction):
        return Quantity(float(value), reduced(value))
    return None


def number_of(value: Any) -> Quantity:
    """Return a number as a quantity; raises `TypeError` for anything else."""
    number = quantity_of(value)
    if number is None:
        raise TypeError(f"{type(value).__name__} is no number")
    return number


def whole_number_of(value: Any) -> Quantity:
    """Return a whole number as a quantity; raises `TypeError` for anything else."""
    number = number_of(value)
    if type(plain(number)) is not int:
        raise TypeError("not a whole number")
    return number


def plain(value: Any) -> Any:
    """Return a value as Python's own; raises `Disagreement` for a whole number that is exactly another."""
    if type(value) is not Quantity:
        return value
    if isinstance(value.value, int) and value.value != value.exact:
        raise Disagreement("whole number")
    return value.value


def truth(value: Any) -> bool:
    """Return whether a value counts as true; raises `Disagreement` where only one of its two numbers is zero."""
    if type(value) is not Quantity:
        return bool(value)
    if bool(value.value) != bool(value.exact):
        raise Disagreement("zero")
    return bool(value.value)
