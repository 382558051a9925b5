"""Bring the items of an endpoint side by side: the same items, in the same order, of every run."""

import math
from collections import Counter
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

_HINDSIGHT = "best_constant_in_hindsight"
_FLOORS = {
    "best_constant_of_train": "the training rows' commonest answer to all",
    "best_constant": "the best one answer to all, in hindsight",
    _HINDSIGHT: "the best one answer to all, in hindsight",
    "last_number_of_question": "the question's last number",
    "question_again": "the question said again",
    "question_again_in_digits": "the question said again in digits",
    "unnamed": "a number in its results, which do not say what gives it",
    "guess_among_candidates": "a guess among the candidates",
    "best_place_among_candidates": "always the candidate of one place",
}


@dataclass(frozen=True)
class Floor:
    """What can be had without arithmetic. sources: the names of all floors that were computed, the highest first."""

    value: float
    sources: tuple[str, ...]

    @property
    def source_words(self) -> list[str]:
        return list(dict.fromkeys(_FLOORS.get(name, name.replace("_", " ")) for name in self.sources))


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
        self._read_files: dict[tuple[str, str, int], _Items | None] = {}
        self._first: dict[str, tuple[Path, list[dict[str, Any]]]] = {}  # which items an endpoint has, and who says so

    def values(self, endpoint: Endpoint, arm: str, seed: int) -> np.ndarray | None:
        """Return (items,) bool or float, NaN where there was nothing to measure; None where the run has no results.

        With `per`, values are divided by the mean of that over the items with a value: their mean is then the ratio of
        the two sums, as bits per byte of a text are. Nats become bits where the unit speaks of bits.
        """
        found = self._items(endpoint, arm, seed)
        return None if found is None else found.values()

    def curve(self, endpoint: Endpoint, arm: str, seed: int) -> dict[int, float]:
        """Return the mean at every checkpoint of the endpoint's stage that was evaluated, by its step."""
        folders = self.experiment.run(arm, seed, endpoint.stage).measured(endpoint.eval)
        files = {checkpoint_step(folder): folder / f"{endpoint.task}.jsonl" for folder in folders}
        return {
            step: float(np.nanmean(self._read(endpoint, file).values()))
            for step, file in files.items()
            if file.is_file()
        }

    def floor(self, endpoint: Endpoint) -> Floor | None:
        """Return the highest floor that the runs of an endpoint name, None where there is none.

        Results that name no constant answer get the best one in hindsight, from the answers of their items.
        """
        runs = list(self.experiment.runs(stage=endpoint.stage))
        floors = [floor for run in runs if (floor := floor_of(endpoint, run.results(endpoint.eval))) is not None]
        if not floors:
            return None
        floor = max(floors, key=lambda one: one.value)
        answers = [item["gold"] for item in self._asked(endpoint) if item.get("gold") is not None]
        if not answers or any(name.startswith("best_constant") for name in floor.sources):
            return floor
        ((_, hits),) = Counter(answers).most_common(1)
        first, second = sorted((floor, Floor(hits / len(answers), (_HINDSIGHT,))), key=lambda one: -one.value)
        return Floor(first.value, (*first.sources, *second.sources))

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
            both = {arm: self._items(endpoint, arm, seed) for arm in (baseline, treatment)}
            absent = [f"{arm}-s{seed}" for arm, items in both.items() if items is None]
            missing += absent
            if not absent:
                found[seed] = tuple(both.values())
        if not found:
            return None
        valued = np.all([items.valued for pair in found.values() for items in pair], axis=0)
        first, second = (np.array([pair[side].values(valued) for pair in found.values()]) for side in (0, 1))
        if first.dtype != second.dtype:  # some run of booleans had an item without a value
            first, second = first.astype(float), second.astype(float)
        clusters = self.clusters(endpoint)
        if clusters is not None:
            clusters = [cluster for cluster, keep in zip(clusters, valued, strict=True) if keep]
        return PairedItems(list(found), missing, first, second, clusters, int((~valued).sum()))

    def _items(self, endpoint: Endpoint, arm: str, seed: int) -> "_Items | None":
        key = (endpoint.name, arm, seed)
        if key not in self._read_files:
            file = self.experiment.run(arm, seed, endpoint.stage).rows_file(endpoint.eval, endpoint.task)
            self._read_files[key] = None if file is None else self._read(endpoint, file)
        return self._read_files[key]

    def _asked(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        """Return what the items ask, from the run that was read first; none where there is no run."""
        if endpoint.name not in self._first:
            for run in self.experiment.runs(stage=endpoint.stage):
                if self._items(endpoint, run.arm, run.seed) is not None:
                    break
        return self._first.get(endpoint.name, (None, []))[1]

    def _read(self, endpoint: Endpoint, file: Path) -> "_Items":
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
            return _Items(np.array(values))
        numbers = np.array([math.nan if value is None else float(value) for value in values])
        if endpoint.unit.startswith("bits") and endpoint.value.rpartition(".")[2].endswith("nats"):
            numbers = numbers / math.log(2)
        if endpoint.per is None:
            return _Items(numbers)
        return _Items(numbers, np.array([float(_number(file, row, endpoint.per) or 0) for row in rows]))

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


@dataclass(frozen=True)
class _Items:
    """The items of one run: (items,) numerators, NaN where there is no value, and, with `per`, denominators."""

    numerators: np.ndarray
    denominators: np.ndarray | None = None

    @property
    def valued(self) -> np.ndarray:
        return ~np.isnan(self.numerators.astype(float))

    def values(self, kept: np.ndarray | None = None) -> np.ndarray:
        """Return the values of the items that are kept, of all by default; an item without a value weighs nothing."""
        chosen = self.numerators if kept is None else self.numerators[kept]
        if self.denominators is None:
            return chosen
        return chosen / self.denominators[self.valued if kept is None else kept].mean()


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


def floor_of(endpoint: Endpoint, results: dict[str, Any] | None) -> Floor | None:
    """Return what can be had without arithmetic, from `results.json`; None where that does not say.

    Only shares of right answers have a floor. Over several probe sets it is the mean of theirs, by items, and says of
    none what it is.
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
        if not isinstance(found, dict) or found.get("floor") is None or endpoint.where:
            return None
        return Floor(found["floor"], _sources(task, share, found["floor"]))
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
    value = sum(one["floor"] * one["n"] for one in shares) / sum(one["n"] for one in shares)
    return Floor(value, _sources(groups[0] if len(groups) == 1 else {}, share, value))


def _sources(results: dict[str, Any], share: str, highest: float) -> tuple[str, ...]:
    """Return the names of the floors of a share in the results of a task or set, those of this value first."""
    floors = results.get("floors") or {"unnamed": {"value": highest}}
    names = [name for name in floors if _is_of_share(name, share)]
    return tuple(sorted(names, key=lambda name: floors[name].get("value") != highest))


def _is_of_share(floor: str, share: str) -> bool:
    """Return whether a floor is one of this share: candidates are chosen among, and replies say something again."""
    chosen = share.startswith("likelihood")
    if floor.endswith("among_candidates"):
        return chosen
    if floor.startswith("question_again"):
        return not chosen and floor.endswith("in_digits") == share.endswith("in_digits")
    return True


def _number(file: Path, row: dict[str, Any], path: str) -> bool | float | None:
    value = value_at(row, path)
    if path.split(".")[0] not in row:
        raise ValueError(f"{file}, item {row['index']}: there is no '{path}'; the row has {', '.join(row)}")
    if value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError(
            f"{file}, item {row['index']}: '{path}' is {value!r:.80}; an endpoint is a number or a boolean"
        )
    return value
