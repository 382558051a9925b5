"""Measure a checkpoint: HellaSwag, word problems, arithmetic probes, bits per byte.

    python training/eval.py recipes/eval.yaml --model runs/smoke/baseline-s0/checkpoint-100
    python training/eval.py recipes/gpt2_124m/eval.yaml --model you/mul-tokens-s0 --revision step-5000
    python training/eval.py recipes/eval.yaml --every_checkpoint runs/smoke/baseline-s0
    accelerate launch --config_file accelerate_configs/ddp.yaml training/eval.py recipes/gpt2_124m/eval.yaml
    --model openai-community/gpt2

Any GPT-2 checkpoint will do, ours or a stock one; the condition comes from its tokenizer. Writes `results.json`, one
`<task>.jsonl` with a row per item, and `run.json` into `output_dir`, which is `<run>/evals/<name>/checkpoint-N` unless
set. `--every_checkpoint` does so for all checkpoints of a run and draws `curve.json` and `curve.png` beside them. What
is finished is not measured again; an interrupted evaluation goes on where it was, and exits 75 after SIGTERM, 130
after Ctrl-C.
"""

import contextlib
import datetime
import signal
from pathlib import Path

import torch
from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from training.analysis.learning_curve import write_curve
from training.core.checkpoint import list_checkpoints
from training.core.console import EXIT_CODES, stopping_in_words
from training.core.device import device_name, prepare_process
from training.core.files import alone_in
from training.core.processes import agree
from training.core.recipe import run_program
from training.evals.eval_recipe import EvalArguments, resolved_recipe
from training.evals.runner import evaluate, is_finished
from training.evals.subject import load_subject
from training.evals.task import Task


def main(args: EvalArguments) -> int:
    if (args.model is None) == (args.every_checkpoint is None):
        raise ValueError(
            f"model is {args.model} and every_checkpoint is {args.every_checkpoint}; name a checkpoint with --model, "
            "or a run with --every_checkpoint"
        )
    prepare_process()
    disable_progress_bar()
    with stopping_in_words():
        # A process that has done its share waits for the others as long as it takes.
        processes = PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(days=1))
        try:
            tasks = args.open_tasks()
            if args.model is not None:
                measure(args, args.model, folder_of(args), tasks, processes)
            else:
                measure_run(args, Path(args.every_checkpoint), tasks, processes)
        finally:
            processes.destroy_process_group()
        return 0
    return EXIT_CODES[signal.SIGINT]


def measure(args: EvalArguments, model: str, folder: Path, tasks: list[Task], processes: PartialState) -> None:
    """Evaluate one checkpoint into a folder."""
    subject = load_subject(model, args.revision, args.bf16, processes.device)
    if processes.is_main_process:
        print(f"{model}: condition {subject.condition or 'none (a stock GPT-2)'}, {device_name()}", flush=True)
    with alone_in(folder) if processes.is_main_process else contextlib.nullcontext():
        evaluate(subject, tasks, folder, processes, resolved_recipe(args), say=lambda line: print(line, flush=True))
    if processes.is_main_process:
        print(f"results: {folder / 'results.json'}", flush=True)


def measure_run(args: EvalArguments, run: Path, tasks: list[Task], processes: PartialState) -> None:
    """Evaluate the checkpoints of a run, oldest first, and draw the curve of all that have ever been evaluated."""
    checkpoints = agree(lambda: list_checkpoints(run), processes)  # a training that goes on may remove some
    folder = Path(args.output_dir) if args.output_dir else run / "evals" / args.name
    recipe = resolved_recipe(args)
    if not checkpoints and not list_checkpoints(folder):
        raise ValueError(f"'{run}' has no checkpoint-N folders; name the output_dir of a run")
    for checkpoint in checkpoints:
        target = folder / checkpoint.name
        if agree(lambda target=target: is_finished(tasks, target, recipe), processes):
            if processes.is_main_process:
                print(f"finished before: {target}", flush=True)
            continue
        measure(args, str(checkpoint), target, tasks, processes)
    if processes.is_main_process:
        figure = write_curve(folder, run, {task.name: task.headline for task in tasks})
        print(f"curve: {figure}", flush=True)


def folder_of(args: EvalArguments) -> Path:
    """Return where the results of `model` go: below the run of a checkpoint, or in `evals/` for one of the Hub."""
    if args.output_dir:
        return Path(args.output_dir)
    model = Path(args.model)
    if model.is_dir():
        model = model.resolve()
        return model.parent / "evals" / args.name / model.name
    revision = f"@{args.revision}" if args.revision else ""
    return Path("evals") / args.name / (args.model.replace("/", "--") + revision.replace("/", "--"))


if __name__ == "__main__":
    run_program(main, [EvalArguments])
