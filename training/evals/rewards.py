"""Score completions for reinforcement learning: functions of a completion, and their weighted sum.

Both arms earn the same: all functions but the original's read the text with every fact written out, so nothing pays
for a token as such. And no wrong answer sums above `MOST_OF_WRONG` of any right one: `Rewards` refuses weights that
would allow it.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from training.evals.answers import read_answer, same_number, same_result
from training.evals.completions import Completion
from training.evals.interpreter import extract_program, run_program
from training.evals.original_rewards import (
    original_exact,
    original_has_steps,
    original_partial,
    original_repetition,
    original_short,
    original_uses_tokens,
)
from training.evals.verified_steps import find_derivation

MOST_OF_WRONG = 0.25
REPEATED_WORDS = 4

Range = tuple[float, float]  # the least and the most
_NOTHING, _ALL, _REWARD, _PENALTY = (0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)


@dataclass(frozen=True)
class RewardSettings:
    """Hold the parameters of the functions that have some.

    soft_limit_bytes, hard_limit_bytes: from where on length costs something, and where it costs all. Of GSM8K's own
    solutions, without annotations, 1 in 300 is longer than 800 bytes, and none is longer than 1,200.
    """

    soft_limit_bytes: int = 800
    hard_limit_bytes: int = 1200

    def __post_init__(self):
        if not 0 <= self.soft_limit_bytes < self.hard_limit_bytes:
            raise ValueError(
                f"soft_limit_bytes ({self.soft_limit_bytes}) must lie below hard_limit_bytes "
                f"({self.hard_limit_bytes}), and not below 0"
            )


def exact_answer(completion: Completion) -> float:
    """Return 1 if the number behind `####` is the answer and the completion is finished, else 0."""
    return float(completion.is_finished and same_number(read_answer(completion.reading).strict, completion.gold))


def exact_program(completion: Completion) -> float:
    """Return 1 if the completion is a Python function that returns the answer and is finished, else 0.

    The safe interpreter runs it, for a fifth of a second at most.
    """
    if not completion.is_finished:
        return 0.0
    verdict = run_program(extract_program(completion.program))
    return float(verdict.status == "ok" and same_result(verdict.value, completion.gold))


def verified_steps(completion: Completion) -> float:
    """Return the share of equations that are true, begin with numbers of the question, and are needed for the answer.

    It is 0 unless the completion is finished and its answer, right or not, needs two of them and half of the
    question's numbers: see `find_derivation`.
    """
    if not completion.is_finished:
        return 0.0
    return find_derivation(completion.question, completion.reading).verified_share


def length_limit(completion: Completion, settings: RewardSettings = RewardSettings()) -> float:
    """Return 0 up to the soft limit, falling evenly to -1 at the hard limit: the soft overlong punishment of DAPO (Yu
    et al. 2025, arXiv:2503.14476), in bytes, because a fact in digits takes more tokens than one."""
    room = settings.hard_limit_bytes - settings.soft_limit_bytes
    return 0.0 - min(1.0, max(0, completion.bytes - settings.soft_limit_bytes) / room)


def repetition(completion: Completion) -> float:
    """Return minus the share of runs of four words, numbers or signs that have stood before."""
    words = completion.words
    runs = list(zip(*(words[start:] for start in range(REPEATED_WORDS)), strict=False))
    return len(set(runs)) / len(runs) - 1 if runs else 0.0


@dataclass(frozen=True)
class RewardFunction:
    """A function by the name that recipes use, and the range of its values for wrong and for right completions.

    A completion is right by the criterion among the weights, one of `CRITERIA`. is_symmetric: a completion and its
    injected twin earn the same.
    """

    function: Callable[[Completion], float]
    wrong: Range
    right: Range
    is_symmetric: bool = True


_original = partial(RewardFunction, is_symmetric=False)
FUNCTIONS: dict[str, RewardFunction] = {
    "exact_answer": RewardFunction(exact_answer, wrong=_NOTHING, right=_ALL),
    "exact_program": RewardFunction(exact_program, wrong=_NOTHING, right=_ALL),
    "verified_steps": RewardFunction(verified_steps, wrong=_REWARD, right=_REWARD),
    "length_limit": RewardFunction(length_limit, wrong=_PENALTY, right=_PENALTY),
    "repetition": RewardFunction(repetition, wrong=_PENALTY, right=_PENALTY),
    "original_exact": _original(original_exact, wrong=_NOTHING, right=_ALL),
    "original_partial": _original(original_partial, wrong=_REWARD, right=_NOTHING),
    "original_has_steps": _original(original_has_steps, wrong=_REWARD, right=_NOTHING),
    "original_uses_tokens": _original(original_uses_tokens, wrong=_REWARD, right=_NOTHING),
    "original_short": _original(original_short, wrong=_REWARD, right=_NOTHING),
    "original_repetition": _original(original_repetition, wrong=_PENALTY, right=_NOTHING),
}
CRITERIA = ("exact_answer", "exact_program", "original_exact")


def maximum_of_wrong(weights: Mapping[str, float]) -> float:
    """Return the most that a completion with a wrong answer can sum up to."""
    return sum(weight * FUNCTIONS[name].wrong[1] for name, weight in weights.items())


def minimum_of_right(weights: Mapping[str, float]) -> float:
    """Return the least that a completion with the right answer can sum up to."""
    return sum(weight * FUNCTIONS[name].right[0] for name, weight in weights.items())


@dataclass(frozen=True)
class Rewards:
    """The rewards of a recipe: `rewards(completion)` gives the value of each function, `total` their weighted sum.

    weights: by the names in `FUNCTIONS`; a value with the weight 0 is only logged. symmetric: False allows the
    original's functions, which differ between the arms, and more than a quarter for a wrong answer.

    An empty completion sums up to 0, where the original's functions are not among them.

    Raises `ValueError` for an unknown name, for a weight that is no number of at least 0, unless exactly one of
    `CRITERIA` has a weight, and for weights that could pay a wrong answer too much.

    >>> rewards = Rewards({"exact_answer": 1.0, "verified_steps": 0.1, "length_limit": 0.2})
    >>> rewards.total(Completion("6*9=54, 54+6=60 #### 60", True, "6 bags of 9 apples and 6 more", 60))
    1.1
    """

    weights: Mapping[str, float]
    settings: RewardSettings = field(default_factory=RewardSettings)
    symmetric: bool = True

    def __post_init__(self):
        object.__setattr__(self, "weights", {name: _weight(name, value) for name, value in self.weights.items()})
        criteria = [name for name in CRITERIA if self.weights.get(name)]
        if len(criteria) != 1:
            raise ValueError(
                f"{' and '.join(criteria) or 'nothing'} among the rewards says what a right answer is; give exactly "
                f"one of {', '.join(CRITERIA)} a weight above 0"
            )
        asymmetric = [name for name in self.weights if not FUNCTIONS[name].is_symmetric]
        if self.symmetric and asymmetric:
            raise ValueError(
                f"the rewards {', '.join(asymmetric)} differ between the arms; leave them out, or say "
                "`symmetric: false`"
            )
        if not self.symmetric and not asymmetric:
            raise ValueError("symmetric is false, but all of the rewards are symmetric; leave it out")
        _check_wrong_against_right(self.weights, MOST_OF_WRONG if self.symmetric else 1.0)

    def __call__(self, completion: Completion) -> dict[str, float]:
        """Return the value of every function before it is weighted."""
        return {name: function(completion) for name, function in self.functions.items()}

    @property
    def functions(self) -> dict[str, Callable[[Completion], float]]:
        """The functions by name, with the settings filled in."""
        chosen = {name: FUNCTIONS[name].function for name in self.weights}
        if "length_limit" in chosen:
            chosen["length_limit"] = partial(length_limit, settings=self.settings)
        return chosen

    def total(self, completion: Completion) -> float:
        """Return the weighted sum of the values of a completion."""
        return self.weigh(self(completion))

    def weigh(self, values: Mapping[str, float]) -> float:
        """Return the weighted sum of values that are known already."""
        return sum(weight * values[name] for name, weight in self.weights.items())


def _weight(name: str, value: float) -> float:
    if name not in FUNCTIONS:
        match = difflib.get_close_matches(str(name), FUNCTIONS, n=1)
        hint = f" (did you mean '{match[0]}'?)" if match else ""
        raise ValueError(f"there is no reward '{name}'{hint}; there are {', '.join(FUNCTIONS)}")
    try:
        weight = math.nan if isinstance(value, bool) else float(value)  # YAML reads 1e-1 as a string
    except (TypeError, ValueError):
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(
            f"the weight of the reward '{name}' is {value!r}; give a number of at least 0 (penalties are negative by "
            "themselves)"
        )
    return weight


def _check_wrong_against_right(weights: Mapping[str, float], most: float) -> None:
    wrong, right = maximum_of_wrong(weights), minimum_of_right(weights)
    if right <= 0 or wrong > most * right + 1e-12:
        criterion = next(name for name in CRITERIA if weights.get(name))
        others = ", ".join(name for name, weight in weights.items() if weight and name != criterion)
        raise ValueError(
            f"a wrong answer could sum up to {wrong:.4g} and a right one, with all penalties, to {right:.4g}; the "
            f"second must be above 0, and the first at most {most:.4g} of it: raise {criterion}, or lower {others}"
        )
