"""Measure how often the statistics of a paired experiment find a difference, over simulated experiments.

    python benchmarks/paired_statistics.py --json paired_statistics.json
    python benchmarks/paired_statistics.py --experiments 2000 --bootstrap 2000

A row is a truth (the accuracies of the arms), a number of seeds and how much runs differ beyond their items. Where
the accuracies are equal, what is found is false, and should be in 5 % of the experiments; elsewhere it is the power.
In parentheses beside each share stands that of an earlier simulation with the same settings and 500 experiments per
row. The tests over seeds, and thus the bootstrap too, have nothing to say about one seed.

McNemar's test over the items of all seeds is here as the practice to avoid: it takes the items of several runs for
independent ones. It is not among the statistics of `training/analysis/paired.py`.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special
from statsmodels.stats.contingency_tables import mcnemar

from training.analysis.paired import Comparison, compare
from training.core.console import processor_name
from training.core.files import write_json

ALPHA = 0.05
ITEMS = 1319  # as in the test set of GSM8K
ITEM_SD, RUN_BY_ITEM_SD = 2.0, 1.0  # logits: how items differ in difficulty, and how runs differ on one item
TESTS = {"t": "paired t", "signs": "sign flips", "pooled": "pooled McNemar", "bootstrap": "hierarchical bootstrap"}


class Row(NamedTuple):
    """One setting in points of accuracy, and the shares that the earlier simulation found, where it gives one."""

    baseline: float
    treatment: float
    seeds: int
    seed_sd: float
    t: float | None = None
    signs: float | None = None
    pooled: float | None = None
    bootstrap: float | None = None


ROWS = [
    Row(2.4, 2.4, 3, 0.0, 0.05, 0.0, 0.05, 0.01),
    Row(2.4, 2.4, 3, 0.4, 0.08, 0.0, 0.16, 0.05),
    Row(2.4, 2.4, 8, 0.0, 0.05, 0.04, 0.04, 0.00),
    Row(2.4, 2.4, 8, 0.4, 0.04, 0.03, 0.17, 0.02),
    Row(2.4, 3.8, 1, 0.0, pooled=0.58, bootstrap=0.64),
    Row(2.4, 3.8, 1, 0.4, pooled=0.52, bootstrap=0.56),
    Row(2.4, 3.8, 3, 0.0, 0.53, 0.0, 0.96, 0.79),
    Row(2.4, 3.8, 3, 0.4, 0.32, 0.0, 0.92, 0.67),
    Row(2.4, 3.8, 5, 0.0, 0.96, 0.0, bootstrap=0.95),
    Row(2.4, 3.8, 5, 0.4, 0.71, 0.0, bootstrap=0.83),
    Row(2.4, 3.8, 8, 0.0, 1.0, 1.0, bootstrap=1.0),
    Row(2.4, 3.8, 8, 0.4, 0.93, 0.92, bootstrap=0.94),
    Row(40, 40, 3, 0.5, 0.04, 0.0, 0.06, 0.01),
    Row(40, 40, 3, 1.0, 0.08, 0.0, 0.17, 0.03),
    Row(40, 42, 3, 0.5, 0.24, 0.0, bootstrap=0.28),
    Row(40, 42, 5, 0.5, 0.48, 0.0, bootstrap=0.38),
    Row(40, 42, 8, 0.5, 0.81, 0.78, bootstrap=0.65),
    Row(40, 42, 3, 1.0, 0.16, 0.0, bootstrap=0.27),
    Row(40, 42, 5, 1.0, 0.38, 0.0, bootstrap=0.37),
    Row(40, 42, 8, 1.0, 0.62, 0.60, bootstrap=0.51),
    Row(40, 44, 3, 1.0, 0.40, 0.0, bootstrap=0.79),
    Row(40, 44, 5, 1.0, 0.89, 0.0, bootstrap=0.95),
    Row(40, 44, 8, 1.0, 0.99, 0.99, bootstrap=0.99),
]


def main(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    rows = []
    print_header()
    for row in ROWS:
        found = measure(row, args.experiments, args.bootstrap, args.random_seed)
        setting = {key: value for key, value in row._asdict().items() if key not in TESTS}
        rows.append({**setting, "found": found, "earlier": {name: getattr(row, name) for name in TESTS}})
        print_row(row, found)
    seconds = time.perf_counter() - began
    error = 0.5 / math.sqrt(args.experiments)
    print(
        f"\n{args.experiments} experiments per row, so a share has a standard error of at most {error:.3f}; "
        f"{args.bootstrap} replications of each bootstrap; {seconds:.0f} s on {processor_name()}"
    )
    if args.json:
        settings = {"experiments": args.experiments, "bootstrap": args.bootstrap, "random_seed": args.random_seed}
        write_json(args.json, {"device": processor_name(), "seconds": seconds, **settings, "rows": rows})


def measure(row: Row, experiments: int, replications: int, random_seed: int) -> dict[str, float | None]:
    """Return the share of experiments in which each test finds a difference, None for a test that needs more seeds."""
    rng = np.random.default_rng([random_seed, ROWS.index(row)])
    verdicts = []
    for experiment in range(experiments):
        arms = simulate(rng, row.baseline / 100, row.treatment / 100, row.seeds, row.seed_sd / 100)
        result = compare(*arms, alpha=ALPHA, replications=replications, random_seed=experiment)
        verdicts.append(find_difference(result))
    return {
        name: sum(found[name] for found in verdicts) / experiments if name in verdicts[0] else None for name in TESTS
    }


def find_difference(result: Comparison) -> dict[str, bool]:
    """Say which tests find a difference; those over seeds are left out of an experiment with one."""
    found = {"pooled": pooled_mcnemar(result) < ALPHA}
    if result.seeds > 1:
        found["t"] = result.p_value is not None and result.p_value < ALPHA  # None if all seeds differ alike
        found["signs"] = result.permutation["p_value"] < ALPHA
        found["bootstrap"] = not result.bootstrap["low"] <= 0 <= result.bootstrap["high"]
    return found


def simulate(
    rng: np.random.Generator, baseline: float, treatment: float, seeds: int, seed_sd: float, items: int = ITEMS
) -> tuple[np.ndarray, np.ndarray]:
    """Return which items each run of both arms gets right, (seeds, items) each, for true accuracies.

    The arms share the difficulty of the items. Each run has its own shift, whose spread `seed_sd` is in accuracy at
    the baseline's, and its own noise on each item.
    """
    difficulty = rng.normal(scale=ITEM_SD, size=items)
    shift_sd = seed_sd / slope(middle(baseline))  # logits

    def runs(accuracy: float) -> np.ndarray:
        shifts = rng.normal(scale=shift_sd, size=(seeds, 1))
        noise = rng.normal(scale=RUN_BY_ITEM_SD, size=(seeds, items))
        return rng.random((seeds, items)) < special.expit(middle(accuracy) + shifts + noise - difficulty)

    return runs(baseline), runs(treatment)


@functools.cache
def middle(accuracy: float) -> float:
    """Return the logit of an item of middling difficulty where the mean over items and runs is the accuracy."""
    return optimize.brentq(lambda logit: over_items(special.expit, logit) - accuracy, -30, 30)


@functools.cache
def slope(logit: float) -> float:
    """Return how fast the accuracy grows with the logit."""
    return over_items(lambda logits: special.expit(logits) * special.expit(-logits), logit)


def over_items(function: Callable[[np.ndarray], np.ndarray], logit: float) -> float:
    """Return the mean of a function of the logit over items and runs, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    return float(weights @ function(logit + math.hypot(ITEM_SD, RUN_BY_ITEM_SD) * nodes) / weights.sum())


def pooled_mcnemar(result: Comparison) -> float:
    """Return the p-value of McNemar's test over the items of all seeds at once."""
    only_baseline, only_treatment = (
        sum(seed[arm] for seed in result.mcnemar) for arm in ("only_baseline", "only_treatment")
    )
    return float(mcnemar([[0, only_baseline], [only_treatment, 0]], exact=True).pvalue)


def print_header() -> None:
    print(f"| truth | seeds | SD of runs, points | {' | '.join(TESTS.values())} |")
    print("|---" * (3 + len(TESTS)) + "|")


def print_row(row: Row, found: dict[str, Any]) -> None:
    kind = "false positives" if row.baseline == row.treatment else "power"
    cells = [f"{show(found[name])} ({show(getattr(row, name))})" for name in TESTS]
    print(
        f"| {row.baseline} vs {row.treatment} ({kind}) | {row.seeds} | {row.seed_sd} | {' | '.join(cells)} |",
        flush=True,
    )


def show(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


def positive(text: str) -> int:
    """Read a number of experiments or replications."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few; use 1 or more")
    return int(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=positive, default=500, help="per row")
    parser.add_argument("--bootstrap", type=positive, default=1000, help="replications of each bootstrap")
    parser.add_argument("--random_seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    main(parser.parse_args())
