"""Read a program that nobody trusts, and refuse all but a small part of Python, before anything of it runs.

What is allowed is listed; everything else is refused, so new syntax in a later Python changes no verdict. The text is
looked at before it is parsed, because the parser itself can be made to exhaust the stack or the memory, and because
Python 3.12 reads f-strings that 3.11 does not.
"""

import ast
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from training.evals.program_functions import CONSTANTS, MODULE_FUNCTIONS, Refused
from training.evals.program_scan import scan

# CPython 3.11 counts the depth of a syntax tree for all threads together. When the collection of garbage lets another
# thread run while a tree is built, and that one parses as well, the parser fails with a SystemError.
_ONE_AT_A_TIME = threading.RLock()

MAX_CHARACTERS = 12_000
MAX_NODES = 3_000
MAX_DEPTH = 90  # of the syntax tree; the interpreter needs about three frames of the stack for each
MAX_LOOPS = 10  # within each other; Python itself stops at 20
MAX_ZIPPED = 10  # arguments of `zip`

MODULES = frozenset({"math", "fractions", "typing"})
# How many types stand in the brackets behind a type: none, exactly so many, or (-1) any number.
_TYPE_ARGUMENTS = {
    **dict.fromkeys("int float str bool fractions.Fraction typing.Any".split(), 0),
    **dict.fromkeys("list dict tuple typing.Tuple typing.Union".split(), -1),
    "typing.Dict": 2,
    "typing.List": 1,
    "typing.Optional": 1,
}
MEMBERS = frozenset({*MODULE_FUNCTIONS, *CONSTANTS, *(name for name in _TYPE_ARGUMENTS if "." in name)})
TYPES = frozenset(name.rpartition(".")[2] for name in _TYPE_ARGUMENTS)
# What a call may stand for that is read once, from front to end, by what stands around it.
ITERATORS = frozenset("enumerate reversed zip".split())
READERS = frozenset("all any list max min sorted sum tuple".split())


@dataclass(frozen=True)
class Program:
    """A function without arguments that may be run, and the names it can see.

    imports: what the names stand for that were imported before the function, as `math` or `math.ceil`. local: the
    names that the function binds anywhere, so that nothing else of that name is seen in it.
    """

    name: str
    body: list[ast.stmt]
    imports: dict[str, str]
    local: frozenset[str]
    tree: ast.FunctionDef


def check_program(source: str) -> Program:
    """Parse a program of one function without arguments, and return it.

    Besides the function there may be imports of `math`, `fractions` and `typing` before it, and behind it nothing but
    calls of it and prints, which are never run. Raises `Refused` for anything else, whatever the string.
    """
    if type(source) is not str:  # another class could answer anything
        raise Refused("no text")
    if len(source) > MAX_CHARACTERS:
        raise Refused("source too long")
    source = source.replace("\r\n", "\n")
    if "\r" in source:  # which ends a comment for the parser, but not for the scan below
        raise Refused("character '\\r'")
    places = [0, *scan(source), len(source)]
    source = "\\".join(source[start:end] for start, end in pairwise(places))
    try:
        with _ONE_AT_A_TIME:
            module = ast.parse(source, feature_version=(3, 11))
    except (RecursionError, MemoryError):
        raise Refused("nesting") from None
    except (SyntaxError, ValueError, OverflowError):
        raise Refused("syntax") from None
    imports: dict[str, str] = {}
    function, behind = None, []
    for statement in module.body:
        if function is not None:
            behind.append(statement)
        elif isinstance(statement, ast.FunctionDef):
            function = statement
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            imports |= imported_names(statement)
        elif not _is_text(statement):
            raise Refused(f"beside the function: {type(statement).__name__}")
    if function is None:
        raise Refused("no function")
    _check_signature(function, imports)
    names = _Names()
    names.check(function.body)
    if function.name in names.called:
        raise Refused("recursion")
    if names.assigned & names.called:
        raise Refused("call of a variable")
    if names.assigned & (imports.keys() | names.imported | {function.name}) or function.name in imports:
        raise Refused("rebinding")
    _check_behind(behind, function.name, names.called | imports.keys())
    return Program(function.name, function.body, imports, frozenset(names.assigned | names.imported), function)


def imported_names(statement: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """Return the names that an import binds, with what they stand for; raises `Refused` for what is not allowed."""
    if isinstance(statement, ast.Import):
        names = {alias.asname or alias.name: alias.name for alias in statement.names}
        unknown = [name for name in names.values() if name not in MODULES]
    else:
        module = "." * statement.level + (statement.module or "")
        names = {alias.asname or alias.name: f"{module}.{alias.name}" for alias in statement.names}
        unknown = [name if module in MODULES else module for name in names.values() if name not in MEMBERS]
    if unknown:
        raise Refused(f"import {unknown[0]}"[:60])
    return names


# Around the function.


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _check_behind(statements: list[ast.stmt], function: str, seen: set[str]) -> None:
    """Refuse what stands behind the function, unless all it does is call it, print, or keep its result.

    seen: the names that the function looks for outside, which must still mean the same.
    """
    for statement in statements:
        if isinstance(statement, ast.If) and not statement.orelse and _asks_for_main(statement.test):
            _check_behind(statement.body, function, seen)
        elif not _is_text(statement):
            if not _only_uses(statement, function, seen):
                raise Refused(f"beside the function: {type(statement).__name__}")
            _Names().check([ast.Expr(statement.value)])


def _asks_for_main(test: ast.expr) -> bool:
    return (
        isinstance(test, ast.Compare)
        and isinstance(test.left, ast.Name)
        and test.left.id == "__name__"
        and len(test.ops) == 1
        and isinstance(test.ops[0], ast.Eq)
        and isinstance(test.comparators[0], ast.Constant)
        and test.comparators[0].value == "__main__"
    )


def _only_uses(statement: ast.stmt, function: str, seen: set[str]) -> bool:
    if isinstance(statement, ast.Assign):
        allowed = {function}
        targets = {target.id if isinstance(target, ast.Name) else function for target in statement.targets}
        if targets & (seen | {function, "print"}):
            return False
    elif isinstance(statement, ast.Expr):
        allowed = {function, "print"}
    else:
        return False
    call = statement.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in allowed


def _check_signature(function: ast.FunctionDef, imports: dict[str, str]) -> None:
    arguments = function.args
    if arguments.posonlyargs or arguments.args or arguments.vararg or arguments.kwonlyargs or arguments.kwarg:
        raise Refused("arguments")
    if function.decorator_list:
        raise Refused("decorator")
    if function.returns is not None:
        _check_type(function.returns, imports)


def _check_type(hint: ast.expr, imports: dict[str, str]) -> None:
    """Refuse a type hint unless Python, which evaluates it, finds a type."""
    if isinstance(hint, ast.Tuple):
        arguments = hint.elts
    elif isinstance(hint, ast.Constant) and hint.value is None:
        arguments = []
    else:
        base = hint.value if isinstance(hint, ast.Subscript) else hint
        name = imports.get(base.id, base.id) if isinstance(base, ast.Name) else ""
        number = _TYPE_ARGUMENTS.get(name)
        arguments = []
        if base is not hint:
            arguments = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
            if number == 0 or not arguments or (number != -1 and number != len(arguments)):
                raise Refused("annotation")
        if number is None:
            raise Refused("annotation")
    for argument in arguments:
        _check_type(argument, imports)


def _check_unevaluated_type(hint: ast.expr) -> None:
    """Refuse the type hint of a variable, which is never evaluated, unless it looks like one."""
    for node in ast.walk(hint):
        named = isinstance(node, ast.Name) and node.id in TYPES
        structure = isinstance(node, (ast.Subscript, ast.Tuple, ast.Load))
        if not named and not structure and not (isinstance(node, ast.Constant) and node.value is None):
            raise Refused("annotation")


# Within the function.

# The fields of each allowed kind of node that hold other nodes to check.
_FIELDS: dict[type, tuple[str, ...]] = {
    ast.BinOp: ("left", "right"),
    ast.UnaryOp: ("operand",),
    ast.Compare: ("left", "comparators"),
    ast.BoolOp: ("values",),
    ast.IfExp: ("test", "body", "orelse"),
    ast.List: ("elts",),
    ast.Tuple: ("elts",),
    ast.Dict: ("keys", "values"),
    ast.Subscript: ("value", "slice"),
    ast.Slice: ("lower", "upper", "step"),
    ast.ListComp: ("elt", "generators"),
    ast.DictComp: ("key", "value", "generators"),
    ast.GeneratorExp: ("elt", "generators"),
    ast.comprehension: ("target", "iter", "ifs"),
    ast.keyword: ("value",),
    ast.FormattedValue: ("value",),
    ast.Assign: ("targets", "value"),
    ast.AugAssign: ("target", "value"),
    ast.AnnAssign: ("target", "value"),
    ast.Return: ("value",),
    ast.Expr: ("value",),
    ast.If: ("test", "body", "orelse"),
    ast.For: ("target", "iter", "body", "orelse"),
    ast.While: ("test", "body", "orelse"),
    ast.Assert: ("test", "msg"),
    ast.Pass: (),
    ast.Break: (),
    ast.Continue: (),
}
ALLOWED_OPERATORS = frozenset(
    (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.Not)
)
_CONSTANTS = (int, float, str, bool, type(None))
_LOOPS = (ast.For, ast.While)


class _Names:
    """Walks through nodes without recursion, refuses those that are not allowed, and collects what names are for."""

    def __init__(self) -> None:
        self.assigned: set[str] = set()
        self.imported: set[str] = set()
        self.called: set[str] = set()
        self.nodes = 0

    def check(self, statements: list[ast.stmt]) -> None:
        # Each node with its depth, the loops around it, and what else than a value it may be here.
        stack: list[tuple[ast.AST, int, int, frozenset[type | str]]] = [(node, 1, 0, _VALUE) for node in statements]
        while stack:
            node, depth, loops, may_be = stack.pop()
            self.nodes += 1
            if depth > MAX_DEPTH or self.nodes > MAX_NODES or loops > MAX_LOOPS:
                raise Refused("too many nodes" if self.nodes > MAX_NODES else "nesting")
            kind = type(node)
            if kind is ast.Name:
                self._name(node)
            elif kind is ast.Constant:
                if type(node.value) not in _CONSTANTS:
                    raise Refused(f"constant: {type(node.value).__name__}")
            elif kind is ast.Call:
                stack += [(child, depth + 1, loops, allowed) for child, allowed in self._call(node, may_be)]
            elif kind is ast.JoinedStr:  # whose constants are cut into pieces differently by every Python
                stack += [(v, depth + 1, loops, _VALUE) for v in node.values if type(v) is not ast.Constant]
            elif kind is ast.Attribute:
                if not isinstance(node.value, ast.Name) or type(node.ctx) is not ast.Load:
                    raise Refused("attribute")
            elif kind is ast.Import or kind is ast.ImportFrom:
                self.imported |= imported_names(node).keys()
            else:
                self._check_one(kind, node, loops, may_be)
                for field in _FIELDS[kind]:
                    value = getattr(node, field)
                    inside = loops + (kind in _LOOPS and field == "body")
                    allowed = _ITERATOR if field == "iter" else _VALUE
                    if type(value) is list:
                        stack += [(child, depth + 1, inside, allowed) for child in value]
                    elif value is not None:
                        stack.append((value, depth + 1, inside, allowed))

    def _name(self, node: ast.Name) -> None:
        if node.id.startswith("__"):
            raise Refused("name with underscores")
        if type(node.ctx) is not ast.Load:
            self.assigned.add(node.id)

    def _check_one(self, kind: type, node: ast.AST, loops: int, may_be: frozenset[type | str]) -> None:
        if kind not in _FIELDS or (kind is ast.GeneratorExp and kind not in may_be):
            raise Refused(kind.__name__)
        if kind is ast.BinOp or kind is ast.UnaryOp or kind is ast.AugAssign:
            if type(node.op) not in ALLOWED_OPERATORS:
                raise Refused(f"operator: {type(node.op).__name__}")
        elif kind is ast.AnnAssign:
            _check_unevaluated_type(node.annotation)
            if not isinstance(node.target, ast.Name):
                raise Refused("annotation")
        elif kind is ast.Dict:
            if None in node.keys:  # `{**other}`
                raise Refused("star")
        elif kind is ast.FormattedValue:
            if node.conversion != -1:
                raise Refused("f-string")
        elif (kind is ast.Break or kind is ast.Continue) and not loops:
            raise Refused("syntax")

    def _call(self, node: ast.Call, may_be: frozenset[type | str]) -> Iterable[tuple[ast.AST, frozenset[type | str]]]:
        """Return what a call consists of, each with what else than a value it may be."""
        function, arguments = node.func, node.args
        keywords = [keyword.arg for keyword in node.keywords]
        if None in keywords or len(set(keywords)) < len(keywords):
            raise Refused("star" if None in keywords else "syntax")
        if isinstance(function, ast.Attribute):
            # `box.append(3)`, `prices.values()`; a method of what a call gives back would need no name.
            if not isinstance(function.value, (ast.Name, ast.Subscript, ast.Dict, ast.List)):
                raise Refused("attribute")
            return [(function.value, _VALUE), *((child, _VALUE) for child in (*arguments, *node.keywords))]
        if not isinstance(function, ast.Name):
            raise Refused("call")
        name = function.id
        self._name(function)
        self.called.add(name)
        if name in ITERATORS and (name not in may_be or len(arguments) > MAX_ZIPPED):
            raise Refused(f"{name} as a value" if name not in may_be else "many arguments")
        first = _VALUE
        if name in ITERATORS:
            first = _ITERATOR
        elif name in READERS or name == "next":
            first = _STREAM if name in READERS else _GENERATOR
            # Python begins a generator, reads the other arguments, and only then goes on with the generator.
            others = [*arguments[1:], *(keyword.value for keyword in node.keywords)]
            if len(arguments) > 1 and name != "next" and name != "sum":
                first = _VALUE
            elif arguments and isinstance(arguments[0], ast.GeneratorExp) and not all(map(_is_plain, others)):
                raise Refused("argument beside a generator")
        rest = _ITERATOR if name == "zip" else _VALUE
        return [
            *((child, rest if place else first) for place, child in enumerate(arguments)),
            *((child, _VALUE) for child in node.keywords),
        ]


_VALUE: frozenset[type | str] = frozenset()
_ITERATOR: frozenset[type | str] = ITERATORS
_GENERATOR: frozenset[type | str] = frozenset({ast.GeneratorExp})
_STREAM: frozenset[type | str] = _ITERATOR | _GENERATOR


def _is_plain(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, (ast.Constant, ast.Name))
