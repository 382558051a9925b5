"""What the runs of an experiment cost, and whether the arms were matched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.analysis.endpoint_items import value_at
from training.analysis.experiment_results import Experiment, Run
from training.analysis.report_words import large, listed, mean_and_sd, minus
from training.analysis.result_files import read_json

COUNTS = {"steps": "steps", "tokens": "tokens", "bytes": "bytes", "flops": "FLOPs"}


@dataclass(frozen=True)
class Cost:
    """What one arm needed in one stage, as the mean over its runs; None where the files do not say."""

    stage: str
    arm: str
    runs: int
    counts: dict[str, float | None]
    seconds: float | None
    devices: list[str]


def cost_of(experiment: Experiment, stage: str, arm: str) -> Cost:
    runs = [run for run in experiment.runs(arm, stage) if run.facts is not None]
    devices = sorted({str(start.get("device")) for run in runs for start in run.facts.get("starts", [])})
    return Cost(
        stage,
        arm,
        len(runs),
        {name: _mean([_count(run, name) for run in runs]) for name in COUNTS},
        _mean([seconds_of(experiment, run) for run in runs]),
        devices,
    )


def seconds_of(experiment: Experiment, run: Run) -> float | None:
    """Return how long a run took over all its attempts, by the ledger, or else by its own clock."""
    spent = [row["seconds"] for row in experiment.ledger if row["step"] == run.name and row.get("seconds") is not None]
    if spent:
        return sum(spent)
    return next((row["train_runtime"] for row in reversed(run.metrics) if "train_runtime" in row), None)


def seconds_of_steps(experiment: Experiment) -> dict[str, float]:
    """Return the seconds of the ledger by kind of step: a stage, an evaluation, the preparation of corpora."""
    kinds: dict[str, float] = {}
    for row in experiment.ledger:
        parts = row["step"].split("/")
        if parts == ["report"]:  # or writing it twice would give two reports
            continue
        if parts[0] == "corpus":
            kind = "preparing corpora"
        elif "evals" in parts:
            kind = f"evaluation {parts[-1]} after {parts[1]}"
        else:
            kind = parts[1] if len(parts) > 1 else parts[0]
        kinds[kind] = kinds.get(kind, 0.0) + (row.get("seconds") or 0.0)
    return kinds


def matching(experiment: Experiment, costs: Sequence[Cost]) -> list[str]:
    """Return a sentence per stage on what is equal in all arms and what is not, against the first arm."""
    sentences = []
    for stage in experiment.stages:
        of_stage = [cost for cost in costs if cost.stage == stage and cost.runs]
        equal, unequal, unknown = [], [], []
        for key, name in COUNTS.items():
            values = {cost.arm: cost.counts[key] for cost in of_stage}
            if any(value is None for value in values.values()) or not values:
                unknown.append(name)
            elif len(set(values.values())) == 1:
                equal.append(name)
            else:
                first = next(iter(values.values()))
                changes = [
                    f"`{arm}` {large(value)}" + (f" ({minus(f'{value / first - 1:+.2%}')})" if value != first else "")
                    for arm, value in values.items()
                ]
                unequal.append(f"{name}: {', '.join(changes)}")
        if of_stage:
            parts = [f"equal in all arms: {listed(equal)}"] if equal else []
            parts += [f"not equal: {'; '.join(unequal)}"] if unequal else []
            parts += [f"not recorded in all runs: {listed(unknown)}"] if unknown else []
            sentences.append(f"`{stage}`: {'. '.join(part[0].upper() + part[1:] for part in parts)}.")
    return sentences


@dataclass(frozen=True)
class Dose:
    """How many facts the training text of an arm held; None where that is not recorded.

    declared: in the experiment's arms. measured: facts per plain token, the mean over the corpora of its runs, as are
    the number of facts and of tokens that the arm made of the text.
    """

    declared: float | None
    measured: float | None
    facts: float | None
    tokens: float | None

    @property
    def value(self) -> float | None:
        return self.measured if self.measured is not None else self.declared


def dose_of(experiment: Experiment, arm: str) -> Dose:
    """Return the dose of an arm, by the manifests of the corpora in the experiment's folder."""
    manifests = [_corpus_manifest(experiment, run) for run in experiment.runs(arm, experiment.stages[0]) if run.facts]
    found = {
        path: _mean([value_at(manifest or {}, path) for manifest in manifests])
        for path in ("dose", "splits.train.facts", "splits.train.tokens")
    }
    return Dose(experiment.declared["arms"][arm].get("dose"), *found.values())


def _corpus_manifest(experiment: Experiment, run: Run) -> dict[str, Any] | None:
    assert run.facts is not None
    place = value_at(run.facts, "recipe.corpus_dir")
    if not isinstance(place, str):
        return None
    folder = experiment.folder / "corpus" / Path(place).name
    found = read_json(folder / str(run.facts.get("condition")) / "manifest.json")
    return found if found is not None else read_json(folder / "manifest.json")


def _count(run: Run, name: str) -> float | None:
    facts: dict[str, Any] = run.facts or {}
    if name == "steps":
        return run.last_step
    if name == "tokens" and "processed_tokens" in facts:
        return facts["processed_tokens"]
    recorded = value_at(facts, f"work.{name}")
    return (
        recorded if recorded is not None else next((row[name] for row in reversed(run.metrics) if name in row), None)
    )


def _mean(values: Sequence[float | None]) -> float | None:
    return None if any(value is None for value in values) else mean_and_sd(values)[0]
