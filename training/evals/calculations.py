"""Take the calculations in a text apart into operands and operators, and compute them exactly.

Nothing is guessed: what is not understood becomes an unknown, and an expression that holds an unknown has no value.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from training.evals.answers import BLANK, CURRENCY, DECIMAL, LETTER, MAX_DIGITS

MAX_OPERANDS = 32

# Emphasis is no power, and whether 3 / 1/4 is 12 its writer alone knows.
_POWER = rf"(?<=[\d)])\*\*(?=[\d.(])|(?<={BLANK})\*\*(?={BLANK}{{1,3}}[\d.(])"
_UNCLEAR_QUOTIENT = rf"/(?={BLANK}{{1,3}}\d+/\d)"
_TOKEN = re.compile(
    rf"{BLANK}*+(?:(?P<unknown>{_POWER}|{_UNCLEAR_QUOTIENT})|(?P<ignored>\*\*|{CURRENCY}(?!{BLANK}?\.?\d)|\Z)"
    rf"|(?P<number>(?:{CURRENCY}{BLANK}?)?(?P<digits>(?:(?<![\w.)])\.)?\d+(?:[.,:]\d+)*)"
    rf"(?P<percent>%(?!{BLANK}?[\d(]))?(?P<name>(?!x[0-9]){LETTER}+\d\w*)?)"
    r"|(?P<mark><<|>>|[()]|==?(?!>))"
    rf"|(?P<operator>[-+*/×÷−–]|x(?={BLANK}{{0,3}}(?:{CURRENCY}|\(){{0,3}}\.?\d))"
    rf"|(?P<word>{LETTER}\w*)|(?P<other>[<>!]=|[\s\S]))"
)
_OPERATION = {"×": "*", "x": "*", "÷": "/", "−": "-", "–": "-"}
_KINDS = {"*": "product", "+": "sum", "-": "difference", "/": "quotient"}
# What follows one of these is only a part of what is calculated; "of" does so behind a number or a part.
_CALCULATES = frozenset(
    "times plus minus over mod modulo squared twice thrice double triple half".split()
    + "cdot div frac sqrt log \\ ^ % √ ∛ · ∙ ⋅".split()
)
_PARTS = frozenset("half third thirds quarter quarters fourth fourths fifth fifths tenth tenths percent %".split())
_ZERO = Fraction(0)
_BULLET_BEGINS = re.compile(rf"(?:\A|\n){BLANK}{{0,7}}\Z")
_SIGN_MAY_STAND = re.compile(rf"(?:\A|[\n:;,\[{{\"']){BLANK}{{0,3}}\Z")


class Expression(NamedTuple):
    """An expression that is understood; a number is one without operations.

    value: None if something is divided by zero. literals: the numbers in it, without commas and money signs.
    operations: its operators `+-*/` in their order. is_trivial: no step does more than add 0, or multiply with 0 or 1.
    decimals: those of a number.
    """

    value: Fraction | None
    literals: tuple[str, ...]
    operations: str = ""
    is_trivial: bool = True
    decimals: int = 0

    @property
    def kind(self) -> str:
        if self.operations == "*" and all(re.fullmatch("[1-9]", literal) for literal in self.literals):
            return "fact"
        return _KINDS[self.operations[0]] if len(set(self.operations)) == 1 else "mixed"


class Item(NamedTuple):
    """A piece of a calculation; kind: operand, unknown, note, an operator `+-*/`, or a mark `=`, `(`, `)`, `<<`, `>>`.

    noted: the value and the stated number of the equation in a calculator note, for what has been read of it.
    """

    kind: str
    start: int
    end: int
    operand: Expression | None = None
    noted: tuple[Fraction | None, Fraction] | None = None


def find_calculations(text: str) -> Iterator[list[Item]]:
    """Yield the items between words, line ends and signs without meaning; an unknown opens what is only a part."""
    items: list[Item] = []
    word = ""  # the one just before, if only blanks follow it
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "ignored":
            continue
        start, end = token.span(kind)
        if kind in ("word", "other"):
            behind_operand = bool(items) and items[-1].kind in ("operand", ")")
            is_function = kind == "word" and text.startswith("(", end)
            previous, word = word, token[kind].lower()
            is_part = behind_operand or previous in _PARTS if word == "of" else is_function or word in _CALCULATES
            if items:
                yield items
            items = [Item("unknown", start, end)] if is_part else []
            continue
        word = ""
        if kind == "number":
            number = None if token["name"] else _number(token["digits"], bool(token["percent"]))
            items.append(Item("operand" if number else "unknown", start, end, number))
        elif kind == "mark":
            mark = token[kind]
            items.append(Item("=" if mark == "==" else mark, start, end))
        elif kind == "operator":
            sign = _OPERATION.get(token[kind], token[kind])
            item = _opening_operator(text, sign, start, end) if not items else Item(sign, start, end)
            if item:
                items.append(item)
        else:
            items.append(Item("unknown", start, end))
    if items:
        yield items


@lru_cache(maxsize=4096)  # a text states most of its numbers more than once, and texts share them
def _number(digits: str, is_percent: bool) -> Expression | None:
    if not digits.isascii() or not DECIMAL.fullmatch(digits):
        return None
    literal = digits.replace(",", "")
    whole, _, decimals = literal.partition(".")
    if len(whole) + len(decimals) > MAX_DIGITS:
        return None
    if is_percent:
        return Expression(Fraction(literal) / 100, (f"{literal}%",), decimals=len(decimals) + 2 if decimals else 0)
    return Expression(Fraction(literal), (literal,), decimals=len(decimals))


def _opening_operator(text: str, sign: str, start: int, end: int) -> Item | None:
    """Return the operator, nothing for a bullet, or an unknown where a calculation cannot open with it."""
    if text[end : end + 1].isspace():
        return None if _BULLET_BEGINS.search(text, max(0, start - 8), start) else Item("unknown", start, end)
    is_sign = sign == "-" and _SIGN_MAY_STAND.search(text, max(0, start - 4), start)
    return Item(sign if is_sign else "unknown", start, end)


def calculate(items: Sequence[Item]) -> Expression | None:
    """Return what operands and operators in turn come to, or None where they are not one whole expression."""
    if len(items) == 1:
        return items[0].operand
    finished, term = _ZERO, None  # the sum of whole terms, and the term that factors may still join
    pending, negative = "", False
    literals: list[str] = []
    operations, is_trivial, is_defined, decimals = "", True, True, 0
    for item in items:
        awaits_operand = term is None or pending
        if not item.operand:
            if item.kind not in "+-*/" or (awaits_operand and (item.kind != "-" or negative)):
                return None
            if awaits_operand:
                negative = True
            else:
                pending = item.kind
            continue
        if not awaits_operand or len(literals) + len(item.operand.literals) > MAX_OPERANDS:
            return None
        is_defined &= item.operand.value is not None and not (pending == "/" and item.operand.value == 0)
        value = item.operand.value or _ZERO
        value = -value if negative else value
        if not pending:
            term = value
        elif pending in "+-":
            finished += term
            is_trivial &= value == 0 or finished == 0
            term = value if pending == "+" else -value
        elif pending == "*":
            is_trivial &= value in (0, 1) or term in (0, 1)
            term *= value
        else:
            is_trivial &= value in (0, 1) or term == 0
            term /= value or 1
        is_trivial &= item.operand.is_trivial
        operations += pending + item.operand.operations
        literals += ["-" + literal for literal in item.operand.literals] if negative else item.operand.literals
        decimals = item.operand.decimals
        pending, negative = "", False
    if term is None or pending or negative:
        return None
    value = finished + term if is_defined else None
    return Expression(value, tuple(literals), operations, is_trivial, 0 if operations else decimals)
