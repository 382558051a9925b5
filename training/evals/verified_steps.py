"""Tell which steps of a worked reply are verified: true, begun with the numbers of the question, and needed for the
answer.

Everything is read in the canonical text, so a reply and its injected twin have the same steps.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from fractions import Fraction

from training.evals.answers import ANSWER_MARK, Number, canonical, read_answer, read_numbers, reply
from training.evals.equations import Equation, find_equations
from training.evals.told_numbers import Exact, said_numbers, told_numbers, whole_if_possible

LEAST_STEPS = 2
LEAST_USE = 0.5

_NUMBER = r"[0-9][0-9,]{0,40}(?:\.[0-9]{1,40})?"
# What a line makes of its result: 2 * 6 = 12 -> 120, or 7 / 2 = 3.5, rounded up to 4.
_GOES_ON = re.compile(rf"(?: (?P<shifted>->)|, rounded (?:up |down )?to) (?P<number>{_NUMBER})(?![0-9.]*[0-9])")
# 24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144
_LONG_MULTIPLICATION = re.compile(rf"(?<![0-9.,])({_NUMBER}) ?\* ?({_NUMBER}):.*")


@dataclass(frozen=True)
class Step:
    """A distinct equation of a reply that does something.

    is_grounded: it is true, and its numbers are those of the question or results of grounded steps before it.
    is_needed: the answer depends on its result.
    """

    text: str
    is_grounded: bool
    is_needed: bool

    @property
    def is_verified(self) -> bool:
        return self.is_grounded and self.is_needed


@dataclass(frozen=True)
class Derivation:
    """How a reply came to its answer.

    steps: in their order. use: the share of the different numbers of the question, ones aside, that stand in equations
    which the answer needs; 1 where the question has none.
    """

    steps: list[Step]
    use: float

    @property
    def verified_share(self) -> float:
        """The share of the steps that are verified.

        0 if the answer needs fewer than `LEAST_STEPS` of them, or less than `LEAST_USE` of the question's numbers: a
        chain that begins with the 2 of nearly every question says nothing of this one.
        """
        needed = sum(step.is_needed for step in self.steps)
        if needed < LEAST_STEPS or self.use < LEAST_USE:
            return 0.0
        return sum(step.is_verified for step in self.steps) / len(self.steps)


def find_derivation(question: str, text: str) -> Derivation:
    """Return the steps of a reply, and how much of the question they use.

    A step is grounded if it is true and begins with numbers of the question, with results of grounded steps before it,
    and with ones, but not with ones alone. The digits that a long multiplication takes its factors apart into are such
    numbers too, and results may be shifted or rounded: `24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144`.

    The number behind `####` needs the steps that come to it, and these the ones that came to their numbers before.
    What stands below the line of the answer is not read.

    Equations that do nothing (`54*1=54`) are no steps, nor are those that come to the number of a grounded step before
    them: they repeat it, exchange its factors, or take a detour back to it. Ungrounded equations with the same numbers
    are one step. What is false, has other numbers or is not needed counts as a step that is not verified.

    >>> find_derivation("6 bags of 9 apples, and 7 more", "6*9=54, 54+7=60 #### 60").verified_share
    0.5
    """
    chain = _Chain(question, canonical(reply(text)))
    for equation in find_equations(text):
        if equation.start <= chain.end:
            chain.add(equation)
    answer = read_answer(text).strict if chain.links else None
    needed = set() if answer is None else chain.needed_for(_exact(answer))
    used = {number for link in chain.links if link.place in needed for number in link.operands}
    said = said_numbers(question) - {1}
    return Derivation(
        [Step(link.equation.text, link.is_grounded, link.place in needed) for link in chain.links if link.is_step],
        len(used & said) / len(said) if said else 1.0,
    )


@dataclass(frozen=True, slots=True)
class _Link:
    place: int
    equation: Equation
    operands: set[Exact]
    is_grounded: bool
    is_step: bool


class _Chain:
    """The equations of a reply, linked by their numbers, which are taken without signs."""

    def __init__(self, question: str, text: str):
        self.text = text
        mark = ANSWER_MARK.search(text)
        self.end = text.find("\n", mark.end()) if mark and "\n" in text[mark.end() :] else len(text)
        self.known = set(told_numbers(question))
        self.long_multiplications = list(_LONG_MULTIPLICATION.finditer(text)) if ":" in text else []
        self.links: list[_Link] = []
        self.makers: dict[Exact, list[_Link]] = {}  # the grounded links that come to a number
        self.ungrounded_makers: dict[Exact, list[_Link]] = {}
        self.ungrounded: set[tuple] = set()

    def add(self, equation: Equation) -> None:
        operands = _operands(equation.left)
        stated = whole_if_possible(abs(equation.stated))
        does_nothing = equation.is_true and equation.is_trivial
        results = self._results(equation, stated)
        if not does_nothing:
            results.add(stated)
        is_grounded = equation.is_true and self._is_grounded(equation, operands)
        if is_grounded:
            is_repetition = stated in self.makers
            self.known |= results
        else:
            numbers = (frozenset(operands), stated, equation.is_true)
            is_repetition = numbers in self.ungrounded
            self.ungrounded.add(numbers)
        is_step = not (does_nothing or is_repetition)
        link = _Link(len(self.links), equation, operands, is_grounded, is_step)
        self.links.append(link)
        makers = self.makers if is_grounded else self.ungrounded_makers
        for number in results:
            makers.setdefault(number, []).append(link)

    def needed_for(self, answer: Exact) -> set[int]:
        """Return the places of the links that an answer depends on."""
        needed: set[int] = set()
        to_do, seen = [(answer, False)], set()  # a number, and whether only grounded links count
        while to_do:
            number, grounded_only = wanted = to_do.pop()
            makers = self._makers_of(number, grounded_only)
            if wanted in seen or not makers:
                continue
            seen.add(wanted)
            for link in makers:
                needed.add(link.place)
                for operand in link.operands:
                    before = self._makers_of(operand, link.is_grounded)
                    # What was made of a number is not needed for it: 6*9=54, 54*2=108, 108/2=54.
                    if before and before[0].place < makers[0].place:
                        to_do.append((operand, link.is_grounded))
        return needed

    def _makers_of(self, number: Exact, grounded_only: bool) -> list[_Link]:
        """Return the links that come to a number: beside grounded ones no others."""
        makers = self.makers.get(number, [])
        return makers if makers or grounded_only else self.ungrounded_makers.get(number, [])

    def _is_grounded(self, equation: Equation, operands: set[Exact]) -> bool:
        known = operands & self.known
        known |= operands & self._digits(equation)
        return bool(known) and operands - known <= {1}

    def _digits(self, equation: Equation) -> set[Exact]:
        """Return the digits for an equation, none unless it is a fact in the line of a long multiplication."""
        if equation.kind != "fact":
            return set()
        at = bisect_right(self.long_multiplications, equation.start, key=re.Match.start) - 1
        if at < 0 or self.long_multiplications[at].end() < equation.end:
            return set()
        factors = self.long_multiplications[at].group(1, 2)
        if not {_exact_literal(factor) for factor in factors} <= self.known:
            return set()
        return {int(digit) for digit in "".join(factors) if digit in "123456789"}

    def _results(self, equation: Equation, stated: Exact) -> set[Exact]:
        """Return what the text makes of a stated result."""
        if equation.text.endswith("%"):
            return {100 * stated}  # what follows may go on with hundredths or with percent
        goes_on = _GOES_ON.match(self.text, equation.end)
        if not goes_on:
            return set()
        number = _exact_literal(goes_on["number"])
        if goes_on["shifted"]:
            return {number} if stated and _is_power_of_ten(Fraction(number) / stated) else set()
        return {number} if abs(number - stated) < 1 else set()


def _operands(expression: str) -> set[Exact]:
    numbers = read_numbers(expression.replace("/", " / "))
    return {_exact(number) for number in numbers if number is not None}


def _exact(number: Number) -> Exact:
    return abs(number) if isinstance(number, int) else Fraction(str(abs(number)))


def _exact_literal(literal: str) -> Exact:
    return whole_if_possible(Fraction(literal.replace(",", "")))


def _is_power_of_ten(ratio: Fraction) -> bool:
    return all(str(part).rstrip("0") == "1" for part in (ratio.numerator, ratio.denominator))
