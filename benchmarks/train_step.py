"""Compare this project's training step with a step of plain Transformers, interleaved in one run.

    python benchmarks/train_step.py --scale small
    python benchmarks/train_step.py --scale 124m --rounds 15 --threads 2
    python benchmarks/train_step.py --scale 124m --device cuda --batch_size 32 --sequence_length 1024 --compile

The variants share weights, batch and hyper-parameters, and each does forward, backward, clipping and AdamW:

- ours: `DomainGPT2ForCausalLM`, bf16 autocast over fp32 weights, fused AdamW with decay on matrices only, and on a CPU
  glibc's allocator told to keep its memory;
- stock: `GPT2LMHeadModel` without dropout, fp32, `torch.optim.AdamW` as it comes;
- stock_bf16: the same with bf16 autocast and fused AdamW;
- with `--compile`, ours and stock_bf16 also under `torch.compile`.

Each variant lives in a process of its own, so that allocator and peak memory are its own, and steps only when it is
told to, while the others wait: A B C A B C ... A ratio compares two steps of the same round, so that a machine that
slows down slows both. The Trainer around the step is left out: its overhead is the same for every model.

Prints a table, and writes `runs/benchmarks/train_step-<scale>-<device>.json` with every time, the device and versions.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel
from transformers.utils import logging
from workers import at_least_two, order, start_worker

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from training.core.device import device_name, peak_memory_gib, set_cpu_threads, tune_allocator
from training.core.provenance import environment

# Batch size, and what differs from the 124M model; batches of 512 and 2048 tokens keep a CPU step in seconds.
SCALES = {
    "small": (8, {"n_layer": 6, "n_head": 6, "n_embd": 192, "n_positions": 256}),
    "124m": (2, {}),
}
SEQUENCE_LENGTH = 256
HYPER_PARAMETERS = {"lr": 6e-4, "betas": (0.9, 0.95), "eps": 1e-8}
WEIGHT_DECAY = 0.1
WARM_UP_STEPS = 3


def main(options: argparse.Namespace) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the workers, and for the name of the device
    logging.disable_progress_bar()
    default_batch_size, dimensions = SCALES[options.scale]
    batch_size = options.batch_size or default_batch_size
    config = DomainGPT2Config(**dimensions)
    names = ["ours", "stock", "stock_bf16"] + (["ours_compiled", "stock_bf16_compiled"] if options.compile else [])

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        DomainGPT2ForCausalLM(config).save_pretrained(folder)
        batch = torch.randint(0, config.vocab_size, (batch_size, options.sequence_length))
        workers = {name: start_worker(work, name, folder, batch, options.device, options.threads) for name in names}
        first_losses = {name: warm_up(worker) for name, worker in workers.items()}
        load_before = os.getloadavg()
        rounds = []
        for number in range(options.rounds):
            rounds.append({name: order(worker, "step")[1] for name, worker in workers.items()})
            print(
                f"round {number + 1}:", *(f"{name} {seconds:.3f} s" for name, seconds in rounds[-1].items()), sep="  "
            )
        peaks = {name: order(worker, "stop") for name, worker in workers.items()}

    report = summarize(rounds, first_losses, peaks, batch.numel(), config.flops_per_token(options.sequence_length))
    report |= {
        "environment": environment(device_name()),
        "settings": vars(options) | {"batch_size": batch_size, "load_average": [load_before, os.getloadavg()]},
    }
    print_table(report)
    path = options.output or Path("runs/benchmarks") / f"train_step-{options.scale}-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")


def warm_up(worker) -> float:
    """Take the first steps, in which memory is allocated and code compiled, and return the loss of the very first."""
    losses = [order(worker, "step")[0] for _ in range(WARM_UP_STEPS)]
    return losses[0]


def work(pipe, name: str, folder: str, batch: torch.Tensor, device: str, threads: int | None) -> None:
    """Serve one variant: each "step" answers with loss and seconds, "stop" with the peak memory in GiB."""
    logging.disable_progress_bar()
    step = prepare_step(name, folder, batch, device, threads)
    while pipe.recv() == "step":
        start = time.perf_counter()
        loss = step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        pipe.send((loss.item(), seconds))
    pipe.send(peak_memory_gib())


def prepare_step(name: str, folder: str, batch: torch.Tensor, device: str, threads: int | None):
    """Set up this process for one variant and return the function that takes one step and returns its loss."""
    ours = name.startswith("ours")
    if ours and device == "cpu":
        tune_allocator()
    if threads is None:
        set_cpu_threads()
    else:
        torch.set_num_threads(threads)

    model_class = DomainGPT2ForCausalLM if ours else GPT2LMHeadModel
    model = model_class.from_pretrained(folder).to(device).train()
    if ours:
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, **HYPER_PARAMETERS, fused=True)
    else:
        fused = True if name.startswith("stock_bf16") else None
        optimizer = torch.optim.AdamW(model.parameters(), **HYPER_PARAMETERS, weight_decay=WEIGHT_DECAY, fused=fused)
    forward = torch.compile(model) if name.endswith("compiled") else model
    batch = batch.to(device)

    def step() -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=name != "stock"):
            loss = forward(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def summarize(rounds, first_losses, peaks, tokens: int, flops_per_token: int) -> dict:
    """Reduce the rounds to one entry per variant; a ratio is a variant's time over ours in the same round."""
    variants = {}
    for name, first_loss in first_losses.items():
        seconds = [times[name] for times in rounds]
        median = statistics.median(seconds)
        ratios = [times[name] / times["ours"] for times in rounds]
        variants[name] = {
            "seconds": seconds,
            "median_seconds": median,
            "tokens_per_second": tokens / median,
            "flops_per_second": tokens * flops_per_token / median,
            "time_over_ours_quartiles": statistics.quantiles(ratios, n=4, method="inclusive"),
            "best_time_over_best_of_ours": min(seconds) / min(times["ours"] for times in rounds),
            "peak_memory_gib": peaks[name],
            "first_loss": first_loss,
        }
    return {"variants": variants}


def print_table(report: dict) -> None:
    columns = ("variant", "s/step", "tokens/s", "GFLOP/s", "time / ours (IQR)", "by best", "peak GiB", "first loss")
    layout = "{:<20} {:>8} {:>9} {:>9} {:>20} {:>8} {:>9} {:>11}"
    print("\n" + layout.format(*columns))
    for name, variant in report["variants"].items():
        low, median, high = variant["time_over_ours_quartiles"]
        cells = (
            f"{variant['median_seconds']:.3f}",
            f"{variant['tokens_per_second']:.0f}",
            f"{variant['flops_per_second'] / 1e9:.0f}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            f"{variant['best_time_over_best_of_ours']:.2f}",
            f"{variant['peak_memory_gib']:.2f}",
            f"{variant['first_loss']:.4f}",
        )
        print(layout.format(name, *cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=at_least_two, default=9)
    parser.add_argument("--threads", type=int, help="CPU threads of each worker; default: all cores")
    parser.add_argument("--batch_size", type=int, help="sequences per step; default: 8 (small), 2 (124m)")
    parser.add_argument("--sequence_length", type=int, default=SEQUENCE_LENGTH)
    parser.add_argument("--compile", action="store_true", help="add the variants under torch.compile")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    main(parser.parse_args())
