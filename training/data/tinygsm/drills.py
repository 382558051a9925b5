"""Word problems written as programs in TinyGSM's template, and drills: such problems around facts that are rare.

They pass the same converter as TinyGSM's own programs. Their sentences are not those of `synthetic.word_problem`,
which are evaluation items.
"""

import random
from collections.abc import Callable, Collection, Iterator

import numpy as np

from tokenization.mul_facts import FACTS
from training.data.synthetic import NAMES, THINGS, Pair, SyntheticDocuments
from training.data.tinygsm.conversion import ConversionSettings, Converter, Refusal, Row

# Where the facts of a row, as it names them, stand in `FACTS`.
FACT_PLACES = {f"{fact.a}*{fact.b}": place for place, fact in enumerate(FACTS)}
# A fact that so many problems in a row, each made for it, did not bring: they never will.
_TRIES_PER_FACT = 300
# How often a held-out fact counts as written, so that it is never among the rare ones.
_ENOUGH = 2**62
_LONG_MULTIPLICATION = Converter(ConversionSettings(long_multiplication=True))
_PLACES = ("school", "market", "library", "farm", "bakery", "museum", "camp", "theatre")
_MADE = ("cards", "letters", "kites", "lanterns", "badges", "masks", "puppets", "bracelets")
# (sentence, name of the left factor, of the right factor, of the product, unit); `{left}` and `{right}` are counts
# with their units.
_SCENES = (
    ("{name} puts {left} into each of {right}.", "{unit}_per_{container}", "{containers}", "all_{unit}", "thing"),
    (
        "Each {container} at the {place} holds {left}, and the {place} owns {right}.",
        "{unit}_in_one_{container}",
        "{containers}_at_{place}",
        "{unit}_at_{place}",
        "thing",
    ),
    ("{name} makes {left} a day for the {place}, {right} long.", "{unit}_per_day", "days", "{unit}_made", "made"),
    ("The {place} pays {name} {left} an hour for {right}.", "dollars_per_hour", "hours", "dollars_earned", "dollars"),
)


def drill_rows(
    counts: np.ndarray,
    minimum: int,
    settings: ConversionSettings,
    accept: Callable[[Row], bool] = lambda row: True,
    held_out_facts: Collection[Pair] = (),
) -> Iterator[Row]:
    """Yield word problems until each of the 45 facts occurs at least `minimum` times, the rarest first.

    counts: how often each fact occurs already, (45,) in the order of `FACTS`, as the treated arm's tokenizer sees the
    answers. With long multiplication factors have up to three digits. held_out_facts: pairs of digits that never meet
    as factors in a row. Rows that `accept` refuses are left out, and no two ask the same. The rows are a function of
    the arguments alone. Raises `ValueError` where the style writes no facts, where the sentences cannot bring so many,
    and for held-out facts as `SyntheticDocuments` does.
    """
    written = SyntheticDocuments("drills", 0, held_out_facts=held_out_facts).facts
    is_held_out = np.array([(fact.a, fact.b) not in written for fact in FACTS])
    counts = np.where(is_held_out, _ENOUGH, np.asarray(counts, np.int64))
    draw, converter = random.Random(f"drills/{settings.seed}"), Converter(settings)
    asked: set[str] = set()
    tries = 0
    while counts.min() < minimum:
        rarest = int(counts.argmin())
        tries += 1
        if tries > _TRIES_PER_FACT:
            fact = FACTS[rarest]
            raise ValueError(
                f"drill_minimum {minimum} is out of reach: {_TRIES_PER_FACT} problems made for {fact.a} * {fact.b}, "
                f"which occurs {counts[rarest]} times, gave no new row with it; lower drill_minimum, or set it to 0 "
                f"for a style that writes no products (style is '{settings.style}')"
            )
        factors = _factors(draw, rarest, counts < minimum, settings.long_multiplication)
        question, code = word_problem_program(draw, *factors)
        if question in asked:
            continue
        row = converter(question, code)
        if isinstance(row, Refusal):
            continue
        found = np.bincount([FACT_PLACES[fact] for fact in row.facts], minlength=len(FACTS))
        if not found[rarest] or found[is_held_out].any() or not accept(row):
            continue
        asked.add(question)
        counts += found
        tries = 0
        yield row


def synthetic_row(seed: int, index: int) -> tuple[str, str]:
    """Return question and program number `index` of the packaged source."""
    draw = random.Random(f"word_problem_programs/{seed}/{index}")
    digits = draw.choice((1, 1, 1, 2, 2, 3))
    return word_problem_program(draw, draw.randint(1, 10**digits - 1), draw.randint(1, 9 if digits > 1 else 20))


def multiplication_row(
    seed: int, index: int, factor_digits: tuple[int, int], second_steps: bool = True
) -> tuple[str, str]:
    """Return question and worked answer number `index` of the problems around a product of factors with so many
    digits; half of them have a second step, a sum or a difference, unless `second_steps` is off.

    The answer is TinyGSM's labelled text with long multiplication: products of one digit, and powers of ten. A factor
    of one digit is 2 at least. Raises `ValueError` for digits outside 1..3.
    """
    if len(factor_digits) != 2 or not all(type(digits) is int and 1 <= digits <= 3 for digits in factor_digits):
        raise ValueError(f"factor_digits is {list(factor_digits)}; give two numbers from 1 to 3, such as [2, 1]")
    draw = random.Random(f"multiplications/{seed}/{index}")
    row = None
    while not isinstance(row, Row):  # a gate refuses one in some hundred
        factors = [draw.randint(2 if digits == 1 else 10 ** (digits - 1), 10**digits - 1) for digits in factor_digits]
        row = _LONG_MULTIPLICATION(*word_problem_program(draw, *factors, second_steps))
    return row.question, row.text


def word_problem_program(draw: random.Random, left: int, right: int, second_steps: bool = True) -> tuple[str, str]:
    """Return a question that asks for `left * right`, or with `second_steps` in half of the cases for a sum or
    difference with it, and its program."""
    sentence, left_name, right_name, product, unit = draw.choice(_SCENES)
    container, containers, thing = draw.choice(THINGS)
    name, other = draw.sample(NAMES, 2)
    unit = {"thing": thing, "made": draw.choice(_MADE), "dollars": "dollars"}[unit]
    counted = {"{containers}": (container, containers), "days": ("day", "days"), "hours": ("hour", "hours")}
    words = {
        "name": name,
        "place": draw.choice(_PLACES),
        "container": container,
        "containers": containers,
        "unit": unit,
        "left": _count(left, unit.removesuffix("s"), unit),
        "right": _count(right, *counted.get(right_name, (container, containers))),
    }
    left_name, right_name, product = (part.format(**words) for part in (left_name, right_name, product))
    given, steps = [(left_name, left), (right_name, right)], [f"{product} = {left_name} * {right_name}"]
    question, asked = sentence.format(**words), f"How many {unit} does that make?"
    kind = draw.random() if second_steps else 1.0
    if kind < 0.25:
        extra = draw.randint(1, 60)
        question += f" {other} brings {extra} more."
        given.append((f"more_{unit}", extra))
        steps.append(f"{unit}_in_the_end = {product} + more_{unit}")
        asked = f"How many {unit} are there in the end?"
    elif kind < 0.5:
        extra = draw.randint(1, left * right)
        question += f" {other} takes {extra} away."
        given.append((f"{unit}_taken", extra))
        steps.append(f"{unit}_left = {product} - {unit}_taken")
        asked = f"How many {unit} are left?"
    question = f"{question} {asked}"
    lines = [f'"""{question}"""', *(f"{name} = {value}" for name, value in given), *steps]
    lines += [f"result = {steps[-1].split(' = ')[0]}", "return result"]
    return question, "def simple_math_problem() -> int:\n" + "".join(f"    {line}\n" for line in lines)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"


def _factors(draw: random.Random, fact: int, is_rare: np.ndarray, long_multiplication: bool) -> tuple[int, int]:
    """Return two factors whose written-out product holds a fact, and other rare ones where there are any.

    is_rare: which facts are still wanted, (45,) bool.
    """
    a, b = draw.sample((FACTS[fact].a, FACTS[fact].b), 2)
    if not long_multiplication:
        return a, b
    partners = [digit for digit in range(1, 10) if is_rare[FACT_PLACES[f"{min(digit, b)}*{max(digit, b)}"]]]
    digits = [a, *(draw.choice(partners) for _ in range(draw.randint(0, 2)))]
    draw.shuffle(digits)
    left = int("".join(map(str, digits)))
    right = b
    if len(digits) == 2 and draw.random() < 0.3:
        right = 10 * draw.randint(1, 9) + b
    return (left, right) if draw.random() < 0.5 else (right, left)
