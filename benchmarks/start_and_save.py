"""Measure how long a pretraining run takes to its first step, to save a checkpoint, and to go on from one.

    python benchmarks/start_and_save.py --parts start
    python benchmarks/start_and_save.py --parts save --sizes small 124m
    python benchmarks/start_and_save.py --parts resume --sizes 124m --rounds 3

Ours is `training/pretrain.py` on a corpus that is there; the peer is a short script around Transformers' `Trainer`
with `GPT2LMHeadModel`, of the same sizes and on the same windows, which this program writes and runs.

- start: seconds from the command to the end of the first optimiser step, for a command with `accelerate launch` and
  for plain `python`, beside the floor, `python -c "import torch"`. They are split into the launcher until it starts
  the program; its imports and arguments; corpus, tokenizer and model; and the rest, the Trainer's preparations too.
- resume: the same where there is a checkpoint, to the end of the first step behind it.
- save: how long training stands still for a checkpoint, after how many seconds all of it is on the disk for good
  (ours waits for that, and hashes what it writes; the Trainer leaves it to the system), and the checkpoint's bytes.

What is compared takes turns: A B C A B C ... A ratio is that of two times of the same round. What is read is in the
system's cache, as it is for whoever starts a program a second time.

Prints tables, and writes every measured number as JSON, with the device and versions.
"""

import argparse
import contextlib
import json
import os
import re
import runpy
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from gated_training import gated_saves, keep_to_cores
from transformers import Trainer
from transformers.utils.logging import disable_progress_bar
from workers import at_least_two, order, start_worker

from tokenization import MulFactTokenizer
from training import pretrain
from training.core.device import device_name, set_cpu_threads
from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
from training.core.provenance import environment
from training.core.recipe import parse_recipe
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments
from training.data.packing import PackedDocuments
from training.data.shards import Corpus

PROJECT = Path(__file__).resolve().parents[1]
PARTS = ("start", "resume", "save")
WAYS = ("launched", "python")
SIZES = {  # sequences of a step, and the model
    "tiny": (2, ModelArguments(n_layer=1, n_head=2, n_embd=16, n_positions=64)),
    "small": (8, ModelArguments(n_layer=6, n_head=6, n_embd=192, n_positions=256)),
    "124m": (1, ModelArguments()),
}
FLOOR = "import torch"
WINDOWS, STEPS, SAVED_STEP = 64, 1000, 2
SOURCES = [{"synthetic": "tables", "documents": 400}, {"synthetic": "word_problems", "documents": 2000}]
STAGES = ("launcher", "imports", "data_and_model", "to_first_step")
# What ours or the peer says when its imports are done, when training begins, and after a step.
IMPORTED, STEPPED = "is complete; nothing to do$|^imported$", r"^step +\d+/|^\{'loss'"
BEGINS = {
    "start": "; starting at step 0$|^training from None$",
    "resume": f"; continuing from .*checkpoint-{SAVED_STEP}$|^training from .*checkpoint-{SAVED_STEP}$",
}
PEER = """
import json, os, sys

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


class Windows(torch.utils.data.Dataset):
    def __init__(self, path):
        self.tokens = np.load(path, mmap_mode="r")

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        tokens = torch.from_numpy(self.tokens[index].astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}


def main(trainer_class=Trainer):
    print("imported")
    model, windows, arguments = (json.loads(text) for text in sys.argv[1:])
    arguments = TrainingArguments(**arguments)
    trainer = trainer_class(GPT2LMHeadModel(GPT2Config(**model)), arguments, train_dataset=Windows(windows))
    checkpoint = get_last_checkpoint(arguments.output_dir) if os.path.isdir(arguments.output_dir) else None
    print("training from", checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)


if __name__ == "__main__":
    main()
"""


def main(options: argparse.Namespace) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for all that is started, and for the name of the device
    keep_to_cores(options.threads)
    set_cpu_threads()
    load_before, report = os.getloadavg(), {}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        prepare(folder)
        for size in options.sizes:
            report[size] = {}
            for part in options.parts:
                measure = measure_saves if part == "save" else measure_starts
                report[size][part] = measure(part, size, folder, options)
                print_table(part, size, report[size][part])
    report |= {
        "environment": environment(device_name()),
        "settings": vars(options) | {"load_average": [load_before, os.getloadavg()]},
    }
    path = options.json or Path("runs/benchmarks") / f"start_and_save-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")


def prepare(folder: Path) -> None:
    """Write the corpus with its recipe, its windows for the peer at each length, and the peer."""
    recipe = {
        "output_dir": str(folder / "corpus"),
        "sources": SOURCES,
        "validation_synthetic": True,
        "validation_fraction": 0.02,
        "conditions": ["baseline"],
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    prepare_corpus(CorpusArguments(**recipe), report=lambda line: None)
    (folder / "peer.py").write_text(PEER.lstrip(), encoding="utf-8")
    tokenizer = MulFactTokenizer.build("baseline")
    for _, model in SIZES.values():
        tokenizer.model_max_length = model.n_positions
        corpus = Corpus(folder / "corpus" / "baseline", tokenizer)
        windows = PackedDocuments(corpus.train, model.n_positions, WINDOWS, data_seed=0)
        rows = np.stack([window["input_ids"].numpy().astype(np.uint16) for window in windows])
        np.save(folder / f"windows-{model.n_positions}.npy", rows)


def ours(size: str, run: Path, options: argparse.Namespace, save_steps: int) -> list[str]:
    """Return the arguments of the pretraining program."""
    sequences, model = SIZES[size]
    values = {
        "corpus_recipe": run.parent / "corpus.yaml",
        "corpus_dir": run.parent / "corpus",
        "total_batch_tokens": sequences * model.n_positions,
        "eval_strategy": "no",
        **shared(size, run, options, save_steps),
        **{key: getattr(model, key) for key in ("n_layer", "n_head", "n_embd", "n_positions")},
    }
    recipe = PROJECT / "recipes" / "small" / "baseline.yaml"
    return [str(recipe), *(str(part) for key, value in values.items() for part in (f"--{key}", value))]


def peer(size: str, run: Path, options: argparse.Namespace, save_steps: int) -> list[str]:
    """Return the arguments of the peer's script."""
    model = pretrain.model_config(SIZES[size][1])
    values = {key: getattr(model, key) for key in ("vocab_size", "n_layer", "n_head", "n_embd", "n_positions")}
    windows = str(run.parent / f"windows-{model.n_positions}.npy")
    arguments = shared(size, run, options, save_steps) | {"report_to": "none", "disable_tqdm": True}
    return [json.dumps(each) for each in (values, windows, arguments)]


def shared(size: str, run: Path, options: argparse.Namespace, save_steps: int) -> dict:
    """Return what both take for arguments of the Trainer."""
    return {
        "output_dir": str(run),
        "max_steps": STEPS,
        "per_device_train_batch_size": SIZES[size][0],
        "logging_steps": 1,
        "save_steps": save_steps,
        "save_total_limit": 2,
        "bf16": options.bf16,
        "use_cpu": options.device == "cpu",
    }


def measure_starts(part: str, size: str, folder: Path, options: argparse.Namespace) -> dict:
    """Start the programs in turn, and return the seconds of each in all and by stage."""
    config = PROJECT / "accelerate_configs" / ("cpu.yaml" if options.device == "cpu" else "single_gpu.yaml")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    # The launcher would give the peer one thread; our programs take all cores by themselves.
    threads = ["--num_cpu_threads_per_process", str(torch.get_num_threads())]
    save_steps = SAVED_STEP if part == "resume" else STEPS
    variants: dict[str, tuple[list[str], Path]] = {}
    for name, script, arguments, more in (
        ("ours", PROJECT / "training" / "pretrain.py", ours, []),
        ("trainer", folder / "peer.py", peer, threads),
    ):
        run = folder / f"{size}-{part}-{name}"
        command = [str(script), *arguments(size, run, options, save_steps)]
        ways = {"launched": [*launcher, *more], "python": [sys.executable]}
        variants |= {f"{name}, {way}": ([*ways[way], *command], run) for way in options.ways}
        if part == "resume":
            time_stages([sys.executable, *command], BEGINS["start"], folder, steps=SAVED_STEP + 1)
    rounds: list[dict] = []
    for _ in range(options.rounds):
        rounds.append({})
        for name, (command, run) in variants.items():
            if part == "start":
                shutil.rmtree(run, ignore_errors=True)
            for later in run.glob("checkpoint-*"):  # the end of the one before may have come too late
                if later.name != f"checkpoint-{SAVED_STEP}":
                    shutil.rmtree(later)
            rounds[-1][name] = time_stages(command, BEGINS[part], folder)
        if part == "start":
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", FLOOR], check=True)
            rounds[-1][FLOOR] = {"seconds": time.perf_counter() - start}
    for run in {run for _, run in variants.values()}:
        shutil.rmtree(run)
    return summarize(rounds)


def time_stages(command: list[str], begins: str, folder: Path, steps: int = 1) -> dict[str, float]:
    """Run a program until it has said that it took so many steps, end it, and return the seconds of its stages."""
    marks = [IMPORTED, begins, *[STEPPED] * steps]
    times: list[float] = []
    launcher, errors = 0.0, folder / "errors.txt"
    start = time.perf_counter()
    with errors.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    with process, process.stdout:
        for line in process.stdout:
            if re.search(marks[len(times)], line.rstrip()):
                times.append(time.perf_counter() - start)
                if len(times) == 1:
                    launcher = seconds_of_launcher(process.pid)
                if len(times) == len(marks):
                    break
        os.killpg(process.pid, signal.SIGKILL)  # a launcher's program is in its group
        process.stdout.read()  # to the end of both
    if len(times) < len(marks):
        raise SystemExit(f"{' '.join(command)} did not say '{marks[len(times)]}':\n{errors.read_text()}")
    stages = np.diff([0.0, launcher, times[0], times[1], times[-1]])
    return {"seconds": times[-1], **dict(zip(STAGES, stages.tolist(), strict=True))}


def seconds_of_launcher(process: int) -> float:
    """Return how long after a launcher its program was started, to 10 ms; 0 for a program without one."""
    launcher = psutil.Process(process)
    return max((child.create_time() - launcher.create_time() for child in launcher.children()), default=0.0)


def measure_saves(part: str, size: str, folder: Path, options: argparse.Namespace) -> dict:
    """Let a program of each save in turn, and return the seconds, the bytes and the peak memory of each."""
    workers = {name: start_worker(save, name, size, folder, options) for name in ("ours", "trainer")}
    for worker in workers.values():
        order(worker, "save")  # the first allocates, and finds nothing to remove
    rounds: list[dict] = []
    for _ in range(options.rounds):
        rounds.append({})
        for name, worker in workers.items():
            order(worker, "step")
            os.sync()  # what others have written must not be waited for
            keys = ("seconds", "cpu_seconds", "seconds_until_on_disk", "bytes")
            rounds[-1][name] = dict(zip(keys, order(worker, "save"), strict=True))
    peaks = {name: order(worker, "stop") for name, worker in workers.items()}
    for name in workers:
        shutil.rmtree(folder / f"{size}-save-{name}")
    return {name: of_one | {"peak_memory_gib": peaks[name]} for name, of_one in summarize(rounds).items()}


def save(pipe: Connection, name: str, size: str, folder: Path, options: argparse.Namespace) -> None:
    """Train with a checkpoint after each step, in this process."""
    run = folder / f"{size}-save-{name}"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # log lines
        if name == "ours":
            pretrain.PretrainTrainer = gated_saves(pretrain.PretrainTrainer, pipe)
            groups = [ModelArguments, DataArguments, PretrainArguments]
            pretrain.main(*parse_recipe(groups, ours(size, run, options, save_steps=1)))
        else:
            disable_progress_bar()  # "Writing model shards" at every checkpoint
            sys.argv[1:] = peer(size, run, options, save_steps=1)
            runpy.run_path(str(folder / "peer.py"))["main"](gated_saves(Trainer, pipe))


def summarize(rounds: list[dict[str, dict]]) -> dict[str, dict]:
    """Reduce the rounds to each variant's figures; a ratio is to ours, started in the same way in the same round."""
    variants = {}
    for name in rounds[0]:
        of_ours = next(iter(rounds[0])) if name == FLOOR else name.replace("trainer", "ours")
        figures = {key: [times[name][key] for times in rounds] for key in rounds[0][name]}
        variants[name] = {
            **figures,
            "medians": {key: statistics.median(values) for key, values in figures.items()},
            "quartiles": statistics.quantiles(figures["seconds"], n=4, method="inclusive"),
            "time_over_ours": [times[name]["seconds"] / times[of_ours]["seconds"] for times in rounds],
        }
    return variants


def print_table(part: str, size: str, variants: dict[str, dict]) -> None:
    keys = ["cpu_seconds", "seconds_until_on_disk", "bytes", "peak_memory_gib"] if part == "save" else STAGES
    layout = "{:<18} {:>22} {:>14}" + " {:>14}" * len(keys)
    heads = [key.removeprefix("seconds_").replace("_", " ") for key in keys]
    print("\n" + layout.format(f"{part}, {size}", "seconds (IQR)", "time / ours", *heads))
    for name, variant in variants.items():
        low, median, high = variant["quartiles"]
        figures = variant["medians"] | {key: variant[key] for key in ("peak_memory_gib",) if key in variant}
        cells = [f"{figures[key]:,.0f}" if key == "bytes" else f"{figures[key]:.2f}" for key in keys if key in figures]
        ratio = statistics.median(variant["time_over_ours"])
        cells += [""] * (len(keys) - len(cells))
        print(layout.format(name, f"{median:.2f} ({low:.2f}-{high:.2f})", f"{ratio:.2f}", *cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="to start a program")
    parser.add_argument("--rounds", type=at_least_two, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU cores to use; default: all")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bf16 autocast")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; default: that of temporary files")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    main(parser.parse_args())
