"""Bring the items of an endpoint side by side: the same items, in the same order, of every run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.analysis.experiment_results import Endpoint, Experiment
from training.analysis.report_words import Scale
from training.analysis.result_files import read_rows
from training.core.checkpoint import checkpoint_step

# What an item asks. It has to be the same in all runs, or rows of one index are no pair.
IDENTIFYING = ("set", "prompt", "question", "answer", "gold", "cluster", "ctx", "endings", "label", "opening")


@dataclass(frozen=True)
class PairedItems:
    """One endpoint in two arms: the seeds that both have, and the items that have a value in all of these runs.

    baseline, treatment: (seeds, items). missing: names of the runs without results. left_out: items without a value.
    """

    seeds: list[int]
    missing: list[str]
    baseline: np.ndarray
    treatment: np.ndarray
    clusters: list[str] | None
    left_out: int


class EndpointItems:
    """The items of every endpoint in every run of an experiment, each file read once.

    Raises `ValueError` where two runs disagree about what an item asked.
    """

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        self._values: dict[tuple[str, str, int], np.ndarray | None] = {}
        self._first: dict[str, tuple[Path, list[dict[str, Any]]]] = {}  # which items an endpoint has, and who says so

    def values(self, endpoint: Endpoint, arm: str, seed: int) -> np.ndarray | None:
        """Return (items,) bool or float, NaN where there was nothing to measure; None where the run has no results.

        With `per`, values are divided by the mean of that over the items: their mean is then the ratio of the two
        sums, as bits per byte of a text are. Nats become bits where the unit speaks of bits.
        """
        key = (endpoint.name, arm, seed)
        if key not in self._values:
            file = self.experiment.run(arm, seed, endpoint.stage).rows_file(endpoint.eval, endpoint.task)
            self._values[key] = None if file is None else self._read(endpoint, file)
        return self._values[key]

    def curve(self, endpoint: Endpoint, arm: str, seed: int) -> dict[int, float]:
        """Return the mean at every checkpoint of the endpoint's stage that was evaluated, by its step."""
        folders = self.experiment.run(arm, seed, endpoint.stage).measured(endpoint.eval)
        files = {checkpoint_step(folder): folder / f"{endpoint.task}.jsonl" for folder in folders}
        return {step: float(np.nanmean(self._read(endpoint, file))) for step, file in files.items() if file.is_file()}

    def clusters(self, endpoint: Endpoint) -> list[str] | None:
        """Return the cluster of every item, None where the endpoint names none; call it after `values`."""
        _, asked = self._first[endpoint.name]
        return [item["cluster of the endpoint"] for item in asked] if endpoint.cluster else None

    def means(self, endpoint: Endpoint, arm: str) -> list[float]:
        """Return the mean of every seed that has results, over the items with a value in that run."""
        found = [self.values(endpoint, arm, seed) for seed in self.experiment.seeds]
        return [float(np.nanmean(values)) for values in found if values is not None]

    def scale(self, endpoint: Endpoint) -> Scale:
        """Return how the endpoint's values are written; shares are what is declared as accuracy, and booleans."""
        runs = ((arm, seed) for arm in self.experiment.arms for seed in self.experiment.seeds)
        found = next((values for run in runs if (values := self.values(endpoint, *run)) is not None), None)
        return Scale(
            endpoint.unit, endpoint.unit in ("accuracy", "share") or (found is not None and found.dtype == bool)
        )

    def pair(self, endpoint: Endpoint, baseline: str, treatment: str) -> PairedItems | None:
        """Return an endpoint in two arms, None where no seed has both."""
        found, missing = {}, []
        for seed in self.experiment.seeds:
            both = {arm: self.values(endpoint, arm, seed) for arm in (baseline, treatment)}
            absent = [f"{arm}-s{seed}" for arm, values in both.items() if values is None]
            missing += absent
            if not absent:
                found[seed] = tuple(both.values())
        if not found:
            return None
        first, second = (np.array([pair[side] for pair in found.values()]) for side in (0, 1))
        if first.dtype != second.dtype:  # some run of booleans had an item without a value
            first, second = first.astype(float), second.astype(float)
        clusters = self.clusters(endpoint)
        valued = ~(np.isnan(first.astype(float)).any(0) | np.isnan(second.astype(float)).any(0))
        if clusters is not None:
            clusters = [cluster for cluster, keep in zip(clusters, valued, strict=True) if keep]
        return PairedItems(list(found), missing, first[:, valued], second[:, valued], clusters, int((~valued).sum()))

    def _read(self, endpoint: Endpoint, file: Path) -> np.ndarray:
        rows = sorted(
            (row for row in read_rows(file) if is_selected(row, endpoint.where)), key=lambda row: row["index"]
        )
        if not rows:
            raise ValueError(
                f"{file}: no row has {endpoint.where}, which the endpoint '{endpoint.name}' asks for; correct its "
                "`where`"
            )
        asked = [
            {key: row[key] for key in ("index", *IDENTIFYING) if key in row}
            | ({"cluster of the endpoint": str(value_at(row, endpoint.cluster))} if endpoint.cluster else {})
            for row in rows
        ]
        self._check_same(endpoint, file, asked)
        values = [_number(file, row, endpoint.value) for row in rows]
        if endpoint.per is None and all(isinstance(value, bool) for value in values):
            return np.array(values)
        numbers = np.array([math.nan if value is None else float(value) for value in values])
        if endpoint.per is not None:
            numbers = numbers / np.mean([float(_number(file, row, endpoint.per) or 0) for row in rows])
        if endpoint.unit.startswith("bits") and endpoint.value.rpartition(".")[2].endswith("nats"):
            numbers = numbers / math.log(2)
        return numbers

    def _check_same(self, endpoint: Endpoint, file: Path, asked: list[dict[str, Any]]) -> None:
        other_file, other = self._first.setdefault(endpoint.name, (file, asked))
        if len(asked) != len(other):
            raise ValueError(
                f"the endpoint '{endpoint.name}' has {len(other):,} items in {other_file} and {len(asked):,} in "
                f"{file}; measure both runs with the same evaluation"
            )
        for before, now in zip(other, asked, strict=True):
            for key in before.keys() | now.keys():
                if before.get(key) != now.get(key):
                    raise ValueError(
                        f"item {before['index']} of the endpoint '{endpoint.name}' is not the same in two runs: its "
                        f"{key} is {before.get(key)!r} in {other_file} and {now.get(key)!r} in {file}; measure both "
                        "runs with the same evaluation"
                    )


def value_at(row: Any, path: str) -> Any:
    """Return what a dotted path leads to, None where it leads nowhere; numbers index lists."""
    for part in path.split("."):
        if isinstance(row, dict):
            row = row.get(part)
        elif isinstance(row, list) and part.isdigit() and int(part) < len(row):
            row = row[int(part)]
        else:
            return None
    return row


def is_selected(row: dict[str, Any], where: dict[str, Any]) -> bool:
    """Tell whether a row has what an endpoint asks for: at each dotted path the value, or one of a list of values."""
    return all(
        value_at(row, path) in (wanted if isinstance(wanted, list) else [wanted]) for path, wanted in where.items()
    )


def floor_of(endpoint: Endpoint, results: dict[str, Any] | None) -> float | None:
    """Return what can be had without arithmetic, from `results.json`; None where that does not say.

    Only shares of right answers have a floor. Over several probe sets it is the mean of theirs, by items.
    """
    task = (results or {}).get("results", {}).get(endpoint.task)
    if not isinstance(task, dict):
        return None
    head, _, rest = endpoint.value.removeprefix("replies.0.").removeprefix("correct.").partition(".")
    if rest not in ("", "right"):
        return None
    share = {"strict_right": "strict_accuracy", "flexible_right": "flexible_accuracy"}.get(head, head)
    if "sets" not in task:
        found = task.get(share)
        return found.get("floor") if isinstance(found, dict) and not endpoint.where else None
    wanted = endpoint.where.get("set", list(task["sets"]))
    groups = [task["sets"].get(name) for name in (wanted if isinstance(wanted, list) else [wanted])]
    tags = {path.removeprefix("tags."): value for path, value in endpoint.where.items() if path != "set"}
    if len(tags) == 1:
        ((tag, value),) = tags.items()
        groups = [value_at(group, f"by.{tag}.{str(value).lower()}") for group in groups]
    elif tags:
        return None
    shares = [value_at(group, share) for group in groups]
    if not shares or any(not isinstance(one, dict) or one.get("floor") is None for one in shares):
        return None
    return sum(one["floor"] * one["n"] for one in shares) / sum(one["n"] for one in shares)


def _number(file: Path, row: dict[str, Any], path: str) -> bool | float | None:
    value = value_at(row, path)
    if path.split(".")[0] not in row:
        raise ValueError(f"{file}, item {row['index']}: there is no '{path}'; the row has {', '.join(row)}")
    if value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError(
            f"{file}, item {row['index']}: '{path}' is {value!r:.80}; an endpoint is a number or a boolean"
        )
    return value
