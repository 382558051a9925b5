"""Find the equations that a reply states, recompute each exactly, and sort replies by what went wrong.

What is not understood from its beginning to its end is no equation: `5 times 3 + 2 = 17` does not claim 3 + 2 = 17.
The canonical text is read. In it `6*9` says `6*9=54` in every arm, and `10-6*9=54` says nothing, because injection
takes the 54 for the result of the fact.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from training.evals import answers
from training.evals.answers import BLANK, CURRENCY
from training.evals.calculations import Expression, Item, calculate, find_calculations

MAX_NESTING = 8
_BRACKETS = ("(", ")", "<<", ">>")

# 5², 2x, 18 000, 2 1/2, 2 and 1/2, 5 million, 3 remainder 2, 30 + x: the number in front is not all that is stated.
_NUMBER_GOES_ON = re.compile(
    rf"[²³¹⁰-⁹¼-¾⅐-⅞^!]|[nxyz]\b|{BLANK}[0-9]{{3}}(?![0-9])|{BLANK}{{1,3}}(?:and{BLANK}\(?)?[0-9]+/[0-9]"
    rf"|{BLANK}{{0,3}}(?:k|hundred|thousand|million|billion|dozen|remainder)\b"
    rf"|{BLANK}{{0,3}}[-+*/×÷−–x]{BLANK}{{0,3}}\(?[a-z]\b(?!['’])",
    re.IGNORECASE,
)
# Rendered behind money, a fact states its own result, which is not that of the larger calculation: $2 + $6*9=54.
_FACT_BEHIND_MONEY = re.compile(rf"[-+*/×÷−–x]{BLANK}{{0,3}}{CURRENCY}{BLANK}?([1-9])\*([1-9])\Z")


@dataclass(frozen=True)
class Equation:
    """An expression with at least one operator, and the one number that it is said to equal.

    text: the canonical text from `start` to `end`. left: the expression in it. value: what it is; None after a
    division by zero. kind: fact (two factors of one digit 1-9), product, sum, difference, quotient, or mixed.
    is_true: exactly, or to the stated decimals if something is divided. is_trivial: every step adds 0, multiplies
    with 0 or 1, or the like, as in `0+5=5`.
    """

    text: str
    left: str
    stated: Fraction
    value: Fraction | None
    kind: str
    is_true: bool
    is_trivial: bool
    start: int
    end: int


def find_equations(text: str) -> list[Equation]:
    """Return the equations of a reply, sorted by their ends; offsets are those of `canonical(reply(text))`.

    Numbers may have commas, decimals, money signs and `%` (hundredths); operators are + - − * × x ÷ / with parentheses
    around them. In a chain `a = b = c` every expression with a number behind it counts. A calculator note, as in
    `60-8=<<60-8=52>>52`, and the calculation that it repeats count once when they agree. Any string is read, in time
    linear in its length.

    >>> [(one.text, one.is_true) for one in find_equations("2*30=60, and 60-8=51.")]
    [('2*30=60', True), ('60-8=51', False)]
    """
    text = answers.canonical(answers.reply(text))
    equations: list[Equation] = []
    for items in find_calculations(text):
        _read(text, items, equations)
    return sorted(equations, key=lambda equation: equation.end)


def classify(reply: str, is_right: bool, has_answer: bool) -> str:
    """Name what became of a reply.

    Returns `right`, `no_answer`, or for a wrong answer `wrong_arithmetic` (an equation is false),
    `right_arithmetic_wrong_answer` (there are equations, all true) or `no_arithmetic`.
    """
    if is_right:
        return "right"
    if not has_answer:
        return "no_answer"
    equations = find_equations(reply)
    if not equations:
        return "no_arithmetic"
    return "right_arithmetic_wrong_answer" if all(one.is_true for one in equations) else "wrong_arithmetic"


def _read(text: str, items: list[Item], equations: list[Equation]) -> None:
    """Append the equations; open parentheses stack up, and an open note sets the stack around it aside."""
    kinds = {item.kind for item in items}
    if "=" not in kinds:
        return
    if kinds.isdisjoint(_BRACKETS):
        _read_between_parentheses(text, items, equations)
        return

    def finish(unclosed: list[list[Item]]) -> None:
        for inside in unclosed:
            _read_between_parentheses(text, inside, equations)

    stack: list[list[Item]] = [[]]
    around_note: list[list[Item]] = []
    for item in items:
        if item.kind == "<<":
            finish(around_note)
            around_note, stack = stack, [[]]
        elif item.kind == ">>":
            known = len(equations)
            finish(stack)
            stack, around_note = around_note or [[]], []
            if len(equations) > known:
                noted = equations[-1].value, equations[-1].stated
                stack[-1].append(Item("note", item.start, item.end, noted=noted))
        elif item.kind == "(":
            if len(stack) > MAX_NESTING:
                finish(stack)
                stack = [[]]
            stack.append([item])
        elif item.kind == ")" and len(stack) > 1:
            inside = stack.pop()
            operand = _read_between_parentheses(text, inside, equations)
            stack[-1].append(Item("operand" if operand else "unknown", inside[0].start, item.end, operand))
        elif item.kind == ")":
            finish(stack)
            stack = [[]]
        else:
            stack[-1].append(item)
    finish(around_note + stack)


def _read_between_parentheses(text: str, items: list[Item], equations: list[Equation]) -> Expression | None:
    """Append the equations, and return what all of it is as an operand of the expression around the parentheses."""
    segments: list[list[Item]] = [[]]
    for item in items:
        if item.kind == "=":
            segments.append([])
        elif item.kind != "(":
            segments[-1].append(item)
    left: Expression | None = None
    left_items: list[Item] = []
    notes: list[Item] = []
    operand = None
    for index, segment in enumerate(segments):
        notes = notes[-1:] + [item for item in segment if item.noted]
        segment = [item for item in segment if not item.noted]
        # Behind a stated number and a blank a new calculation may follow: 6*9=54 3*5=15.
        cut = next((at for at in range(1, len(segment)) if segment[at - 1].operand and segment[at].operand), None)
        stated = _stated_number(text, segment[:cut]) if index else None
        if left and left.operations and stated:
            _append_equation(text, left_items, left, stated, notes, equations)
        if left and stated and cut is None and index == len(segments) - 1:
            operand = left._replace(value=stated.operand.value)
        if cut is None:
            left_items = segment
        else:
            left_items = segment[cut:] if stated and segment[cut - 1].end < segment[cut].start else []
        left = calculate(left_items)
    return operand if len(segments) > 1 else left


def _stated_number(text: str, items: list[Item]) -> Item | None:
    """Return the one number that the items are, with its sign; a dangling operator, as a dash is, may end them."""
    negative = bool(items) and items[0].kind == "-"
    number, *rest = items[negative:] or [None]
    if not number or not number.operand or number.operand.operations or number.operand.value is None:
        return None
    if len(rest) > 1 or (rest and rest[0].kind == "unknown") or _NUMBER_GOES_ON.match(text, number.end):
        return None
    if not negative:
        return number
    return number._replace(operand=number.operand._replace(value=-number.operand.value))


def _append_equation(
    text: str,
    left_items: list[Item],
    left: Expression,
    number: Item,
    notes: list[Item],
    equations: list[Equation],
) -> None:
    stated, decimals = number.operand.value, number.operand.decimals
    rounding = Fraction(1, 2 * 10**decimals) if decimals and "/" in left.operations else 0
    error = 0 if left.value == stated else None if left.value is None else abs(left.value - stated)
    if error and number.operand.literals[0].endswith("%") and abs(left.value - 100 * stated) <= 100 * rounding:
        stated, error = 100 * stated, 0  # 60/150*100 = 40% calculates in percent, where the sign is a unit
    start, left_end = left_items[0].start, left_items[-1].end
    fact = _FACT_BEHIND_MONEY.search(text, start, left_end)
    if fact and text[left_end : number.end] == f"={int(fact[1]) * int(fact[2])}":
        return
    if any(note.start > start and note.noted == (left.value, stated) for note in notes):
        return
    equations.append(
        Equation(
            text=text[start : number.end],
            left=text[start:left_end],
            stated=stated,
            value=left.value,
            kind=left.kind,
            is_true=error is not None and error <= rounding,
            is_trivial=left.is_trivial,
            start=start,
            end=number.end,
        )
    )
