"""Quick evaluations between two training steps, with the same code and into the same files as `training/eval.py`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from modeling import DomainGPT2ForCausalLM
from training.analysis.learning_curve import headline_of
from training.core.processes import Processes, agree
from training.core.provenance import RUN_FILE
from training.core.recipe import parse_recipe
from training.evals.eval_recipe import EvalArguments, resolved_recipe
from training.evals.runner import evaluate
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
        folder = self.folder / f"checkpoint-{step}"
        agree(lambda: forget_other_weights(folder, subject), processes)
        results = evaluate(
            subject,
            self.tasks,
            folder,
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


def forget_other_weights(folder: Path, subject: Subject) -> None:
    """Remove results of this step whose weights are gone: those of a run that went back to an earlier checkpoint and,
    on a GPU or on another number of processes, did not come to quite the same weights again."""
    file = folder / RUN_FILE
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))["subject"]
        if before["weights_sha256"] != subject.describe()["weights_sha256"]:
            shutil.rmtree(folder)
