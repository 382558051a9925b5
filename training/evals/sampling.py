"""What several sampled answers to one question are worth: pass@k and majority@k."""

from collections.abc import Sequence
from math import comb


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Return the probability that at least one of k answers, drawn without replacement from n, is correct.

    1 - C(n - correct, k) / C(n, k), the unbiased estimator of Chen et al. 2021, "Evaluating Large Language Models
    Trained on Code", section 2.1. Raises ValueError unless 0 <= correct <= n and 1 <= k <= n.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"correct ({correct}) must lie between 0 and n ({n}); count the correct ones among n answers")
    _check_k(k, n)
    return 1 - comb(n - correct, k) / comb(n, k)


def majority_at_k(answers: Sequence[int | float | None], gold: int | float, k: int) -> float:
    """Return the share of groups of k answers whose most frequent answer is the gold one.

    The groups are the first k answers, the next k, and so on; a rest of fewer than k is left out. None stands for no
    answer and never wins; of equally frequent answers the one seen first does. A group without any answer is wrong.
    Raises ValueError unless 1 <= k <= the number of answers.
    """
    _check_k(k, len(answers))
    starts = range(0, len(answers) - k + 1, k)
    votes = [_most_frequent(answers[start : start + k]) for start in starts]
    return sum(vote is not None and vote == gold for vote in votes) / len(votes)


def _most_frequent(answers: Sequence[int | float | None]) -> int | float | None:
    given = [answer for answer in answers if answer is not None]
    return max(given, key=given.count, default=None)  # the first of the largest


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k ({k}) must lie between 1 and the number of answers ({n}); sample more, or lower k")
