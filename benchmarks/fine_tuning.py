"""Compare this project's fine-tuning with TRL's, interleaved in one run: tokens per second of the same conversations.

    python benchmarks/fine_tuning.py
    python benchmarks/fine_tuning.py --rows gsm8k_train.jsonl --n_layer 6 --n_head 6 --n_embd 192 --n_positions 256
    python benchmarks/fine_tuning.py --rows gsm8k_train.jsonl --model runs/gpt2_124m/baseline-s0/checkpoint-19073

Ours is `training/sft.py` as it is: packed (`ours`), and with one conversation to a row (`ours_padded`). The others are
TRL's `SFTTrainer` around `GPT2LMHeadModel`, as it comes but for what is named:

- trl: its defaults, which are bf16 autocast, gradient checkpointing, and rows padded to the longest of a batch;
- trl_bf16: without gradient checkpointing, which ours does without as well;
- trl_fp32: without it and in fp32, as Transformers' Trainer would be;
- trl_packed: without it and with TRL's own packing, which joins the packs of a batch to one row, with attention
  quadratic in all of it;
- trl_packed_singly: the same with one pack at a time, and gradients accumulated.

All begin with the same weights and learn the same tokens of the same conversations, which is checked. They do not take
them in the same order: a step of the packed variants is `--packs` packs, one of the others as many conversations as so
many packs hold on average. So time per token is compared, counting tokens that stand in conversations; padding is
none. Supervised tokens are those of replies with their end of text. A step is all that the trainer does in one: batch,
forward, backward, clipping, AdamW, log lines.

Each variant lives in a process of its own. In each round every one takes one step while the others wait, and a ratio
compares two steps of the same round. Prints a table, and writes every measured number as JSON, with the device and
versions.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars, load_dataset
from gated_training import gated, keep_to_cores
from transformers import AutoTokenizer, Trainer
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer
from workers import at_least_two, order, start_worker

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from tokenization.tokenization_mul_facts import CHAT_TEMPLATE
from training import sft
from training.core.device import device_name, set_cpu_threads
from training.core.provenance import environment, sha256_of_weights
from training.core.recipe import parse_recipe
from training.core.sft_recipe import SftArguments, SftDataArguments, SftModelArguments
from training.data.conversations import ConversationEncoder
from training.data.packing_conversations import IGNORED, pack_conversations
from training.data.sft_rows import open_rows
from training.data.sft_sources import SftSource
from training.evals.subject import load_subject

PEERS = {  # what TRL is told beside its defaults
    "trl": {},
    "trl_bf16": {"gradient_checkpointing": False},
    "trl_fp32": {"gradient_checkpointing": False, "bf16": False},
    "trl_packed": {"gradient_checkpointing": False, "packing": True},
    "trl_packed_singly": {"gradient_checkpointing": False, "packing": True},
}
WARM_UP_STEPS = 3
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
        conversations = prepare(folder, options)
        names = ["ours", "ours_padded", *options.peers]
        workers = {name: start_worker(serve, name, folder / name, options) for name in names}
        check_equal({name: order(worker, "facts") for name, worker in workers.items()})
        rounds = []
        for number in range(1 - WARM_UP_STEPS, options.rounds + 1):
            rounds.append({name: take_step(worker) for name, worker in workers.items()})
            if number > 0:
                speeds = (f"{name} {step['tokens'] / step['seconds']:,.0f}" for name, step in rounds[-1].items())
                print(f"round {number}, tokens/s:", *speeds, sep="  ", flush=True)
        peaks = {name: order(worker, "stop") for name, worker in workers.items()}
    report = {
        "conversations": conversations,
        "variants": {
            name: summarize(name, rounds[WARM_UP_STEPS:])
            | {"peak_memory_gib": peaks[name], "first_loss": rounds[0][name]["loss"]}
            for name in names
        },
        "environment": environment(device_name()),
        "settings": settings | {"load_average": [load_before, os.getloadavg()]},
    }
    print_table(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"\nwrote {options.json}")


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the model, unless there is one, and the conversations that fit whole into its context, and count them.

    The options get what a step takes from them: `rows_per_step`, of the variants that do not pack, and `context`.
    """
    if options.model is None:
        options.model = str(folder / "model")
        torch.manual_seed(0)
        sizes = {key: getattr(options, key) for key in ("n_layer", "n_head", "n_embd", "n_positions")}
        DomainGPT2ForCausalLM(DomainGPT2Config(**sizes)).save_pretrained(options.model)
        MulFactTokenizer.build("baseline").save_pretrained(options.model)
    subject = load_subject(options.model)
    source = {"path": str(options.rows)} if options.rows else {"synthetic": "instructions", "documents": options.limit}
    given = [messages for _, messages in SftSource(**source, limit=options.limit).conversations(Counter())]
    encoded = ConversationEncoder(subject.tokenizer).encode(given)
    pairs = zip(given, encoded, strict=True)
    rows = [{"messages": messages} for messages, each in pairs if each.plain_tokens <= subject.context]
    options.rows = folder / "rows.jsonl"
    options.rows.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    packing = (subject.tokenizer, folder / "packed", subject.context)
    packed = pack_conversations(Dataset.from_list(rows), *packing).summary
    options.context, options.steps = subject.context, WARM_UP_STEPS + options.rounds + 1
    options.rows_per_step = round(options.packs * len(rows) / packed["items"])
    print(
        f"{len(rows):,} of {len(given):,} conversations fit into {subject.context:,} tokens, in {packed['items']:,} "
        f"packs; a step is {options.packs} packs, or {options.rows_per_step} conversations"
    )
    counted = {key: packed[key] for key in ("tokens", "supervised_tokens", "items")}
    return {"given": len(given), "fit": len(rows), "rows_per_step": options.rows_per_step, **counted}


def serve(pipe: Connection, name: str, folder: Path, options: argparse.Namespace) -> None:
    """Serve one variant."""
    logging.disable_progress_bar()
    disable_progress_bars()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # log lines
    serve_ours(pipe, name, folder, options) if name in ("ours", "ours_padded") else serve_trl(
        pipe, name, folder, options
    )


def serve_ours(pipe: Connection, name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run the fine-tuning program."""
    items = options.packs if name == "ours" else options.rows_per_step
    recipe = {
        "model_name_or_path": options.model,
        "datasets": json.dumps({"path": str(options.rows)}),
        "pack": name == "ours",
        "output_dir": folder,
        "max_steps": options.steps,
        "total_batch_items": items,
        "per_device_train_batch_size": items,
        "eval_strategy": "no",
        "save_steps": options.steps,
        "use_cpu": options.device == "cpu",
    }
    arguments = [str(part) for key, value in recipe.items() for part in (f"--{key}", value)]
    sft.ConversationTrainer = counted(sft.ConversationTrainer, pipe, facts_of_ours)
    sft.main(*parse_recipe([SftModelArguments, SftDataArguments, SftArguments], arguments))


def facts_of_ours(trainer: sft.ConversationTrainer) -> dict[str, int]:
    kept = open_rows(trainer.run_dir / "rows").train.summary
    return {"conversations": kept["kept"], "tokens": kept["tokens"], "supervised_tokens": kept["supervised_tokens"]}


def serve_trl(pipe: Connection, name: str, folder: Path, options: argparse.Namespace) -> None:
    """Train with TRL's own trainer, model class, packing and collator."""
    items = options.packs if "packing" in PEERS[name] else options.rows_per_step
    at_once = 1 if name == "trl_packed_singly" else items
    arguments = SFTConfig(
        output_dir=str(folder),
        max_length=options.context,
        assistant_only_loss=True,  # as ours
        max_steps=options.steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=items // at_once,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=options.device == "cpu",
        **PEERS[name],
    )
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.chat_template = CHAT_TEMPLATE
    rows = load_dataset("json", data_files=str(options.rows), split="train", cache_dir=str(folder / "cache"))
    trainer_class = counted(SFTTrainer, pipe, facts_of_trl)
    trainer_class(model=options.model, args=arguments, train_dataset=rows, processing_class=tokenizer).train()


def facts_of_trl(trainer: SFTTrainer) -> dict[str, int]:
    items = trainer.train_dataset
    return {
        "conversations": sum(map(len, items["seq_lengths"])) if trainer.args.packing else len(items),
        "tokens": sum(map(len, items["input_ids"])),
        "supervised_tokens": sum(label != IGNORED for labels in items["labels"] for label in labels),
    }


def counted(trainer_class: type[Trainer], pipe: Connection, facts) -> type[Trainer]:
    """Return the trainer with a gate between its steps, which also counts what it reads."""

    class CountingTrainer(gated(trainer_class, pipe)):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.counts = Counter()
            self.gate.answers = {
                "facts": lambda: facts(self) | {"weights_sha256": sha256_of_weights(self.model)},
                "counts": self.take_counts,
            }

        def training_step(self, model, inputs, *args, **kwargs):
            ids, mask = inputs["input_ids"], inputs.get("attention_mask")
            self.counts["positions"] += ids.numel()
            self.counts["supervised_tokens"] += (inputs["labels"] != IGNORED).sum()
            self.counts["tokens"] += ids.numel() if mask is None else mask.sum()
            return super().training_step(model, inputs, *args, **kwargs)

        def take_counts(self) -> dict[str, int]:
            counts, self.counts = {name: int(count) for name, count in self.counts.items()}, Counter()
            if hasattr(self, "order"):  # ours has no mask: padding is told apart by its positions
                step = self.state.global_step
                counts["tokens"] = self.order.work(step)["tokens"] - self.order.work(step - 1)["tokens"]
            return counts

    return CountingTrainer


def check_equal(facts: dict[str, dict[str, Any]]) -> None:
    """Stop unless all variants begin with the same weights and learn the same tokens."""
    for name, theirs in facts.items():
        for key, value in theirs.items():
            if value != facts["ours"][key]:
                raise SystemExit(f"{name} cannot be compared with ours: {key} is {value}, and {facts['ours'][key]}")
    print("equal in all variants:", ", ".join(f"{key} {value}" for key, value in facts["ours"].items()))


def take_step(worker: Connection) -> dict[str, float]:
    """Let one worker take a step, and return its loss, its seconds, and what it has read."""
    loss, wall, cpu = order(worker, "step")
    return {"loss": loss, "seconds": wall, "cpu_seconds": cpu, **order(worker, "counts")}


def summarize(name: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Reduce the rounds to one variant's speed, and its time per token over ours in the same round."""
    steps = [each[name] for each in rounds]

    def over_ours(seconds: str) -> list[float]:
        return [
            (each[name][seconds] / each[name]["tokens"]) / (each["ours"][seconds] / each["ours"]["tokens"])
            for each in rounds
        ]

    ratios = over_ours("seconds")
    return {
        **{key: [step[key] for step in steps] for key in steps[0]},
        "tokens_per_second": statistics.median(step["tokens"] / step["seconds"] for step in steps),
        "supervised_tokens_per_second": statistics.median(
            step["supervised_tokens"] / step["seconds"] for step in steps
        ),
        "share_of_positions_with_tokens": sum(s["tokens"] for s in steps) / sum(s["positions"] for s in steps),
        "time_per_token_over_ours": ratios,
        "time_per_token_over_ours_quartiles": statistics.quantiles(ratios, n=4, method="inclusive"),
        "cpu_time_per_token_over_ours": statistics.median(over_ours("cpu_seconds")),
    }


def print_table(report: dict[str, Any]) -> None:
    layout = "{:<18} {:>7} {:>9} {:>12} {:>7} {:>21} {:>6} {:>9} {:>11}"
    columns = ("s/step", "tokens/s", "supervised/s", "filled", "time/token over ours", "CPU", "peak GiB", "first loss")
    print("\n" + layout.format("", *columns))
    for name, variant in report["variants"].items():
        low, median, high = variant["time_per_token_over_ours_quartiles"]
        cells = (
            f"{statistics.median(variant['seconds']):.3f}",
            f"{variant['tokens_per_second']:,.0f}",
            f"{variant['supervised_tokens_per_second']:,.0f}",
            f"{variant['share_of_positions_with_tokens']:.0%}",
            f"{median:.2f} ({low:.2f}-{high:.2f})",
            f"{variant['cpu_time_per_token_over_ours']:.2f}",
            f"{variant['peak_memory_gib']:.2f}",
            f"{variant['first_loss']:.4f}",
        )
        print(layout.format(name, *cells))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="JSONL of conversations; default: synthetic instructions")
    parser.add_argument("--limit", type=int, default=2000, help="the first so many conversations; default: 2000")
    parser.add_argument("--packs", type=int, default=8, help="packs of a step, as long as the context; default: 8")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--model", help="a checkpoint's folder or a repository on the Hub; default: a random model")
    for key, value in {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024}.items():
        parser.add_argument(f"--{key}", type=int, default=value, help=f"of the random model; default: {value}")
    parser.add_argument("--rounds", type=at_least_two, default=9)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, help="cores for each variant; default: all")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/fine_tuning.json"))
    main(parser.parse_args())
