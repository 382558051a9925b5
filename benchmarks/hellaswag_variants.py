"""Compare ways to score HellaSwag: one part of `evals.py`, which calls it.

- ours: `training.evals.hellaswag`, which reads a context once for its four endings;
- build_nanogpt: the loop of build-nanogpt's hellaswag.py, written anew from its description: one item at a time, as
  four padded rows through stock Transformers, with the logits of all positions;
- lm_eval: lm-evaluation-harness's `HFLM.loglikelihood`, in batches sorted by length, on the same texts.

All compute the matrices in fp32, or all under bf16 autocast, and the log-softmax in fp32; all encode the texts within
the measured time, and all have glibc's allocator keep its memory, which is no merit of any of them. Each variant lives
in a process of its own, for its peak memory, and runs only when it is told to.

In fp32 all have to choose the same endings. Under bf16 rounding decides near ties; choices that differ are counted.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.utils import logging
from workers import order, start_worker, summarize

from training.core.device import peak_memory_gib, set_cpu_threads, tune_allocator
from training.data.reading import jsonl_rows
from training.evals.hellaswag import HellaSwag
from training.evals.subject import load_subject

Items = list[dict[str, Any]]
Nats = list[list[float]]  # of the four endings of each item, summed over tokens
WARM_UP_ITEMS = 4
# Mean nats of a token, by which two variants may differ.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this comparison; the model, `--rounds`, `--threads` and `--device` are the caller's."""
    parser.add_argument("--hellaswag", type=Path, help="JSONL with `ctx`, `endings` and `label`")
    parser.add_argument("--items", type=int, default=24, help="so many, spread evenly over the file")
    parser.add_argument("--bf16", action="store_true", help="score under bf16 autocast")
    parser.add_argument("--batch_tokens", type=int, default=4096, help="in a batch of ours")
    parser.add_argument("--lm_eval_batch_size", type=int, default=8, help="rows in a batch of lm_eval's")
    peers = [name for name in VARIANTS if name != "ours"]
    parser.add_argument("--peers", nargs="+", choices=peers, default=peers, help="compare HellaSwag with these only")


def compare_hellaswag(args: argparse.Namespace) -> dict[str, Any]:
    """Time the variants in turn, `args.rounds` times over, and return their times, ratios to ours and peak memory.

    Raises SystemExit if one differs from ours in its losses or, in fp32, in a choice.
    """
    items = read_items(args.hellaswag, args.items)
    names = ["ours", *args.peers]
    if "lm_eval" in names and importlib.util.find_spec("lm_eval") is None:
        print("lm_eval is left out, because it is not installed (pip install lm_eval)")
        names.remove("lm_eval")
    workers = {name: start_worker(work, name, args, items) for name in names}
    for worker in workers.values():
        order(worker, "warm up")
    rounds, nats = [], {}
    for number in range(args.rounds):
        first, times = number % len(names), {}
        for name in names[first:] + names[:first]:
            nats[name], times[name] = order(workers[name], "run")
        rounds.append(times)
        print(
            f"HellaSwag, round {number + 1}:",
            *(f"{name} {times[name][0]:.2f} s (CPU {times[name][1]:.2f})" for name in names),
            sep="  ",
            flush=True,
        )
    peaks = {name: order(worker, "stop") for name, worker in workers.items()}
    tokens = ending_tokens(args.model, items)
    dtype = "bf16" if args.bf16 else "fp32"
    variants = {
        name: summarize(name, rounds, "items", len(items))
        | {"peak_memory_gib": peaks[name]}
        | agreement(name, nats[name], nats["ours"], tokens, dtype)
        for name in names
    }
    return {"items": len(items), "dtype": dtype, "batch_tokens": args.batch_tokens, "variants": variants}


def read_items(file: Path, count: int) -> Items:
    """Return items spread evenly over a file, whose parts come from sources of different lengths."""
    rows = [row for _, row in jsonl_rows(file)]
    return [rows[number * len(rows) // count] for number in range(count)] if count < len(rows) else rows


def work(pipe, name: str, args: argparse.Namespace, items: Items) -> None:
    """Serve one variant: a run answers with losses, wall and CPU seconds, "stop" with the peak memory in GiB."""
    logging.disable_progress_bar()
    if args.device == "cpu":
        tune_allocator()
    torch.set_num_threads(args.threads or set_cpu_threads())
    score = VARIANTS[name](args)
    while (command := pipe.recv()) != "stop":
        wall, cpu = time.perf_counter(), time.process_time()
        nats = score(items[:WARM_UP_ITEMS] if command == "warm up" else items)
        pipe.send((nats, (time.perf_counter() - wall, time.process_time() - cpu)))
    pipe.send(peak_of_this_process_gib())


def ours(args: argparse.Namespace) -> Callable[[Items], Nats]:
    subject = load_subject(args.model, bf16=args.bf16, device=args.device)

    def score(items: Items) -> Nats:
        task = HellaSwag("hellaswag", items, batch_tokens=args.batch_tokens)
        rows = [row for batch in task.batches(subject) for row in task.run(subject, batch)]
        if any(row["too_long"] or row["context_cut"] for row in rows):
            raise ValueError("an item is longer than the model's context, where the variants do different things")
        return [row["nats"] for row in sorted(rows, key=lambda row: row["index"])]

    return score


def build_nanogpt(args: argparse.Namespace) -> Callable[[Items], Nats]:
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32).eval().to(args.device)
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    @torch.no_grad()
    def score_item(item: dict[str, Any]) -> list[float]:
        context = tokenizer.encode(item["ctx"])
        endings = [tokenizer.encode(" " + ending) for ending in item["endings"]]
        tokens = torch.zeros(len(endings), len(context) + max(map(len, endings)), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, ending in enumerate(endings):
            tokens[row, : len(context) + len(ending)] = torch.tensor(context + ending)
            mask[row, len(context) : len(context) + len(ending)] = 1
        tokens, mask = tokens.to(args.device), mask.to(args.device)
        with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.bf16):
            logits = model(tokens).logits
        shifted, targets = logits[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        losses = F.cross_entropy(shifted.view(-1, shifted.shape[-1]).float(), targets.view(-1), reduction="none")
        return (losses.view(len(endings), -1) * mask[:, 1:]).sum(dim=1).tolist()

    return lambda items: [score_item(item) for item in items]


def lm_eval(args: argparse.Namespace) -> Callable[[Items], Nats]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=args.model,
        device=args.device,
        dtype="float32",
        mixed_precision_dtype="bfloat16" if args.bf16 else None,
        softmax_dtype="float32",
        batch_size=args.lm_eval_batch_size,
    )

    def score(items: Items) -> Nats:
        requests = [
            Instance("loglikelihood", {}, (item["ctx"], " " + ending), 0)
            for item in items
            for ending in item["endings"]
        ]
        found = iter(harness.loglikelihood(requests, disable_tqdm=True))
        return [[-next(found)[0] for _ in item["endings"]] for item in items]

    return score


VARIANTS = {"ours": ours, "build_nanogpt": build_nanogpt, "lm_eval": lm_eval}


def ending_tokens(model: str, items: Items) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [[len(tokenizer.encode(" " + ending)) for ending in item["endings"]] for item in items]


def agreement(name: str, nats: Nats, expected: Nats, tokens: list[list[int]], dtype: str) -> dict[str, Any]:
    """Return how far a variant is from ours: in mean nats of a token, and in how many choices by sum and by mean."""
    means, expected_means = (
        [[loss / count for loss, count in zip(*item, strict=True)] for item in zip(losses, tokens, strict=True)]
        for losses in (nats, expected)
    )
    distance = max(
        abs(loss - other)
        for item, others in zip(means, expected_means, strict=True)
        for loss, other in zip(item, others, strict=True)
    )
    other_choices = sum(
        item.index(min(item)) != others.index(min(others))
        for losses, other_losses in ((nats, expected), (means, expected_means))
        for item, others in zip(losses, other_losses, strict=True)
    )
    if distance > TOLERANCES[dtype] or (dtype == "fp32" and other_choices):
        raise SystemExit(
            f"HellaSwag: {name} is up to {distance:.2g} nats per token from ours, and chooses other endings "
            f"{other_choices} times; to compare their speed means nothing"
        )
    return {"most_nats_per_token_from_ours": distance, "other_choices_than_ours": other_choices}


def peak_of_this_process_gib() -> float:
    """Return the peak of allocated GPU memory, or of resident memory since this program was started."""
    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return peak_memory_gib()
    # Not ru_maxrss, which a new program inherits from the process that started it.
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**20
