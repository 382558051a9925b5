"""Compare this project's evaluations with other ways to do them, interleaved in one run.

    python benchmarks/evals.py --hellaswag hellaswag_val.jsonl --gsm8k gsm8k_test.jsonl
    python benchmarks/evals.py --part hellaswag --hellaswag hellaswag_val.jsonl --items 48 --rounds 9 --bf16
    python benchmarks/evals.py --part generation --gsm8k gsm8k_test.jsonl --model runs/mul_tokens-s1/checkpoint-19073

What is compared stands in `hellaswag_variants.py` and `generation_variants.py`. The model is a checkpoint (`--model`)
or a random one of the given size: speed does not depend on what a model has learned, except where it ends its answers.
In each round every variant runs once, and a ratio compares two runs of the same round, so that a machine that slows
down slows both. Variants have to give the same results, or there is nothing to compare.

Prints tables, and writes every measured number as JSON, with the device and versions.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import generation_variants
import hellaswag_variants
import torch
from transformers.utils import logging
from workers import at_least_two

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.core.device import device_name, set_cpu_threads, tune_allocator
from training.core.provenance import environment
from training.evals.subject import load_subject

PARTS = {"hellaswag": "hellaswag", "generation": "gsm8k"}  # and the file that each reads


def main(options: argparse.Namespace) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the workers, and for the name of the device
    parts = [part for part, file in PARTS.items() if options.part in (part, "all") and getattr(options, file)]
    if not parts:
        raise SystemExit("there is nothing to compare on; give --hellaswag FILE, --gsm8k FILE or both")
    logging.disable_progress_bar()
    settings, load_before = dict(vars(options)), os.getloadavg()
    report: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            options.model = write_random_model(Path(folder), options)
        if "hellaswag" in parts:
            report["hellaswag"] = hellaswag_variants.compare_hellaswag(options)
            print_table("HellaSwag", "items/s", report["hellaswag"])
        if "generation" in parts:
            tune_allocator()
            torch.set_num_threads(options.threads or set_cpu_threads())
            subject = load_subject(options.model, device=options.device)
            report["generation"] = generation_variants.compare_generation(subject.model, subject.tokenizer, options)
            print_table("Generation", "tokens/s", report["generation"])
    report |= {
        "environment": environment(device_name()),
        "settings": settings | {"load_average": [load_before, os.getloadavg()]},
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {options.json}")


def write_random_model(folder: Path, options: argparse.Namespace) -> str:
    """Save a freshly initialised model of the baseline, with its tokenizer, and return the folder."""
    torch.manual_seed(0)
    sizes = {key: getattr(options, key) for key in ("n_layer", "n_head", "n_embd", "n_positions")}
    DomainGPT2ForCausalLM(DomainGPT2Config(**sizes)).save_pretrained(folder)
    MulFactTokenizer.build("baseline").save_pretrained(folder)
    return str(folder)


def print_table(title: str, unit: str, report: dict) -> None:
    layout = "{:<16} {:>9} {:>10} {:>20} {:>15} {:>9}"
    print("\n" + layout.format(title, "seconds", unit, "time / ours (IQR)", "CPU time / ours", "peak GiB"))
    for name, variant in report["variants"].items():
        low, median, high = statistics.quantiles(variant["time_over_ours"], n=4, method="inclusive")
        cells = (
            f"{statistics.median(variant['seconds']):.2f}",
            f"{variant[unit.replace('/s', '_per_second')]:.2f}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            f"{variant['median_cpu_time_over_ours']:.2f}",
            f"{variant['peak_memory_gib']:.2f}" if "peak_memory_gib" in variant else "",
        )
        print(layout.format(name, *cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all", help="all: those whose file is given")
    parser.add_argument("--rounds", type=at_least_two, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads of each variant; default: all cores")
    parser.add_argument("--model", help="a checkpoint's folder or a repository on the Hub; default: a random model")
    for key, value in {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}.items():
        parser.add_argument(f"--{key}", type=int, default=value, help=f"of the random model; default: {value}")
    hellaswag_variants.add_arguments(parser)
    generation_variants.add_arguments(parser)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/evals.json"))
    main(parser.parse_args())
