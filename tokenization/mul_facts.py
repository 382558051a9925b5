"""Name the 45 multiplication facts and say which id means what.

The vocabulary is the same in every condition: GPT-2's 50,257 ids, 47 reserved ids that text never reaches, then the
facts `<MUL_a_b_c>` with 1 <= a <= b <= 9 and c = a * b, in row order: 1x1, 1x2, … 1x9, 2x2, … 9x9.
"""

import re
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256
PAD_TOKEN = "<|reserved_50257|>"
PAD_ID = 50257
# The reserved ids bring the facts to a multiple of 128 (50,304 = 393 * 128); the first of them pads.
RESERVED_IDS = range(50257, 50304)
FIRST_FACT_ID = 50304
FACT_IDS = range(50304, 50349)
VOCABULARY_SIZE = 50349


@dataclass(frozen=True, slots=True)
class MulFact:
    """Hold one fact a * b = product with a <= b, its token and the token's id."""

    a: int
    b: int
    product: int
    name: str
    id: int


_PAIRS = [(a, b) for a in range(1, 10) for b in range(a, 10)]
FACTS = tuple(
    MulFact(a, b, a * b, f"<MUL_{a}_{b}_{a * b}>", fact_id) for (a, b), fact_id in zip(_PAIRS, FACT_IDS, strict=True)
)
FACT_BY_NAME = {fact.name: fact for fact in FACTS}
FACT_BY_ID = {fact.id: fact for fact in FACTS}
# Both orders of the factors: FACT_BY_FACTORS[9, 6] is FACT_BY_FACTORS[6, 9].
FACT_BY_FACTORS = {pair: fact for fact in FACTS for pair in ((fact.a, fact.b), (fact.b, fact.a))}

# Every name opens with this, so a plain substring search tells apart the texts that cannot hold one.
NAME_PREFIX = "<MUL_"
# The 45 names and nothing else: <MUL_9_6_54> and <MUL_6_9_55> are text.
NAME_PATTERN = re.compile("|".join(re.escape(fact.name) for fact in FACTS))


def reserved_name(token_id: int) -> str:
    """Return the name that fills a reserved id; the one of `PAD_ID` is `PAD_TOKEN`."""
    return f"<|reserved_{token_id}|>"
