"""The folder of a run: its name, and that one process at a time works in it."""

from pathlib import Path

from transformers import TrainingArguments

from training.core.files import stay_alone_in
from training.core.processes import do_on_main


def name_run_folder(args: TrainingArguments, condition: str) -> None:
    """Fill `{condition}` and `{seed}` into `output_dir` and `hub_model_id`; raises `ValueError` where the folder is a
    file."""
    for key in ("output_dir", "hub_model_id"):
        if (name := getattr(args, key)) is not None:
            setattr(args, key, name.replace("{condition}", condition).replace("{seed}", str(args.seed)))
    if Path(args.output_dir).is_file():
        raise ValueError(f"output_dir '{args.output_dir}' is a file; name a folder")


def take_run_folder(args: TrainingArguments) -> None:
    """Keep others out of the folder until this process ends, after waiting for whoever is there.

    An interrupted run may still be saving when it is started again.
    """
    do_on_main(lambda: stay_alone_in(Path(args.output_dir)), args.distributed_state)
