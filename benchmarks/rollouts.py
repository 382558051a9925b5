"""Compare this project's GRPO with TRL's, interleaved in one run: completions per second of whole training steps.

    python benchmarks/rollouts.py
    python benchmarks/rollouts.py --n_layer 6 --n_head 6 --n_embd 192 --n_positions 256
    python benchmarks/rollouts.py --model runs/small/baseline-s0/sft_multiplications_3/best --completion_length 128

Ours is `training/grpo.py` as it is. The others are TRL's `GRPOTrainer` around `GPT2LMHeadModel`, which draws by
Transformers' `generate`, as it comes but for what is named:

- trl: its defaults, which are bf16 autocast and gradient checkpointing;
- trl_bf16: without gradient checkpointing, which ours does without as well;
- trl_fp32: without it and in fp32.

All begin with the same weights, and in each round all draw as many completions for the same prompts (multiplications
as word problems), in groups of the same size and of the same greatest length, pay the same rewards for them, and make
one optimiser step on them in micro-batches of the same size, with the same weight of the KL divergence: prompts and
counts are checked. What differs: the completions themselves, because each variant draws with random numbers of its
own (a random model's are all as long as may be; `tokens` counts those of completions); the loss's normalisation (each
has its default); and ours never draws ids that no training text holds, and writes a table of completions at every
tenth step.

A step is split into drawing (with decoding into text), rewards, and training, which is the rest: reference, forward,
backward, clipping, AdamW, log lines. Each variant lives in a process of its own, and works while the others wait; a
ratio compares two steps of the same round. Prints a table, and writes every measured number as JSON, with the device
and versions.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from gated_training import gated, keep_to_cores
from transformers import AutoTokenizer, Trainer
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer
from workers import at_least_two, order, start_worker

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training import grpo
from training.core.device import device_name, set_cpu_threads
from training.core.grpo_recipe import GrpoArguments, GrpoDataArguments, GrpoModelArguments, RewardArguments
from training.core.provenance import environment, sha256_of_weights
from training.core.recipe import parse_recipe
from training.evals.rewards import Rewards, RewardSettings
from training.rl.policy_trainer import PolicyTrainer
from training.rl.rewards_for_trl import reward_functions

PEERS = {  # what TRL is told beside its defaults
    "trl": {},
    "trl_bf16": {"gradient_checkpointing": False},
    "trl_fp32": {"gradient_checkpointing": False, "bf16": False},
}
REWARDS = {"exact_answer": 1.0, "length_limit": 0.1, "repetition": 0.1}
LIMITS_IN_BYTES = (250, 400)  # of length_limit
WARM_UP_STEPS = 2
# Old names that TRL gives to Transformers, and locks of processes that end in the middle of their training.
WARNINGS = "ignore::FutureWarning,ignore::UserWarning:multiprocessing.resource_tracker"


def main(options: argparse.Namespace) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the workers, and for the name of the device
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ.setdefault("PYTHONWARNINGS", WARNINGS)
    keep_to_cores(options.threads)
    set_cpu_threads()
    logging.disable_progress_bar()
    settings, load_before = dict(vars(options)), os.getloadavg()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        options.model = options.model or write_random_model(folder / "model", options)
        options.steps, options.completions = WARM_UP_STEPS + options.rounds + 1, options.prompts * options.group
        workers = {"ours": start_worker(serve, "ours", folder / "ours", options, [])}
        prompts = order(workers["ours"], "prompts")  # in the order of their use
        workers |= {name: start_worker(serve, name, folder / name, options, prompts) for name in options.peers}
        check_equal("weights", {name: order(worker, "weights") for name, worker in workers.items()})
        print(
            f"the same weights in all variants; a step draws {options.prompts} groups of {options.group}", flush=True
        )
        rounds = []
        for number in range(-WARM_UP_STEPS, options.rounds):
            steps = {name: take_step(worker) for name, worker in workers.items()}
            for key in ("prompts", "completions"):
                check_equal(key, {name: step.pop(key) for name, step in steps.items()})
            if number >= 0:
                rounds.append(steps)
                times = (f"{name} {step['seconds']:.2f} s" for name, step in steps.items())
                print(f"round {number + 1}:", *times, sep="  ", flush=True)
        peaks = {name: order(worker, "stop") for name, worker in workers.items()}
    report = {
        "variants": {
            name: summarize(name, rounds, options.completions) | {"peak_memory_gib": peaks[name]} for name in workers
        },
        "completions": options.completions,
        "prompts": prompts[: options.prompts],
        "environment": environment(device_name()),
        "settings": settings | {"load_average": [load_before, os.getloadavg()]},
    }
    print_table(report)
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


def serve(pipe: Connection, name: str, folder: Path, options: argparse.Namespace, prompts: list[dict]) -> None:
    """Serve one variant; ours finds the prompts itself."""
    logging.disable_progress_bar()
    disable_progress_bars()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # log lines
    serve_ours(pipe, folder, options) if name == "ours" else serve_trl(pipe, name, folder, options, prompts)


def serve_ours(pipe: Connection, folder: Path, options: argparse.Namespace) -> None:
    """Run the program of reinforcement learning; its first pool is as small as can be."""
    source = {"synthetic": "multiplications", "documents": max(200, 2 * options.prompts * options.steps)}
    recipe = {
        "model_name_or_path": options.model,
        "prompts": json.dumps(source),
        "episode_steps": options.steps,
        "pool_prompts": 1,
        "pool_samples": 2,
        "filter_prompts": False,
        "ignore_gate": True,
        "rewards": json.dumps(REWARDS),
        "soft_limit_bytes": LIMITS_IN_BYTES[0],
        "hard_limit_bytes": LIMITS_IN_BYTES[1],
        "output_dir": folder,
        "max_steps": options.steps,
        "total_batch_items": options.completions,
        "num_generations": options.group,
        "per_device_train_batch_size": options.micro_batch,
        "decode_batch_size": options.completions,
        "max_completion_length": options.completion_length,
        "mask_truncated_completions": False,  # TRL's default; a random model ends nothing
        "beta": options.beta,
        "logging_steps": 10,
        "eval_strategy": "no",
        "save_steps": options.steps,
        "use_cpu": options.device == "cpu",
    }
    arguments = [str(part) for key, value in recipe.items() for part in (f"--{key}", value)]
    grpo.PolicyTrainer = timed(PolicyTrainer, pipe)
    grpo.main(*parse_recipe([GrpoModelArguments, GrpoDataArguments, RewardArguments, GrpoArguments], arguments))


def serve_trl(pipe: Connection, name: str, folder: Path, options: argparse.Namespace, prompts: list[dict]) -> None:
    """Train with TRL's own trainer and model class on ours' prompts and rewards."""
    functions = reward_functions(Rewards(REWARDS, RewardSettings(*LIMITS_IN_BYTES)))
    arguments = GRPOConfig(
        output_dir=str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.completions // options.micro_batch,
        num_generations=options.group,
        max_completion_length=options.completion_length,
        beta=options.beta,
        reward_weights=[REWARDS[function.__name__] for function in functions],
        shuffle_dataset=False,  # the prompts are in order
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=options.device == "cpu",
        **PEERS[name],
    )
    timed(GRPOTrainer, pipe)(
        model=options.model,
        reward_funcs=functions,
        args=arguments,
        train_dataset=Dataset.from_list(prompts),
        processing_class=AutoTokenizer.from_pretrained(options.model),
    ).train()


def timed(trainer_class: type[Trainer], pipe: Connection) -> type[Trainer]:
    """Return the trainer with a gate between its steps, which also tells what it draws, and for how long."""

    class TimedTrainer(gated(trainer_class, pipe)):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.counts: Counter = Counter()
            self.gate.answers = {
                "weights": lambda: sha256_of_weights(self.model),
                "prompts": self.prompts_in_order,
                "counts": self.take_counts,
            }

        def _generate(self, prompts):
            start = time.perf_counter()
            drawn = super()._generate(prompts)
            self.counts["drawing_seconds"] += time.perf_counter() - start
            self.counts["completions"] += len(drawn[1])
            self.counts["tokens"] += sum(map(len, drawn[1]))
            self.asked = list(prompts)
            return drawn

        def _calculate_rewards(self, *args):
            start = time.perf_counter()
            rewards = super()._calculate_rewards(*args)
            self.counts["rewards_seconds"] += time.perf_counter() - start
            return rewards

        def prompts_in_order(self) -> list[dict[str, Any]]:
            write = self._subject(self.model).prompt
            return [
                {"prompt": write(each.question), "question": each.question, "gold": each.gold}
                for each in self.episodes.open(0)
            ]

        def take_counts(self) -> dict[str, Any]:
            counts, self.counts = self.counts, Counter()
            return {**counts, "prompts": self.asked}

    return TimedTrainer


def take_step(worker: Connection) -> dict[str, Any]:
    """Let one worker take a step, and return its seconds, their parts, and what it has drawn."""
    _, wall, cpu = order(worker, "step")
    step = {"seconds": wall, "cpu_seconds": cpu, **order(worker, "counts")}
    return step | {"training_seconds": wall - step["drawing_seconds"] - step["rewards_seconds"]}


def check_equal(key: str, values: dict[str, Any]) -> None:
    """Stop where a variant differs from ours in what all must have in common."""
    for name, value in values.items():
        if value != values["ours"]:
            raise SystemExit(f"{name} cannot be compared with ours: {key} are {value}, and {values['ours']}")


def summarize(name: str, rounds: list[dict[str, dict[str, float]]], completions: int) -> dict[str, Any]:
    """Reduce the rounds to one variant's speed, and its times over ours in the same round."""
    steps = [each[name] for each in rounds]

    def over_ours(seconds: str) -> list[float]:
        return [each[name][seconds] / each["ours"][seconds] for each in rounds]

    ratios = over_ours("seconds")
    return {
        **{key: [step[key] for step in steps] for key in steps[0]},
        "completions_per_second": completions / statistics.median(step["seconds"] for step in steps),
        "tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in steps),
        "tokens_drawn_per_second": statistics.median(step["tokens"] / step["drawing_seconds"] for step in steps),
        "time_over_ours": ratios,
        "time_over_ours_quartiles": statistics.quantiles(ratios, n=4, method="inclusive"),
        "drawing_over_ours": statistics.median(over_ours("drawing_seconds")),
        "training_over_ours": statistics.median(over_ours("training_seconds")),
        "cpu_time_over_ours": statistics.median(over_ours("cpu_seconds")),
    }


def print_table(report: dict[str, Any]) -> None:
    layout = "{:<9} {:>7} {:>7} {:>7} {:>8} {:>13} {:>9} {:>17} {:>7} {:>8} {:>5} {:>8}"
    columns = ("s/step", "draw", "rewards", "train", "completions/s", "tokens/s", "time over ours", "draw", "train")
    print("\n" + layout.format("", *columns, "CPU", "peak GiB"))
    for name, variant in report["variants"].items():
        low, median, high = variant["time_over_ours_quartiles"]
        parts = ("seconds", "drawing_seconds", "rewards_seconds", "training_seconds")
        cells = (
            *(f"{statistics.median(variant[part]):.3f}" for part in parts),
            f"{variant['completions_per_second']:.1f}",
            f"{variant['tokens_per_second']:,.0f}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            f"{variant['drawing_over_ours']:.2f}",
            f"{variant['training_over_ours']:.2f}",
            f"{variant['cpu_time_over_ours']:.2f}",
            f"{variant['peak_memory_gib']:.2f}",
        )
        print(layout.format(name, *cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8, help="groups of a step; default: 8")
    parser.add_argument("--group", type=int, default=8, help="completions of each prompt; default: 8")
    parser.add_argument("--micro_batch", type=int, default=16, help="completions trained on at once; default: 16")
    parser.add_argument("--completion_length", type=int, default=96, help="most tokens of one; default: 96")
    parser.add_argument("--beta", type=float, default=GrpoArguments.beta, help="of the KL; default: %(default)s")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--model", help="a checkpoint's folder or a repository on the Hub; default: a random model")
    for key, value in {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}.items():
        parser.add_argument(f"--{key}", type=int, default=value, help=f"of the random model; default: {value}")
    parser.add_argument("--rounds", type=at_least_two, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="cores for each variant; default: all")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/rollouts.json"))
    main(parser.parse_args())
