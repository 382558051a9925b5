"""The shaped reward of the experiment's original implementation, for an ablation.

It is not symmetric: a fact token pays 0.2 as such, and hides the `=` that pays 0.1, so the arms optimise different
rewards. A right answer earns 1 flat, wrong ones up to 0.7, or 0.5 without tokens, and an empty completion 0.1. The
functions say what is due, `ORIGINAL_WEIGHTS` how much it is.
"""

from collections import Counter

from training.evals.answers import Number, read_answer, same_number
from training.evals.completions import Completion

ORIGINAL_WEIGHTS = {
    "original_exact": 1.0,
    "original_partial": 0.3,
    "original_has_steps": 0.1,
    "original_uses_tokens": 0.2,
    "original_short": 0.1,
    "original_repetition": 0.3,
}


def original_exact(completion: Completion) -> float:
    """Return 1 if the number after `####`, or else after "answer is", or else the last one is the answer, else 0.

    A completion that was cut off may be right too.
    """
    return float(same_number(read_answer(completion.text).flexible, completion.gold))


def original_partial(completion: Completion) -> float:
    """Return 1 if the answer is wrong by at most 1, or by less than a tenth of the right one, else 0."""
    answer = read_answer(completion.text).flexible
    return _unless_exact(completion, answer is not None and _is_close(answer, completion.gold))


def original_has_steps(completion: Completion) -> float:
    """Return 1 if the answer is wrong and `=` or `####` stands anywhere, else 0."""
    return _unless_exact(completion, "=" in completion.text or "####" in completion.text)


def original_uses_tokens(completion: Completion) -> float:
    """Return 1 if the answer is wrong and a fact token stands anywhere, else 0."""
    return _unless_exact(completion, "<MUL_" in completion.text)


def original_short(completion: Completion) -> float:
    """Return 1 if the answer is wrong and has fewer than 150 words, else 0."""
    return _unless_exact(completion, len(completion.text.split()) < 150)


def original_repetition(completion: Completion) -> float:
    """Return -1 if the answer is wrong, has at least 10 words, and says three words in a row three times, else 0."""
    words = completion.text.split()
    runs = Counter(zip(words, words[1:], words[2:], strict=False))
    return 0.0 - _unless_exact(completion, len(words) >= 10 and max(runs.values()) > 2)


def _unless_exact(completion: Completion, holds: bool) -> float:
    return float(holds and not original_exact(completion))


def _is_close(answer: Number, gold: Number) -> bool:
    return abs(answer - gold) <= 1 or abs(answer - gold) < 0.1 * abs(gold)
