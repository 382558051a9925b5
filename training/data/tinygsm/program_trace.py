"""Run a word problem's program once, exactly and in floats at the same time, and keep how its result came about."""

import ast
import math
from collections.abc import Callable
from typing import Any

from training.data.tinygsm.exact_arithmetic import TOLERANCE, ExactArithmetic
from training.data.tinygsm.quantities import Disagreement, Quantity, Unwritable, plain, quantity_of, truth
from training.data.tinygsm.traced_functions import IRRATIONAL, TRACED
from training.evals.program_check import Program
from training.evals.program_functions import bounded
from training.evals.program_walk import Interpreter

MAX_SECONDS = 10.0  # the steps bound a program first, so that a slow machine drops no row

_SIGNS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


def trace(program: Program) -> Quantity:
    """Run a program, and return its result with all that it depends on.

    Raises `Disagreement`, `Unwritable`, `TypeError` for a result that is no number, and what the interpreter raises.
    """
    returned = TracingInterpreter(program, MAX_SECONDS).run()
    result = quantity_of(returned)
    if result is None or isinstance(returned, bool):
        raise TypeError(f"result: {type(returned).__name__}")
    if isinstance(result.value, float) and not math.isfinite(result.value):
        raise Unwritable("not finite")
    if abs(result.value - result.exact) > TOLERANCE * max(1, abs(result.exact)):
        raise Disagreement("result")
    return result


class TracingInterpreter(Interpreter):
    """Keeps every number as a `Quantity`. A decision that the two values of a number would take differently is a
    `Disagreement`, so the exact calculation is one that the program describes."""

    def __init__(self, program: Program, max_seconds: float):
        super().__init__(program, max_seconds)
        self.arithmetic = ExactArithmetic()

    def constant(self, value: Any) -> Any:
        value = bounded(value)
        return value if isinstance(value, bool) else (quantity_of(value) or value)

    def plain(self, value: Any) -> Any:
        return plain(value)

    def truth(self, value: Any) -> bool:
        return truth(value)

    def compare(self, kind: type, left: Any, right: Any) -> bool:
        said = super().compare(kind, _value(left), _value(right))
        if said != super().compare(kind, _exact(left), _exact(right)):
            raise Disagreement("comparison")
        return said

    def assigned(self, name: str, value: Any) -> Any:
        if type(value) is Quantity and value.operation and value.operation.label is None:
            value.operation.label = name
        return value

    def unary(self, kind: type, value: Any) -> Any:
        number = quantity_of(value)
        if number is None:
            return super().unary(kind, value)
        return self.arithmetic.negative(number) if kind is ast.USub else number

    def binary(self, kind: type, left: Any, right: Any) -> Any:
        a, b = quantity_of(left), quantity_of(right)
        if a is None or b is None:
            return self._binary_of_containers(kind, plain(left), plain(right))
        if kind in _SIGNS:
            return self.arithmetic.calculate(_SIGNS[kind], a, b)
        if kind is ast.Pow:
            return self.arithmetic.power(a, b)
        times = self.arithmetic.floor_quotient(a, b)
        return times if kind is ast.FloorDiv else self.arithmetic.remainder(a, b, times)

    def call(self, name: str, function: Callable, values: list[Any], keywords: dict[str, Any]) -> Any:
        if name in IRRATIONAL:
            raise Unwritable(name)
        if traced := TRACED.get(name):
            return traced(self.arithmetic, *values, **keywords)
        return function(*map(plain, values), **{key: plain(value) for key, value in keywords.items()})

    def _method(self, node: ast.Call, function: ast.Attribute) -> Any:
        if function.attr == "is_integer":
            number = self.evaluate(function.value)
            if type(number) is Quantity and float(number.value).is_integer() != (number.exact.denominator == 1):
                raise Disagreement("whole number")
        return super()._method(node, function)


def _value(value: Any) -> Any:
    return value.value if type(value) is Quantity else value


def _exact(value: Any) -> Any:
    return value.exact if type(value) is Quantity else value
