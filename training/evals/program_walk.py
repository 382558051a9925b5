"""Walk through the statements of a checked program, with a budget for all that it does."""

import ast
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from training.evals.program_check import imported_names
from training.evals.program_expressions import Expressions
from training.evals.program_functions import OverBudget, Refused
from training.evals.program_values import MAX_ITERATIONS


class _Signal:
    """How a block ended early."""


_BREAK, _CONTINUE = _Signal(), _Signal()


class _Return(_Signal):
    def __init__(self, value: Any):
        self.value = value


class Interpreter(Expressions):
    """Walks through one checked program; a subclass may keep other numbers than Python's, see `Values`.

    Raises `Refused`, `OverBudget`, or the error that Python would raise.
    """

    def run(self) -> Any:
        """Return what the function returns."""
        ended = self._block(self.program.body)
        return ended.value if isinstance(ended, _Return) else None

    def _block(self, statements: Iterable[ast.stmt]) -> _Signal | None:
        for statement in statements:
            self._step()
            ended = _STATEMENTS[type(statement)](self, statement)
            if ended is not None:
                return ended
        return None

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

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports |= imported_names(node)

    def _return(self, node: ast.Return) -> _Return:
        return _Return(None if node.value is None else self.evaluate(node.value))

    def _expression(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring may be longer than a text of the program
            self.evaluate(node.value)

    def _if(self, node: ast.If) -> _Signal | None:
        return self._block(node.body if self.truth(self.evaluate(node.test)) else node.orelse)

    def _loop(self, node: ast.For | ast.While) -> _Signal | None:
        for _ in self._rounds_of_for(node) if isinstance(node, ast.For) else self._rounds_of_while(node):
            ended = self._block(node.body)
            if ended is _BREAK:
                return None
            if isinstance(ended, _Return):
                return ended
        return self._block(node.orelse)

    def _rounds_of_for(self, node: ast.For) -> Iterator[None]:
        """Assign one item after the other, and yield where a round begins."""
        for item in self._each(self.evaluate(node.iter)):
            self._assign(node.target, item)
            yield

    def _rounds_of_while(self, node: ast.While) -> Iterator[None]:
        """Yield where a round begins, for as long as the test holds."""
        for number in count(1):
            if not self.truth(self.evaluate(node.test)):
                return
            if number > MAX_ITERATIONS:
                raise OverBudget("iterations")
            yield

    def _assert(self, node: ast.Assert) -> None:
        if not self.truth(self.evaluate(node.test)):
            raise AssertionError


_STATEMENTS: dict[type, Callable] = {
    ast.Assign: Interpreter._assign_statement,
    ast.AnnAssign: Interpreter._annotated_assignment,
    ast.AugAssign: Interpreter._augmented_assignment,
    ast.Return: Interpreter._return,
    ast.Expr: Interpreter._expression,
    ast.If: Interpreter._if,
    ast.For: Interpreter._loop,
    ast.While: Interpreter._loop,
    ast.Assert: Interpreter._assert,
    ast.Pass: lambda interpreter, node: None,
    ast.Import: Interpreter._import,
    ast.ImportFrom: Interpreter._import,
    ast.Break: lambda interpreter, node: _BREAK,
    ast.Continue: lambda interpreter, node: _CONTINUE,
}
