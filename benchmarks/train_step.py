"""Compare this project's pretraining step with its peers', interleaved in one run.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --accumulation 4
    python benchmarks/train_step.py --batch_size 1 --sequence_length 1024 --rounds 7
    python benchmarks/train_step.py --n_layer 6 --n_head 6 --n_embd 192 --batch_size 8
    python benchmarks/train_step.py --device cuda --batch_size 64 --sequence_length 1024 --accumulation 8 --compile

The model has 124M parameters unless other sizes are given. Ours is `training/pretrain.py` with the recipe
`gpt2_124m/baseline.yaml`, its log lines and callbacks included; `trainer` and `trainer_bf16` are Transformers' Trainer
around `GPT2LMHeadModel`; `build_nanogpt` and `nanogpt` are the loops of these repositories, written anew
(`nanogpt_step.py`). All have the same initial weights, read the same windows of the same corpus, and take the same
loss and hyper-parameters: the losses of the first steps have to agree. With `--compile` our model is
compiled; a peer is where it is asked for by name, such as `--peers build_nanogpt build_nanogpt_compiled`.

Each variant lives in a process of its own, so that allocator and peak memory are its own, and steps only when it is
told to, while the others wait: A B C A B C ... A ratio compares two steps of the same round, so that a machine that
slows down slows both. The floor is what the machine's own matrix products and memory allow, measured in the same run
in the dtype of the variant's matrix products.

Prints a table, and writes every time, with the device and versions, as JSON.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from gated_training import keep_to_cores
from machine_limits import Limits, measure_limits, parameters
from train_step_variants import COMPILED_PEERS, LEVERS, PEERS, Work, work
from transformers.utils import logging
from workers import at_least_two, order, start_worker

from modeling import DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.core.device import device_name, set_cpu_threads
from training.core.pretrain_recipe import ModelArguments
from training.core.provenance import environment
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments
from training.data.packing import PackedDocuments
from training.data.shards import Corpus
from training.pretrain import model_config

WARM_UP_STEPS = 3
IN_FP32_ON_A_CPU = ("nanogpt", "trainer")
# Rounding differs between bf16 and fp32, and nanoGPT's GELU from GPT-2's; other batches would differ by a tenth.
LARGEST_DIFFERENCE_OF_LOSSES = 0.02


def main(options: argparse.Namespace) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the workers, and for the name of the device
    keep_to_cores(options.threads)
    set_cpu_threads()
    logging.disable_progress_bar()
    names = ["ours", *options.levers, *options.peers]
    tokens = options.batch_size * options.sequence_length * options.accumulation
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = {key: getattr(options, key) for key in ("n_layer", "n_head", "n_embd")}
        config = model_config(ModelArguments(**sizes, n_positions=options.sequence_length))
        prepare(folder, config, options)
        limits = measure_limits(options.device)
        shared = Work(
            folder, options.batch_size, options.sequence_length, options.accumulation, options.device, options.compile
        )
        workers = {name: start_worker(work, name, shared) for name in names}
        losses = {name: [order(worker, "step")[0] for _ in range(WARM_UP_STEPS)] for name, worker in workers.items()}
        check_losses(losses)
        load_before = os.getloadavg()
        rounds = []
        for number in range(options.rounds):
            rounds.append({name: order(worker, "step")[1:] for name, worker in workers.items()})
            times = (f"{name} {wall:.3f} s" for name, (wall, _) in rounds[-1].items())
            print(f"round {number + 1}:", *times, sep="  ", flush=True)
        peaks = {name: order(worker, "stop") for name, worker in workers.items()}

    floors = {
        name: limits.floor_seconds(config, tokens, options.sequence_length, dtype_of(name, options.device))
        for name in names
    }
    report = {
        "variants": {
            name: summarize(
                name, rounds, losses, peaks, floors, tokens, config.flops_per_token(options.sequence_length)
            )
            for name in names
        },
        "limits": dataclasses.asdict(limits),
        "parameters": parameters(config),
        "environment": environment(device_name()),
        "settings": vars(options) | {"load_average": [load_before, os.getloadavg()]},
    }
    print_table(report, limits)
    path = options.json or Path("runs/benchmarks") / f"train_step-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")


def prepare(folder: Path, config, options: argparse.Namespace) -> None:
    """Write the corpus, its windows, and the weights that the pretraining program begins with."""
    sources = [{"synthetic": "tables", "documents": 400}, {"synthetic": "word_problems", "documents": 2000}]
    recipe = CorpusArguments(
        output_dir=str(folder / "corpus"), sources=sources, validation_synthetic=True, validation_fraction=0.02
    )
    prepare_corpus(recipe, report=lambda line: None)
    tokenizer = MulFactTokenizer.build("baseline")
    tokenizer.model_max_length = options.sequence_length
    corpus = Corpus(folder / "corpus" / "baseline", tokenizer)
    windows = PackedDocuments(corpus.train, options.sequence_length, 10**9, data_seed=0)
    count = min(len(windows), windows.epoch_tokens // options.sequence_length)
    rows = [torch.cat([w["input_ids"], w["shift_labels"][-1:]]) for w in (windows[i] for i in range(count))]
    np.save(folder / "windows.npy", torch.stack(rows).numpy().astype(np.uint16))
    torch.manual_seed(0)
    DomainGPT2ForCausalLM(config).save_pretrained(folder / "model")


def check_losses(losses: dict[str, list[float]]) -> None:
    """Stop if the variants do not take the same steps."""
    for name, values in losses.items():
        differences = [abs(theirs - ours) for theirs, ours in zip(values, losses["ours"], strict=True)]
        if max(differences) > LARGEST_DIFFERENCE_OF_LOSSES:
            raise SystemExit(f"{name} does not train as ours does: losses {values} against {losses['ours']}")


def dtype_of(name: str, device: str) -> str:
    name = name.removesuffix("_compiled")
    return "fp32" if name == "trainer" or (name in IN_FP32_ON_A_CPU and device == "cpu") else "bf16"


def summarize(name, rounds, losses, peaks, floors, tokens: int, flops: int) -> dict:
    """Reduce the rounds to one variant's figures; a ratio is a variant's time over ours in the same round."""
    wall, cpu = zip(*(times[name] for times in rounds), strict=True)
    median, best = statistics.median(wall), min(wall)
    ratios = [times[name][0] / times["ours"][0] for times in rounds]
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        "median_seconds": median,
        "tokens_per_second": tokens / median,
        "flops_per_second": flops / median,
        "time_over_ours": ratios,
        "time_over_ours_quartiles": statistics.quantiles(ratios, n=4, method="inclusive"),
        "best_time_over_best_of_ours": best / min(times["ours"][0] for times in rounds),
        "cpu_time_over_ours": statistics.median(times[name][1] / times["ours"][1] for times in rounds),
        "share_of_floor": floors[name] / median,
        "share_of_floor_at_best": floors[name] / best,
        "peak_memory_gib": peaks[name],
        "first_losses": losses[name],
    }


def print_table(report: dict, limits: Limits) -> None:
    print(
        f"\nlimits of this machine: {limits.bf16 / 1e9:,.0f} GFLOP/s in bf16, {limits.fp32 / 1e9:,.0f} in fp32, "
        f"{limits.memory / 1e9:.1f} GB/s"
    )
    columns = ("variant", "s/step", "tokens/s", "time / ours (IQR)", "best", "CPU", "floor", "peak GiB", "first loss")
    layout = "{:<14} {:>8} {:>9} {:>20} {:>6} {:>6} {:>7} {:>9} {:>11}"
    print(layout.format(*columns))
    for name, variant in report["variants"].items():
        low, median, high = variant["time_over_ours_quartiles"]
        cells = (
            f"{variant['median_seconds']:.3f}",
            f"{variant['tokens_per_second']:,.0f}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            f"{variant['best_time_over_best_of_ours']:.2f}",
            f"{variant['cpu_time_over_ours']:.2f}",
            f"{variant['share_of_floor']:.0%}",
            f"{variant['peak_memory_gib']:.2f}",
            f"{variant['first_losses'][0]:.4f}",
        )
        print(layout.format(name, *cells))
    meanings = PEERS | COMPILED_PEERS | {name: " ".join(keys) for name, keys in LEVERS.items()}
    print("\n".join(f"{name}: {meanings[name]}" for name in report["variants"] if name in meanings))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=[*PEERS, *COMPILED_PEERS], default=list(PEERS))
    parser.add_argument("--levers", nargs="*", choices=LEVERS, default=[], help="ours with other keys of the recipe")
    for key, value in {"n_layer": 12, "n_head": 12, "n_embd": 768}.items():
        parser.add_argument(f"--{key}", type=int, default=value, help=f"default: {value}")
    parser.add_argument("--batch_size", type=int, default=2, help="sequences of a micro-batch; default: 2")
    parser.add_argument("--sequence_length", type=int, default=256)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches of a step; default: 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=at_least_two, default=9)
    parser.add_argument("--threads", type=int, help="cores for each variant; default: all")
    parser.add_argument(
        "--compile", action="store_true", help="compile our model; peers have names of their own for it"
    )
    parser.add_argument("--json", type=Path, help="where to write every number")
    main(parser.parse_args())
