"""Quick evaluations between two training steps, with the same code and into the same files as `training/eval.py`."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from modeling import DomainGPT2ForCausalLM
from training.analysis.learning_curve import headline_of
from training.core.recipe import parse_recipe
from training.evals.eval_recipe import EvalArguments, resolved_recipe
from training.evals.runner import Processes, evaluate
from training.evals.subject import Subject


class EvalsDuringTraining:
    """Measure the model of a running training into `run_dir/evals/<name>/checkpoint-N/`.

    `training/eval.py --every_checkpoint` with the same recipe finds these results, draws the curve through them, and
    measures the checkpoints that lack them. Raises `ValueError` for a recipe or data that are not right.
    """

    def __init__(self, recipe: str, data_root: str | None, run_dir: Path):
        (args,) = parse_recipe([EvalArguments], [recipe])
        if args.model is not None or args.every_checkpoint is not None:
            raise ValueError(f"{recipe} names a model to evaluate; during training it is the one that is trained")
        self.args = args if data_root is None else replace(args, data_root=data_root)
        self.folder = run_dir / "evals" / self.args.name
        self.tasks = self.args.open_tasks()

    def measure(
        self, model: DomainGPT2ForCausalLM, tokenizer: PreTrainedTokenizerBase, step: int, processes: Processes
    ) -> dict[str, float]:
        """Return the headline results as `{<task>_<result>: value}`; every process calls it."""
        training = model.training
        subject = Subject(model.eval(), tokenizer, str(self.folder.parents[1] / f"checkpoint-{step}"), self.args.bf16)
        results = evaluate(
            subject,
            self.tasks,
            self.folder / f"checkpoint-{step}",
            processes,
            resolved_recipe(self.args),
            say=lambda line: None,
        )
        model.train(training)
        return {
            f"{task.name}_{path.replace('.', '_')}": result["value"]
            for task in self.tasks
            for path, result in headline_of(task.headline, results[task.name]).items()
            if result["value"] is not None
        }
