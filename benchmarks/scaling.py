"""Measure how the time and memory of a pretraining step grow with layers, width, context and processes.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --layers 3 12 24 --widths --contexts --processes
    python benchmarks/scaling.py --base recipes/gpt2_124m/baseline.yaml --device cuda --compile --sequences 16

The base is a recipe's model. Each axis changes one thing: layers, width (heads stay as wide as they are), context, or
processes; the tokens of a step stay, also when processes share them. What is measured is the real program,
`training/pretrain.py`, with one micro-batch per process and step. An axis without values is left out.

The sizes of an axis live in a process each, and step only when they are told to, in turn: base A B base A B ... A
ratio compares two steps of the same round, so that a machine that slows down slows both. On the axis of processes,
`accelerate launch` starts the program anew in each round, also for the single process of the base, and the time of a
step is the run's median by the log lines in `metrics.jsonl`.

The arithmetic asks for the time of the base times the ratio of FLOPs, and for 16 bytes of memory per parameter: fp32
weights, gradients and AdamW's two moments. Processes share the cores of a CPU, so that several need as long as one;
on GPUs each brings its own. Memory is that of one process, on a CPU with what Python and PyTorch take.

Prints a table per axis, and writes every measured number as JSON, with the device and versions, and a figure.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from gated_training import gated, keep_to_cores
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from workers import at_least_two, order, start_worker

from training import pretrain
from training.analysis.drawing import COLOURS, INK, plain, save
from training.core.device import device_name, peak_memory_gib, set_cpu_threads
from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
from training.core.provenance import RUN_FILE, environment
from training.core.recipe import parse_recipe, read_recipe
from training.core.tracking import METRICS_FILE, read_metrics
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments

PROJECT = Path(__file__).resolve().parents[1]
KEYS = {"layers": "n_layer", "widths": "n_embd", "contexts": "n_positions"}
AXES = (*KEYS, "processes")
WARM_UP_STEPS = 3
NEVER = 1_000_000
BYTES_PER_PARAMETER = 16
SOURCES = [{"synthetic": "tables", "documents": 400}, {"synthetic": "word_problems", "documents": 2000}]


def main(options: argparse.Namespace) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for all that is started, and for the name of the device
    keep_to_cores(options.threads)
    set_cpu_threads()
    recipe = read_recipe(options.base)
    keys = {field.name for field in dataclasses.fields(ModelArguments)}
    base = ModelArguments(**{key: value for key, value in recipe.items() if key in keys})
    tokens = base.n_positions * (options.sequences or recipe["per_device_train_batch_size"])
    load_before, report = os.getloadavg(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        asked = {axis: getattr(options, axis) for axis in AXES if getattr(options, axis)}
        axes = {axis: sizes_of(axis, values, base, tokens, folder) for axis, values in asked.items()}
        kinds = {"conditions": [base.condition], "validation_synthetic": True, "validation_fraction": 0.02}
        corpus = CorpusArguments(output_dir=str(folder / "corpus"), sources=SOURCES, **kinds)
        prepare_corpus(corpus, report=lambda line: None)
        for axis, sizes in axes.items():
            measure = measure_launched if axis == "processes" else measure_in_turn
            report[axis] = measure(sizes, options)
            print_table(axis, report[axis])
    written = {
        "axes": report,
        "base": dataclasses.asdict(base) | {"tokens_per_step": tokens},
        "environment": environment(device_name()),
        "settings": vars(options) | {"load_average": [load_before, os.getloadavg()]},
    }
    path = options.json or Path("runs/benchmarks") / f"scaling-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=1, default=str) + "\n", encoding="utf-8")
    draw(report, path.with_suffix(".png"))
    print(f"\nwrote {path} and {path.with_suffix('.png')}")


@dataclasses.dataclass(frozen=True)
class Size:
    """A point of an axis: the model, and how many processes share a step of `tokens`, in the folder of its run."""

    value: int
    model: ModelArguments
    tokens: int
    folder: Path
    processes: int = 1

    @property
    def flops(self) -> int:
        """Of a step, in one process after another."""
        return self.tokens * pretrain.model_config(self.model).flops_per_token(self.model.n_positions)


def sizes_of(axis: str, values: list[int], base: ModelArguments, tokens: int, folder: Path) -> list[Size]:
    """Return the base and the other points of an axis; stops where a value does not divide."""
    head, sequences = base.n_embd // base.n_head, tokens // base.n_positions
    of_base = 1 if axis == "processes" else getattr(base, KEYS[axis])
    points = []
    for value in dict.fromkeys([of_base, *values]):
        if axis == "widths" and value % head:
            raise SystemExit(f"a width of {value} is no multiple of {head}, the width of a head")
        if axis == "contexts" and tokens % value:
            raise SystemExit(f"a context of {value} does not divide the {tokens} tokens of a step; see --sequences")
        if axis == "processes" and sequences % value:
            raise SystemExit(f"{value} processes cannot share the {sequences} sequences of a step; see --sequences")
        changes = {"n_head": value // head} if axis == "widths" else {}
        changes |= {KEYS[axis]: value} if axis in KEYS else {}
        model = dataclasses.replace(base, **changes)
        points.append(Size(value, model, tokens, folder / f"{axis}-{value}", value if axis == "processes" else 1))
    return points


def command_line(size: Size, options: argparse.Namespace, **changes) -> list[str]:
    """Return the arguments of the pretraining program for a size, with all that is not a step switched off."""
    values = {
        **dataclasses.asdict(size.model),
        "corpus_recipe": "",
        "corpus_dir": size.folder.parent / "corpus",
        "eval_documents": 1,
        "output_dir": size.folder,
        "max_steps": NEVER,
        "max_epochs": NEVER,
        "total_batch_tokens": size.tokens,
        "per_device_train_batch_size": size.tokens // size.model.n_positions // size.processes,
        "dataloader_num_workers": 0,  # a worker of ours may not start processes
        "eval_strategy": "no",
        "save_strategy": "no",
        "bf16": options.bf16,
        "torch_compile": options.compile,
        "use_cpu": options.device == "cpu",
    }
    keys = [str(part) for key, value in (values | changes).items() for part in (f"--{key}", value)]
    return [str(options.base.resolve()), *keys]


def train(pipe: Connection, name: str, argv: list[str]) -> None:
    """Run the pretraining program in this process: say its memory before the first step, and then step in turn."""
    pretrain.PretrainTrainer = gated(pretrain.PretrainTrainer, pipe, ready=peak_memory_gib)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # log lines
        pretrain.main(*parse_recipe([ModelArguments, DataArguments, PretrainArguments], argv))


def measure_in_turn(sizes: list[Size], options: argparse.Namespace) -> list[dict]:
    """Step all sizes of an axis in turn, the base first, and return an entry for each."""
    workers, at_start = [], []
    for size in sizes:  # one after another, for a program that starts takes all cores
        workers.append(start_worker(train, size.folder.name, command_line(size, options)))
        try:
            at_start.append(workers[-1].recv())
        except EOFError:
            raise SystemExit(f"{size.folder.name} did not reach its first step; its error is above") from None
        for _ in range(WARM_UP_STEPS):
            order(workers[-1], "step")
    rounds = [[order(worker, "step")[1] for worker in workers] for _ in range(options.rounds)]
    peaks = [order(worker, "stop") for worker in workers]
    return summarize(sizes, rounds, peaks, at_start)


def measure_launched(sizes: list[Size], options: argparse.Namespace) -> list[dict]:
    """Run the program in one and in several processes in turn, and return an entry for each."""
    rounds, peaks = [], [0.0] * len(sizes)
    for _ in range(options.launches):
        rounds.append([])
        for place, size in enumerate(sizes):
            rows = launch(size, options)
            rounds[-1].append(statistics.median(size.tokens / row["tokens_per_second"] for row in rows))
            peaks[place] = max(peaks[place], rows[-1]["peak_memory_gib"])
    return summarize(sizes, rounds, peaks)


def launch(size: Size, options: argparse.Namespace) -> list[dict]:
    """Train some steps with `accelerate launch`, and return the log rows of those behind the warm-up."""
    one = "cpu" if options.device == "cpu" else "single_gpu"
    config = PROJECT / "accelerate_configs" / f"{one if size.processes == 1 else 'ddp'}.yaml"
    steps = WARM_UP_STEPS + options.rounds
    program = [PROJECT / "training" / "pretrain.py", *command_line(size, options, max_steps=steps, logging_steps=1)]
    shutil.rmtree(size.folder, ignore_errors=True)
    launcher = f"-m accelerate.commands.launch --main_process_port 0 --num_processes {size.processes}".split()
    command = [sys.executable, *launcher, "--config_file", config, *program]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{size.processes} processes ended with status {done.returncode}:\n{done.stdout}")
    return [row for row in read_metrics(size.folder / METRICS_FILE) if "loss" in row and row["step"] > WARM_UP_STEPS]


def summarize(sizes: list[Size], rounds: list[list[float]], peaks: list[float], at_start=()) -> list[dict]:
    """Reduce the rounds, a step's seconds by size, to an entry per size; ratios are to the first one's."""
    base, entries = sizes[0], []
    for place, size in enumerate(sizes):
        seconds = [times[place] for times in rounds]
        parameters = json.loads((size.folder / RUN_FILE).read_text(encoding="utf-8"))["parameters"]
        devices = size.processes if torch.cuda.is_available() else 1
        entries.append({
            "value": size.value,
            "parameters": parameters,
            "seconds": seconds,
            "seconds_quartiles": quartiles(seconds),
            "tokens_per_second": size.tokens / statistics.median(seconds),
            "flops_per_second": size.flops / statistics.median(seconds),
            "time_over_base_quartiles": quartiles([times[place] / times[0] for times in rounds]),
            "arithmetic_over_base": size.flops / base.flops / devices,
            "peak_memory_gib": peaks[place],
            "before_training_gib": at_start[place] if at_start else None,
            "parameters_x_16_bytes_gib": BYTES_PER_PARAMETER * parameters / 2**30,
        })  # fmt: skip
    return entries


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def print_table(axis: str, entries: list[dict]) -> None:
    layout = "{:>10} {:>11} {:>8} {:>9} {:>8} {:>20} {:>12} {:>9} {:>13} {:>12}"
    columns = ("parameters", "s/step", "tokens/s", "GFLOP/s", "time / base (IQR)", "FLOPs / base", "peak GiB")
    print("\n" + layout.format(axis, *columns, "before step 1", "16 B x param"))
    for entry in entries:
        low, median, high = entry["time_over_base_quartiles"]
        before = entry["before_training_gib"]
        cells = (
            f"{entry['parameters']:,}",
            f"{entry['seconds_quartiles'][1]:.3f}",
            f"{entry['tokens_per_second']:.0f}",
            f"{entry['flops_per_second'] / 1e9:.0f}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            f"{entry['arithmetic_over_base']:.2f}",
            f"{entry['peak_memory_gib']:.2f}",
            "" if before is None else f"{before:.2f}",
            f"{entry['parameters_x_16_bytes_gib']:.2f}",
        )
        print(layout.format(entry["value"], *cells), flush=True)


def draw(axes: dict[str, list[dict]], path: Path) -> None:
    """Write a figure with a column per axis: time, and memory below it, each with what the arithmetic asks for."""
    figure = Figure(figsize=(1.0 + 2.9 * len(axes), 5.8), dpi=120, layout="constrained", facecolor="white")
    panels = figure.subplots(2, len(axes), squeeze=False, sharey="row")
    for column, (axis, entries) in enumerate(axes.items()):
        entries = sorted(entries, key=lambda entry: entry["value"])
        base, values = axes[axis][0], [entry["value"] for entry in entries]
        time, memory = panels[:, column]
        low, middle, high = np.array([entry["seconds_quartiles"] for entry in entries]).T
        ideal = [base["seconds_quartiles"][1] * entry["arithmetic_over_base"] for entry in entries]
        bars = [middle - low, high - middle]
        time.errorbar(values, middle, bars, color=COLOURS[0], marker="o", markersize=4, capsize=2, label="measured")
        time.plot(values, ideal, "--", color=INK, linewidth=1.2, label="the base's, by FLOPs")
        of_parameters = [entry["parameters_x_16_bytes_gib"] for entry in entries]
        peaks = [entry["peak_memory_gib"] for entry in entries]
        memory.plot(values, peaks, color=COLOURS[1], marker="o", markersize=4, label="measured peak")
        memory.plot(values, of_parameters, "--", color=INK, linewidth=1.2, label="16 bytes per parameter")
        for panel in (time, memory):
            panel.loglog()
            plain(panel, f"{axis} ({base['value']} in the base)" if panel is time else "", grid="both")
            panel.set_xticks(values, [str(value) for value in values])
            panel.minorticks_off()
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    for panel, label in zip(panels[:, 0], ("seconds per step", "GiB per process"), strict=True):
        panel.set_ylabel(label, fontsize=8, color=INK)
        panel.legend(fontsize=7.5, frameon=False)
    save(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=PROJECT / "recipes" / "small" / "baseline.yaml")
    parser.add_argument("--layers", type=int, nargs="*", default=[3, 12])
    parser.add_argument("--widths", type=int, nargs="*", default=[96, 384])
    parser.add_argument("--contexts", type=int, nargs="*", default=[64, 1024])
    parser.add_argument("--processes", type=int, nargs="*", default=[2])
    parser.add_argument("--sequences", type=int, help="of a step of the base; default: a micro-batch of its recipe")
    parser.add_argument("--rounds", type=at_least_two, default=7, help="steps of each size")
    parser.add_argument("--launches", type=at_least_two, default=3, help="runs of each number of processes")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU cores to use; default: all")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="bf16 autocast")
    parser.add_argument("--compile", action="store_true", help="train under torch.compile")
    parser.add_argument("--json", type=Path, help="where to write the numbers, and the figure beside them")
    main(parser.parse_args())
