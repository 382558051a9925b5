"""What an experiment shows fact by fact: accuracy in the 9 x 9 table, use of tokens, and tokenised against plain."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokenization.mul_facts import FACT_BY_NAME
from training.analysis.endpoint_items import value_at
from training.analysis.experiment_results import Experiment, Run
from training.analysis.paired import Comparison, compare
from training.analysis.result_files import read_rows

FACT_SETS = ("facts", "mul_table")  # the probe sets that ask for a product of two digits
HALF = "half_facts"
OPAQUE = "opaque_token"
# What is compared inside a model, by its path in a row of the probes.
WITHIN = {
    "exact": "right answer",
    "exact_in_digits": "right answer in digits",
    "likelihood.right": "right product likeliest, in digits",
}
USES = {
    "emitted_per_response": "fact tokens per reply",
    "emitted_per_eligible": "one-digit products written as a token",
    "emitted_right_in_context": "tokens whose factors stand in the problem or before",
    "emitted_gratuitous": "tokens whose product is not used",
}


@dataclass(frozen=True)
class FactProbe:
    """Where the facts are asked for: the last stage that has such a probe set, and the larger set if it has two."""

    stage: str
    eval: str
    task: str
    set: str


def find_fact_probe(experiment: Experiment) -> FactProbe | None:
    """Return where the facts are asked for, None where nowhere."""
    for stage in reversed(experiment.stages):
        for name in FACT_SETS:
            for evaluation in experiment.evals_of(stage):
                for run in experiment.runs(stage=stage):
                    for task, results in _tasks(run, evaluation):
                        if name in results.get("sets", {}):
                            return FactProbe(stage, evaluation, task, name)
    return None


def rows_of_facts(experiment: Experiment, probe: FactProbe, arm: str, seed: int) -> list[dict[str, Any]] | None:
    """Return the rows of a run that ask for a fact, None where it was not evaluated."""
    file = experiment.run(arm, seed, probe.stage).rows_file(probe.eval, probe.task)
    return None if file is None else [row for row in read_rows(file) if row.get("set") == probe.set]


def accuracy_by_fact(experiment: Experiment, probe: FactProbe) -> dict[str, np.ndarray]:
    """Return the share of right answers of each arm as (seeds, 9, 9), the first factor down and the second across.

    A cell is the mean over the templates; an arm without results is left out, and so is a seed.
    """
    found = {}
    for arm in experiment.arms:
        tables = []
        for seed in experiment.seeds:
            rows = rows_of_facts(experiment, probe, arm, seed)
            if rows:
                right, asked = np.zeros((9, 9)), np.zeros((9, 9))
                for row in rows:
                    place = _place(row)
                    right[place] += row["exact"]
                    asked[place] += 1
                with np.errstate(invalid="ignore"):
                    tables.append(right / asked)
        if tables:
            found[arm] = np.array(tables)
    return found


def token_use(experiment: Experiment) -> list[tuple[str, str, dict[str, list[float]]]]:
    """Return stage and evaluation, measure, and the values of all seeds by arm, wherever replies were looked through.

    Measures are those of `USES` for generated solutions, and the share of probes whose answer was read from a fact.
    They look for tokens that name a fact, so an arm whose one token names none has no values, rather than zeros.
    """
    arms = experiment.declared["arms"]
    found = []
    for stage in experiment.stages:
        for evaluation in experiment.evals_of(stage):
            table: dict[tuple[str, str], dict[str, list[float]]] = {}
            for run in experiment.runs(stage=stage):
                if arms[run.arm]["condition"] == OPAQUE:
                    continue
                for task, results in _tasks(run, evaluation):
                    for measure, value in _uses(results):
                        table.setdefault((task, measure), {}).setdefault(run.arm, []).append(value)
            order = list(dict.fromkeys(task for task, _ in table))
            for (task, measure), by_arm in sorted(table.items(), key=lambda item: order.index(item[0][0])):
                found.append((f"{stage}, {task}", measure, by_arm))
    return found


def within_model(experiment: Experiment, probe: FactProbe, arm: str) -> dict[str, Any]:
    """Compare tokenised with plain facts inside the models of a `half_facts` arm.

    Returns `seeds`, `missing` (seeds without results or without a list of tokenised facts), `facts` (how many are
    tokenised, by seed), and for each key of `WITHIN` the comparison over seeds: plain facts are its baseline. With
    `adjusted` in place of `within` the same contrast in the baseline arm of the same dose, where all facts are plain,
    is taken away, for some facts are harder than others; without such an arm it is empty.
    """
    arms = experiment.declared["arms"]
    reference = next(
        (
            name
            for name, one in arms.items()
            if one["condition"] == "baseline" and one.get("dose") == arms[arm].get("dose")
        ),
        None,
    )
    seeds, missing, facts = [], [], []
    means: dict[str, list[list[float]]] = {key: [] for key in WITHIN}
    for seed in experiment.seeds:
        named = (experiment.run(arm, seed, experiment.stages[0]).facts or {}).get("tokenised_facts")
        rows = rows_of_facts(experiment, probe, arm, seed)
        if not named or not rows:
            missing.append(seed)
            continue
        tokenised = {f"{FACT_BY_NAME[name].a}*{FACT_BY_NAME[name].b}" for name in named}
        others = rows_of_facts(experiment, probe, reference, seed) if reference else None
        seeds.append(seed)
        facts.append(len(tokenised))
        for key, of_key in means.items():
            of_key.append([*_split(rows, key, tokenised), *(_split(others, key, tokenised) if others else ())])
    result: dict[str, Any] = {"seeds": seeds, "missing": missing, "facts": facts, "within": {}, "adjusted": {}}
    for key, of_key in means.items() if seeds else ():
        plain, tokenised = np.array([row[:2] for row in of_key], float).T[:, :, None]
        result["within"][key] = _compare(experiment, plain, tokenised)
        if all(len(row) == 4 for row in of_key):
            values = np.array(of_key, float)
            result["adjusted"][key] = _compare(
                experiment, values[:, 3:4] - values[:, 2:3], values[:, 1:2] - values[:, 0:1]
            )
    return result


def _compare(experiment: Experiment, plain: np.ndarray, tokenised: np.ndarray) -> Comparison:
    # One mean per seed and side: the seed is the unit, and which facts have tokens differs between seeds.
    return compare(plain, tokenised, alpha=experiment.alpha, replications=1)


def _split(rows: list[dict[str, Any]], key: str, tokenised: set[str]) -> tuple[float, float]:
    """Return the means over plain and over tokenised facts."""
    sides: tuple[list[float], list[float]] = ([], [])
    for row in rows:
        sides[row["cluster"] in tokenised].append(bool(value_at(row, key)))
    return float(np.mean(sides[False])), float(np.mean(sides[True]))


def _place(row: dict[str, Any]) -> tuple[int, int]:
    """Return the cell of a question; the cluster names the smaller factor first, the tags say how it was asked."""
    first, second = (int(factor) - 1 for factor in row["cluster"].split("*"))
    return (second, first) if row["tags"].get("order") == "descending" else (first, second)


def _tasks(run: Run, evaluation: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for task, results in (run.results(evaluation) or {}).get("results", {}).items():
        if isinstance(results, dict):
            yield task, results


def _uses(results: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, title in USES.items():
        value = value_at(results, f"fact_use.{name}.value")
        if value is not None:
            yield title, value
    for name, of_set in results.get("sets", {}).items():
        value = value_at(of_set, "answered_by_fact.value")
        if value is not None:
            yield f"{name}: answered by a fact", value
