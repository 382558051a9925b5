"""Arithmetic questions with one right answer: what the probes of `training.evals.probes` ask, the same for both arms.

Each is a complete question, so that no expression is cut where the answer begins. The sums and differences have
operands of at most 100, as in the drills of `training.data.synthetic`, so a model may have met some of them there; the
drills hold no multiplication or division of larger numbers.
"""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from tokenization import count_facts
from tokenization.mul_facts import FACT_BY_FACTORS, FACTS, MulFact

Pair = tuple[int, int]

# The seed of the original's sets. Strings seed the other sets, as they do the drills, but other strings.
PROBE_SEED = 42
PER_SET = 100
CANDIDATES = 10
PRODUCTS = tuple(sorted({fact.product for fact in FACTS}))

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Numbers of things are written so that a one needs no singular.
FACT_TEMPLATES = {
    "star": ("symbols", "What is {a} * {b}?"),
    "cross": ("symbols", "What is {a} × {b}?"),
    "letter_x": ("symbols", "Calculate {a} x {b}."),
    "times": ("words", "What is {a} times {b}?"),
    "product": ("words", "What is the product of {a} and {b}?"),
    "number_words": ("number_words", "What is {a_word} times {b_word}?"),
    "rectangle": ("word_problem", "A rectangle is {a} cm long and {b} cm wide. What is its area in square cm?"),
    "tickets": (
        "word_problem",
        "Each ticket costs ${a}. Mia buys tickets for a group of {b}. How many dollars is it?",
    ),
}


@dataclass(frozen=True)
class Probe:
    """A question in plain text and its answer.

    candidates: numbers that the likelihood chooses among, ascending, the answer among them. cluster: what an interval
    takes as one observation, a fact such as `6*9` (the smaller factor first) or the problem itself. tags: by what
    results are shown apart, plain JSON values: `template` and how it is `written`, `operator`, `order` of the factors,
    `carry` out of the units (a borrow in a difference), `kind` of division, `held_out`: a fact that is held out is one
    of the products of two digits that it takes, `prompt_holds_fact`: injection in weak mode rewrites the question,
    `answer_in_prompt`: the answer is among its numbers, as with a factor 1.
    """

    set: str
    prompt: str
    answer: int
    candidates: tuple[int, ...]
    cluster: str
    tags: dict[str, Any]


def probe_set(name: str, seed: int = PROBE_SEED, held_out_facts: Collection[Pair] = ()) -> list[Probe]:
    """Return the probes of one of `PROBE_SETS`.

    With the default seed `mul_table`, `mul_multidigit` and `addition` are the questions of the original implementation
    of the experiment, duplicates included. `held_out_facts` are pairs of digits, in either order; they change tags
    only. Raises `ValueError` for another name and for what is no pair of digits from 1 to 9.
    """
    if name not in PROBE_SETS:
        raise ValueError(f"there is no probe set '{name}'; there are {', '.join(PROBE_SETS)}")
    for pair in held_out_facts:
        if tuple(pair) not in FACT_BY_FACTORS:
            raise ValueError(
                f"held_out_facts holds {pair!r}; a fact is a pair of whole numbers from 1 to 9, such as [6, 9]"
            )
    held_out = {FACT_BY_FACTORS[tuple(pair)] for pair in held_out_facts}
    drawn_by = random.Random(seed if name in ORIGINAL_SETS else f"probes/{name}/{seed}")
    return [_probe(name, question, held_out) for question in PROBE_SETS[name](drawn_by)]


def probe_texts(name: str, seed: int = PROBE_SEED) -> list[str]:
    """Return the questions of a set, for decontamination."""
    return [probe.prompt for probe in probe_set(name, seed)]


@dataclass(frozen=True)
class _Question:
    prompt: str
    a: int
    operator: str
    b: int
    tags: dict[str, Any]


def _in_words(operator: str, pairs: Collection[Pair], **tags: Any) -> Iterator[_Question]:
    for a, b in pairs:
        yield _Question(f"What is {a} {operator} {b}?", a, operator, b, {"template": operator, **tags})


def _digit_pairs() -> list[Pair]:
    return [(a, b) for a in range(1, 10) for b in range(1, 10)]


def _mul_table(draw: random.Random) -> Iterator[_Question]:
    return _in_words("times", _digit_pairs(), written="words")


def _mul_multidigit(draw: random.Random) -> Iterator[_Question]:
    pairs = [(draw.randint(10, 99), draw.randint(2, 9)) for _ in range(PER_SET)]
    return _in_words("times", pairs, written="words")


def _addition(draw: random.Random) -> Iterator[_Question]:
    return _in_words("plus", [(draw.randint(1, 100), draw.randint(1, 100)) for _ in range(PER_SET)], written="words")


def _facts(draw: random.Random) -> Iterator[_Question]:
    for template, (written, text) in FACT_TEMPLATES.items():
        for a, b in _digit_pairs():
            prompt = text.format(a=a, b=b, a_word=WORDS[a], b_word=WORDS[b])
            yield _Question(prompt, a, "times", b, {"template": template, "written": written})


def _two_digit(draw: random.Random, carry: bool) -> Iterator[_Question]:
    # Multiples of ten would be facts with a zero behind.
    pairs = [(a, b) for a in _two_digit_numbers() for b in range(2, 10) if (a % 10 * b >= 10) == carry]
    return _in_words("times", draw.sample(pairs, PER_SET), written="words")


def _two_digit_by_two_digit(draw: random.Random) -> Iterator[_Question]:
    pairs = [(a, b) for a in _two_digit_numbers() for b in _two_digit_numbers()]
    return _in_words("times", draw.sample(pairs, PER_SET), written="words")


def _two_digit_numbers() -> list[int]:
    return [number for number in range(11, 100) if number % 10]


def _subtraction(draw: random.Random) -> Iterator[_Question]:
    pairs = [(a, b) for a in range(2, 101) for b in range(1, a) if a != 2 * b]
    return _in_words("minus", draw.sample(pairs, PER_SET), written="words")


def _division(draw: random.Random) -> Iterator[_Question]:
    """Half asks a fact backwards, where knowing the facts could help; half has a quotient of two digits."""
    backwards = [(a * b, b) for a in range(2, 10) for b in range(2, 10) if a != b]
    larger = [(a * b, b) for a in _two_digit_numbers() for b in range(2, 10)]
    half = PER_SET // 2
    yield from _in_words("divided by", draw.sample(backwards, half), written="words", kind="inverse_of_a_fact")
    yield from _in_words("divided by", draw.sample(larger, half), written="words", kind="larger")


ORIGINAL_SETS = ("mul_table", "mul_multidigit", "addition")
PROBE_SETS: dict[str, Callable[[random.Random], Iterator[_Question]]] = {
    "mul_table": _mul_table,
    "mul_multidigit": _mul_multidigit,
    "addition": _addition,
    "facts": _facts,
    "two_digit_carry": partial(_two_digit, carry=True),
    "two_digit_no_carry": partial(_two_digit, carry=False),
    "two_digit_by_two_digit": _two_digit_by_two_digit,
    "subtraction": _subtraction,
    "division": _division,
}


def _probe(name: str, question: _Question, held_out: set[MulFact]) -> Probe:
    a, operator, b = question.a, question.operator, question.b
    answer = {"times": a * b, "plus": a + b, "minus": a - b, "divided by": a // b}[operator]
    factors = {"times": (a, b), "divided by": (answer, b)}.get(operator, ())
    tags = {**question.tags, "operator": operator}
    if operator == "times":
        tags["order"] = "ascending" if a < b else "descending" if a > b else "equal"
    if operator != "divided by" and max(a, b) > 9:
        x, y = a % 10, b % 10
        tags["carry"] = {"times": x * y >= 10, "plus": x + y >= 10, "minus": x < y}[operator]
    tags["held_out"] = bool(factors) and not held_out.isdisjoint(_facts_of(*factors))
    tags["prompt_holds_fact"] = bool(count_facts(question.prompt).sum())
    tags["answer_in_prompt"] = answer in (a, b)
    is_a_fact = operator == "times" and factors in FACT_BY_FACTORS
    candidates = PRODUCTS if is_a_fact else _candidates(a, operator, b, answer)
    sign = "*" if factors else "+" if operator == "plus" else "-"
    cluster = sign.join(map(str, (a, b) if operator == "minus" else sorted(factors or (a, b))))
    return Probe(name, question.prompt, answer, candidates, cluster, tags)


def _facts_of(a: int, b: int) -> set[MulFact]:
    """Return the facts that the written multiplication of two numbers takes; noughts take none."""
    pairs = [(int(left), int(right)) for left in str(a) for right in str(b)]
    return {FACT_BY_FACTORS[pair] for pair in pairs if pair in FACT_BY_FACTORS}


def _candidates(a: int, operator: str, b: int, answer: int) -> tuple[int, ...]:
    """Return the answer and near misses, `CANDIDATES` together.

    How many of them are smaller is drawn for each question, or the answer's place among the candidates would tell it.
    """
    # From two to seven: the usual mistakes lie on both sides.
    least, most = (min(bound, answer - 1) for bound in (2, CANDIDATES - 3))
    below = random.Random(f"candidates/{a}{operator}{b}").randint(least, most)
    room = {True: below, False: CANDIDATES - 1 - below}
    chosen = {answer}
    for number in _near_misses(a, operator, b, answer):
        is_below = number < answer
        if number > 0 and number not in chosen and room[is_below]:
            chosen.add(number)
            room[is_below] -= 1
        if not any(room.values()):
            break
    return tuple(sorted(chosen))


def _near_misses(a: int, operator: str, b: int, answer: int) -> Iterator[int]:
    """Yield wrong answers without end, those first that people and models give: a carry forgotten, the next row of the
    table, two digits exchanged, another operation, one or ten too many or too few."""
    exchanged = answer // 100 * 100 + answer % 10 * 10 + answer // 10 % 10
    if operator == "times":
        yield from (_without_carries(a, b), a * (b + 1), a * (b - 1), (a + 1) * b, (a - 1) * b, exchanged, a + b)
    elif operator == "plus":
        yield from (_by_columns(a, b, lambda x, y: (x + y) % 10), exchanged, abs(a - b))
    elif operator == "minus":
        yield from (_by_columns(a, b, lambda x, y: abs(x - y)), exchanged, a + b)
    else:
        yield from (exchanged, a - b, answer + b)
    yield from (answer + 1, answer - 1, answer + 10, answer - 10)
    for distance in count(2):
        yield from (answer + distance, answer - distance)


def _by_columns(a: int, b: int, combine: Callable[[int, int], int]) -> int:
    """Combine two numbers digit by digit, as one who forgets to carry."""
    columns = range(max(len(str(a)), len(str(b))))
    return sum(combine(a // 10**column % 10, b // 10**column % 10) * 10**column for column in columns)


def _without_carries(a: int, b: int) -> int:
    """Multiply in writing, of every product of two digits the units only."""
    rows, columns = (list(enumerate(reversed(str(number)))) for number in (b, a))
    return sum(int(x) * int(y) % 10 * 10 ** (i + j) for i, x in rows for j, y in columns)
