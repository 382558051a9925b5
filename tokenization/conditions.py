"""The conditions of the experiment: which of a text's multiplications become tokens, and which tokens.

Each is one value of the same switch, the tokenizer; all have GPT-2's ids below the facts and 50,349 ids in all.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

from tokenization.injection import OPERATORS, canonical_operators, check_mode, inject, rewrite
from tokenization.mul_facts import FACT_BY_NAME, FACTS, FIRST_FACT_ID, MulFact

# What each condition is, in the words of a model card.
CONDITIONS = {
    "baseline": "GPT-2's own tokens; the 45 tokens of the treated arm exist and are never written",
    "mul_tokens": "one token per multiplication fact: `6*9` and `6*9=54` are both read as `<MUL_6_9_54>`",
    "opaque_token": "a control: every multiplication fact is read as the same token, `<MUL>`",
    "random_fact": "a control: every multiplication fact is read as one of the 45 tokens, drawn anew at each place",
    "half_facts": "a comparison inside one model: 22 of the 45 facts, drawn by a seed, have a token, the others none",
    "digit_numbers": "a control: GPT-2's own tokens, with every digit of a number a token of its own",
}
_SEEDED = ("random_fact", "half_facts")
_REWRITES_NOTHING = ("baseline", "digit_numbers")

# The one token of the control without identities. It has the id of the first fact, whose name is not in that
# vocabulary: an id that is a fact's name in one arm and means all facts here would be read as 1 * 1 = 1.
OPAQUE_NAME = "<MUL>"
HALF = 22


@dataclass(frozen=True)
class Condition:
    """A condition in canonical form.

    injection_mode, operators: as in `tokenization.inject`; None where nothing is rewritten, whatever was asked for.
    seed: what a condition draws, its facts or the fact of each place, is drawn by it; None where nothing is drawn.
    Raises ValueError for a name, mode, operator or seed that does not exist.
    """

    name: str = "mul_tokens"
    injection_mode: str | None = "weak"
    operators: str | None = OPERATORS
    seed: int | None = 0

    def __post_init__(self):
        if self.name not in CONDITIONS:
            raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}, not {self.name!r}")
        rewrites = self.name not in _REWRITES_NOTHING
        if rewrites:
            check_mode(self.injection_mode)
        seed = self.seed if self.name in _SEEDED else None
        if self.name in _SEEDED and (type(seed) is not int or not 0 <= seed < 2**63):
            raise ValueError(
                f"condition_seed is {seed!r}; '{self.name}' draws by it, so it is a whole number from 0 to 2^63 - 1"
            )
        object.__setattr__(self, "injection_mode", self.injection_mode if rewrites else None)
        object.__setattr__(self, "operators", canonical_operators(self.operators) if rewrites else None)
        object.__setattr__(self, "seed", seed)

    @property
    def rewrites(self) -> bool:
        """Whether any text becomes another one before it is encoded."""
        return self.name not in _REWRITES_NOTHING

    @property
    def splits_digits(self) -> bool:
        """Whether numbers are encoded digit by digit."""
        return self.name == "digit_numbers"

    @cached_property
    def facts(self) -> tuple[MulFact, ...]:
        """The facts that are rewritten, in the order of `FACTS`."""
        if not self.rewrites:
            return ()
        if self.name != "half_facts":
            return FACTS
        chosen = random.Random(f"half of the facts {self.seed}").sample(range(len(FACTS)), HALF)
        return tuple(FACTS[index] for index in sorted(chosen))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The names that texts come to hold, with their ids: a name in a text is a token under this condition."""
        if self.name == "opaque_token":
            return {OPAQUE_NAME: FIRST_FACT_ID}
        return {fact.name: fact.id for fact in self.facts}

    @cached_property
    def names(self) -> dict[str, str]:
        """The name by which each rewritten fact stands in a text, by the fact's own name.

        `random_fact` draws it at each place, and has only the fact's own name to offer to whatever cannot draw.
        """
        opaque = self.name == "opaque_token"
        return {fact.name: OPAQUE_NAME if opaque else fact.name for fact in self.facts}

    @property
    def named_facts(self) -> frozenset[str]:
        """The names of facts that are tokens."""
        return frozenset(name for name in self.ids if name in FACT_BY_NAME)

    def inject(self, text: str) -> str:
        """Return the text as this condition writes it, facts by the names of their tokens.

        >>> Condition("opaque_token").inject("6 * 9 = 54 and 2x3")
        '<MUL> and <MUL>'
        """
        if not self.rewrites:
            return text
        if self.name == "mul_tokens":
            return inject(text, self.injection_mode, self.operators)
        return rewrite(text, self._naming(text), self.injection_mode, self.operators)

    def _naming(self, text: str) -> Callable[[MulFact, int], str | None]:
        if self.name == "random_fact":
            digest = _digest_of_text(text, self.seed)
            return lambda fact, start: FACTS[_draw(digest, start)].name
        return lambda fact, start: self.names.get(fact.name)


def _digest_of_text(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=seed.to_bytes(8, "big")).digest()


def _draw(digest: bytes, start: int) -> int:
    """Draw one of the facts for the place `start`, in characters, of the text with this digest."""
    number = hashlib.blake2b(start.to_bytes(8, "big"), digest_size=8, key=digest).digest()
    return int.from_bytes(number, "big") % len(FACTS)


@cache
def resolve_condition(
    name: str, injection_mode: str | None = "weak", operators: str | None = OPERATORS, seed: int | None = 0
) -> Condition:
    """Return the condition that these settings define; raises ValueError as `Condition` does."""
    return Condition(name, injection_mode, operators, seed)
