"""The model and the training step of nanoGPT and of build-nanogpt, written anew from what the two repositories do.

github.com/karpathy/nanoGPT and github.com/karpathy/build-nanogpt share the model: `nn.Linear` layers, attention by
`scaled_dot_product_attention`, logits of every position, cross-entropy over them, the head tied to the embeddings, and
AdamW with decay on matrices only. Their steps differ, on a CPU, in two things: build-nanogpt computes in bf16
autocast with the tanh approximation of GELU; nanoGPT computes in fp32 with the exact GELU. Neither uses fused AdamW
without a GPU, where both do, and both compute in bf16.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from gated_training import Gate
from torch import nn

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM

# build-nanogpt's hyper-parameters, which all variants take.
LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, MAX_GRAD_NORM = 6e-4, (0.9, 0.95), 1e-8, 0.1, 1.0


class Attention(nn.Module):
    def __init__(self, config: DomainGPT2Config):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.n_head = config.n_head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: DomainGPT2Config, gelu: str):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.gelu = nn.GELU(approximate=gelu)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: DomainGPT2Config, gelu: str):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.attn, self.mlp = Attention(config), MLP(config, gelu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):
    def __init__(self, config: DomainGPT2Config, gelu: str):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config, gelu) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, idx: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    @torch.no_grad()
    def take_weights(self, model: DomainGPT2ForCausalLM) -> None:
        """Copy another model's weights; its projections are stored the other way round."""
        theirs = model.state_dict()
        for name, weight in self.named_parameters():
            source = theirs[f"transformer.{name}"]
            projection = name.startswith("h.") and weight.ndim == 2
            weight.copy_(source.T if projection else source)


def decayed(model: nn.Module) -> list[dict]:
    """Return the parameter groups of both repositories: decay on whatever has two dimensions."""
    return [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]


def train(
    pipe: Connection,
    model: DomainGPT2ForCausalLM,
    windows: np.ndarray,  # (rows, T + 1)
    batch_size: int,
    accumulation: int,
    device: str,
    build: bool,
    compile_model: bool,
) -> None:
    """Step as nanoGPT does, or with `build` as build-nanogpt does, whenever the pipe says so."""
    nano = NanoGPT(model.config, "tanh" if build else "none")
    nano.take_weights(model)
    nano.to(device)
    del model
    fused = device == "cuda"
    optimizer = torch.optim.AdamW(decayed(nano), lr=LEARNING_RATE, betas=BETAS, eps=EPSILON, fused=fused)
    forward = torch.compile(nano) if compile_model else nano
    torch.set_float32_matmul_precision("high")
    in_bf16 = build or device == "cuda"
    batches = endless(windows, batch_size)

    gate = Gate(pipe)
    gate.on_train_begin()
    while True:
        gate.loss = take_step(forward, nano, optimizer, batches, accumulation, device, in_bf16)
        gate.on_step_end()


def take_step(
    forward: Callable, model: nn.Module, optimizer, batches: Iterator, accumulation: int, device: str, in_bf16: bool
) -> torch.Tensor:
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for _ in range(accumulation):
        x, y = (part.to(device) for part in next(batches))
        with torch.autocast(device, dtype=torch.bfloat16) if in_bf16 else nullcontext():
            _, loss = forward(x, y)
        loss = loss / accumulation
        total += loss.detach()
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    return total


def endless(windows: np.ndarray, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in itertools.count(0, batch_size):
        rows = [windows[(start + row) % len(windows)] for row in range(batch_size)]
        batch = torch.from_numpy(np.stack(rows).astype(np.int64))
        yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
