"""Held-out conversations, of which bits per byte are measured on the replies."""

import numpy as np

from training.data.packing_conversations import IGNORED, PackedConversations
from training.evals.bits_per_byte import Row


class HeldOutReplies:
    """The first `count` held-out rows, longest first; the replies and the ends of text behind them are scored.

    The bytes are those of the replies, so that the arms can be compared; the part without facts is that of the rows
    whose text, question included, holds no fact in any arm.
    """

    def __init__(self, packed: PackedConversations, count: int):
        items = packed.dataset.select(range(min(count, len(packed.dataset))))
        self.count, self.bytes, self.bytes_without_facts = len(items), 0, 0
        rows = []
        for item in items:
            assert item["rows"] == 1, "held-out rows are not packed"
            without_facts = item["text_facts"] == 0
            self.bytes += item["supervised_bytes"]
            self.bytes_without_facts += item["supervised_bytes"] * without_facts
            # The first token is of a prompt and never scored.
            scored = np.array(item["labels"][1:]) != IGNORED
            rows.append(Row(np.array(item["input_ids"], np.int64), without_facts, scored))
        self.rows = sorted(rows, key=lambda row: -len(row.tokens))
