"""Read the folder of an experiment into plain data; what is missing there is missing here, and is said."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from training.analysis.result_files import read_json, read_rows
from training.core.checkpoint import checkpoint_step, list_checkpoints

EXPERIMENT_FILE, LEDGER_FILE = "experiment.json", "ledger.jsonl"
ROLES = ("primary", "secondary", "exploratory")
_NEEDED = ("name", "scale", "question", "seeds", "arms", "stages", "evals", "comparisons", "primary")


@dataclass(frozen=True)
class Endpoint:
    """One declared measurement, taken at the last checkpoint of `stage`.

    where: dotted paths into a row, each with the value, or the list of values, that it has to have. value: the dotted
    path of what is measured; numbers index lists. per: what its sum is divided by. cluster: rows that share it are not
    independent. margin: of the equivalence test, in the unit of the value.
    """

    role: str
    name: str
    stage: str
    eval: str
    task: str
    value: str
    where: dict[str, Any] = field(default_factory=dict)
    per: str | None = None
    cluster: str | None = None
    margin: float | None = None
    higher_is_better: bool = True
    unit: str = ""


@dataclass(frozen=True)
class Run:
    """One stage of one arm and seed: a folder with `run.json` and `metrics.jsonl`."""

    arm: str
    seed: int
    stage: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}-s{self.seed}/{self.stage}"

    @cached_property
    def facts(self) -> dict[str, Any] | None:
        """What `run.json` says, None where there is none."""
        return read_json(self.folder / "run.json")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.jsonl")

    @cached_property
    def _results(self) -> dict[str, dict[str, Any] | None]:
        return {}

    @cached_property
    def checkpoints(self) -> list[Path]:
        return list_checkpoints(self.folder)

    @property
    def last_step(self) -> int | None:
        """The last step that the log or a checkpoint knows of."""
        steps = [row["step"] for row in self.metrics[-1:]] + [checkpoint_step(path) for path in self.checkpoints[-1:]]
        return max(steps, default=None)

    def measured(self, evaluation: str) -> list[Path]:
        """Return the folders of an evaluation's finished checkpoints, earliest first."""
        folders = list_checkpoints(self.folder / "evals" / evaluation)
        return [folder for folder in folders if (folder / "results.json").is_file()]

    def results(self, evaluation: str) -> dict[str, Any] | None:
        """Return `results.json` of the last checkpoint that was evaluated, None where none was."""
        if evaluation not in self._results:
            folders = self.measured(evaluation)
            self._results[evaluation] = read_json(folders[-1] / "results.json") if folders else None
        return self._results[evaluation]

    def has(self, evaluation: str, task: str) -> bool:
        """Return whether the last checkpoint that was evaluated has the rows and the results of a task."""
        finished = (self.results(evaluation) or {}).get("results", {})
        return task in finished and self.rows_file(evaluation, task) is not None

    def rows_file(self, evaluation: str, task: str) -> Path | None:
        """Return the items of the last checkpoint that was evaluated, None where there are none."""
        folders = self.measured(evaluation)
        file = folders[-1] / f"{task}.jsonl" if folders else None
        return file if file is not None and file.is_file() else None


@dataclass(frozen=True)
class Experiment:
    """A declared experiment and the folder with what has been run of it."""

    folder: Path
    declared: dict[str, Any]
    endpoints: tuple[Endpoint, ...]

    @property
    def name(self) -> str:
        return self.declared["name"]

    @property
    def is_smoke(self) -> bool:
        return self.declared["scale"] == "smoke"

    @property
    def alpha(self) -> float:
        return self.declared.get("alpha", 0.05)

    @property
    def arms(self) -> list[str]:
        return list(self.declared["arms"])

    @property
    def seeds(self) -> list[int]:
        return list(self.declared["seeds"])

    @property
    def stages(self) -> list[str]:
        return [stage["name"] for stage in self.declared["stages"]]

    @property
    def comparisons(self) -> list[tuple[str, str]]:
        """Baseline and treatment of every declared comparison, the primary one first."""
        return [(baseline, treatment) for baseline, treatment in self.declared["comparisons"]]

    @property
    def primary(self) -> Endpoint:
        return self.endpoints[0]

    def program_of(self, stage: str) -> str | None:
        return next(one.get("program") for one in self.declared["stages"] if one["name"] == stage)

    def evals_of(self, stage: str) -> list[str]:
        return [one["name"] for one in self.declared["evals"] if stage in one["stages"]]

    @cached_property
    def ledger(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / LEDGER_FILE)

    @cached_property
    def _runs(self) -> dict[tuple[str, int, str], Run]:
        return {
            (arm, seed, stage): Run(arm, seed, stage, self.folder / f"{arm}-s{seed}" / stage)
            for arm in self.arms
            for seed in self.seeds
            for stage in self.stages
        }

    def run(self, arm: str, seed: int, stage: str) -> Run:
        return self._runs[arm, seed, stage]

    def runs(self, arm: str | None = None, stage: str | None = None) -> Iterator[Run]:
        """Yield every declared run, of one arm or stage if given, whether it is there or not."""
        for run in self._runs.values():
            if arm in (None, run.arm) and stage in (None, run.stage):
                yield run

    def tasks_of(self, evaluation: str) -> list[str]:
        """Return the tasks of an evaluation: the declared ones, and all that endpoints or results of a run name."""
        declared = next(one for one in self.declared["evals"] if one["name"] == evaluation)
        tasks = [*declared.get("tasks", [])]
        tasks += [endpoint.task for endpoint in self.endpoints if endpoint.eval == evaluation]
        for run in self.runs():
            tasks += (run.results(evaluation) or {}).get("results", {})
        return list(dict.fromkeys(tasks))

    def missing(self) -> list[str]:
        """Return one sentence for each run and evaluation whose files are not there, or not all of them."""
        tasks = {one["name"]: self.tasks_of(one["name"]) for one in self.declared["evals"]}
        sentences = []
        for run in self.runs():
            absent = [f"`{name}`" for name in self.evals_of(run.stage) if not run.measured(name)]
            if run.facts is None:
                after = f", and with it {', '.join(absent)}" if absent else ""
                sentences.append(f"The run `{run.name}` is missing{after}.")
                continue
            if not run.metrics:
                sentences.append(f"The log of `{run.name}` (metrics.jsonl) is missing.")
            sentences += [f"The evaluation {name} of `{run.name}` is missing." for name in absent]
            for name in self.evals_of(run.stage):
                if lacking := [f"`{task}`" for task in tasks[name] if run.measured(name) and not run.has(name, task)]:
                    sentences.append(f"The evaluation `{name}` of `{run.name}` lacks {', '.join(lacking)}.")
        return sentences


def read_experiment(folder: str | Path) -> Experiment:
    """Read `experiment.json` and check that what it declares hangs together.

    Raises `FileNotFoundError` where there is none, and `ValueError` for a missing key, an endpoint of a stage, or a
    comparison of an arm, that is not declared.
    """
    folder = Path(folder)
    declared = read_json(folder / EXPERIMENT_FILE)
    if declared is None:
        raise FileNotFoundError(
            f"'{folder}' has no {EXPERIMENT_FILE}; name the folder that training/experiment.py writes to"
        )
    where = f"{folder / EXPERIMENT_FILE}"
    absent = [key for key in _NEEDED if key not in declared]
    if absent:
        raise ValueError(f"{where} has no {', '.join(absent)}; write it with training/experiment.py")
    given = [("primary", declared["primary"])]
    given += [(role, one) for role in ROLES[1:] for one in declared.get(role, [])]
    experiment = Experiment(folder, declared, tuple(_endpoint(where, role, one) for role, one in given))
    for endpoint in experiment.endpoints:
        if endpoint.stage not in experiment.stages:
            raise ValueError(
                f"{where}: endpoint '{endpoint.name}' is measured after stage '{endpoint.stage}'; the stages are "
                f"{', '.join(experiment.stages)}"
            )
        if endpoint.eval not in experiment.evals_of(endpoint.stage):
            raise ValueError(
                f"{where}: endpoint '{endpoint.name}' reads evaluation '{endpoint.eval}' of stage '{endpoint.stage}', "
                f"which has {', '.join(experiment.evals_of(endpoint.stage)) or 'none'}"
            )
    for pair in declared["comparisons"]:
        if len(pair) != 2 or not set(pair) <= set(experiment.arms):
            raise ValueError(
                f"{where}: comparison {pair!r} has to be a pair of arms, [baseline, treatment]; the arms are "
                f"{', '.join(experiment.arms)}"
            )
    if not experiment.comparisons:
        raise ValueError(f"{where} declares no comparison; name at least [baseline, treatment]")
    names = [endpoint.name for endpoint in experiment.endpoints]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: two endpoints have one name ({', '.join(names)}); give each its own")
    return experiment


def _endpoint(where: str, role: str, given: dict[str, Any]) -> Endpoint:
    try:
        return Endpoint(role, **given)
    except TypeError as error:
        raise ValueError(f"{where}: the {role} endpoint {given.get('name', given)!r} is malformed: {error}") from error
