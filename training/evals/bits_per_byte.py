"""Bits per byte of the original text: the language-model measure that does not depend on the tokenisation.

Source of the formula: Gao et al., 2020, "The Pile", section 3.1: bits per byte = (sum of token losses in nats) / ln 2
/ bytes. Injection is lossy (`6*9` and `6 x 9 = 54` become one id), so with facts the number of mul_tokens is a lower
bound; the part over documents without facts compares the arms exactly.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from tokenization.mul_facts import END_OF_TEXT_ID
from training.data.shards import TokenizedSplit


@dataclass(frozen=True)
class Row:
    """One forward row: at most `context` tokens of one document, the first of them only as a prompt.

    scored: which of the tokens after the first count, (tokens - 1,) bool; all unless given.
    """

    tokens: np.ndarray  # int64, the ids from one before the first scored token
    without_facts: bool
    scored: np.ndarray | None = None

    @property
    def count(self) -> int:
        return len(self.tokens) - 1 if self.scored is None else int(np.count_nonzero(self.scored))


class ScoredTexts(Protocol):
    """What bits per byte are measured on: `count` texts as rows, longest first, and the bytes that they stand for."""

    count: int
    bytes: int
    bytes_without_facts: int
    rows: list[Row]


class FixedDocuments:
    """The first `documents` of a split, cut into rows of at most `context` scored tokens, longest first.

    Each token of a document is scored once. A document longer than the context goes on in a new row, whose first
    token is predicted from the token before it alone.
    """

    def __init__(self, split: TokenizedSplit, documents: int, context: int):
        self.count = min(documents, len(split))
        table = split.documents[: self.count]
        self.bytes = int(table["bytes"].sum(dtype=np.int64))
        self.bytes_without_facts = int(table["bytes"][table["facts"] == 0].sum(dtype=np.int64))
        rows = []
        for document in range(self.count):
            tokens = split.tokens(document).astype(np.int64)
            assert tokens[0] == END_OF_TEXT_ID
            without_facts = bool(table["facts"][document] == 0)
            rows += [Row(row, without_facts) for row in cut_into_rows(tokens, context)]
        self.rows = sorted(rows, key=lambda row: -len(row.tokens))


def cut_into_rows(tokens: np.ndarray, context: int) -> list[np.ndarray]:
    """Cut a document's ids, the end of text before it included, so that each id after the first is scored once.

    A row holds at most `context` scored ids and, before them, the one that the first of them is predicted from.
    """
    return [tokens[start : start + context + 1] for start in range(0, len(tokens) - 1, context)]


@torch.no_grad()
def score_rows(
    model: torch.nn.Module,
    rows: Sequence[np.ndarray],
    device: torch.device | str = "cpu",
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> torch.Tensor:
    """Return the loss in nats of every id after a row's first, fp32 of shape (rows, longest - 1), 0 behind its end."""
    width = max(map(len, rows)) - 1
    inputs = torch.full((len(rows), width), END_OF_TEXT_ID, dtype=torch.int64)  # (B, T), padded on the right
    labels = torch.full((len(rows), width), -100, dtype=torch.int64)
    for index, row in enumerate(rows):
        inputs[index, : len(row) - 1] = torch.from_numpy(row[:-1])
        labels[index, : len(row) - 1] = torch.from_numpy(row[1:])
    with autocast():
        logits = model(input_ids=inputs.to(device), use_cache=False).logits  # (B, T, V)
    labels = labels.to(device)
    nats = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    return nats.view(labels.shape)


@torch.no_grad()
def measure_bits_per_byte(
    model: torch.nn.Module,
    documents: ScoredTexts,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    process_index: int = 0,
    num_processes: int = 1,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
) -> dict[str, float | int | None]:
    """Score the documents and return loss per token (nats) and bits per byte, over all and over those without facts.

    With several processes every one must call it; rows are dealt out, sums are added up, and the result is the same
    in all. The part without facts is None when each document holds a fact.
    """
    training = model.training
    model.eval()
    rows = documents.rows
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    stride = batch_size * num_processes
    for first in range(0, len(rows), stride):
        # Every process runs every step, on a row that counts for nothing if need be: ZeRO-3 and FSDP gather in
        # forward.
        mine = rows[first + process_index * batch_size : min(first + (process_index + 1) * batch_size, first + stride)]
        batch = mine or rows[:1]
        nats = score_rows(model, [row.tokens for row in batch], device, autocast).double()  # (B, T)
        for index, row in enumerate(batch):
            if row.scored is not None:
                nats[index, : len(row.scored)] *= torch.from_numpy(row.scored).to(nats)
        nats = nats.sum(1)  # (B,)
        if mine:
            counts = torch.tensor([row.count for row in batch], dtype=torch.float64, device=device)
            plain = torch.tensor([row.without_facts for row in batch], device=device)
            sums += torch.stack([nats.sum(), counts.sum(), nats[plain].sum(), counts[plain].sum()])
    if num_processes > 1:
        torch.distributed.all_reduce(sums)
    model.train(training)
    nats, tokens, nats_without, tokens_without = sums.tolist()
    return {
        "loss": nats / tokens,
        "bits_per_byte": nats / math.log(2) / documents.bytes,
        "loss_without_facts": nats_without / tokens_without if tokens_without else None,
        "bits_per_byte_without_facts": (
            nats_without / math.log(2) / documents.bytes_without_facts if documents.bytes_without_facts else None
        ),
        "documents": documents.count,
    }
