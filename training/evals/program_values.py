"""The values of an untrusted program, numbers and the containers that it made, with a budget for all that it does."""

import ast
import operator
import time
from collections.abc import Callable, Iterator
from typing import Any

from training.evals.program_functions import (
    MAX_ITEMS,
    NUMBERS,
    SCALARS,
    VIEWS,
    OverBudget,
    Refused,
    bounded,
    items_of,
    iterable,
    power,
    size_of,
)

MAX_STEPS = 10_000  # expressions, statements, rounds of loops, and items that a function or an operator looks at
MAX_ITERATIONS = 1_000  # of one loop
MAX_CELLS = 100_000  # items of all lists and characters of all texts that are ever made
MAX_SECONDS = 0.2
STEPS_PER_LOOK_AT_THE_CLOCK = 256

_BINARY: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: power,
}
_COMPARE: dict[type, Callable] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
# With the number of arguments that each takes.
METHODS = {
    list: {"append": {1}, "extend": {1}, "index": {1}, "count": {1}},
    dict: {"items": {0}, "keys": {0}, "values": {0}, "get": {1, 2}},
    tuple: {"index": {1}, "count": {1}},
    float: {"is_integer": {0}},
    int: {"is_integer": {0}},  # which Python 3.11 does not have yet; there must be one answer
}


class Values:
    """What a program can do with its values; a subclass with other numbers than Python's replaces the first methods.

    Raises `Refused`, `OverBudget`, or the error that Python would raise.
    """

    def __init__(self, max_seconds: float):
        self.steps = self.cells = 0
        self.next_look = STEPS_PER_LOOK_AT_THE_CLOCK
        self.deadline = time.thread_time() + max_seconds

    # What a subclass with numbers of its own replaces.

    def constant(self, value: Any) -> Any:
        """Return a literal, or a constant of a module, as a value of the program."""
        return bounded(value)

    def plain(self, value: Any) -> Any:
        """Return a value as Python's own, for an index, a count or a text."""
        return value

    def truth(self, value: Any) -> bool:
        """Return whether a value counts as true."""
        return bool(value)

    def binary(self, kind: type, left: Any, right: Any) -> Any:
        """Return the result of an arithmetic operator, of which `kind` is the node; bounds come first."""
        if isinstance(left, NUMBERS) and isinstance(right, NUMBERS):
            return bounded(_BINARY[kind](left, right))
        return self._binary_of_containers(kind, left, right)

    def unary(self, kind: type, value: Any) -> Any:
        """Return the value with a sign."""
        if not isinstance(value, NUMBERS):
            raise TypeError(f"the sign of a {type(value).__name__}")
        return -value if kind is ast.USub else +value

    def compare(self, kind: type, left: Any, right: Any) -> bool:
        """Return what a comparison of two numbers or texts says."""
        if not isinstance(left, SCALARS) or not isinstance(right, SCALARS):
            raise Refused("comparison of containers")
        return _COMPARE[kind](left, right)

    def call(self, name: str, function: Callable, values: list[Any], keywords: dict[str, Any]) -> Any:
        """Return the result of an allowed function, such as `round` or `math.ceil`."""
        return function(*values, **keywords)

    def assigned(self, name: str, value: Any) -> Any:
        """Return what a variable is to hold."""
        return value

    # The budget.

    def _step(self, steps: int = 1) -> None:
        self.steps += steps
        if self.steps >= self.next_look:
            if self.steps > MAX_STEPS:
                raise OverBudget("steps")
            if time.thread_time() > self.deadline:
                raise OverBudget("time")
            self.next_look = self.steps + STEPS_PER_LOOK_AT_THE_CLOCK

    def _charge(self, cells: int) -> None:
        self.cells += cells
        if self.cells > MAX_CELLS:
            raise OverBudget("memory")

    def _each(self, iterated: Any) -> Iterator[Any]:
        """Yield the items of a container, which may change meanwhile, or of an iterator."""
        rounds = 0
        try:
            for item in iterable(iterated):
                rounds += 1
                if rounds > MAX_ITERATIONS:
                    raise OverBudget("iterations")
                self._step()
                yield item
        except RecursionError:
            raise
        except RuntimeError:
            raise Refused("a dict that changes in its loop") from None

    # Containers.

    def _binary_of_containers(self, kind: type, left: Any, right: Any) -> Any:
        repeated = (str, list, tuple)
        if kind is ast.Add and type(left) is type(right) and isinstance(left, repeated):
            size = len(left) + len(right)
        elif kind is ast.Mult and isinstance(left, int) and isinstance(right, repeated):
            size = len(right) * max(left, 0)
        elif kind is ast.Mult and isinstance(left, repeated) and isinstance(right, int):
            size = len(left) * max(right, 0)
        elif kind is ast.Mod and isinstance(left, str):
            raise Refused("formatting by %")
        elif isinstance(left, VIEWS) or isinstance(right, VIEWS):
            raise Refused("operator of a view")
        else:
            raise TypeError(f"operator between {type(left).__name__} and {type(right).__name__}")
        if size > MAX_ITEMS:
            raise OverBudget("many items")
        self._charge(size)
        return _BINARY[kind](left, right)

    def _is_in(self, value: Any, container: Any) -> bool:
        if isinstance(container, str):
            if not isinstance(value, str):
                raise TypeError("in a text")
            return value in container
        if isinstance(container, dict):
            return self._key(value) in container
        items = items_of(container)
        self._step(len(items))
        return any(self.compare(ast.Eq, value, item) for item in items)

    def _key(self, value: Any) -> Any:
        key = self.plain(value)
        if not isinstance(key, SCALARS):
            raise Refused(f"{type(key).__name__} as a key")
        return key

    def _item(self, container: Any, index: Any) -> Any:
        if not isinstance(container, (list, tuple, dict, str, range)):
            raise TypeError(f"an item of a {type(container).__name__}")
        if isinstance(index, slice):
            if isinstance(container, dict):  # whether a slice can be a key depends on the release
                raise TypeError("a slice of a dict")
            self._charge(size_of(container))
        return container[index]

    def _store(self, container: Any, index: Any, value: Any) -> None:
        if not isinstance(container, (list, dict)):
            raise TypeError("item assignment")
        if isinstance(index, slice):
            raise Refused("assignment to a slice")
        if isinstance(container, dict):
            self._charge(1)
            if len(container) >= MAX_ITEMS:
                raise OverBudget("many items")
        container[index] = value

    def _append(self, items: list, value: Any) -> None:
        if len(items) >= MAX_ITEMS:
            raise OverBudget("many items")
        self._charge(1)
        items.append(value)

    def _extend(self, items: list, values: Any) -> None:
        added = list(items_of(values))
        self._step(len(added))
        for value in added:
            self._append(items, value)

    def _call_method(self, owner: Any, method: str, values: list[Any]) -> Any:
        """Return the result of one of `METHODS`, which is there with so many arguments."""
        if isinstance(owner, dict):
            return self._method_of_dict(owner, method, values)
        if method == "append":
            return self._append(owner, *values)
        if method == "extend":
            return self._extend(owner, *values)
        if method == "is_integer":
            return isinstance(owner, int) or owner.is_integer()
        self._step(len(owner))
        equal = [index for index, item in enumerate(owner) if self.compare(ast.Eq, item, *values)]
        if method == "count":
            return len(equal)
        if not equal:
            raise ValueError("not in the list")
        return equal[0]

    def _method_of_dict(self, owner: dict, method: str, values: list[Any]) -> Any:
        if method == "get":
            return owner.get(self._key(values[0]), *values[1:])
        if method == "keys":
            return owner.keys()
        return owner.items() if method == "items" else owner.values()
