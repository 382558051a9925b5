"""The functions that an untrusted program may call; each bounds what it may cost before it computes anything."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

MAX_BITS = 256  # of a whole number, and of each part of a fraction
MAX_ITEMS = 1_000  # of a list, and characters of a text
MAX_ROUNDED = 20  # decimals
MAX_FACTORIAL = 60
MAX_LITERAL = 80  # characters of a text that is read as a number

_FRACTION = re.compile(r"[+-]?(?:[0-9]+(?:/[0-9]+)?|[0-9]*\.[0-9]+)")

NUMBERS = (int, float, Fraction)  # and bool, which Python counts as int
SCALARS = (int, float, Fraction, str, type(None))
VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
SIZED = (list, tuple, dict, str, range, *VIEWS)


class Refused(Exception):
    """The program is not in the allowed part of Python; the argument says what it has."""


class OverBudget(Exception):
    """The program asks for more than it may use; the argument says of what."""


def bounded(value: Any) -> Any:
    """Return a number or text as it is; raises `OverBudget` if it is too large to go on with.

    Raises `ArithmeticError` for what is no number to calculate with: complex, and NaN, which is not even itself.
    """
    kind = type(value)
    if kind is int:
        if value.bit_length() > MAX_BITS:
            raise OverBudget("large number")
    elif kind is float:
        if value != value:
            raise ArithmeticError("not a number")
    elif kind is Fraction:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise OverBudget("large number")
    elif kind is str:
        if len(value) > MAX_ITEMS:
            raise OverBudget("long text")
    elif kind is complex:
        raise ArithmeticError("complex number")
    return value


def power(base: Any, exponent: Any) -> Any:
    """Return `base ** exponent` of numbers; what the result would take is estimated first."""
    if not isinstance(base, NUMBERS) or not isinstance(exponent, NUMBERS):
        raise TypeError("a power takes numbers")
    if not isinstance(base, float) and not isinstance(exponent, float):
        if exponent.denominator != 1:
            return bounded(float(base) ** float(exponent))
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        to_float = exponent < 0 and isinstance(base, int) and isinstance(exponent, int)
        if not to_float and bits > 1 and abs(exponent) * (bits - 1) > MAX_BITS:
            raise OverBudget("large number")
        if abs(exponent) > 10 * MAX_BITS:  # of one or zero
            raise OverBudget("large number")
    return bounded(base**exponent)


def iterable(value: Any) -> Iterable:
    """Return what may be gone through as it is: a container, a range, or an iterator over one of them."""
    if not isinstance(value, SIZED) and not isinstance(value, Iterator):
        raise TypeError(f"{type(value).__name__} has no items")
    return value


def items_of(value: Any) -> Sequence:
    """Return the items of whatever may be gone through; raises `OverBudget` if there are too many."""
    if isinstance(value, (list, tuple, range, str)):
        items: Sequence = value
    else:
        items = list(islice(iterable(value), MAX_ITEMS + 1))
    if size_of(items) > MAX_ITEMS:
        raise OverBudget("many items")
    return items


def size_of(value: Any) -> int:
    """Return the number of items of a container or range; `MAX_ITEMS + 1` stands for all that are more."""
    try:
        return min(len(value), MAX_ITEMS + 1)
    except OverflowError:  # a range beyond all bounds
        return MAX_ITEMS + 1


def _scalars(values: Sequence) -> Sequence:
    """Containers within containers could take exponential time to compare."""
    for value in values:
        if not isinstance(value, SCALARS):
            raise Refused("comparison of containers")
    return values


def _numbers(*values: Any) -> tuple:
    for value in values:
        if not isinstance(value, NUMBERS):
            raise TypeError(f"{type(value).__name__} is no number")
    return values


def _whole(*values: Any) -> list[int]:
    if not all(isinstance(value, int) for value in values):
        raise TypeError("not a whole number")
    return [int(value) for value in values]


def _sum(values: Any, start: Any = 0) -> Any:
    """Add from left to right: the `sum` of Python 3.12 compensates floats, that of 3.11 does not."""
    (total,) = _numbers(start)
    for value in items_of(values):
        total = bounded(total + _numbers(value)[0])
    return total


def _product(values: Any) -> Any:
    product: Any = 1
    for value in items_of(values):
        product = bounded(product * _numbers(value)[0])
    return product


def _extreme(choose: Callable) -> Callable:
    def call(*values: Any, default: Any = ...) -> Any:
        if len(values) > 1 and default is not ...:
            raise TypeError("a default for several values")
        spread = _scalars(items_of(values[0]) if len(values) == 1 else values)
        return choose(spread) if len(spread) or default is ... else default

    return call


def _sorted(values: Any, reverse: Any = False) -> list:
    (descending,) = _whole(reverse)
    return sorted(_scalars(items_of(values)), reverse=bool(descending))


def _round(value: Any, ndigits: Any = None) -> Any:
    if ndigits is None:
        return round(*_numbers(value))
    (digits,) = _whole(ndigits)
    if abs(digits) > MAX_ROUNDED:
        raise OverBudget("many decimals")
    return round(*_numbers(value), digits)


def _read_by(convert: Callable) -> Callable:
    def call(value: Any = 0) -> Any:
        if isinstance(value, str):
            if len(value) > MAX_LITERAL or not value.isascii():
                raise ValueError("no number")
            return convert(value)
        return convert(*_numbers(value))

    return call


def text_of(value: Any) -> str:
    """Return `str(value)` of a number or text."""
    if not isinstance(value, SCALARS):
        raise Refused(f"text of a {type(value).__name__}")
    return str(value)


def _fraction(numerator: Any = 0, denominator: Any = None) -> Fraction:
    if denominator is None:
        # Narrower than any Python reads a text.
        if isinstance(numerator, str) and not (len(numerator) <= MAX_LITERAL and _FRACTION.fullmatch(numerator)):
            raise ValueError("no fraction")
        if not isinstance(numerator, str):
            _numbers(numerator)
        return Fraction(numerator)
    if isinstance(numerator, float) or isinstance(denominator, float):
        raise TypeError("a fraction of floats")
    return Fraction(*_numbers(numerator, denominator))


def _range(*values: Any) -> range:
    return range(*_whole(*values))


def _len(value: Any) -> int:
    if not isinstance(value, SIZED):
        raise TypeError(f"{type(value).__name__} has no length")
    return len(value)


def _reversed(value: Any) -> Iterator:
    if isinstance(value, Iterator):
        raise TypeError("an iterator backwards")
    return reversed(iterable(value))


def _real(function: Callable) -> Callable:
    return lambda *values: function(*_numbers(*values))


def _divmod(a: Any, b: Any) -> tuple:
    quotient, rest = divmod(*_numbers(a, b))
    return bounded(quotient), bounded(rest)


def _factorial(n: Any) -> int:
    (n,) = _whole(n)
    if n > MAX_FACTORIAL:
        raise OverBudget("large number")
    return math.factorial(n)


def _lcm(*values: Any) -> int:
    multiple = 1
    for value in _whole(*values):
        multiple = bounded(math.lcm(multiple, value))
    return multiple


def _comb(n: Any, k: Any) -> int:
    n, k = _whole(n, k)
    # The result is below n**k, and k counts from the nearer end.
    if min(k, abs(n - k)) * max(n.bit_length(), 1) > 4 * MAX_BITS:
        raise OverBudget("large number")
    return math.comb(n, k)


def _perm(n: Any, k: Any = None) -> int:
    n, k = _whole(n, n if k is None else k)
    if k * max(n.bit_length(), 1) > 2 * MAX_BITS:
        raise OverBudget("large number")
    return math.perm(n, k)


def _next(values: Any, default: Any = ...) -> Any:
    """Return the first of the items of a generator: only those have a next one."""
    if len(values):
        return values[0]
    if default is ...:
        raise ValueError("nothing is next")
    return default


def _dict(*values: Any) -> dict:
    if values:
        raise Refused("dict of values")
    return {}


def _print(*values: Any, sep: Any = None, end: Any = None, flush: Any = False) -> None:
    """What is printed goes nowhere."""
    if not all(text is None or isinstance(text, str) for text in (sep, end)):
        raise TypeError("a separator that is no text")


BUILTINS: dict[str, Callable] = {
    "abs": _real(abs),
    "all": lambda values: all(map(bool, items_of(values))),
    "any": lambda values: any(map(bool, items_of(values))),
    "bool": lambda value=False: bool(value),
    "dict": _dict,
    "divmod": _divmod,
    "enumerate": lambda values, start=0: enumerate(iterable(values), *_whole(start)),
    "float": _read_by(float),
    "int": _read_by(int),
    "len": _len,
    "list": lambda value=(): list(items_of(value)),
    "max": _extreme(max),
    "min": _extreme(min),
    "next": _next,
    "pow": power,
    "print": _print,
    "range": _range,
    "reversed": _reversed,
    "round": _round,
    "sorted": _sorted,
    "str": lambda value="": text_of(value),
    "sum": _sum,
    "tuple": lambda value=(): tuple(items_of(value)),
    "zip": lambda *values: zip(*map(iterable, values), strict=False),
}
MODULE_FUNCTIONS: dict[str, Callable] = {
    "fractions.Fraction": _fraction,
    "math.ceil": _real(math.ceil),
    "math.comb": _comb,
    "math.cos": _real(math.cos),
    "math.exp": _real(math.exp),
    "math.fabs": _real(math.fabs),
    "math.factorial": _factorial,
    "math.floor": _real(math.floor),
    "math.gcd": lambda *values: math.gcd(*_whole(*values)),
    "math.hypot": _real(math.hypot),
    "math.isclose": lambda a, b: math.isclose(*_numbers(a, b)),
    "math.isqrt": lambda value: math.isqrt(*_whole(value)),
    "math.lcm": _lcm,
    "math.log": _real(math.log),
    "math.log10": _real(math.log10),
    "math.log2": _real(math.log2),
    "math.perm": _perm,
    "math.pow": lambda base, exponent: math.pow(*_numbers(base, exponent)),
    "math.prod": _product,
    "math.radians": _real(math.radians),
    "math.sin": _real(math.sin),
    "math.sqrt": _real(math.sqrt),
    "math.tan": _real(math.tan),
    "math.trunc": _real(math.trunc),
}
CONSTANTS = {"math.pi": math.pi, "math.e": math.e, "math.tau": math.tau, "math.inf": math.inf}
# Which keywords a function takes; everything else is given by position.
KEYWORDS = {
    "enumerate": {"start"},
    "max": {"default"},
    "min": {"default"},
    "print": {"end", "flush", "sep"},
    "round": {"ndigits"},
    "sorted": {"reverse"},
    "sum": {"start"},
}
