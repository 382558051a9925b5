"""Evaluate the expressions of a checked program, and bind its names."""

import ast
from collections.abc import Callable, Iterator
from typing import Any

from training.evals.program_check import READERS, Program
from training.evals.program_functions import (
    BUILTINS,
    CONSTANTS,
    KEYWORDS,
    MODULE_FUNCTIONS,
    SIZED,
    Refused,
    bounded,
    items_of,
    size_of,
    text_of,
)
from training.evals.program_values import MAX_SECONDS, METHODS, Values

_Collect = Callable[[], bool | None]


class Expressions(Values):
    """Evaluates the expressions of one checked program with its variables; raises as `Values` does."""

    def __init__(self, program: Program, max_seconds: float = MAX_SECONDS):
        super().__init__(max_seconds)
        self.program = program
        self.variables: dict[str, Any] = {}
        # A name that the function imports anywhere is its own, so before that import it stands for nothing.
        self.imports = {name: meant for name, meant in program.imports.items() if name not in program.local}

    def evaluate(self, node: ast.expr) -> Any:
        """Return the value of an expression."""
        self._step()
        return _EXPRESSIONS[type(node)](self, node)

    # Names, and what they are bound to.

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

    # Operators.

    def _binary(self, node: ast.BinOp) -> Any:
        return self.binary(type(node.op), self.evaluate(node.left), self.evaluate(node.right))

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

    def _bool(self, node: ast.BoolOp) -> Any:
        ends_at = type(node.op) is ast.Or
        for part in node.values:
            value = self.evaluate(part)
            if self.truth(value) == ends_at:
                break
        return value

    def _choice(self, node: ast.IfExp) -> Any:
        return self.evaluate(node.body if self.truth(self.evaluate(node.test)) else node.orelse)

    # Containers and texts.

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

    def _index(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            parts = (node.lower, node.upper, node.step)
            return slice(*(None if part is None else self.plain(self.evaluate(part)) for part in parts))
        return self._key(self.evaluate(node))

    def _subscript(self, node: ast.Subscript) -> Any:
        container = self.evaluate(node.value)
        return self._item(container, self._index(node.slice))

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

    # Comprehensions.

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

    # Calls.

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
        if node.keywords or len(values) not in METHODS.get(type(owner), {}).get(method, ()):
            raise Refused(f"method {method}"[:60])
        return self._call_method(owner, method, values)


def _names_in(target: ast.expr) -> list[str]:
    """Return the names that an assignment to a target binds."""
    if isinstance(target, ast.Name):
        return [target.id]
    return [name for inner in getattr(target, "elts", ()) for name in _names_in(inner)]


_EXPRESSIONS: dict[type, Callable] = {
    ast.Constant: Expressions._constant,
    ast.Name: Expressions._name,
    ast.BinOp: Expressions._binary,
    ast.UnaryOp: Expressions._unary,
    ast.Compare: Expressions._compare,
    ast.BoolOp: Expressions._bool,
    ast.IfExp: Expressions._choice,
    ast.List: Expressions._list,
    ast.Tuple: Expressions._tuple,
    ast.Dict: Expressions._dict,
    ast.Subscript: Expressions._subscript,
    ast.ListComp: Expressions._list_comprehension,
    ast.DictComp: Expressions._dict_comprehension,
    ast.JoinedStr: Expressions._joined,
    ast.Call: Expressions._call,
    ast.Attribute: Expressions._attribute,
}
