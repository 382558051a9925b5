"""What every evaluation looks like to the program that runs it."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

from training.evals.subject import Subject

Row = dict[str, Any]


class Task(abc.ABC):
    """One measurement: items, cut into batches that any process can do in any order, and a summary of their rows.

    A batch is the unit of work. Which items it holds depends on the subject and the settings only, and its rows depend
    on the batch only, so neither an interruption nor the number of processes changes a digit. A batch that does not
    fit into memory is cut in halves by the runner, which counts it.

    `headline` names the results that stand for the task, as dotted paths into its summary: what is printed, logged
    during training, and drawn over the checkpoints of a run.
    """

    headline: ClassVar[tuple[str, ...]] = ()
    data_sha256: str | None = None  # of the rows that it was built from

    def __init__(self, name: str):
        self.name = name

    @abc.abstractmethod
    def batches(self, subject: Subject) -> list[list[int]]:
        """Return the indices of the items in each batch; every item stands in one batch exactly."""

    @abc.abstractmethod
    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        """Measure some items and return one row for each, in their order; `row["index"]` is the item's index.

        Rows hold plain JSON values. Every row says what was asked and what came out, so that it can be read alone.
        """

    @abc.abstractmethod
    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        """Return the results over all rows, sorted by index; a proportion comes as `analysis.intervals.proportion`."""

    def settings(self) -> dict[str, Any]:
        """Return what the results depend on beside the subject, as plain JSON values."""
        return {}
