"""Synthetic arithmetic text: drills, multiplication tables and word problems, the same characters for both arms.

Every document is a function of (kind, seed, index) alone, so that a corpus can be continued, split and checked
anywhere. No text is injected here: what the arms see differs by their tokenizer only.
"""

import random
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

Pair = tuple[int, int]

OPERATORS = ("*", " * ", " × ", "×", " x ")
NAMES = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fatou", "Goran", "Hana", "Ivan", "Jaya", "Kofi", "Lena")
# (container, containers, thing)
THINGS = (
    ("box", "boxes", "pencils"),
    ("bag", "bags", "apples"),
    ("shelf", "shelves", "books"),
    ("row", "rows", "chairs"),
    ("tray", "trays", "cookies"),
    ("page", "pages", "stickers"),
    ("team", "teams", "players"),
    ("vase", "vases", "flowers"),
)


@dataclass(frozen=True)
class SyntheticDocuments:
    """The texts number `first` to `documents` of one kind; `held_out_facts` are pairs of digits that never meet as
    factors in any of them.

    A held-out pair counts in both orders. Raises `ValueError` for pairs outside 1..9, or when every fact is held out.
    """

    kind: str
    documents: int
    seed: int = 0
    held_out_facts: Collection[Pair] = ()
    first: int = 0

    def __post_init__(self):
        for pair in self.held_out_facts:
            if len(pair) != 2 or not all(isinstance(factor, int) and 1 <= factor <= 9 for factor in pair):
                raise ValueError(
                    f"held_out_facts holds {pair!r}; a fact is a pair of whole numbers from 1 to 9, such as [6, 9]"
                )
        if not self.facts:
            raise ValueError("held_out_facts holds all 45 facts; leave some to write about")

    @property
    def facts(self) -> list[Pair]:
        """The pairs (in both orders) that may be written."""
        held_out = {frozenset(pair) for pair in self.held_out_facts}
        return [(a, b) for a in range(1, 10) for b in range(1, 10) if frozenset((a, b)) not in held_out]

    def __iter__(self) -> Iterator[str]:
        write, facts = GENERATORS[self.kind], self.facts
        for index in range(self.first, self.documents):
            # A string seed is hashed by SHA-512, the same in every Python release.
            yield write(random.Random(f"{self.kind}/{self.seed}/{index}"), facts)


def drill(draw: random.Random, facts: list[Pair]) -> str:
    """Return eight exercises with answers: facts in several spellings, and sums and differences among them."""
    return "\n".join(_exercise(draw, facts) for _ in range(8))


def table(draw: random.Random, facts: list[Pair]) -> str:
    """Return one row of the multiplication table, in order or shuffled, without the facts that are held out."""
    factor = draw.choice(sorted({a for a, _ in facts}))
    row = [pair for pair in facts if pair[0] == factor]
    if draw.random() < 0.5:
        draw.shuffle(row)
    operator = draw.choice(OPERATORS)
    lines = [f"{a}{operator}{b}{_equals(draw, operator)}{a * b}" for a, b in row]
    return f"The table of {factor}:\n" + "\n".join(lines)


def word_problem(draw: random.Random, facts: list[Pair]) -> str:
    """Return a one-step or two-step word problem with its worked answer and a last line `#### n`."""
    count, each = draw.choice(facts)
    name, (container, containers, thing) = draw.choice(NAMES), draw.choice(THINGS)
    operator = draw.choice(OPERATORS)
    product = count * each
    question = f"{name} has {count} {containers if count > 1 else container} with {each} {thing} in each."
    step = f"{count}{operator}{each}{_equals(draw, operator)}{product}"
    if draw.random() < 0.5:
        return f"{question} How many {thing} does {name} have?\n{name} has {step} {thing}.\n#### {product}"
    if draw.random() < 0.5:
        change = draw.randint(1, 30)
        event, total, second = f"{name} gets {change} more.", product + change, f"{product} + {change}"
    else:
        change = draw.randint(1, product)
        event, total, second = f"{name} gives away {change}.", product - change, f"{product} - {change}"
    return (
        f"{question} {event} How many {thing} does {name} have now?\nAt first there are {step} {thing}. Then there "
        f"are {second} = {total}.\n#### {total}"
    )


GENERATORS: dict[str, Callable[[random.Random, list[Pair]], str]] = {
    "drills": drill,
    "tables": table,
    "word_problems": word_problem,
}


def _exercise(draw: random.Random, facts: list[Pair]) -> str:
    kind = draw.random()
    if kind < 0.6:
        a, b = draw.choice(facts)
        operator = draw.choice(OPERATORS)
        expression, answer = f"{a}{operator}{b}", a * b
    elif kind < 0.8:
        a, b = draw.randint(1, 99), draw.randint(1, 99)
        operator, expression, answer = " + ", f"{a} + {b}", a + b
    else:
        b, answer = draw.randint(1, 99), draw.randint(0, 99)
        operator, expression = " - ", f"{answer + b} - {b}"
    form = draw.random()
    if form < 0.5:
        return f"{expression}{_equals(draw, operator)}{answer}"
    if form < 0.75:
        return f"What is {expression}? {answer}"
    return f"{expression} is {answer}."


def _equals(draw: random.Random, operator: str) -> str:
    return " = " if operator.startswith(" ") or draw.random() < 0.5 else "="
