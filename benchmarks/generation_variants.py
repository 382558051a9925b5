"""Compare ways to answer GSM8K questions greedily: one part of `evals.py`, which calls it.

- ours: `training.evals.generation`, batches sorted by length, left-padded, with a cache;
- one_at_a_time: Transformers' `generate` with its cache on each prompt alone, as in most evaluation scripts;
- read_again: everything read again for each token, with the logits of every position, as build-nanogpt samples; on
  each prompt alone, because that has no padding, and all batches do here is to compute some.

All write the same tokens in fp32, or there is nothing to compare: greedily, until the end of text or `--new_tokens`.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase
from workers import summarize

from modeling import DomainGPT2ForCausalLM
from training.evals.generation import Decoding, generate, plan_batches
from training.evals.subject import Subject

Replies = list[list[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this comparison; `--rounds` is the caller's."""
    parser.add_argument("--gsm8k", type=Path, help="JSONL with `question`, for prompts; leave out to skip generation")
    parser.add_argument("--prompts", type=int, default=16, help="the first so many questions")
    parser.add_argument("--new_tokens", type=int, default=64, help="most tokens of a reply")
    parser.add_argument("--generation_batch_size", type=int, default=8, help="prompts in a batch")


def compare_generation(
    model: DomainGPT2ForCausalLM, tokenizer: PreTrainedTokenizerBase, args: argparse.Namespace
) -> dict[str, Any]:
    """Time the variants in turn, `args.rounds` times over, and return their times and what ours gains over each.

    The model computes in fp32 and in evaluation mode. A ratio is one of the same round, a variant's seconds over ours,
    so that a machine that slows down slows both. Raises SystemExit if the variants differ in a token.
    """
    subject = Subject(model, tokenizer)
    with open(args.gsm8k, encoding="utf-8") as file:
        questions = [json.loads(line)["question"] for line, _ in zip(file, range(args.prompts), strict=False)]
    prompts = [subject.encode(subject.prompt(question)) for question in questions]
    batches = plan_batches(prompts, args.generation_batch_size)
    variants = {
        "ours": lambda tokens: ours(subject, prompts, batches, tokens),
        "one_at_a_time": lambda tokens: one_at_a_time(subject, prompts, tokens),
        "read_again": lambda tokens: read_again(subject, prompts, tokens),
    }
    for variant in variants.values():
        variant(2)  # the first call also pays for memory
    rounds = []
    for number in range(args.rounds):
        times, replies = {}, {}
        for name, variant in variants.items():
            times[name], replies[name] = timed(variant, args.new_tokens)
        for name, written in replies.items():
            check_same_tokens(name, written, replies["ours"])
        rounds.append(times)
        print(
            f"generation, round {number + 1}:",
            *(f"{name} {wall:.2f} s (CPU {cpu:.2f})" for name, (wall, cpu) in times.items()),
            sep="  ",
        )
    tokens = sum(map(len, replies["ours"]))
    return {
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "generated_tokens": tokens,
        "batch_size": args.generation_batch_size,
        "variants": {name: summarize(name, rounds, "tokens", tokens) for name in variants},
    }


def timed(variant: Callable[[int], Replies], tokens: int) -> tuple[tuple[float, float], Replies]:
    """Return the wall and CPU seconds of one run, and what it wrote."""
    wall, cpu = time.perf_counter(), time.process_time()
    replies = variant(tokens)
    return (time.perf_counter() - wall, time.process_time() - cpu), replies


def ours(subject: Subject, prompts: Replies, batches: list[list[int]], tokens: int) -> Replies:
    decoding = Decoding(max_new_tokens=tokens, stop_strings=[], one_answer=False)
    replies: Replies = [[] for _ in prompts]
    for batch in batches:
        for index, reply in zip(batch, generate(subject, [prompts[i] for i in batch], decoding), strict=True):
            replies[index] = reply.ids
    return replies


@torch.inference_mode()
def one_at_a_time(subject: Subject, prompts: Replies, tokens: int) -> Replies:
    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=subject.end_of_text_id,
        pad_token_id=subject.end_of_text_id,
        suppress_tokens=subject.unseen_ids or None,
    )
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=subject.device)
        written = subject.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        replies.append(until_end(written[0, len(prompt) :].tolist(), subject.end_of_text_id))
    return replies


@torch.inference_mode()
def read_again(subject: Subject, prompts: Replies, tokens: int) -> Replies:
    replies = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=subject.device)
        for _ in range(tokens):
            logits = subject.model(ids, use_cache=False).logits[:, -1]  # of (1, T, V)
            logits[:, subject.unseen_ids] = -torch.inf
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
            if ids[0, -1] == subject.end_of_text_id:
                break
        replies.append(until_end(ids[0, len(prompt) :].tolist(), subject.end_of_text_id))
    return replies


def until_end(ids: list[int], end_of_text_id: int) -> list[int]:
    return ids[: ids.index(end_of_text_id)] if end_of_text_id in ids else ids


def check_same_tokens(name: str, replies: Replies, expected: Replies) -> None:
    """Refuse to compare the speed of variants that write different tokens."""
    for index, (written, other) in enumerate(zip(replies, expected, strict=True)):
        if written != other:
            raise SystemExit(
                f"generation: {name} answers prompt {index} with {written[:8]}…, ours with {other[:8]}…; "
                "to compare their speed means nothing"
            )
