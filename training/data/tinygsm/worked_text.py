"""Write the calculation behind a result as text: each step one equation that can be read and recomputed."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from training.data.tinygsm.long_multiplication import long_multiplication
from training.data.tinygsm.numbers_in_words import decimal_text, decimals_of
from training.data.tinygsm.quantities import Exact, Operation, Quantity, Unwritable, operations_behind

STEP_DECIMALS = 6  # a step with more is written into the next one, in parentheses
STEP_DIGITS = 15
ANSWER_DIGITS = 30  # as many as the reader of answers takes
MAX_NESTING = 5
MOST_WORDS = 5  # of a label

_ROUNDINGS = {"floor": "rounded down to", "trunc": "rounded down to", "ceil": "rounded up to", "round": "rounded to"}
_NOTES = {"gcd": "the greatest common divisor of", "lcm": "the least common multiple of", "sqrt": "the square root of"}
# What a variable may be called without saying anything.
_SILENT = frozenset("result answer ans res ret value output final solution x y z n i j k a b c temp tmp".split())
_PRODUCT = re.compile("[0-9] x [0-9]")  # an area_3_x_4 would state a fact
_COUNTING = ("number_of_", "num_", "no_of_")
_TEMPLATES = ("The {label} is {step}.", "So the {label} is {step}.", "This gives the {label}: {step}.")
_TEMPLATES_WITHOUT_LABEL = ("{Step}.", "Then {step}.", "Next, {step}.")


@dataclass(frozen=True)
class Step:
    """One line: what it is about, an expression and the number it comes to, and what is done with that number.

    expression: empty for a note. stated: the number written behind `=`. partial: the line of a long multiplication
    before it, with its equations.
    """

    label: str
    expression: str
    stated: str
    remark: str = ""
    partial: tuple[str, list[tuple[str, Exact]]] | None = None

    @property
    def is_note(self) -> bool:
        return not self.expression and self.stated[0].isalpha()

    @property
    def said(self) -> str:
        return (f"{self.expression} = " if self.expression else "") + self.stated + self.remark

    @property
    def equations(self) -> list[str]:
        partial = [text for text, _ in self.partial[1]] if self.partial else []
        return [*partial, f"{self.expression} = {self.stated}"] if self.expression else partial


@dataclass(frozen=True)
class Worked:
    """The steps to a result, and the result as it is written behind `####`."""

    steps: list[Step]
    answer: str

    @property
    def equations(self) -> list[str]:
        return [equation for step in self.steps for equation in step.equations]


def work_out(result: Quantity, with_long_multiplication: bool = False) -> Worked:
    """Return the written steps that a traced result depends on.

    Raises `Unwritable` where a number has too many digits, or an expression too many parentheses.
    """
    writer = _Writer(result, with_long_multiplication)
    return Worked(writer.steps, writer.answer)


def step_lines(worked: Worked, style: str, with_labels: bool, seed: int = 0) -> list[str]:
    """Return the lines of a calculation in a style: `equations`, `labelled` or `prose`.

    The sentences of prose are chosen by a hash of the seed and what they say, never by where the row stands.
    """
    lines = []
    for step in worked.steps:
        if step.partial:
            lines.append(step.partial[0])
        label = step.label if with_labels else ""
        said = step.said
        if style == "prose":
            label = "" if step.is_note else label  # a note is a sentence of its own
            choice = hashlib.sha256(f"{seed}/{label}/{said}".encode()).digest()[0]
            templates = _TEMPLATES if label else _TEMPLATES_WITHOUT_LABEL
            lines.append(templates[choice % 3].format(label=label, step=said, Step=said[:1].upper() + said[1:]))
        elif style == "labelled" and label:
            lines.append(f"{label}: {said}" if step.is_note else f"{label} = {said}")
        else:
            lines.append(said)
    return lines


def label_of(name: str | None) -> str:
    """Return the words of a variable's name, at most five; empty where it says nothing.

    >>> label_of("num_boxesPerDay"), label_of("result")
    ('boxes per day', '')
    """
    if name is None:
        return ""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().strip("_")
    for prefix in _COUNTING:
        if spaced.startswith(prefix) and len(spaced) > len(prefix):
            spaced = spaced[len(prefix) :]
    words = [word for word in spaced.split("_") if word]
    if not words or spaced in _SILENT or len("".join(words)) < 3:
        return ""
    label = " ".join(words[:MOST_WORDS])
    return "" if _PRODUCT.search(label) else label


class _Writer:
    """Decides which operations get a line of their own, and which are written into another one."""

    def __init__(self, result: Quantity, with_long_multiplication: bool):
        self.with_long_multiplication = with_long_multiplication
        self.operations = operations_behind(result)
        self.uses = Counter(id(each.operation) for one in self.operations for each in one.operands)
        self.steps: list[Step] = []
        self.said: set[str] = set()
        self.merged: set[int] = set()  # operations whose line says more than their own result
        for index, operation in enumerate(self.operations):
            following = self.operations[index + 1] if index + 1 < len(self.operations) else None
            self._write(operation, following)
        self.answer = self._finish(result)

    def _write(self, operation: Operation, following: Operation | None) -> None:
        if operation.kind in "+-*/" and id(operation) not in self.merged:
            if not _is_short(operation.result):
                return
            remark, label = "", operation.label
            if following is not None and self._joins(operation, following):
                remark, label = f", {_ROUNDINGS[following.kind]} {decimal_text(following.result)}", following.label
                self.merged.add(id(following))
            self._append(operation, label_of(label), decimal_text(operation.result), remark)
        elif operation.kind in _ROUNDINGS and id(operation) not in self.merged:
            self._write_rounding(operation)
        elif operation.kind in _NOTES:
            numbers = " and ".join(self._operand(each, bare=True) for each in operation.operands)
            if not _is_short(operation.result):
                raise Unwritable("long root")
            note = f"{_NOTES[operation.kind]} {numbers} is {decimal_text(operation.result)}"
            self._add(Step(label_of(operation.label), "", note))

    def _joins(self, operation: Operation, following: Operation) -> bool:
        """Return whether a rounding goes on with the number just written, which nothing else needs."""
        return (
            following.kind in _ROUNDINGS
            and following.operands[0].operation is operation
            and self.uses[id(operation)] == 1
            and operation.label is None
        )

    def _write_rounding(self, rounding: Operation) -> None:
        (number,) = rounding.operands
        label, rounded = label_of(rounding.label), decimal_text(rounding.result)
        remark = f", {_rounding_words(rounding)} {rounded}"
        operation = number.operation
        if _is_short(number.exact) or operation is None or operation.kind not in "+-*/":
            self._add(Step(label, "", decimal_text(number.exact), remark))
        elif decimals_of(number.exact) is not None:
            self._append(operation, label, _long_text(number.exact), remark)
        elif rounding.kind == "round" and "." in rounded:
            self._append(operation, label, rounded)
        else:
            self._append(operation, label, _shown_before(rounding), remark)

    def _finish(self, result: Quantity) -> str:
        operation = result.operation
        if operation is None or _is_short(result.exact) or operation.kind in _ROUNDINGS or operation.kind in _NOTES:
            return _long_text(result.exact)
        if decimals_of(result.exact) is not None:
            answer = _long_text(result.exact)
        else:
            # Two decimals, or as many as show three digits of a small number.
            size = math.floor(math.log10(abs(result.exact)))
            answer = _readable(decimal_text(result.exact, max(2, 2 - size)))
            if "." not in answer:
                raise Unwritable("close to a whole number")
        self._append(operation, label_of(operation.label), answer)
        return answer

    def _append(self, operation: Operation, label: str, stated: str, remark: str = "") -> None:
        partial = None
        if self.with_long_multiplication and operation.kind == "*":
            factors = [each.exact for each in operation.operands]
            if all(_is_short(factor) for factor in factors):
                partial = long_multiplication(*factors)
        self._add(Step(label, self._expression(operation), stated, remark, partial))

    def _add(self, step: Step) -> None:
        # A loop may calculate the same again, and a quotient serves for its remainder too.
        if step not in self.steps and (step.label or step.said not in self.said):
            self.steps.append(step)
            self.said.add(step.said)

    def _expression(self, operation: Operation, nesting: int = 0) -> str:
        if nesting > MAX_NESTING:
            raise Unwritable("many parentheses")
        left, right = operation.operands
        sign = operation.kind
        if sign in "+-" and right.exact < 0 and _is_short(right.exact):
            sign, shown = "-" if sign == "+" else "+", decimal_text(-right.exact)
        else:
            shown = self._operand(right, nesting=nesting)
        # Without parentheses a minus behind a word could be a dash.
        first, second = (
            f"({one})" if one.startswith("-") else one for one in (self._operand(left, nesting=nesting), shown)
        )
        return f"{first} {sign} {second}"

    def _operand(self, number: Quantity, bare: bool = False, nesting: int = 0) -> str:
        if _is_short(number.exact):
            return decimal_text(number.exact)
        operation = number.operation
        if operation is None or operation.kind not in "+-*/":
            if decimals_of(number.exact) is None:
                raise Unwritable("long number")
            return _long_text(number.exact)
        expression = self._expression(operation, nesting + 1)
        return expression if bare else f"({expression})"


def _is_short(number: Exact) -> bool:
    if abs(number) >= 10**STEP_DIGITS:
        return False
    return number.denominator == 1 or ((decimals := decimals_of(number)) is not None and decimals <= STEP_DECIMALS)


def _long_text(number: Exact) -> str:
    return _readable(decimal_text(number))


def _readable(text: str) -> str:
    if sum(map(str.isdigit, text)) > ANSWER_DIGITS:
        raise Unwritable("long number")
    return text


def _rounding_words(rounding: Operation) -> str:
    upwards = rounding.kind == "trunc" and rounding.result > rounding.operands[0].exact
    return _ROUNDINGS["ceil" if upwards else rounding.kind]


def _shown_before(rounding: Operation) -> str:
    """Return the number that is rounded, with so many decimals that it visibly comes to the same."""
    round_again: Callable[[Fraction], int] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "trunc": math.trunc,
        "round": round,
    }[rounding.kind]
    for decimals in range(2, STEP_DECIMALS + 1):
        text = decimal_text(rounding.operands[0].exact, decimals)
        shown = Fraction(text)
        if shown.denominator != 1 and round_again(shown) == rounding.result:
            return text
    raise Unwritable("rounding of a close number")


def expected_numbers(worked: Worked) -> list[Exact]:
    """Return the numbers that the equations of a calculation state, in their order."""
    numbers: list[Exact] = []
    for step in worked.steps:
        if step.partial:
            numbers += [stated for _, stated in step.partial[1]]
        if step.expression:
            numbers.append(Fraction(step.stated))
    return numbers
