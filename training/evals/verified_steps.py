"""Tell which steps of a worked reply are verified: true, begun with the numbers of the question, and needed for the
answer.

Everything is read in the canonical text, so a reply and its injected twin have the same steps.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from training.evals.answers import Number, canonical, read_answer, read_numbers, reply
from training.evals.equations import Equation, find_equations
from training.evals.told_numbers import told_numbers

LEAST_STEPS = 2

_NUMBER = r"[0-9][0-9,]{0,40}(?:\.[0-9]{1,40})?"
# What a line says of its result beside the equation: 2 * 6 = 12 -> 120, or 7 / 2 = 3.5, rounded up to 4.
_CARRIED_ON = re.compile(rf"(?: -> |, rounded (?:up |down )?to )({_NUMBER})(?![0-9.]*[0-9])")
# 24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120
_LONG_MULTIPLICATION = re.compile(rf"(?<![0-9.,])({_NUMBER}) ?\* ?({_NUMBER}):.*")


@dataclass(frozen=True)
class Step:
    """A distinct equation of a reply that does something.

    is_grounded: its numbers are those of the question or results of grounded steps before it. is_needed: the answer
    depends on its result.
    """

    text: str
    is_true: bool
    is_grounded: bool
    is_needed: bool

    @property
    def is_verified(self) -> bool:
        return self.is_true and self.is_grounded and self.is_needed


def verified_share(question: str, text: str) -> float:
    """Return the share of a reply's steps that are verified; 0 if the answer takes fewer than `LEAST_STEPS` of them.

    Equations that are not needed or not true count as steps, so neither can a few good ones hide many others, nor a
    second one that has nothing to do with the answer make a chain.

    >>> verified_share("6 bags of 9 apples, and 6 more", "6*9=54, 54+6=61 #### 61")
    0.5
    """
    steps = find_steps(question, text)
    if sum(step.is_needed for step in steps) < LEAST_STEPS:
        return 0.0
    return sum(step.is_verified for step in steps) / len(steps)


def find_steps(question: str, text: str) -> list[Step]:
    """Return the steps of a reply in their order.

    Left out are equations that do nothing (`54*1=54`), and those that come to a number which a true and grounded step
    has come to before: they repeat it, turn its factors around, or take a detour back to it. Others are the same when
    their numbers are.

    A step begins with numbers of the question, with results of grounded steps before it, and with ones; not with ones
    alone. In a long multiplication, as in `24 * 6: 4 * 6 = 24, 2 * 6 = 12 -> 120, 24 + 120 = 144`, the digits of its
    factors are such numbers too, and a result may be carried on by `->` or "rounded to". The answer is the number
    behind `####`: it needs the steps that come to it, and these the ones that came to their numbers before.
    """
    text = reply(text)
    equations = [one for one in find_equations(text) if not one.is_trivial]
    if not equations:
        return []
    answer = read_answer(text).strict
    text = canonical(text)
    chain = _Chain(told_numbers(question), _Digits(text))
    for equation in equations:
        chain.add(equation, _results(text, equation))
    needed = chain.needed_for(_exact(answer)) if answer is not None else set()
    return [
        Step(link.equation.text, link.equation.is_true, link.is_grounded, link.place in needed)
        for link in chain.links
        if not link.is_repetition
    ]


@dataclass(frozen=True)
class _Link:
    place: int
    equation: Equation
    operands: frozenset[Fraction]
    is_grounded: bool
    is_repetition: bool


class _Chain:
    """The equations of a reply, hung together by their numbers, which go without signs."""

    def __init__(self, told: frozenset[Fraction], digits: "_Digits"):
        self.told, self.digits = told, digits
        self.links: list[_Link] = []
        self.makers: dict[Fraction, list[_Link]] = {}  # who comes to a number
        self.derived: set[Fraction] = set()
        self.others: set[tuple] = set()

    def add(self, equation: Equation, results: set[Fraction]) -> None:
        operands = frozenset(_operands(equation.left))
        stated = abs(equation.stated)
        is_grounded = equation.is_true and self._is_grounded(equation, operands)
        if is_grounded:
            is_repetition = stated in self.derived
            self.derived |= results
        else:
            known = len(self.others)
            self.others.add((operands, stated, equation.is_true))
            is_repetition = len(self.others) == known
        link = _Link(len(self.links), equation, operands, is_grounded, is_repetition)
        self.links.append(link)
        for number in results:
            self.makers.setdefault(number, []).append(link)

    def _is_grounded(self, equation: Equation, operands: Iterable[Fraction]) -> bool:
        digits = self.digits.at(equation, self._is_known)
        known = [number in digits or self._is_known(number) for number in operands]
        return any(known) and all(is_known or number == 1 for is_known, number in zip(known, operands, strict=True))

    def _is_known(self, number: Fraction) -> bool:
        return number in self.told or number in self.derived

    def needed_for(self, answer: Fraction) -> set[int]:
        """Return the places of the links that an answer depends on."""
        needed: set[int] = set()
        seen: set[Fraction] = set()
        open_numbers = [answer]
        while open_numbers:
            number = open_numbers.pop()
            if number in seen or number not in self.makers:
                continue
            seen.add(number)
            needed |= {link.place for link in self.makers[number]}
            # What was found out from a number is no way to it: 6*9=54, 54*2=108, 108/2=54.
            first = self._first(number)
            for link in self.makers[number]:
                open_numbers += [each for each in link.operands if each in self.makers and self._first(each) < first]
        return needed

    def _first(self, number: Fraction) -> int:
        makers = self.makers[number]
        return next((link.place for link in makers if link.is_grounded), makers[0].place)


class _Digits:
    """The digits that long multiplications take their factors apart into, each for its own line."""

    def __init__(self, text: str):
        self.lines = list(_LONG_MULTIPLICATION.finditer(text)) if ":" in text else []
        self.starts = [line.start() for line in self.lines]

    def at(self, equation: Equation, is_known) -> set[Fraction]:
        """Return the digits for an equation, none unless it is a fact behind two factors that are known."""
        index = bisect_right(self.starts, equation.start) - 1
        if index < 0 or equation.kind != "fact" or self.lines[index].end() < equation.end:
            return set()
        factors = self.lines[index].group(1, 2)
        if not all(is_known(_exact_literal(factor)) for factor in factors):
            return set()
        return {Fraction(digit) for digit in "".join(factors) if digit in "123456789"}


def _results(text: str, equation: Equation) -> set[Fraction]:
    stated = abs(equation.stated)
    carried = _CARRIED_ON.match(text, equation.end)
    if not carried:
        return {stated}
    number = _exact_literal(carried[1])
    is_rounded = "rounded" in carried[0] and abs(number - stated) < 1
    is_shifted = "->" in carried[0] and stated != 0 and _is_power_of_ten(number / stated)
    return {stated, number} if is_rounded or is_shifted else {stated}


def _operands(expression: str) -> Iterable[Fraction]:
    numbers = read_numbers(expression.replace("/", " / "))
    return (_exact(number) for number in numbers if number is not None)


def _exact(number: Number) -> Fraction:
    return Fraction(str(abs(number)))


def _exact_literal(literal: str) -> Fraction:
    return Fraction(literal.replace(",", ""))


def _is_power_of_ten(ratio: Fraction) -> bool:
    return all(str(part).rstrip("0") == "1" for part in (ratio.numerator, ratio.denominator))
