"""Selection: the checkpoint that does best on held-out data is kept and linked, and patience can end a run."""

from pathlib import Path

from training.core.checkpoint import checkpoint_step, link_best, list_checkpoints
from training.core.tracking import METRICS_FILE, read_metrics
from training.core.trainer import NothingLeft, TrustworthyTrainerMixin


class BestCheckpointMixin(TrustworthyTrainerMixin):
    """A trustworthy trainer with a link `best` beside its checkpoints.

    selected_by: the key of an evaluation's row in metrics.jsonl that decides, the smallest value, or with
    `larger_is_better` the largest; of equal ones the first. args.early_stopping_patience: end the run after so many
    evaluations without a better one; None never does.
    """

    selected_by: str
    larger_is_better = False
    _started_at = 0

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Measure, link the best checkpoint, and stop when patience is at its end."""
        metrics = super().evaluate(*args, **kwargs)
        self._link_best(self.state.global_step)
        if self.is_over(self.state.global_step):
            if self.state.global_step == self._started_at:
                raise NothingLeft  # the Trainer would look at its control behind another step
            self.control.should_training_stop = True
        return metrics

    def is_over(self, step: int) -> bool:
        patience = self.args.early_stopping_patience
        return super().is_over(step) or (
            patience is not None and self.agree(lambda: _evaluations_since_best(self._evaluations(step)) >= patience)
        )

    def find_checkpoint(self) -> Path | None:
        found = super().find_checkpoint()
        if found is not None:
            # A crash may have come between an evaluation and its link.
            self._started_at = checkpoint_step(found)
            self._link_best(self._started_at)
        return found

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.eval_strategy == "no":
            self._link_best(self.state.global_step)

    def _evaluations(self, last: int) -> list[tuple[float, int]]:
        """Return what the run was selected by at each evaluation up to a step, smaller is better, and the step."""
        sign = -1 if self.larger_is_better else 1
        rows = [row for row in read_metrics(self.run_dir / METRICS_FILE) if self.selected_by in row]
        return [(sign * row[self.selected_by], row["step"]) for row in rows if 0 < row["step"] <= last]

    def _link_best(self, last: int) -> None:
        """Link the best checkpoint up to a step, the last one where nothing is evaluated."""
        if self.args.process_index != 0:
            return
        folders = {checkpoint_step(folder): folder for folder in list_checkpoints(self.run_dir)}
        kept = [evaluation for evaluation in self._evaluations(last) if evaluation[1] in folders]
        if self.args.eval_strategy == "no":
            kept = [(0.0, step) for step in folders if step == last]
        if kept:
            link_best(self.run_dir, folders[min(kept)[1]])


def _evaluations_since_best(evaluations: list[tuple[float, int]]) -> int:
    if not evaluations:
        return 0
    best = min(evaluations)[1]
    return sum(step > best for _, step in evaluations)
