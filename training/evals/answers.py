"""Read the answer of a reply: the one reader of evaluations, rewards and data checks.

A reply is first cut where generation stops, then brought into a canonical form in which every fact is written out.
A reply and its injected twin have the same canonical form, so no reading can tell the arms apart.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

from tokenization import inject, render
from tokenization.mul_facts import END_OF_TEXT, NAME_PATTERN

Number = int | float

MAX_DIGITS = 30  # a longer number is a model that repeats a digit

ANSWER_MARK = re.compile("#{4,}")
_STOP = re.compile(rf"{re.escape(END_OF_TEXT)}|\n(?:User|Question):")
_ANSWER_IS = re.compile(r"\banswer[*_]{0,3}[^\S\n]{0,3}(?:is\b|:)", re.IGNORECASE)

BLANK = r"[^\S\n]"
LETTER = r"[^\W\d_]"
MINUS = "[-−–]"
CURRENCY = "[$€£¥₹]"
# Digits and what may join them, taken to their end: only then is it told what they are, so no part is read as a whole.
_RUN = r"(?P<run>(?:(?<![\w.)])\.)?\d+(?:[.,/:]\d+)*)"
# In 1e5 and 4k3 digits belong to a name; in 12x3 the letter is a sign.
_NAME_GOES_ON = rf"(?P<name>(?!x[0-9]){LETTER}+[0-9]\w*)?"
# A minus after a number or a bracket subtracts, and after a letter it is a hyphen.
_SIGN_BEGINS = rf"(?<![\w)\]}}%−–-])(?<![\d)\]%]{BLANK})(?<![\d)\]%]{BLANK}{BLANK})"
_SIGN = rf"(?:{_SIGN_BEGINS}{MINUS}|(?:(?<==)|(?<=={BLANK})|(?<=\()){MINUS}{BLANK}{{1,2}})(?:{CURRENCY}{BLANK}?)?"
_WORD = rf"(?!(?:(?<=[0-9])|(?<=[0-9]{BLANK}))x[0-9]){LETTER}\w*(?:(?<=\d)[.,/:]\d+)*"
_WORD_OR_NUMBER = re.compile(rf"(?=[\w.−–-])(?:{_WORD}|(?P<sign>{_SIGN})?{_RUN}{_NAME_GOES_ON})")

_INTEGER = r"[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+"  # 1,234,567; commas that group otherwise make a list
DECIMAL = re.compile(rf"(?:{_INTEGER})(?:\.[0-9]+)?|\.[0-9]+")
_FRACTION = re.compile(r"[0-9]+/[0-9]+")

# Money, emphasis, \boxed{ and the like; bounded, since a long row of such signs is no answer.
_DECORATION = rf"(?:{BLANK}|{CURRENCY}|\\[A-Za-z]{{1,12}}\{{|[*_`\"'(\[{{\\:~≈+])"
_ANSWER = re.compile(rf"{_DECORATION}{{0,16}}+(?P<sign>{MINUS}{_DECORATION}{{0,4}}+)?{_RUN}{_NAME_GOES_ON}")
_OPERATOR = r"(?:[−–+×÷/^·x-]|\*(?!\*)|\*\*(?!\s)|(?<=\s)\*\*)"
# 5², 18 000, 2 1/2, 10 - 3, 5 apples + 3: the first number alone is not what is meant.
_CHANGES_THE_VALUE = re.compile(
    rf"[²³¹⁰-⁹¼-¾⅐-⅞]|{BLANK}[0-9]{{3}}(?![0-9])|{BLANK}{{1,3}}[0-9]+/[0-9]"
    rf"|[)\]}}%]{{0,3}}(?:{BLANK}{{0,3}}{LETTER}++){{0,2}}{BLANK}{{0,3}}{_OPERATOR}"
    rf"{BLANK}{{0,3}}{MINUS}?(?:{CURRENCY}|\(){{0,3}}{MINUS}?\.?[0-9]"
)
_EQUALS = re.compile(r"(?<![<>!=])=+(?![=>])")
_EQUALS_FOLLOWS = re.compile(rf"[)\]}}%*_$]{{0,4}}{BLANK}{{0,3}}=")


@dataclass(frozen=True)
class Answer:
    """What a reply answers; a whole number is an int.

    strict: the number after the answer mark `####`. flexible: that number, or else the one after "answer is", or else
    the last of the reply. None where there is no such number.
    """

    strict: Number | None
    flexible: Number | None


def reply(text: str) -> str:
    """Return the text up to where generation stops: an end of text, a new turn, or a second answer mark.

    A new turn is a line, but not the first, that begins with `User:` or `Question:`; a mark is a run of four or more
    `#`. What follows a cut never changes the reply before it.
    """
    stop = _STOP.search(text)
    text = text[: stop.start()] if stop else text
    second = next(islice(ANSWER_MARK.finditer(text), 1, None), None)
    return text[: second.start()] if second else text


def canonical(text: str) -> str:
    """Return the text with every fact written out as an equation, be it a name or a multiplication that injects.

    >>> canonical("#### 6 x 9"), canonical("#### <MUL_6_9_54>")
    ('#### 6*9=54', '#### 6*9=54')
    """
    return render(inject(text))


def read_answer(text: str) -> Answer:
    """Return the strict and the flexible answer of a reply; any string is read, in time linear in its length.

    The strict number stands after the mark, on its line. Before it stand only money signs, light decoration, or an
    expression that ends in `=`; behind it anything that does not change its value, so `#### $18 per day for 7 days`
    is 18 and `#### 10 - 3` is nothing. `#### 6*9` is 54 in every arm, because its injected twin is the fact. A
    fraction like `1/2` is one number, `50%` is 50, and a number of more than `MAX_DIGITS` digits is no answer.

    >>> read_answer("He pays 2*60=120 and 30.\\n#### $1,150.00")
    Answer(strict=1150, flexible=1150)
    """
    text = canonical(reply(text))
    mark = ANSWER_MARK.search(text)
    strict = _resolve(_line(text, mark.end())) if mark else None
    if strict is not None:
        return Answer(strict, strict)
    flexible = _number_after_answer_is(text)
    if flexible is None:
        flexible = _last_number(text)
    return Answer(None, flexible)


def read_numbers(text: str) -> list[Number | None]:
    """Return the numbers of a text in their order; None stands for one that has no value, as 1/0 or too many digits.

    Facts are not written out first. Digits inside a name (`x2`, `1e5`) are no number, nor is `1.2.3`; `1,2,3` and
    `3:30` are several. The minus of `10-5`, `10 -5` and `x-5` is no sign, that of `is -5`, `(-5)` and `-$5` is.
    """
    return [_value(*literal) for literal in _signed_literals(text)]


def first_number(text: str) -> Number | None:
    """Return the first number of a reply, a fact read as its product; None if there is none.

    It reads what follows "The answer is", where `6 * 9 = 54` and its fact both say 54.
    """
    return _first_number(render(inject(reply(text)), "value"))


def final_number(text: str) -> Number | None:
    """Return the number after the answer mark or, where there is none, the first number of a reply.

    For replies that may work before they answer: what stands before the mark, a fact as well, is then a step and no
    answer.

    >>> final_number(" 6*9=54\\n#### 27"), final_number(" <MUL_6_9_54>")
    (27, 54)
    """
    marked = read_answer(text).strict
    return marked if marked is not None else first_number(text)


def first_number_in_digits(text: str) -> Number | None:
    """Return the first number of a reply, but None where it comes from a fact, as a name or written out."""
    name = NAME_PATTERN.search(injected := inject(reply(text)))
    before = _first_number(injected[: name.start()] if name else injected)
    return before if same_number(before, first_number(text)) else None


def gold_number(text: str) -> Number:
    """Return the number of a right answer in a data set: `#### 18`, `18`, or `9 (apples)`.

    Raises `ValueError` when there is none, or several and no mark.
    """
    number = read_answer(text).strict
    if number is None:
        numbers = read_numbers(text)
        if len(numbers) != 1 or numbers[0] is None:
            raise ValueError(
                f"the answer {text!r} holds no number" if not numbers else f"the answer {text!r} is not one number"
            )
        number = numbers[0]
    return number


def same_number(a: Number | None, b: Number | None) -> bool:
    """Tell whether both are numbers and equal: 18 and 18.0 are, 18 and 17.999 are not."""
    return a is not None and b is not None and a == b


def same_result(computed: Number | Fraction, gold: Number) -> bool:
    """Tell whether what a program computed is the answer, but for the noise of floats.

    Beside a whole answer it must be whole within 1e-6; beside another one, equal within a relative 1e-4, because such
    answers are rounded where they are written.
    """
    if isinstance(gold, int):
        whole = round(computed)
        return whole == gold and abs(computed - whole) <= 1e-6 * max(1, abs(whole))
    return abs(computed - gold) <= 1e-4 * abs(gold)


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    return text[start : end if end >= 0 else None]


def _signed_literals(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each number as its digits and whether a minus makes it negative."""
    for match in _WORD_OR_NUMBER.finditer(text):
        if match["run"] and not match["name"]:
            negative = bool(match["sign"])
            for literal in _literals(match["run"]):
                yield literal, negative
                negative = False


def _first_number(text: str) -> Number | None:
    for literal in _signed_literals(text):
        return _value(*literal)
    return None


def _last_number(text: str) -> Number | None:
    last = deque(_signed_literals(text), maxlen=1)
    return _value(*last[0]) if last else None


def _literals(run: str) -> list[str]:
    """Return the numbers in digits that `.`, `,`, `/` and `:` join: 1,234 and 1/2 are one, 1,2 and 3:30 are two."""
    if not run.isascii():
        return []
    if DECIMAL.fullmatch(run) or _FRACTION.fullmatch(run):
        return [run]
    literals = []
    for part in re.split("[/:]", run):
        literals += [part] if DECIMAL.fullmatch(part) else filter(DECIMAL.fullmatch, part.split(","))
    return literals


def _value(literal: str, negative: bool) -> Number | None:
    if sum(map(str.isdigit, literal)) > MAX_DIGITS:
        return None
    numerator, _, denominator = literal.replace(",", "").partition("/")
    if "." in numerator:
        numerator = numerator.rstrip("0").rstrip(".") or "0"
    value = float(numerator) if "." in numerator else int(numerator)
    if denominator:
        divisor = int(denominator)
        if divisor == 0:
            return None
        value = value / divisor if value % divisor else value // divisor
    return -value if negative else value


def _resolve(line: str) -> Number | None:
    """Return the number that a line begins with or, where an expression comes first, the one after its last `=`."""
    answer, position = None, 0
    while True:
        match = _ANSWER.match(line, position)
        if match:
            position = match.end()
            literals = _literals(match["run"])
            if len(literals) == 1 and not match["name"] and not _CHANGES_THE_VALUE.match(line, position):
                answer = _value(literals[0], negative=bool(match["sign"]))
                if not _EQUALS_FOLLOWS.match(line, position):
                    return answer
        equals = _EQUALS.search(line, position)
        if not equals:
            return answer
        position = equals.end()


def _number_after_answer_is(text: str) -> Number | None:
    last = deque(_ANSWER_IS.finditer(text), maxlen=1)
    if not last:
        return None
    line = _line(text, last[0].end())
    if not _ANSWER.match(line):
        first = next((match for match in _WORD_OR_NUMBER.finditer(line) if match["run"]), None)
        line = line[first.start() :] if first else ""
    return _resolve(line)
