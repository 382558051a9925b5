"""Run a word problem's program once, exactly and in floats at the same time, and keep how its result came about."""

import ast
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from training.evals.program_check import Program
from training.evals.program_functions import OverBudget, bounded, items_of, power
from training.evals.program_walk import Interpreter

TOLERANCE = 1e-6  # relative, between the exact result and that in floats
MOST_FACTORS = 30  # of a factorial
MAX_SECONDS = 10.0  # the steps bound a program first, so that a slow machine drops no row

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


def trace(program: Program) -> Quantity:
    """Run a program, and return its result with all that it depends on.

    Raises `Disagreement`, `Unwritable`, `TypeError` for a result that is no number, and what the interpreter raises.
    """
    interpreter = TracingInterpreter(program, MAX_SECONDS)
    returned = interpreter.run()
    result = interpreter.quantity(returned)
    if result is None or isinstance(returned, bool):
        raise TypeError(f"result: {type(returned).__name__}")
    if isinstance(result.value, float) and not math.isfinite(result.value):
        raise Unwritable("not finite")
    if abs(result.value - result.exact) > TOLERANCE * max(1, abs(result.exact)):
        raise Disagreement("result")
    return result


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


def _reduced(number: Fraction) -> Exact:
    return bounded(number.numerator if number.denominator == 1 else number)


_PLAIN_SIGNS: dict[type, tuple[str, Callable]] = {
    ast.Add: ("+", lambda a, b: a + b),
    ast.Sub: ("-", lambda a, b: a - b),
    ast.Mult: ("*", lambda a, b: a * b),
    ast.Div: ("/", lambda a, b: a / b),
}
# Functions whose exact result is another number than a written calculation could give.
_IRRATIONAL = frozenset(f"math.{name}" for name in "cos exp hypot isclose log log10 log2 radians sin tan".split())


_ZERO = Quantity(0, 0)


class TracingInterpreter(Interpreter):
    """Keeps every number as a `Quantity`. A decision that the two values of a number would take differently is a
    `Disagreement`, so the exact calculation is one that the program describes."""

    recorded = 0  # operations so far

    def quantity(self, value: Any) -> Quantity | None:
        """Return a number as a quantity; None for anything else."""
        if type(value) is Quantity:
            return value
        if type(value) is float:
            if not math.isfinite(value):
                raise Unwritable("not finite")
            # The shortest digits that give this float are those of the program's text: 0.15 is 3/20.
            return Quantity(value, _reduced(Fraction(repr(value))))
        if isinstance(value, int):
            return Quantity(int(value), int(value))
        if isinstance(value, Fraction):
            return Quantity(float(value), _reduced(value))
        return None

    def constant(self, value: Any) -> Any:
        value = bounded(value)
        return value if isinstance(value, bool) else (self.quantity(value) or value)

    def plain(self, value: Any) -> Any:
        if type(value) is not Quantity:
            return value
        if isinstance(value.value, int) and value.value != value.exact:
            raise Disagreement("whole number")
        return value.value

    def truth(self, value: Any) -> bool:
        if type(value) is not Quantity:
            return bool(value)
        if bool(value.value) != bool(value.exact):
            raise Disagreement("zero")
        return bool(value.value)

    def compare(self, kind: type, left: Any, right: Any) -> bool:
        said = super().compare(kind, self._value(left), self._value(right))
        if said != super().compare(kind, self._exact(left), self._exact(right)):
            raise Disagreement("comparison")
        return said

    def assigned(self, name: str, value: Any) -> Any:
        if type(value) is Quantity and value.operation and value.operation.label is None:
            value.operation.label = name
        return value

    def unary(self, kind: type, value: Any) -> Any:
        number = self.quantity(value)
        if number is None:
            return super().unary(kind, value)
        return self._negative(number) if kind is ast.USub else number

    def binary(self, kind: type, left: Any, right: Any) -> Any:
        a, b = self.quantity(left), self.quantity(right)
        if a is None or b is None:
            return self._binary_of_containers(kind, self.plain(left), self.plain(right))
        if kind in _PLAIN_SIGNS:
            return self._calculate(kind, a, b)
        if kind is ast.Pow:
            return self._power(a, b)
        times = self._round_quotient(a, b)
        return times if kind is ast.FloorDiv else self._remainder(a, b, times)

    def call(self, name: str, function: Callable, values: list[Any], keywords: dict[str, Any]) -> Any:
        if name in _IRRATIONAL:
            raise Unwritable(name)
        if traced := _TRACED.get(name):
            return traced(self, *values, **keywords)
        numbers = [self.plain(value) if type(value) is Quantity else value for value in values]
        return function(*numbers, **{key: self.plain(value) for key, value in keywords.items()})

    def _method(self, node: ast.Call, function: ast.Attribute) -> Any:
        if function.attr == "is_integer":
            number = self.evaluate(function.value)
            if type(number) is Quantity and float(number.value).is_integer() != (number.exact.denominator == 1):
                raise Disagreement("whole number")
        return super()._method(node, function)

    # Arithmetic.

    def _value(self, value: Any) -> Any:
        return value.value if type(value) is Quantity else value

    def _exact(self, value: Any) -> Any:
        return value.exact if type(value) is Quantity else value

    def _record(self, kind: str, operands: tuple[Quantity, ...], value: int | float, exact: Exact) -> Quantity:
        self.recorded += 1
        return Quantity(value, exact, Operation(kind, operands, exact, self.recorded))

    def _calculate(self, kind: type, a: Quantity, b: Quantity) -> Quantity:
        sign, calculate = _PLAIN_SIGNS[kind]
        value = bounded(calculate(a.value, b.value))
        if sign == "/":
            exact = _reduced(Fraction(a.exact) / b.exact)
        else:
            exact = calculate(a.exact, b.exact)
            exact = bounded(exact) if type(exact) is int else _reduced(exact)
        # Where a total begins: nothing is calculated, so there is nothing to write.
        if sign == "+" and a.exact == 0 and a.operation is None:
            return Quantity(value, exact, b.operation)
        if sign in "+-" and b.exact == 0 and b.operation is None:
            return Quantity(value, exact, a.operation)
        return self._record(sign, (a, b), value, exact)

    def _negative(self, number: Quantity) -> Quantity:
        """Return a number with the other sign as a person calculates it: -(3 - 8) is 8 - 3, -(-x // y) rounds up."""
        operation, value = number.operation, -number.value
        if operation is None:
            return Quantity(value, -number.exact)
        first, *others = operation.operands
        if operation.kind == "-":
            result = self._calculate(ast.Sub, *others, first)
        elif operation.kind == "/" and first.exact < 0:
            result = self._calculate(ast.Div, self._negative(first), *others)
        elif operation.kind in ("floor", "ceil") and number.exact < 0:
            kind = "ceil" if operation.kind == "floor" else "floor"
            result = self._rounded(kind, self._negative(first), -number.exact, value)
        else:
            result = self._calculate(ast.Sub, _ZERO, number)
        return Quantity(value, result.exact, result.operation)

    def _power(self, base: Quantity, exponent: Quantity) -> Quantity:
        value = power(base.value, exponent.value)
        if exponent.exact == Fraction(1, 2):
            return self._square_root(base)
        if type(exponent.exact) is not int:
            raise Unwritable("fractional power")
        if abs(exponent.exact) > 64:
            raise OverBudget("large number")
        result = Quantity(1, 1) if exponent.exact == 0 else base
        for _ in range(abs(exponent.exact) - 1):
            result = self._calculate(ast.Mult, result, base)
        if exponent.exact < 0:
            result = self._calculate(ast.Div, Quantity(1, 1), result)
        return Quantity(value, result.exact, result.operation)

    def _round_quotient(self, a: Quantity, b: Quantity) -> Quantity:
        quotient = self._calculate(ast.Div, a, b)
        return self._rounded("floor", quotient, math.floor(quotient.exact), a.value // b.value)

    def _remainder(self, a: Quantity, b: Quantity, times: Quantity) -> Quantity:
        """Return what is left of `a` when `b` goes into it so many whole times."""
        value = a.value % b.value
        if times.exact == 0:
            return Quantity(value, a.exact, a.operation)
        rest = self._calculate(ast.Sub, a, self._calculate(ast.Mult, times, b))
        if abs(rest.exact - value) > TOLERANCE * max(1, abs(rest.exact)):
            raise Disagreement("remainder")
        return Quantity(value, rest.exact, rest.operation)

    def _rounded(self, kind: str, number: Quantity, exact: Exact, value: int | float) -> Quantity:
        if value != (exact if type(value) is int else float(exact)):
            raise Disagreement(kind)
        if exact == number.exact:
            return Quantity(value, exact, number.operation)
        return self._record(kind, (number,), value, exact)

    def _number(self, value: Any) -> Quantity:
        number = self.quantity(value)
        if number is None:
            raise TypeError(f"{type(value).__name__} is no number")
        return number

    def _whole(self, value: Any) -> Quantity:
        number = self._number(value)
        if type(self.plain(number)) is not int:
            raise TypeError("not a whole number")
        return number

    # Functions.

    def _round_to(self, kind: str, function: Callable) -> Callable:
        def call(value: Any) -> Quantity:
            number = self._number(value)
            return self._rounded(kind, number, function(number.exact), function(number.value))

        return call

    def _int(self, value: Any = 0) -> Any:
        if isinstance(value, str):
            return int(value)
        return self._round_to("trunc", math.trunc)(value)

    def _round(self, value: Any, ndigits: Any = None) -> Quantity:
        digits = None if ndigits is None else self.plain(ndigits)
        if digits is not None and (type(digits) is not int or abs(digits) > 20):
            raise TypeError("decimals")
        number = self._number(value)
        exact = round(Fraction(number.exact), digits)
        return self._rounded("round", number, _reduced(Fraction(exact)), round(number.value, digits))

    def _float(self, value: Any = 0.0) -> Any:
        number = self._number(float(value) if isinstance(value, str) else value)
        return Quantity(float(number.value), number.exact, number.operation)

    def _fraction(self, numerator: Any, denominator: Any = 1) -> Any:
        if isinstance(numerator, str):
            raise Unwritable("fraction of a text")
        whole, parts = self._number(numerator), self._number(denominator)
        return whole if parts.exact == 1 else self._calculate(ast.Div, whole, parts)

    def _absolute(self, value: Any) -> Quantity:
        number = self._number(value)
        return self._negative(number) if number.exact < 0 else number

    def _sum(self, values: Any, start: Any = 0) -> Quantity:
        total = self._number(start)
        for value in items_of(values):
            total = self._calculate(ast.Add, total, self._number(value))
        return total

    def _product(self, values: Any) -> Quantity:
        total, *others = [self._number(value) for value in items_of(values)] or [Quantity(1, 1)]
        for value in others:
            total = self._calculate(ast.Mult, total, value)
        return total

    def _extreme(self, sign: int) -> Callable:
        def call(*values: Any, default: Any = ...) -> Any:
            if len(values) > 1 and default is not ...:
                raise TypeError("a default beside several values")
            given = items_of(values[0]) if len(values) == 1 else values
            numbers = [self._number(value) for value in given]
            if not numbers and default is not ...:
                return default
            best = max(numbers, key=lambda number: sign * number.exact)
            if sign * best.value < max(sign * number.value for number in numbers):
                raise Disagreement("choice")
            return best

        return call

    def _sorted(self, values: Any, reverse: Any = False) -> list:
        numbers = [self._number(value) for value in items_of(values)]
        if not isinstance(self.plain(reverse), int):
            raise TypeError("the order of sorting")
        down = self.truth(reverse)
        ordered = sorted(numbers, key=lambda number: number.exact, reverse=down)
        if [number.value for number in ordered] != sorted((number.value for number in numbers), reverse=down):
            raise Disagreement("order")
        return ordered

    def _square_root(self, value: Any) -> Quantity:
        number = self._number(value)
        fraction = Fraction(number.exact)
        if fraction < 0:
            raise ValueError("root of a negative number")
        top, bottom = math.isqrt(fraction.numerator), math.isqrt(fraction.denominator)
        if top * top != fraction.numerator or bottom * bottom != fraction.denominator:
            raise Unwritable("irrational root")
        exact = _reduced(Fraction(top, bottom))
        return self._record("sqrt", (number,), math.sqrt(number.value), exact)

    def _whole_root(self, value: Any) -> Quantity:
        root = self._square_root(self._whole(value))
        return Quantity(int(root.exact), root.exact, root.operation)

    def _common(self, kind: str, function: Callable) -> Callable:
        def call(*values: Any) -> Quantity:
            if len(values) < 2:
                raise Unwritable(f"{kind} of one number")
            numbers = [self._whole(value) for value in values]
            result = function(*(number.value for number in numbers))
            return self._record(kind, tuple(numbers), bounded(result), result)

        return call

    def _falling(self, n: Any, count: Any) -> Quantity:
        """Return n (n - 1) … with as many factors; what is multiplied are given numbers, whatever n comes from."""
        first, factors = self._whole(n), self._whole(count).value
        if not 0 <= factors <= first.exact:
            raise Unwritable("factorial")
        if factors > MOST_FACTORS:
            raise OverBudget("large number")
        result = first if factors else Quantity(1, 1)
        for factor in range(first.exact - 1, first.exact - factors, -1):
            result = self._calculate(ast.Mult, result, Quantity(factor, factor))
        return result

    def _factorial(self, n: Any) -> Quantity:
        return self._falling(n, max(self._whole(n).exact - 1, 0))

    def _combinations(self, n: Any, k: Any) -> Quantity:
        whole, taken = self._whole(n).exact, self._whole(k).exact
        if not 0 <= taken <= whole:
            raise Unwritable("combinations")
        taken = min(taken, whole - taken)
        result = self._falling(n, taken)
        if taken > 1:
            result = self._calculate(ast.Div, result, self._factorial(taken))
        return Quantity(int(result.exact), result.exact, result.operation)

    def _any(self, values: Any) -> bool:
        return any(self.truth(value) for value in items_of(values))

    def _all(self, values: Any) -> bool:
        return all(self.truth(value) for value in items_of(values))

    def _divmod(self, a: Any, b: Any) -> tuple:
        a, b = self._number(a), self._number(b)
        times = self._round_quotient(a, b)
        return times, self._remainder(a, b, times)


_TRACED: dict[str, Callable] = {
    "abs": TracingInterpreter._absolute,
    "all": TracingInterpreter._all,
    "any": TracingInterpreter._any,
    "bool": TracingInterpreter.truth,
    "divmod": TracingInterpreter._divmod,
    "float": TracingInterpreter._float,
    "fractions.Fraction": TracingInterpreter._fraction,
    "int": TracingInterpreter._int,
    "math.ceil": lambda self, value: self._round_to("ceil", math.ceil)(value),
    "math.comb": TracingInterpreter._combinations,
    "math.factorial": TracingInterpreter._factorial,
    "math.fabs": lambda self, value: self._float(self._absolute(value)),
    "math.floor": lambda self, value: self._round_to("floor", math.floor)(value),
    "math.gcd": lambda self, *values: self._common("gcd", math.gcd)(*values),
    "math.isqrt": TracingInterpreter._whole_root,
    "math.lcm": lambda self, *values: self._common("lcm", math.lcm)(*values),
    "math.perm": lambda self, n, k=None: self._falling(n, n if k is None else k),
    "math.pow": lambda self, a, b: self._float(self._power(self._number(a), self._number(b))),
    "math.prod": TracingInterpreter._product,
    "math.sqrt": TracingInterpreter._square_root,
    "math.trunc": TracingInterpreter._int,
    "max": lambda self, *values, **keywords: self._extreme(1)(*values, **keywords),
    "min": lambda self, *values, **keywords: self._extreme(-1)(*values, **keywords),
    "pow": lambda self, a, b: self._power(self._number(a), self._number(b)),
    "round": TracingInterpreter._round,
    "sorted": TracingInterpreter._sorted,
    "sum": TracingInterpreter._sum,
}
