"""The numbers that a solution may begin with: those of its question, and what everybody knows of them."""

import re
from fractions import Fraction
from functools import lru_cache

from tokenization import inject, render
from training.data.tinygsm.numbers_in_words import numbers_in

Exact = int | Fraction

_SAID = {
    2: "half halve twice double doubled pair couple both",
    3: "third thrice triple tripled",
    4: "quarter quadruple quadrupled",
    **dict(enumerate("fifth sixth seventh eighth ninth tenth".split(), 5)),
    12: "dozen",
}
# How many of another unit make one, or are made of one: a question names only one of the two.
_MEASURES = {
    2: "weekend",
    4: "month monthly",
    5: "nickel weekday workweek",
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
_NUMBERS_OF: dict[str, set[int]] = {}
for _table in (_SAID, _MEASURES):
    for _number, _words in _table.items():
        for _word in _words.split():
            _NUMBERS_OF.setdefault(_word, set()).add(_number)
_WORD = re.compile("[a-z]+")
_TWO_WORDS = re.compile(r"\b(?:twen|thir|for|fif|six|seven|eigh|nine)ty-[a-z]+")
_PERCENTAGE = re.compile(r"(?<![0-9.])([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(?:%|percent)")
_COUNTS_HUNDREDTHS = re.compile(r"%|percent|\$|\bcents?\b")


@lru_cache(maxsize=4096)  # the samples of a group share their question
def said_numbers(question: str) -> frozenset[Exact]:
    """Return the numbers of a question in digits and in words, without their signs."""
    return frozenset(map(whole_if_possible, numbers_in(_plain(question))))


@lru_cache(maxsize=4096)
def told_numbers(question: str) -> frozenset[Exact]:
    """Return the numbers of a question and those that it implies.

    These are the ones in words such as `twice` and `dozen`; the parts that small numbers make (a third is 1/3); of a
    percentage the share, what it leaves, and its sum with the whole; amounts in cents and in dollars; and the measures
    of the units that it names, such as 60 for an hour.

    >>> sorted(told_numbers("Half of the 30 apples"))
    [Fraction(1, 2), 2, 30]
    """
    said = set(said_numbers(question))
    question = _plain(question)
    for word in set(_WORD.findall(question)):
        said |= _NUMBERS_OF.get(word, set()) | _NUMBERS_OF.get(word.removesuffix("s"), set())
    told = said | {Fraction(1, number) for number in range(2, 11) if number in said}
    for percent in map(Fraction, _PERCENTAGE.findall(question)):
        share = percent / 100
        told |= {share, abs(1 - share), 1 + share, abs(100 - percent), 100 + percent}
    if _COUNTS_HUNDREDTHS.search(question):
        told |= {100, Fraction(1, 100)} | {Fraction(number, 100) for number in said}
        told |= {100 * number for number in said if number.denominator > 1}
    return frozenset(map(whole_if_possible, told))


def _plain(question: str) -> str:
    # The product of a 2x4 is no number of the question, in whatever arm, nor is the 5 of twenty-five.
    question = render(inject(question), "expression").lower()
    return _TWO_WORDS.sub(lambda words: str(max(numbers_in(words[0]), default=words[0])), question)


def whole_if_possible(number: Exact) -> Exact:
    """Return the same number, as an int where it is whole: sets tell ints apart much faster."""
    return number.numerator if number.denominator == 1 else number
