"""A tiny checkpoint of each arm, conversations to fine-tune it on, and the fine-tuning program in this process."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.training.small_sft_sources import write_rows
from tests.training.tiny_subjects import tokenizer_of
from training.core import fused_head
from training.core.recipe import parse_recipe
from training.core.sft_recipe import SftArguments, SftDataArguments, SftModelArguments
from training.data.packing_conversations import open_packed
from training.evals import subject
from training.pretrain import generation_config
from training.sft import main

_load_tokenizer_once = functools.cache(subject._load_tokenizer)

CONTEXT = 64
END_OF_TEXT = 50256
ARMS = ("baseline", "mul_tokens")

RECIPE = {
    "datasets": [{"path": "rows.jsonl", "held_out": 8}],
    "max_steps": 8,
    "total_batch_items": 4,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 8,
    "learning_rate": 2e-3,
    "warmup_steps": 1,
    "bf16": False,
    "full_determinism": torch.cuda.is_available(),
    "logging_steps": 3,  # a checkpoint falls between two log lines
    "eval_steps": 4,
    "save_steps": 4,
}


SHORT = ("--max_steps", 1, "--eval_on_start", "false")


def conversation(number: int) -> list[dict[str, str]]:
    """One to three exchanges, now and then after a system message; every third row holds no fact."""
    a, b = number % 8 + 2, number * 5 % 9 + 1
    asked, said = (f"{a} × {b}?", f"{a}*{b}={a * b}.") if number % 3 else ("Greet me.", "Hello" + " there" * a)
    messages = [{"role": "system", "content": "Calculate."}] if number % 4 == 0 else []
    for turn in range(1 + number % 3 % 2):
        messages.append({"role": "user", "content": f"Row {number}, {turn}: {asked}"})
        messages.append({"role": "assistant", "content": said})
    return messages


CONVERSATIONS = [conversation(number) for number in range(40)]


def save_start(folder: Path, name: str, context: int = CONTEXT) -> Path:
    """Save a checkpoint of an arm, or a stock GPT-2, with the weights that it shares with the others."""
    tokenizer = tokenizer_of(name)
    torch.manual_seed(0)
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": context}
    model = DomainGPT2ForCausalLM(DomainGPT2Config(vocab_size=len(tokenizer), **size))
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # so that a token depends on all that it sees
    if name != "stock":
        model.generation_config = generation_config(tokenizer)
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


def save_sources(folder: Path) -> Path:
    """Write the rows, and the recipe that trains on them in about a second, beside the checkpoints of both arms."""
    for arm in ARMS:
        save_start(folder, arm)
    write_rows(folder / "rows.jsonl", [{"messages": messages} for messages in CONVERSATIONS])
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return folder


def start_of(sources: Path, arm: str = "mul_tokens") -> tuple:
    """What the command line of the shared recipe says besides: where to start, and where the rows are."""
    return "--model_name_or_path", sources / arm, "--data_root", sources


def fine_tune(sources: Path, run: Path, *arguments: object, arm: str = "mul_tokens") -> int:
    """Run `training/sft.py`'s main in this process on the shared recipe, and return its exit code."""
    return run_recipe(sources / "recipe.yaml", "--output_dir", run, *start_of(sources, arm), *arguments)


def run_recipe(*arguments: object) -> int:
    """Run `training/sft.py`'s main on a command line, without what takes long and says the same every time: loading a
    tokenizer, and scoring blocks of 256 positions for the few that tiny batches have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "_load_tokenizer", _load_tokenizer_once)
        patch.setattr(fused_head, "_BLOCK", 16)
        return main(*parse_recipe([SftModelArguments, SftDataArguments, SftArguments], list(map(str, arguments))))


def only_checkpoint(run: Path, copy: Path, step: int) -> Path:
    """Copy a run as it was left behind when it was killed between the checkpoint of a step and its next one."""
    shutil.copytree(run, copy, symlinks=True)
    for folder in copy.glob("checkpoint-*"):
        if folder.name != f"checkpoint-{step}":
            shutil.rmtree(folder)
    return copy


def rows_of(path: object, **keys: object) -> str:
    """An entry of `datasets` as a command line has it."""
    return json.dumps({"path": str(path), **keys})


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def report_of(run: Path) -> dict:
    return json.loads((run / "rows" / "report.json").read_text(encoding="utf-8"))["report"]


def plain_ids(messages: list[dict[str, str]], tokenizer) -> tuple[list[int], list[bool]]:
    """The ids of a conversation, and which of them are learnt, by plain calls of the tokenizer."""
    ids, learnt, prompt = [], [], ""
    for message in messages:
        if message["role"] == "assistant":
            asked = tokenizer(prompt + "Assistant:").input_ids
            replied = [*tokenizer(f" {message['content']}").input_ids, END_OF_TEXT]
            ids += asked + replied
            learnt += [False] * len(asked) + [True] * len(replied)
            prompt = ""
        else:
            prompt += ("User: " if message["role"] == "user" else "") + message["content"] + "\n"
    return ids, learnt


def plain_nats(model, conversations, tokenizer) -> tuple[torch.Tensor, int]:
    """The summed cross-entropy of the tokens to learn, each conversation alone through the model, and their number."""
    nats, tokens = torch.zeros(()), 0
    for messages in conversations:
        ids, learnt = plain_ids(messages, tokenizer)
        logits = model(torch.tensor([ids])).logits[0, :-1]
        targets = torch.tensor([each if is_learnt else -100 for each, is_learnt in zip(ids, learnt, strict=True)])
        nats = nats + F.cross_entropy(logits, targets[1:], reduction="sum")
        tokens += sum(learnt)
    return nats, tokens


def held_out_of(run: Path, tokenizer) -> list[list[dict[str, str]]]:
    """The conversations that a run held out."""
    ids = {tuple(each) for each in open_packed(run / "rows" / "held_out").dataset["input_ids"]}
    return [messages for messages in CONVERSATIONS if tuple(plain_ids(messages, tokenizer)[0]) in ids]
