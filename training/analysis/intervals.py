"""Intervals beside every measured proportion and mean."""

import math
from collections.abc import Hashable, Sequence

from scipy import stats

CONFIDENCE = 0.95


def proportion(successes: int, n: int) -> dict[str, float | int | None]:
    """Return a proportion with its Wilson score interval (Wilson 1927): `{"value", "low", "high", "n"}`.

    Over items of one run only: the spread between seeds is not in it. All but `n` are None when n is 0.
    """
    if n == 0:
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = _wilson(successes / n, n)
    return {"value": successes / n, "low": low, "high": high, "n": n}


def clustered_proportion(successes: Sequence[int], totals: Sequence[int]) -> dict[str, float | int | None]:
    """Return a proportion over clusters, each with its successes and its total, with an interval that knows of them.

    `{"value", "low", "high", "n", "clusters"}`; n is the sum of the totals. The interval is Wilson's at the effective
    sample size p (1 - p) / error^2, at most n, where the error is that of `ratio` (Dean and Pagano 2015, "Evaluating
    confidence interval methods for binomial proportions in clustered surveys"). Where the error is 0, as when every
    item fails, or is not known, the size is the number of clusters: they may be all alike inside.
    """
    pairs = [(hits, total) for hits, total in zip(successes, totals, strict=True) if total]
    n = sum(total for _, total in pairs)
    counted = {"n": n, "clusters": len(pairs)}
    if n == 0:
        return {"value": None, "low": None, "high": None, **counted}
    value = sum(hits for hits, _ in pairs) / n
    error = _error_of_ratio(value, [hits for hits, _ in pairs], [total for _, total in pairs])
    effective = min(n, value * (1 - value) / error**2) if error else len(pairs)
    low, high = _wilson(value, effective)
    return {"value": value, "low": low, "high": high, **counted}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float | int | None]:
    """Return a ratio of two sums over items, such as bits per byte over documents: `{"value", "low", "high", "n"}`.

    numerators and denominators: one of each per independent item; n counts the items. The interval is the t interval
    of the linearised ratio estimator (Cochran 1977, "Sampling Techniques", section 6.4): with R = sum(y) / sum(x) and
    the residuals e = y - R x, its standard error is sqrt(n / (n - 1) sum(e^2)) / sum(x), with n - 1 degrees of
    freedom. All but n are None when the denominators sum to 0; the bounds are None with fewer than two items.
    """
    if len(numerators) != len(denominators):
        raise ValueError(
            f"there are {len(numerators)} numerators and {len(denominators)} denominators; give one of each"
        )
    n, total = len(denominators), math.fsum(denominators)
    if total == 0:
        return {"value": None, "low": None, "high": None, "n": n}
    value = math.fsum(numerators) / total
    error = _error_of_ratio(value, numerators, denominators)
    if error is None:
        return {"value": value, "low": None, "high": None, "n": n}
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    return {"value": value, "low": value - reach, "high": value + reach, "n": n}


def mean(values: Sequence[float], clusters: Sequence[Hashable] | None = None) -> dict[str, float | int | None]:
    """Return a mean with its t interval: `{"value", "low", "high", "n"}`, with "clusters", how many, if given.

    Items of a cluster (the templates of one fact) are not independent, so the standard error is the one of cluster
    sums, as in Miller 2024, "Adding Error Bars to Evals", section 2.2, with clusters - 1 degrees of freedom and the
    correction G / (G - 1): a mean is the `ratio` of the clusters' sums to their sizes. The bounds are None with fewer
    than two clusters or items.
    """
    sums: dict[Hashable, list[float]] = {}
    for cluster, one in zip(clusters if clusters is not None else range(len(values)), values, strict=True):
        sums.setdefault(cluster, []).append(one)
    result = ratio([math.fsum(ones) for ones in sums.values()], [len(ones) for ones in sums.values()])
    counted = {"clusters": len(sums)} if clusters is not None and sums else {}
    return {**result, "n": len(values), **counted}


def _wilson(value: float, n: float) -> tuple[float, float]:
    """Return the bounds of the Wilson interval; n need not be whole."""
    z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
    middle = value + z**2 / (2 * n)
    reach = z * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    low, high = ((middle + side * reach) / (1 + z**2 / n) for side in (-1, 1))
    return (0.0 if value == 0 else max(0.0, low)), (1.0 if value == 1 else min(1.0, high))


def _error_of_ratio(value: float, numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """Return the standard error of a ratio of sums, None for a single item."""
    n = len(denominators)
    if n < 2:
        return None
    residuals = math.fsum((y - value * x) ** 2 for y, x in zip(numerators, denominators, strict=True))
    return math.sqrt(residuals * n / (n - 1)) / math.fsum(denominators)
