"""Training items of whole conversations, as TRL's `SFTTrainer` takes them when it need not prepare anything.

Which rows are kept, where they are cut and which of them share an item is decided by lengths in plain GPT-2 tokens:
both arms train on the same rows in the same packs, although theirs are not equally long.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tokenization import count_facts, may_hold_facts
from tokenization.mul_facts import FACT_IDS
from training.core.files import partial_path, write_json
from training.data.conversations import ConversationEncoder, EncodedConversation
from training.data.packing import shuffled

TOO_LONG = ("error", "drop")
IGNORED = -100  # the label of a token that is not learnt

_ROWS_AT_ONCE = 1024  # of text, while they are encoded
_ITEMS_AT_ONCE = 512
_ITEMS, _SUMMARY = "items.arrow", "summary.json"
_COUNTS = ("rows", "plain_tokens", "plain_bytes", "supervised_bytes", "text_facts")
_SCHEMA = pa.schema(
    [(name, pa.list_(pa.int32())) for name in ("input_ids", "labels", "seq_lengths")]
    + [(name, pa.int64()) for name in _COUNTS]
)


class PackedConversations(NamedTuple):
    """The items, memory-mapped from where they were written, and what they hold in numbers.

    dataset: per item `input_ids`, `labels` (-100 where nothing is learnt) and `seq_lengths` (tokens of each
    conversation in it) for training; for logging `rows`, `plain_tokens`, `plain_bytes`, `supervised_bytes` and
    `text_facts` (in the text, whether or not they became tokens).
    """

    dataset: Dataset
    summary: dict[str, Any]


def pack_conversations(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_length: int,
    seed: int = 0,
    packing: bool = True,
    too_long: str = "error",
) -> PackedConversations:
    """Encode and pack `rows` (columns `messages`, and `where` for errors), and write the items to `folder`.

    Rows come in an order that depends on `seed` and their number alone. One after the other joins the current pack,
    of at most `max_length` plain GPT-2 tokens, or begins the next; without `packing` each row is an item. A
    conversation that is longer loses whole exchanges from its end. The same arguments give the same bytes, whatever
    was in `folder`.

    The summary counts rows, those kept, shortened and too_long, the exchanges_lost, items, tokens, plain_tokens,
    supervised_tokens (ends of text included), bytes and supervised_bytes (of text, without them), facts (tokens) and
    text_facts (in the text), and holds the sha256 of what was kept in its order. All but tokens, supervised_tokens and
    facts are equal in both arms.

    Raises `ValueError` for a row whose first exchange is too long, unless `too_long` is `drop`, and if none is left.
    """
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long is '{too_long}'; choose {' or '.join(TOO_LONG)}")
    if max_length < 1:
        raise ValueError(f"max_length is {max_length}; it is a number of tokens, at most the model's context")
    folder.mkdir(parents=True, exist_ok=True)
    packer = _Packer(rows, ConversationEncoder(tokenizer), max_length, seed, packing, too_long)
    path = folder / _ITEMS
    partial = partial_path(path)
    try:
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_stream(sink, _SCHEMA) as writer:
            batch: list[_Item] = []
            for item in packer.items():
                batch.append(item)
                if len(batch) == _ITEMS_AT_ONCE:
                    writer.write_batch(_record_batch(batch))
                    batch = []
            if batch:
                writer.write_batch(_record_batch(batch))
        write_json(folder / _SUMMARY, packer.summary())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return open_packed(folder)


def open_packed(folder: Path) -> PackedConversations:
    """Open what `pack_conversations` wrote, as the other processes of a run do."""
    summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    return PackedConversations(Dataset.from_file(str(folder / _ITEMS)), summary)


class _Kept(NamedTuple):
    conversation: EncodedConversation
    text_facts: int


_Item = list[_Kept]


class _Packer:
    """Walks through the rows, and counts what becomes of them."""

    def __init__(
        self, rows: Dataset, encoder: ConversationEncoder, max_length: int, seed: int, packing: bool, too_long: str
    ):
        self._rows, self._encoder, self._max_length, self._seed = rows, encoder, max_length, seed
        self._packing, self._too_long = packing, too_long
        self._digest = hashlib.sha256()
        self._counts = dict.fromkeys(
            "rows kept shortened too_long exchanges_lost items tokens plain_tokens supervised_tokens bytes "
            "supervised_bytes facts text_facts".split(),
            0,
        )

    def items(self) -> Iterator[_Item]:
        """Yield the conversations of each item."""
        item: _Item = []
        filled = 0
        for kept in self._kept():
            length = kept.conversation.plain_tokens
            if item and (not self._packing or filled + length > self._max_length):
                yield item
                self._counts["items"] += 1
                item, filled = [], 0
            item.append(kept)
            filled += length
        if not item:
            raise ValueError(
                f"none of {self._counts['rows']:,} rows is left to train on ({self._counts['too_long']:,} are longer "
                f"than {self._max_length} tokens); raise max_length, or correct the sources"
            )
        yield item
        self._counts["items"] += 1

    def summary(self) -> dict[str, Any]:
        return {**self._counts, "max_length": self._max_length, "sha256": self._digest.hexdigest()}

    def _kept(self) -> Iterator[_Kept]:
        order = shuffled(len(self._rows), self._seed, epoch=0)
        counts = self._counts
        for first in range(0, len(order), _ROWS_AT_ONCE):
            batch = self._rows[order[first : first + _ROWS_AT_ONCE].tolist()]
            conversations = batch["messages"]
            may_hold = may_hold_facts(["\n".join(each["content"] for each in messages) for messages in conversations])
            for number, encoded in enumerate(self._encoder.encode(conversations)):
                counts["rows"] += 1
                kept = encoded.shortened(self._max_length)
                if kept is None:
                    if self._too_long == "error":
                        where = batch["where"][number] if "where" in batch else f"row {order[first + number]}"
                        raise self._refusal(where, conversations[number], int(encoded.ends[0, 1]))
                    counts["too_long"] += 1
                    continue
                # Injection joins tokens of one digit; it never makes a text longer.
                assert len(kept.input_ids) <= kept.plain_tokens <= self._max_length
                left = (conversations[number][0]["role"] == "system") + 2 * kept.exchanges
                messages = conversations[number][:left]
                text_facts = sum(int(count_facts(each["content"]).sum()) for each in messages if may_hold[number])
                self._count(messages, encoded, kept, text_facts)
                yield _Kept(kept, text_facts)

    def _count(
        self,
        messages: list[dict[str, str]],
        encoded: EncodedConversation,
        kept: EncodedConversation,
        text_facts: int,
    ) -> None:
        counts = self._counts
        counts["kept"] += 1
        counts["shortened"] += kept.exchanges < encoded.exchanges
        counts["exchanges_lost"] += encoded.exchanges - kept.exchanges
        tokens, plain_tokens, text_bytes, supervised_bytes = kept.ends[-1].tolist()
        counts["tokens"] += tokens
        counts["plain_tokens"] += plain_tokens
        counts["bytes"] += text_bytes
        counts["supervised_bytes"] += supervised_bytes
        counts["supervised_tokens"] += int(np.count_nonzero(kept.completion_mask))
        counts["facts"] += int(np.count_nonzero(kept.input_ids >= FACT_IDS.start))
        counts["text_facts"] += text_facts
        texts = [[message["role"], message["content"]] for message in messages]
        self._digest.update(json.dumps(texts, ensure_ascii=True).encode() + b"\n")

    def _refusal(self, where: str, messages: list[dict[str, str]], length: int) -> ValueError:
        question = next(message["content"] for message in messages if message["role"] == "user")
        return ValueError(
            f"{where} (it asks {question[:60]!r}) is too long: up to its first reply it takes {length:,} tokens, and "
            f"max_length is {self._max_length:,}; raise max_length, or set too_long: drop to leave such rows out and "
            "count them"
        )


def _record_batch(items: list[_Item]) -> pa.RecordBatch:
    conversations = [kept.conversation for item in items for kept in item]
    tokens = np.concatenate([each.input_ids for each in conversations])
    learnt = np.concatenate([each.completion_mask for each in conversations])
    ends = np.array([each.ends[-1] for each in conversations])  # (conversations, 4)
    rows = np.array([len(item) for item in items], np.int64)
    lasts = np.cumsum(rows)
    token_offsets = np.append(0, np.cumsum(ends[:, 0])[lasts - 1])
    facts = np.array([[kept.text_facts] for item in items for kept in item])
    counts = np.add.reduceat(np.hstack([ends, facts]), lasts - rows)
    columns = [
        _lists(tokens, token_offsets),
        _lists(np.where(learnt, tokens, np.int32(IGNORED)), token_offsets),
        _lists(ends[:, 0], np.append(0, lasts)),
        *(pa.array(column) for column in (rows, *counts.T[1:])),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int32()))
