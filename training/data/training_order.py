"""Fine-tuning items in the order in which a run reads them: a batch is a function of (data_seed, step)."""

import math
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from modeling import DomainGPT2Config
from training.data.packing import shuffled
from training.data.packing_conversations import IGNORED, PackedConversations


class TrainingOrder:
    """The items of one epoch after the other, each in an order of its own, cut into steps without a gap.

    Epoch e visits every item once, in an order that depends on `data_seed`, e and the number of items alone; a step
    reads the next `total_batch_items`, across the end of an epoch where need be. max_steps: above zero it fixes the
    steps; otherwise they are as many as `epochs` take, the last one filled up.
    """

    def __init__(
        self,
        packed: PackedConversations,
        config: DomainGPT2Config,
        total_batch_items: int,
        epochs: float,
        max_steps: int,
        data_seed: int,
    ):
        items = len(packed.dataset)
        self.items, self.total_batch_items = items, total_batch_items
        self.steps = max_steps if max_steps > 0 else math.ceil(epochs * items / total_batch_items)
        places = self.steps * total_batch_items
        order = np.concatenate([shuffled(items, data_seed, epoch) for epoch in range(math.ceil(places / items))])
        order = order[:places].astype(np.int64)
        self.dataset = packed.dataset.select(order)
        # Python's integers: the operations of a large run do not fit into 64 bits.
        self._done = {
            name: [0, *accumulate(counts[order].reshape(self.steps, -1).sum(axis=1).tolist())]
            for name, counts in _counts(packed.dataset, config).items()
        }

    @property
    def epochs(self) -> float:
        """How many times the items are read in all."""
        return self.steps * self.total_batch_items / self.items

    def epoch(self, step: int) -> float:
        """Return how many times the items have been read after a step, as a fraction."""
        return step * self.total_batch_items / self.items

    def work(self, step: int) -> dict[str, int]:
        """Return what the run has read after a step.

        `rows` are conversations, `bytes` those of their text and `supervised_bytes` those of the replies: equal in
        both arms. `tokens` are the arm's own, without padding, and `flops` what training spends on them.
        """
        return {name: done[step] for name, done in self._done.items()}


def _counts(items: Dataset, config: DomainGPT2Config) -> dict[str, np.ndarray]:
    """Return what each item holds, (items,) int64 each."""
    table = items.data.table
    lengths = table.column("seq_lengths").combine_chunks()
    flat = lengths.flatten().to_numpy().astype(np.int64)
    firsts = np.append(0, np.cumsum(lengths.value_lengths().to_numpy())[:-1])
    # Attention stays inside a conversation, so that its cost depends on each one's length.
    per_token = config.flops_per_token(0)
    attention = config.flops_per_token(1) - per_token
    return {
        "rows": table.column("rows").to_numpy(),
        "tokens": np.add.reduceat(flat, firsts),
        "bytes": table.column("plain_bytes").to_numpy(),
        "supervised_bytes": table.column("supervised_bytes").to_numpy(),
        "flops": np.add.reduceat(flat * (per_token + attention * flat), firsts),
    }


_WIDTHS = 32  # batches are multiples of it wide: aligned for a GPU, and of few sizes for the allocator


class StackItems:
    """Collate items as rows (B, T) of `input_ids`, `labels` and `position_ids`, as wide as the longest, rounded up.

    Positions begin again at each conversation, by which the model keeps them apart. All padding is at position 0, each
    token of it alone: a row may be wider than the model's context. TRL's flattening makes one long row of a batch
    instead, whose attention mask is quadratic in all of it.
    """

    def __init__(self, pad_id: int):
        self.pad_id = pad_id

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(item["input_ids"]) for item in items)
        width += -width % _WIDTHS
        input_ids = torch.full((len(items), width), self.pad_id)
        labels = torch.full((len(items), width), IGNORED)
        position_ids = torch.zeros((len(items), width), dtype=torch.int64)
        for row, item in enumerate(items):
            size = len(item["input_ids"])
            input_ids[row, :size] = torch.tensor(item["input_ids"])
            labels[row, :size] = torch.tensor(item["labels"])
            position_ids[row, :size] = torch.cat([torch.arange(length) for length in item["seq_lengths"]])
        return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
