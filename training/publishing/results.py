"""The measured results of a checkpoint, out of the files that evaluations write, for people and as `model-index`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from training.analysis.learning_curve import headline_of
from training.core.files import end_of_path
from training.core.provenance import RUN_FILE
from training.evals.hellaswag import HellaSwag
from training.evals.replies import Replies
from training.evals.runner import RESULTS
from training.evals.text_loss import TextLoss
from training.evals.word_problems import WordProblems
from training.publishing.run_identity import commands_of, without_folders

_HEADLINES = {
    "hellaswag": HellaSwag.headline,
    "word_problems": WordProblems.headline,
    "text_loss": TextLoss.headline,
    "replies": Replies.headline,
}


@dataclass(frozen=True)
class Result:
    """One measured number: of which evaluation, task and data, under which name, with its 95 % interval."""

    evaluation: str
    task: str
    data: str
    config: str | None
    split: str | None
    path: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    floor: float | None

    @property
    def measure(self) -> str:
        """The result's name for people."""
        return self.path.removeprefix("sets.").replace(".", ", ").replace("_", " ")

    def as_metadata(self) -> EvalResult:
        """Return the result as an entry of a card's `model-index`, which has no place of its own for intervals."""
        known = {"confidence_interval_95": self.interval, "n": self.n, "floor": self.floor}
        return EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=self.data,
            dataset_name=self.data,
            dataset_config=self.config,
            dataset_split=self.split,
            metric_type=self.path.rpartition(".")[2],
            metric_name=f"{self.evaluation}, {self.task}: {self.measure}",
            metric_value=self.value,
            metric_args={key: value for key, value in known.items() if value is not None} or None,
        )

    @property
    def interval(self) -> list[float] | None:
        return None if self.low is None or self.high is None else [self.low, self.high]


def results_of(run: Path, checkpoint: str) -> tuple[list[Result], list[list[str]]]:
    """Return the headline results of a checkpoint, by its name, and the commands that measured them."""
    results: list[Result] = []
    commands: list[list[str]] = []
    for file in sorted(run.glob(f"evals/*/{checkpoint}/{RESULTS}")):
        measured = json.loads(file.read_text(encoding="utf-8"))["results"]
        how = without_folders(json.loads((file.parent / RUN_FILE).read_text(encoding="utf-8")))
        for entry in how["recipe"]["tasks"]:
            if entry["name"] in measured:
                results += _of_task(how["recipe"]["name"], entry, measured[entry["name"]])
        commands += [each for each in commands_of(how) if each not in commands]
    return results, commands


def _of_task(evaluation: str, entry: dict[str, Any], measured: dict[str, Any]) -> list[Result]:
    if entry["task"] == "probes":
        paths = tuple(f"sets.{name}.{share}" for name in measured["sets"] for share in ("exact", "likelihood"))
    else:
        paths = _HEADLINES[entry["task"]]
    data = entry.get("hub") or (end_of_path(entry["path"]) if "path" in entry else None)
    return [
        Result(
            evaluation,
            entry["name"],
            data or f"synthetic/{entry.get('synthetic', entry['task'])}",
            entry.get("config"),
            entry.get("split"),
            path,
            found["value"],
            *(found.get(key) for key in ("low", "high", "n", "floor")),
        )
        for path, found in headline_of(paths, measured).items()
        if found["value"] is not None
    ]
