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
    interval = stats.binomtest(int(successes), n).proportion_ci(CONFIDENCE, method="wilson")
    return {"value": successes / n, "low": float(interval.low), "high": float(interval.high), "n": n}


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float | int | None]:
    """Return a ratio of two sums over items, such as bits per byte over documents: `{"value", "low", "high", "n"}`.

    numerators and denominators: one of each per independent item; n counts the items. The interval is the t interval
    of the linearised ratio estimator (Cochran 1977, "Sampling Techniques", section 6.4): with R = sum(y) / sum(x) and
    the residuals e = y - R x, its standard error is sqrt(n / (n - 1) sum(e^2)) / sum(x), with n - 1 degrees of
    freedom. All but n are None when the denominators sum to 0; the bounds are None with fewer than two items.
    """
    n, total = len(denominators), math.fsum(denominators)
    if total == 0:
        return {"value": None, "low": None, "high": None, "n": n}
    value = math.fsum(numerators) / total
    residuals = [y - value * x for y, x in zip(numerators, denominators, strict=True)]
    if n < 2:
        return {"value": value, "low": None, "high": None, "n": n}
    error = math.sqrt(math.fsum(residual**2 for residual in residuals) * n / (n - 1)) / total
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
