"""The numbers that a solution may begin with: those of its question, and what everybody knows of them."""

import re
from fractions import Fraction
from functools import lru_cache

from tokenization import inject, render
from training.data.tinygsm.numbers_in_words import numbers_in

_SAID = {
    2: "half halve twice double doubled pair couple both",
    3: "third thrice triple tripled",
    4: "quarter quadruple quadrupled",
    **{parts: word for parts, word in enumerate("fifth sixth seventh eighth ninth tenth".split(), 5)},
    12: "dozen",
}
# How many of a smaller unit a unit is, and how many of it a larger one, for questions that name only one of the two.
_UNITS = {
    5: "nickel",
    7: "week weekly day daily",
    10: "dime decade",
    12: "foot feet inch inche year yearly annual annually month monthly",
    16: "pound ounce",
    24: "day daily hour hourly",
    25: "quarter",
    30: "month monthly",
    52: "week weekly year yearly annual annually",
    60: "hour hourly minute second",
    365: "year yearly day daily",
}
_NUMBERS_OF: dict[str, set[Fraction]] = {}
for _numbers in (_SAID, _UNITS):
    for _number, _words in _numbers.items():
        for _word in _words.split():
            _NUMBERS_OF.setdefault(_word, set()).add(Fraction(_number))
_WORD = re.compile("[a-z]+")
_PERCENTAGE = re.compile(r"(?<![0-9.])([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(?:%|percent)")
_MONEY = re.compile(r"\$|\bcents?\b")


@lru_cache(maxsize=4096)  # the samples of a group share their question
def told_numbers(question: str) -> frozenset[Fraction]:
    """Return the numbers of a question without their signs, and those that it implies.

    They are its numbers in digits and words, also in words such as `twice` and `dozen`; the parts that small numbers
    make (a third is 1/3); of a percentage its hundredths, its complement, and its sum with the whole; amounts in cents
    and in dollars; and the measures of the units that it names, as 60 for an hour. Solutions of GSM8K take 9 of 10
    numbers from these or from their own results, and of another question 1 of 2.

    >>> sorted(map(str, told_numbers("Half of the 30 apples")))
    ['1/2', '2', '30']
    """
    question = render(inject(question), "expression").lower()
    said = {Fraction(number) for number in numbers_in(question)}
    for word in set(_WORD.findall(question)):
        said |= _NUMBERS_OF.get(word, set()) | _NUMBERS_OF.get(word.removesuffix("s"), set())
    told = said | {1 / number for number in said if 1 < number <= 10}
    for percent in map(Fraction, _PERCENTAGE.findall(question)):
        part = percent / 100
        told |= {part, abs(1 - part), 1 + part, abs(100 - percent), 100 + percent, Fraction(100), Fraction(1, 100)}
    if _MONEY.search(question):
        told |= {Fraction(100)} | {number / 100 for number in said} | {100 * n for n in said if n.denominator != 1}
    return frozenset(told)
