"""Where the facts of a text stand, and which tokens around them every arm has in common.

One arm writes a fact in characters, the other as one token, and the blank before it goes with the first digit in one
and alone in the other. Both cut the same bytes, though, and most of the cuts agree: GPT-2 never joins a digit with the
letter, mark or blank behind it, and both arms go on from there alike. So everything here is in bytes of the text, and
is measured between cuts that both arms make.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from tokenization import gpt2_bpe
from tokenization.corpus_encoder import CorpusEncoder
from tokenization.injection import find_facts
from tokenization.mul_facts import FIRST_FACT_ID, VOCABULARY_SIZE

AFTER_FACT = 20  # tokens


@dataclass(frozen=True)
class FactPlaces:
    """What a text holds whatever the arm, as `(start, end)` in bytes.

    expressions: the facts as the rule finds them, weak and with all operators, and the names typed in the text.
    plain_tokens: what the baseline makes of the text, 0 where there is no fact to look at.
    facts: the least run of bytes around each that both arms cut out; it begins at the blank that GPT-2 joins with the
    first digit. Facts that share such a run count for one another. after: the tokens, the same in both arms, that
    follow a fact: at most `AFTER_FACT`, and none from where the next fact changes the cuts.
    """

    expressions: list[tuple[int, int]]
    plain_tokens: int
    facts: list[tuple[int, int]]
    after: list[tuple[int, int]]


def find_places(text: str) -> FactPlaces:
    """Find the facts of a text and the tokens after them; the same for every subject."""
    expressions = _in_bytes(text, [(start, end) for start, end, _ in find_facts(text)])
    if not expressions:
        return FactPlaces([], 0, [], [])
    plain, injected = (
        token_ends(text, CorpusEncoder(condition).encode(text), expressions)
        for condition in ("baseline", "mul_tokens")
    )
    shared = np.union1d([0], np.intersect1d(plain, injected))
    starts, ends = np.array(expressions).T
    left, right = shared[np.searchsorted(shared, starts, "right") - 1], shared[np.searchsorted(shared, ends)]
    # No cut of both arms falls into an expression, so two such runs are the same or apart.
    facts = dict.fromkeys(zip(left.tolist(), right.tolist(), strict=True))
    tokens = dict(set(pairwise([0, *plain.tolist()])) & set(pairwise([0, *injected.tolist()])))  # start to end
    after = []
    for _, end in expressions:
        for _ in range(AFTER_FACT):
            start, end = end, tokens.get(end)
            if end is None:
                break
            after.append((start, end))
    return FactPlaces(expressions, len(plain), list(facts), after)


def token_ends(text: str, ids: np.ndarray, expressions: list[tuple[int, int]]) -> np.ndarray:
    """Return the byte of the text at which each token ends, int64 of shape (tokens,).

    Raises `ValueError` when the tokens do not add up to the text: GPT-2's do, with facts for some of the expressions.
    """
    widths = {start: end - start for start, end in expressions}
    sizes = _sizes()
    ends = np.cumsum(sizes[np.minimum(ids, len(sizes) - 1)])
    for position in np.flatnonzero(ids >= FIRST_FACT_ID):
        ends[position:] += widths.get(int(ends[position]), 0)
    if (ends[-1] if len(ends) else 0) != len(text.encode()):
        raise ValueError(
            f"the ids of {text[:40]!r}… are not GPT-2's, with facts where the text states one; arms are compared over "
            "these tokens only"
        )
    return ends


@cache
def _sizes() -> np.ndarray:
    """Return the bytes of each id; those of a fact are in the text."""
    sizes = np.zeros(VOCABULARY_SIZE, np.int64)
    for token, token_id in gpt2_bpe.ranks().items():
        sizes[token_id] = len(token)
    return sizes


def _in_bytes(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Turn character positions in ascending order into positions in UTF-8."""
    found, characters, size = [], 0, 0
    for position in (position for span in spans for position in span):
        size += len(text[characters:position].encode())
        characters = position
        found.append(size)
    return list(zip(found[::2], found[1::2], strict=True))
