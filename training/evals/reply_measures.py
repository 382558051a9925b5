"""What every task with generated replies has in common: the seeds of its draws, and what a reply is measured by."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from training.analysis.intervals import mean
from training.evals.answers import canonical
from training.evals.fact_use import fact_use, summarize_fact_use
from training.evals.generation import Reply, repeats


def seed_of(seed: int, *numbers: int) -> int:
    """Return 64 random bits as a function of a seed and of the numbers of an item, and of nothing else."""
    return int.from_bytes(sha256("/".join(map(str, (seed, *numbers))).encode()).digest()[:8], "big")


def measure_reply(question: str, reply: Reply, opening: str = "") -> dict[str, Any]:
    """Return what can be said of a reply whatever it should be; the same for its injected twin, but for tokens.

    question: the text before it, for `fact_use`. opening: a part of the answer that the prompt already holds. The
    length in bytes is that of the text with every fact written out.
    """
    return {
        "tokens": len(reply.ids),
        "bytes": len(canonical(reply.text).encode("utf-8", "replace")),
        "finish": reply.finish,
        "repeats": repeats(reply.text),
        "facts": fact_use(question, opening + reply.text),
    }


def summarize_measures(
    replies: Sequence[Mapping[str, Any]], share: Callable[[Callable[[Mapping[str, Any]], bool]], dict[str, Any]]
) -> dict[str, Any]:
    """Return the results over mappings with the keys of `measure_reply`.

    share: the proportion of these replies for which a test holds, with the interval that suits the task.
    """
    return {
        "truncated": share(lambda reply: reply["finish"] == "length"),
        "repeating": share(lambda reply: reply["repeats"]),
        "finish": counts(reply["finish"] for reply in replies),
        "mean_tokens": mean([reply["tokens"] for reply in replies])["value"],
        "mean_bytes": mean([reply["bytes"] for reply in replies])["value"],
        "fact_use": summarize_fact_use([reply["facts"] for reply in replies]),
    }


def counts(values: Iterable[str]) -> dict[str, int]:
    """Return how often each value occurs, in alphabetical order."""
    return dict(sorted(Counter(values).items()))
