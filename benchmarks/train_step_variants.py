"""The training steps that `train_step.py` compares, each as a worker that steps when it is told to."""

import dataclasses
import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from gated_training import gated
from nanogpt_step import BETAS, EPSILON, LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY, train
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.utils import logging

from modeling import DomainGPT2ForCausalLM
from training import pretrain
from training.core.device import ATTENTION_BACKENDS
from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
from training.core.recipe import parse_recipe

PEERS = {
    "build_nanogpt": "build-nanogpt as it is: bf16 autocast",
    "nanogpt": "nanoGPT as it is: fp32 on a CPU",
    "trainer": "GPT2LMHeadModel, Trainer's defaults: fp32, fused AdamW",
    "trainer_bf16": "GPT2LMHeadModel, Trainer with bf16: true, fused AdamW",
}
COMPILED_PEERS = {f"{name}_compiled": f"{text}, compiled" for name, text in PEERS.items()}
# Ours with other keys of the recipe.
LEVERS = {
    "ours_plain_loss": ("--loss_rows", "0"),
    "ours_loss_1024": ("--loss_rows", "1024"),
    **{f"ours_{name}": ("--attention_backend", name) for name in ATTENTION_BACKENDS},
}
NEVER = 1_000_000


@dataclasses.dataclass(frozen=True)
class Work:
    """What all variants share: folder holds a corpus (`corpus/`), its windows and the initial weights (`model/`)."""

    folder: Path
    batch_size: int
    sequence_length: int
    accumulation: int
    device: str
    compile: bool  # ours; a peer is compiled where its name says so


def work(pipe: Connection, name: str, work: Work) -> None:
    """Serve one variant."""
    logging.disable_progress_bar()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # log lines
    os.chdir(work.folder)
    if name.startswith("ours"):
        return ours(pipe, name, work)
    model = DomainGPT2ForCausalLM.from_pretrained("model")
    windows = np.load("windows.npy", mmap_mode="r")
    name, compiled = name.removesuffix("_compiled"), name.endswith("_compiled")
    if name in ("build_nanogpt", "nanogpt"):
        build = name == "build_nanogpt"
        return train(pipe, model, windows, work.batch_size, work.accumulation, work.device, build, compiled)
    return with_trainer(pipe, windows, work, name == "trainer_bf16", compiled)


def ours(pipe: Connection, name: str, work: Work) -> None:
    """Run the pretraining program with its recipe's values, but for sizes and a learning rate that stays."""
    config = DomainGPT2ForCausalLM.config_class.from_pretrained("model")
    values = {
        "corpus_dir": work.folder / "corpus",
        "output_dir": work.folder / name,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": work.sequence_length,
        "eval_documents": 1,
        "max_epochs": NEVER,
        "max_steps": NEVER,
        "per_device_train_batch_size": work.batch_size,
        "total_batch_tokens": work.batch_size * work.sequence_length * work.accumulation,
        "lr_scheduler_type": "constant",
        "lr_scheduler_kwargs": "{}",
        "warmup_steps": 0,
        "dataloader_num_workers": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "torch_compile": work.compile,
        "use_cpu": work.device == "cpu",
    }
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "gpt2_124m" / "baseline.yaml"
    keys = [str(part) for key, value in values.items() for part in (f"--{key}", value)]
    groups = parse_recipe([ModelArguments, DataArguments, PretrainArguments], [recipe, *keys, *LEVERS.get(name, ())])
    pretrain.PretrainTrainer = gated(pretrain.PretrainTrainer, pipe)
    pretrain.main(*groups)


class Windows(Dataset):
    """The same windows as every variant reads, as the stock model takes them."""

    def __init__(self, windows: np.ndarray):
        self.windows = windows

    def __len__(self) -> int:
        return NEVER

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        window = torch.from_numpy(self.windows[index % len(self.windows)].astype(np.int64))
        return {"input_ids": window[:-1], "labels": window[:-1], "shift_labels": window[1:]}


def with_trainer(pipe: Connection, windows: np.ndarray, work: Work, in_bf16: bool, compiled: bool) -> None:
    """Train the stock model with Transformers' Trainer as it comes, apart from the hyper-parameters that all share."""
    values = DomainGPT2ForCausalLM.config_class.from_pretrained("model").to_dict()
    config = GPT2Config(**{**values, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})
    arguments = TrainingArguments(
        output_dir="stock",
        per_device_train_batch_size=work.batch_size,
        gradient_accumulation_steps=work.accumulation,
        max_steps=NEVER,
        learning_rate=LEARNING_RATE,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=MAX_GRAD_NORM,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,  # it would take the shifted labels away
        bf16=in_bf16,
        use_cpu=work.device == "cpu",
        torch_compile=compiled,
    )
    model = GPT2LMHeadModel.from_pretrained("model", config=config)
    gated(Trainer, pipe)(model=model, args=arguments, train_dataset=Windows(windows)).train()
