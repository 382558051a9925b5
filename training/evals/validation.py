"""What trainers measure between two steps: bits per byte on fixed texts, and any evaluations besides."""

from typing import TYPE_CHECKING

from training.core.trainer import TrustworthyTrainerMixin
from training.evals.bits_per_byte import measure_bits_per_byte

if TYPE_CHECKING:
    from training.evals.during_training import EvalsDuringTraining


class ValidatedTrainerMixin(TrustworthyTrainerMixin):
    """A trustworthy trainer whose `eval_dataset` are `ScoredTexts`."""

    evals: "EvalsDuringTraining | None" = None

    def measure_also(self, recipe: str, data_root: str | None) -> None:
        """Run a recipe of training/eval.py at every validation.

        Raises `ValueError` for one that cannot be run, and where no process has the whole weights.
        """
        if self.engine == "DEEPSPEED-ZERO3" or self.is_fsdp_enabled:
            raise ValueError(
                f"eval_recipe does not work with {self.engine}, where no process has all weights; evaluate the "
                "checkpoints with training/eval.py --every_checkpoint"
            )
        from training.evals.during_training import EvalsDuringTraining  # what it needs takes a second to import

        self.evals = EvalsDuringTraining(recipe, data_root, self.run_dir)

    def evaluate(self, *args, metric_key_prefix: str = "eval", **kwargs) -> dict[str, float]:
        """Measure the loss and bits per byte on the fixed texts, over all processes, and the further evaluations."""
        measured = measure_bits_per_byte(
            self.model_to_measure,
            self.eval_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            device=self.args.device,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            autocast=self.autocast,
        )
        if self.evals is not None:
            measured |= self.evals.measure(
                self.whole_model(), self.processing_class, self.state.global_step, self.accelerator
            )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics
