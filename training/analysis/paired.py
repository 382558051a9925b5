"""Compare two arms that share their seeds and their items: the statistics of a paired experiment.

A run is the experimental unit: one seed gives one difference between the arms, however many items it answers. So the
t interval over the differences of the seeds is the primary result, and all else stands beside it: a bootstrap over
seeds and items, sign flips of the seeds, McNemar's test within each seed, equivalence within a margin, and the effect
that so many seeds could have shown. No test here pools the items of several seeds as if they were independent.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

POWER = 0.8
SIGN_PATTERNS = 2**16  # enumerated up to here; of more, which takes more than 16 seeds, as many are drawn
_DRAWN_AT_ONCE = 2**22  # items, which bounds the memory of the bootstrap to about 100 MB
_ROUNDING = 1e-12  # relative; seeds whose differences agree this closely differ by floating point alone


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Hold what `compare` found, in the unit of the values; a difference is treatment minus baseline.

    What is said over seeds is None with one seed, and what rests on the spread of the differences is None where they
    are all equal; `note` says so.
    """

    seeds: int
    items: int
    clusters: int  # as many as items if none were given
    alpha: float
    higher_is_better: bool
    baseline_mean: float
    baseline_sd: float | None  # over seeds, as is the next one
    treatment_mean: float
    treatment_sd: float | None
    difference: float
    seed_differences: tuple[float, ...]
    interval: tuple[float, float] | None
    p_value: float | None
    bootstrap: dict[str, float] | None
    permutation: dict[str, float | bool] | None
    mcnemar: tuple[dict[str, float | int], ...] | None
    odds_ratio: float | None
    equivalence: dict[str, float | bool] | None
    minimum_detectable_effect: float | None
    note: str | None

    @property
    def favours(self) -> str | None:
        """Name the arm that the paired t test finds better at alpha, "baseline" or "treatment", or neither."""
        if self.p_value is None or self.p_value >= self.alpha:
            return None
        return "treatment" if (self.difference > 0) == self.higher_is_better else "baseline"

    def detectable_at(self, alpha: float) -> float | None:
        """Return the minimum detectable effect of a test at another level, as alpha / m in a family of m tests."""
        if self.minimum_detectable_effect is None:
            return None
        return _minimum_detectable_effect(np.array(self.seed_differences), alpha)

    def to_json(self) -> dict[str, Any]:
        """Return all fields and `favours` as what JSON can hold."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**fields, "favours": self.favours}


def compare(
    baseline: ArrayLike,
    treatment: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    margin: float | None = None,
    alpha: float = 0.05,
    higher_is_better: bool = True,
    replications: int = 10_000,
    random_seed: int = 0,
) -> Comparison:
    """Compare two arms by what each seed's runs gave on the same items.

    baseline, treatment: (seeds, items), booleans or numbers, with the same seeds and items in the same order.
    clusters: (items,) labels; items that share one, such as the templates of a fact, are drawn together.
    margin: of the equivalence test, in the unit of the values. alpha: of all tests; intervals cover 1 - alpha.

    - `interval`, `p_value`: the paired t test over seeds, with seeds - 1 degrees of freedom.
    - `bootstrap`: `{"low", "high", "p_value"}` by percentiles. Each replication draws seeds, and independently items
      (or clusters), with replacement; all drawn seeds and both arms share the drawn items, because items are crossed
      with seeds: an item that suits one arm does so in every run. It is conservative where seeds differ little.
    - `permutation`: `{"p_value", "smallest_possible", "exact"}`, two-sided, flipping the signs of seeds.
    - `mcnemar`: for booleans, per seed, `{"only_baseline", "only_treatment", "p_value"}`: how many items only this arm
      got right, and the exact test. It describes one pair of runs, not the arms.
    - `odds_ratio`: for booleans, the odds of the treatment's mean over those of the baseline's; None at means 0 and 1.
    - `equivalence`: `{"margin", "p_value", "equivalent"}` of two one-sided t tests over seeds (Schuirmann 1987).
    - `minimum_detectable_effect`: the true difference that the paired t test finds with a chance of 80 %, were the
      spread between seeds the one observed; by the noncentral t distribution, less the chance of the wrong sign.

    Raises `ValueError` for other shapes, unequal kinds, values that are not finite and settings out of range.
    """
    settings = {"margin": margin, "alpha": alpha, "replications": replications}
    base, treated = _check(np.asarray(baseline), np.asarray(treatment), **settings)
    boolean = base.dtype == bool
    base_means, treated_means = base.mean(axis=1), treated.mean(axis=1)  # (seeds,)
    differences = treated.astype(float) - base.astype(float)  # (seeds, items)
    by_seed = differences.mean(axis=1)  # (seeds,)
    seeds, items = differences.shape
    numbers = _number_clusters(clusters, items)
    count = int(numbers.max()) + 1

    notes = []
    several = seeds > 1
    if not several:
        notes.append("One seed says nothing about the spread between seeds, so there is no interval and no test.")
    scale = max(np.abs(base_means).max(), np.abs(treated_means).max())
    varied = bool(np.ptp(by_seed) > _ROUNDING * scale)
    if several and not varied:
        notes.append(
            f"The difference is the same in all {seeds} seeds, so their spread, and with it the t interval and what "
            "rests on it, is not known."
        )
    if several and count == 1:
        notes.append("All items are one cluster, so the bootstrap draws seeds alone.")
    test = stats.ttest_1samp(by_seed, 0) if varied else None
    return Comparison(
        seeds=seeds,
        items=items,
        clusters=count,
        alpha=alpha,
        higher_is_better=higher_is_better,
        baseline_mean=float(base_means.mean()),
        baseline_sd=float(base_means.std(ddof=1)) if several else None,
        treatment_mean=float(treated_means.mean()),
        treatment_sd=float(treated_means.std(ddof=1)) if several else None,
        difference=float(by_seed.mean()),
        seed_differences=tuple(by_seed.tolist()),
        interval=tuple(map(float, test.confidence_interval(1 - alpha))) if test else None,
        p_value=float(test.pvalue) if test else None,
        bootstrap=_bootstrap(differences, numbers, alpha, replications, random_seed) if several else None,
        permutation=_flip_signs(by_seed, random_seed) if several else None,
        mcnemar=tuple(_mcnemar(*pair) for pair in zip(base, treated, strict=True)) if boolean else None,
        odds_ratio=_odds_ratio(base_means.mean(), treated_means.mean()) if boolean else None,
        equivalence=_equivalence(by_seed, margin, alpha) if margin is not None and varied else None,
        minimum_detectable_effect=_minimum_detectable_effect(by_seed, alpha) if varied else None,
        note=" ".join(notes) or None,
    )


def holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Return the p-values of a family, by name, adjusted so that the family errs at most as often as one (Holm 1979).

    p_values: of every test that was declared. None stands for one that could not be made: it counts as 1 and is
    adjusted to 1, for a family that shrank with its missing tests would be a more lenient one. Raises `ValueError` for
    what is no probability.
    """
    for name, p_value in p_values.items():
        if p_value is not None and not 0 <= p_value <= 1:
            raise ValueError(f"the p-value of {name} is {p_value}; give one between 0 and 1, or None for no test")
    if not p_values:
        return {}
    adjusted = multipletests([1.0 if p is None else p for p in p_values.values()], method="holm")[1]
    return dict(zip(p_values, adjusted.tolist(), strict=True))


def _check(
    base: NDArray, treated: NDArray, margin: float | None, alpha: float, replications: int
) -> tuple[NDArray, NDArray]:
    """Return both arms as booleans or floats, or say what is wrong with them or with the settings."""
    if base.shape != treated.shape:
        raise ValueError(
            f"the baseline has the shape {base.shape} and the treatment {treated.shape}; give both arms the same "
            "seeds and items"
        )
    if base.ndim != 2 or 0 in base.shape:
        raise ValueError(f"the arms have the shape {base.shape}; pass (seeds, items), also for one seed or one item")
    if (base.dtype == bool) != (treated.dtype == bool):
        raise ValueError(
            f"the baseline holds {base.dtype} and the treatment {treated.dtype}; give both booleans, or both numbers"
        )
    if base.dtype != bool:
        base, treated = base.astype(float), treated.astype(float)
    for name, values in (("baseline", base), ("treatment", treated)):
        if not np.isfinite(values).all():
            seed, item = np.argwhere(~np.isfinite(values))[0].tolist()
            raise ValueError(
                f"the {name} is {values[seed, item]} at seed {seed}, item {item} (counted from 0); "
                "leave that seed or item out of both arms"
            )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; choose it between 0 and 1, such as 0.05")
    if margin is not None and not 0 < margin < math.inf:
        raise ValueError(f"the margin of equivalence is {margin}; give a positive number, or None for no such test")
    if replications < 1:
        raise ValueError(f"{replications} replications make no bootstrap; ask for at least 1, better 10,000")
    return base, treated


def _number_clusters(clusters: Sequence[Hashable] | None, items: int) -> NDArray:
    """Return the number of each item's cluster, (items,), counted from 0 by first appearance."""
    if clusters is None:
        return np.arange(items)
    if len(clusters) != items:
        raise ValueError(f"there are {len(clusters)} labels of clusters for {items} items; give one per item")
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(label, len(known)) for label in clusters])


def _bootstrap(
    differences: NDArray, numbers: NDArray, alpha: float, replications: int, random_seed: int
) -> dict[str, float]:
    """Draw seeds and, for all of them at once, clusters of items; summarize the means of what was drawn."""
    rng = np.random.default_rng(random_seed)
    seeds = len(differences)
    sizes = np.bincount(numbers)  # (clusters,)
    sums = np.stack([np.bincount(numbers, weights=row) for row in differences])  # (seeds, clusters)
    drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replications)  # how often each, (R, seeds)
    means = []
    rows_at_once = max(1, _DRAWN_AT_ONCE // len(sizes))
    for start in range(0, replications, rows_at_once):
        weights = drawn_seeds[start : start + rows_at_once]
        drawn = rng.integers(len(sizes), size=(len(weights), len(sizes)))
        drawn += len(sizes) * np.arange(len(weights))[:, None]  # a range of its own for each row, to count all at once
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        # Clusters differ in size, so that a mean is a ratio of what was drawn; whole numbers stay exact up to here.
        means.append(((counts @ sums.T) * weights).sum(axis=1) / (seeds * (counts @ sizes)))
    means = np.concatenate(means)
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2]).tolist()
    beyond = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return {"low": low, "high": high, "p_value": min(1.0, 2 * (beyond + 1) / (replications + 1))}


def _flip_signs(by_seed: NDArray, random_seed: int) -> dict[str, float | bool]:
    """Test by the sign flips of seeds; `smallest_possible` is the p-value of seeds that all point one way."""
    found = stats.permutation_test(
        (by_seed,),
        np.mean,
        permutation_type="samples",  # of a single sample: its signs
        n_resamples=SIGN_PATTERNS,
        vectorized=True,
        rng=np.random.default_rng(random_seed),
    )
    exact = 2 ** len(by_seed) <= SIGN_PATTERNS
    # Drawn patterns count the observed one as well.
    smallest = 2 / 2 ** len(by_seed) if exact else 2 / (SIGN_PATTERNS + 1)
    return {"p_value": float(found.pvalue), "smallest_possible": smallest, "exact": exact}


def _mcnemar(base: NDArray, treated: NDArray) -> dict[str, float | int]:
    only_base, only_treated = int((base & ~treated).sum()), int((treated & ~base).sum())
    p_value = float(mcnemar([[0, only_base], [only_treated, 0]], exact=True).pvalue)
    return {"only_baseline": only_base, "only_treatment": only_treated, "p_value": p_value}


def _odds_ratio(base: float, treated: float) -> float | None:
    if not (0 < base < 1 and 0 < treated < 1):
        return None
    return float(treated / (1 - treated) * (1 - base) / base)


def _equivalence(by_seed: NDArray, margin: float, alpha: float) -> dict[str, float | bool]:
    p_value = float(ttost_paired(by_seed, np.zeros_like(by_seed), -margin, margin)[0])
    return {"margin": margin, "p_value": p_value, "equivalent": p_value < alpha}


def _minimum_detectable_effect(by_seed: NDArray, alpha: float) -> float:
    """Return the noncentrality at which t is beyond its critical value with the chance POWER, as a difference.

    Inverts the distribution directly: the root finding of statsmodels' TTestPower stops at its bracket, without a
    word, where few seeds meet a small alpha.
    """
    freedom = len(by_seed) - 1
    noncentrality = special.nctdtrinc(freedom, 1 - POWER, stats.t.isf(alpha / 2, freedom))
    return float(noncentrality * by_seed.std(ddof=1) / math.sqrt(len(by_seed)))
