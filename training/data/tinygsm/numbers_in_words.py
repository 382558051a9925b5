"""Numbers as word problems write them: decimals for answers, and the numbers that a question gives."""

import re
from fractions import Fraction

from training.evals.answers import read_numbers

_UNITS = (
    *("zero", "one first", "two second", "three third", "four fourth", "five fifth", "six sixth", "seven seventh"),
    *("eight eighth", "nine ninth", "ten tenth", "eleven eleventh", "twelve twelfth", "thirteen thirteenth"),
    *("fourteen fourteenth", "fifteen fifteenth", "sixteen sixteenth", "seventeen seventeenth"),
    *("eighteen eighteenth", "nineteen nineteenth"),
)
_TENS = (
    *("twenty twentieth", "thirty thirtieth", "forty fortieth", "fifty fiftieth", "sixty sixtieth"),
    *("seventy seventieth", "eighty eightieth", "ninety ninetieth"),
)
_SCALES = {10**2: "hundred", 10**3: "thousand", 10**6: "million", 10**9: "billion"}
_SMALL = {
    **{word: number for number, words in enumerate(_UNITS) for word in words.split()},
    **{word: 10 * tens for tens, words in enumerate(_TENS, 2) for word in words.split()},
    "score": 20,
}
_LARGE = {word + ending: number for number, word in _SCALES.items() for ending in ("", "s", "th")}
_WORDS = _SMALL | _LARGE
_NUMBER_WORDS = re.compile(rf"\b(?:{'|'.join(_WORDS)})(?:(?:[ -]|,? and )(?:{'|'.join(_WORDS)}))*\b")
_FRACTION = re.compile(r"[0-9]{1,15}(?:/[0-9]{1,15})+")
_SCALED = re.compile(
    rf"(half an?|(?<![0-9.,])[0-9]{{1,3}}(?:,[0-9]{{3}}){{0,4}}(?:\.[0-9]{{1,6}})?)[ -]?(k|{'|'.join(_LARGE)})\b"
)


def decimals_of(number: Fraction | int) -> int | None:
    """Return how many decimals write a number exactly; None if there are no such."""
    twos = fives = 0
    rest = number.denominator
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else None


def decimal_text(number: Fraction | int, decimals: int | None = None) -> str:
    """Return a number in digits, without zeros at its end; rounded half to even if `decimals` are given.

    Raises `ValueError` where a number has no end and nothing says where to stop.
    """
    if number.denominator == 1:
        return str(number.numerator)
    exact = decimals_of(number)
    if decimals is None or (exact is not None and exact <= decimals):
        if exact is None:
            raise ValueError(f"{number} has no last decimal; say to how many it is rounded")
        decimals = exact
    scaled = round(number * 10**decimals)
    digits = f"{abs(scaled):0{decimals + 1}d}"
    text = (digits[:-decimals] + "." + digits[-decimals:]).rstrip("0").rstrip(".") if decimals else digits
    return f"-{text}" if scaled < 0 else text


def numbers_in(text: str) -> set[Fraction | int]:
    """Return the numbers of a text without their signs: `1,200`, `twenty-five`, `three hundred`, `2.5k`, `20th`.

    Of a fraction in digits its parts are numbers too, since `18/20` may be a score.
    """
    found = {_exact(abs(number)) for number in read_numbers(text) if number is not None}
    text = text.lower()
    if not _WORDS.keys().isdisjoint(re.findall("[a-z]+", text)):
        for words in _NUMBER_WORDS.finditer(text):
            found.update(_read_words(words.group()))
    for fraction in _FRACTION.findall(text):
        found.update(map(int, fraction.split("/")))
    for number, scale in _SCALED.findall(text):
        factor = Fraction(1, 2) if number.startswith("half") else Fraction(number.replace(",", ""))
        found.add(factor * (1_000 if scale == "k" else _LARGE[scale]))
    return found


def _exact(number: int | float) -> Fraction | int:
    return number if isinstance(number, int) else Fraction(repr(number))


def _read_words(words: str) -> list[int]:
    """Return what a run of number words may mean: the number that all make, and each on its own."""
    total = current = 0
    parts = re.findall(r"[a-z]+", words.replace(" and ", " "))
    for part in parts:
        if part in _SMALL:
            current += _SMALL[part]
        elif part.startswith("hundred"):
            current = max(current, 1) * 100
        else:
            total += max(current, 1) * _LARGE[part]
            current = 0
    return [total + current, *(_WORDS[part] for part in parts)]
