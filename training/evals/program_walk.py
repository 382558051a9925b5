"""Walk through the syntax tree of a checked program, with a budget for all that it does."""

import ast
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from training.evals.program_check import READERS, Program, imported_names
from training.evals.program_functions import (
    BUILTINS,
    CONSTANTS,
    KEYWORDS,
    MAX_ITEMS,
    MODULE_FUNCTIONS,
    NUMBERS,
    SCALARS,
    SIZED,
    VIEWS,
    OverBudget,
    Refused,
    bounded,
    items_of,
    iterable,
    power,
    size_of,
    text_of,
)

MAX_STEPS = 10_000  # expressions, statements, rounds of loops, and items that a function or an operator looks at
MAX_ITERATIONS = 1_000  # of one loop
MAX_CELLS = 100_000  # items of all lists and characters of all texts that are ever made
MAX_SECONDS = 0.2
STEPS_PER_LOOK_AT_THE_CLOCK = 256


class _Signal:
    """How a block ended early."""


_BREAK, _CONTINUE = _Signal(), _Signal()


class _Return(_Signal):
    def __init__(self, value: Any):
        self.value = value


_Collect = Callable[[], bool | None]

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
_METHODS = {
    list: {"append": {1}, "extend": {1}, "index": {1}, "count": {1}},
    dict: {"items": {0}, "keys": {0}, "values": {0}, "get": {1, 2}},
    tuple: {"index": {1}, "count": {1}},
    float: {"is_integer": {0}},
    int: {"is_integer": {0}},  # which Python 3.11 does not have yet; there must be one answer
}


class Interpreter:
    """Walks through one checked program; a subclass may keep other numbers than Python's, by the methods that say so.

    Raises `Refused`, `OverBudget`, or the error that Python would raise.
    """

    def __init__(self, program: Program, max_seconds: float = MAX_SECONDS):
        self.program = program
        self.variables: dict[str, Any] = {}
        # A name that the function imports anywhere is its own, so before that import it stands for nothing.
        self.imports = {name: meant for name, meant in program.imports.items() if name not in program.local}
        self.steps = self.cells = 0
        self.next_look = STEPS_PER_LOOK_AT_THE_CLOCK
        self.deadline = time.thread_time() + max_seconds

    def run(self) -> Any:
        """Return what the function returns."""
        ended = self._block(self.program.body)
        return ended.value if isinstance(ended, _Return) else None

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

    # Statements.

    def _block(self, statements: Iterable[ast.stmt]) -> _Signal | None:
        for statement in statements:
            self._step()
            ended = _STATEMENTS[type(statement)](self, statement)
            if ended is not None:
                return ended
        return None

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

    def _assign_statement(self, node: ast.Assign) -> None:
        value = self.evaluate(node.value)
        for target in node.targets:
            self._assign(target, value)

    def _annotated_assignment(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, self.evaluate(node.value))

    def _augmented_assignment(self, node: ast.AugAssign) -> None:
        target = node.target
        if isinstance(target, ast.Name):
            self._assign(target, self._augmented(node, self._variable(target.id)))
            return
        if not isinstance(target, ast.Subscript):
            raise Refused("assignment target")
        container, index = self.evaluate(target.value), self._index(target.slice)
        self._store(container, index, self._augmented(node, self._item(container, index)))

    def _augmented(self, node: ast.AugAssign, old: Any) -> Any:
        value = self.evaluate(node.value)
        if isinstance(old, list):
            if type(node.op) is not ast.Add:
                raise Refused("list operator")
            self._extend(old, value)
            return old
        return self.binary(type(node.op), old, value)

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.variables[target.id] = self.assigned(target.id, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = list(items_of(value))  # all are read before the first is assigned, which may change the rest
            self._step(len(values))
            if len(values) != len(target.elts):
                raise ValueError("number of values")
            for inner, item in zip(target.elts, values, strict=True):
                self._assign(inner, item)
        elif isinstance(target, ast.Subscript):
            container = self.evaluate(target.value)
            self._store(container, self._index(target.slice), value)
        else:
            raise Refused("assignment target")

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

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports |= imported_names(node)

    def _return(self, node: ast.Return) -> _Return:
        return _Return(None if node.value is None else self.evaluate(node.value))

    def _expression(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring may be longer than a text of the program
            self.evaluate(node.value)

    def _if(self, node: ast.If) -> _Signal | None:
        return self._block(node.body if self.truth(self.evaluate(node.test)) else node.orelse)

    def _for(self, node: ast.For) -> _Signal | None:
        for item in self._each(self.evaluate(node.iter)):
            self._assign(node.target, item)
            ended = self._block(node.body)
            if ended is _BREAK:
                return None
            if isinstance(ended, _Return):
                return ended
        return self._block(node.orelse)

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

    def _while(self, node: ast.While) -> _Signal | None:
        count = 0
        while self.truth(self.evaluate(node.test)):
            count += 1
            if count > MAX_ITERATIONS:
                raise OverBudget("iterations")
            ended = self._block(node.body)
            if ended is _BREAK:
                return None
            if isinstance(ended, _Return):
                return ended
        return self._block(node.orelse)

    def _assert(self, node: ast.Assert) -> None:
        if not self.truth(self.evaluate(node.test)):
            raise AssertionError

    # Expressions.

    def evaluate(self, node: ast.expr) -> Any:
        """Return the value of an expression."""
        self._step()
        return _EXPRESSIONS[type(node)](self, node)

    def _constant(self, node: ast.Constant) -> Any:
        return self.constant(node.value)

    def _name(self, node: ast.Name) -> Any:
        return self._variable(node.id)

    def _variable(self, name: str) -> Any:
        try:
            return self.variables[name]
        except KeyError:
            pass
        constant = CONSTANTS.get(self.imports.get(name, ""))
        if constant is None:
            raise NameError(name)
        return self.constant(constant)

    def _binary(self, node: ast.BinOp) -> Any:
        return self.binary(type(node.op), self.evaluate(node.left), self.evaluate(node.right))

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

    def _unary(self, node: ast.UnaryOp) -> Any:
        value = self.evaluate(node.operand)
        return not self.truth(value) if type(node.op) is ast.Not else self.unary(type(node.op), value)

    def _compare(self, node: ast.Compare) -> bool:
        left = self.evaluate(node.left)
        for kind, comparator in zip(map(type, node.ops), node.comparators, strict=True):
            right = self.evaluate(comparator)
            if not self._compare_once(kind, left, right):
                return False
            left = right
        return True

    def _compare_once(self, kind: type, left: Any, right: Any) -> bool:
        if kind in (ast.Is, ast.IsNot):
            if left is not None and right is not None:
                raise Refused("is")  # whether two equal numbers are one object is an accident
            return (left is right) == (kind is ast.Is)
        if kind in (ast.In, ast.NotIn):
            return self._is_in(left, right) == (kind is ast.In)
        return self.compare(kind, left, right)

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

    def _bool(self, node: ast.BoolOp) -> Any:
        ends_at = type(node.op) is ast.Or
        for part in node.values:
            value = self.evaluate(part)
            if self.truth(value) == ends_at:
                break
        return value

    def _choice(self, node: ast.IfExp) -> Any:
        return self.evaluate(node.body if self.truth(self.evaluate(node.test)) else node.orelse)

    def _list(self, node: ast.List) -> list:
        self._charge(len(node.elts))
        return [self.evaluate(item) for item in node.elts]

    def _tuple(self, node: ast.Tuple) -> tuple:
        return tuple(self._list(node))

    def _dict(self, node: ast.Dict) -> dict:
        self._charge(len(node.keys))
        return {
            self._key(self.evaluate(key)): self.evaluate(value)
            for key, value in zip(node.keys, node.values, strict=True)
        }

    def _key(self, value: Any) -> Any:
        key = self.plain(value)
        if not isinstance(key, SCALARS):
            raise Refused(f"{type(key).__name__} as a key")
        return key

    def _index(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            parts = (node.lower, node.upper, node.step)
            return slice(*(None if part is None else self.plain(self.evaluate(part)) for part in parts))
        return self._key(self.evaluate(node))

    def _subscript(self, node: ast.Subscript) -> Any:
        container = self.evaluate(node.value)
        return self._item(container, self._index(node.slice))

    def _item(self, container: Any, index: Any) -> Any:
        if not isinstance(container, (list, tuple, dict, str, range)):
            raise TypeError(f"an item of a {type(container).__name__}")
        if isinstance(index, slice):
            if isinstance(container, dict):  # whether a slice can be a key depends on the release
                raise TypeError("a slice of a dict")
            self._charge(size_of(container))
        return container[index]

    def _list_comprehension(self, node: ast.ListComp) -> list:
        results: list[Any] = []
        self._comprehend(node.generators, lambda: self._append(results, self.evaluate(node.elt)))
        return results

    def _dict_comprehension(self, node: ast.DictComp) -> dict:
        results: dict[Any, Any] = {}

        def collect() -> None:
            key = self._key(self.evaluate(node.key))
            self._store(results, key, self.evaluate(node.value))

        self._comprehend(node.generators, collect)
        return results

    def _generated(self, node: ast.GeneratorExp, reader: str) -> list:
        """Return the items of a generator that its reader asks for: some stop before the end."""
        results: list[Any] = []

        def collect() -> bool:
            value = self.evaluate(node.elt)
            self._append(results, value)
            if reader == "all":
                return not self.truth(value)
            return reader == "next" or (reader == "any" and self.truth(value))

        self._comprehend(node.generators, collect)
        return results

    def _comprehend(self, generators: list[ast.comprehension], collect: _Collect) -> None:
        """Call `collect` in each round until it returns true; the names of a comprehension are its own."""
        first = self.evaluate(generators[0].iter)
        names = {name for generator in generators for name in _names_in(generator.target)}
        outside = {name: self.variables.pop(name) for name in names if name in self.variables}
        self._generate(first, generators, collect)
        for name in names:
            self.variables.pop(name, None)
        self.variables |= outside

    def _generate(self, iterated: Any, generators: list[ast.comprehension], collect: _Collect) -> bool:
        first, *others = generators
        for item in self._each(iterated):
            self._assign(first.target, item)
            if not all(self.truth(self.evaluate(test)) for test in first.ifs):
                continue
            if self._generate(self.evaluate(others[0].iter), others, collect) if others else collect():
                return True
        return False

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

    def _joined(self, node: ast.JoinedStr) -> str:
        text = ""
        for part in node.values:
            text = bounded(text + (part.value if isinstance(part, ast.Constant) else self._formatted(part)))
        self._charge(len(text))
        return text

    def _formatted(self, part: ast.FormattedValue) -> str:
        value, pieces = self.plain(self.evaluate(part.value)), getattr(part.format_spec, "values", [])
        pattern = "".join(piece.value for piece in pieces)
        if not pattern:
            return text_of(value)
        if not isinstance(value, (int, float, str)):
            raise Refused("f-string")
        return format(value, pattern)

    def _attribute(self, node: ast.Attribute) -> Any:
        constant = CONSTANTS.get(self._member(node) or "")
        if constant is None:
            self.evaluate(node.value)  # where the name is not bound, that is what ends the program
            raise Refused("attribute")
        return self.constant(constant)

    def _member(self, node: ast.Attribute) -> str | None:
        """Return the whole name of a module's member, None for anything else."""
        module = self.imports.get(node.value.id) if isinstance(node.value, ast.Name) else None
        return f"{module}.{node.attr}" if module else None

    def _call(self, node: ast.Call) -> Any:
        function = node.func
        if isinstance(function, ast.Attribute):
            name = self._member(function)
            if name is None:
                return self._method(node, function)
            found = MODULE_FUNCTIONS.get(name)
        elif function.id in self.imports:
            name = self.imports[function.id]
            found = MODULE_FUNCTIONS.get(name)
        else:
            name = function.id
            if name in self.program.local:
                raise NameError(name)
            found = BUILTINS.get(name)
        if found is None:
            raise Refused(f"call: {name}"[:60])
        if node.keywords and not {keyword.arg for keyword in node.keywords} <= KEYWORDS.get(name, set()):
            raise Refused(f"keyword of {name}")
        values = [
            self._generated(value, name) if isinstance(value, ast.GeneratorExp) else self.evaluate(value)
            for value in node.args
        ]
        keywords = {keyword.arg: self.evaluate(keyword.value) for keyword in node.keywords}
        for index, value in enumerate(values):
            if isinstance(value, Iterator) and name in READERS:
                value = values[index] = items_of(value)
            if isinstance(value, SIZED):
                self._step(size_of(value))
        result = bounded(self.call(name, found, values, keywords))
        if isinstance(result, (list, tuple, str)):
            self._charge(len(result))
        return result

    def _method(self, node: ast.Call, function: ast.Attribute) -> Any:
        owner, method = self.evaluate(function.value), function.attr
        if type(plain := self.plain(owner)) in (int, float):
            owner = plain
        values = [self.evaluate(value) for value in node.args]
        if node.keywords or len(values) not in _METHODS.get(type(owner), {}).get(method, ()):
            raise Refused(f"method {method}"[:60])
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


def _names_in(target: ast.expr) -> list[str]:
    """Return the names that an assignment to a target binds."""
    if isinstance(target, ast.Name):
        return [target.id]
    return [name for inner in getattr(target, "elts", ()) for name in _names_in(inner)]


_STATEMENTS: dict[type, Callable] = {
    ast.Assign: Interpreter._assign_statement,
    ast.AnnAssign: Interpreter._annotated_assignment,
    ast.AugAssign: Interpreter._augmented_assignment,
    ast.Return: Interpreter._return,
    ast.Expr: Interpreter._expression,
    ast.If: Interpreter._if,
    ast.For: Interpreter._for,
    ast.While: Interpreter._while,
    ast.Assert: Interpreter._assert,
    ast.Pass: lambda interpreter, node: None,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import,
    ast.Break: lambda interpreter, node: _BREAK,
    ast.Continue: lambda interpreter, node: _CONTINUE,
}
_EXPRESSIONS: dict[type, Callable] = {
    ast.Constant: Interpreter._constant,
    ast.Name: Interpreter._name,
    ast.BinOp: Interpreter._binary,
    ast.UnaryOp: Interpreter._unary,
    ast.Compare: Interpreter._compare,
    ast.BoolOp: Interpreter._bool,
    ast.IfExp: Interpreter._choice,
    ast.List: Interpreter._list,
    ast.Tuple: Interpreter._tuple,
    ast.Dict: Interpreter._dict,
    ast.Subscript: Interpreter._subscript,
    ast.ListComp: Interpreter._list_comprehension,
    ast.DictComp: Interpreter._dict_comprehension,
    ast.JoinedStr: Interpreter._joined,
    ast.Call: Interpreter._call,
    ast.Attribute: Interpreter._attribute,
}
