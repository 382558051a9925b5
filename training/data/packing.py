"""Training batches as a pure function of (data_seed, position): documents shuffled per epoch, packed without a gap."""

import hashlib

import numpy as np
import torch
from torch.utils.data import Dataset

from training.data.shards import TokenizedSplit


class PackedDocuments(Dataset):
    """Windows of `context` tokens over the endless stream of epoch after epoch of shuffled documents.

    Epoch e visits every document once, in an order that depends on `data_seed`, e and the number of documents alone:
    both arms therefore read the same documents in the same order. Window i holds the stream's tokens
    [i * context, (i + 1) * context], so no token is dropped at the end of a document, a shard or an epoch, and a
    restart needs nothing but i. Attention crosses document boundaries inside a window, as in GPT-2's own training.

    Items are `{"input_ids": (context,) int64, "shift_labels": (context,) int64}`; each label is the next token.
    """

    def __init__(self, split: TokenizedSplit, context: int, windows: int, data_seed: int):
        self.split, self.context, self.windows, self.data_seed = split, context, windows, data_seed
        self.epoch_tokens = int(split.documents["tokens"].sum(dtype=np.int64))
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._epoch(0)  # before the loader's workers are forked, so that they share it

    def __len__(self) -> int:
        return self.windows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not 0 <= index < self.windows:
            raise IndexError(index)
        window = torch.from_numpy(self._read(index * self.context, self.context + 1))
        return {"input_ids": window[:-1], "shift_labels": window[1:]}

    @property
    def epochs(self) -> float:
        """How many times the training documents are read in all."""
        return self.windows * self.context / self.epoch_tokens

    def _read(self, position: int, count: int) -> np.ndarray:
        """Return `count` tokens of the endless stream from `position`, int64."""
        out = np.empty(count, np.int64)
        filled = 0
        epoch, offset = divmod(position, self.epoch_tokens)
        while filled < count:
            order, starts = self._epoch(epoch)
            rank = int(np.searchsorted(starts, offset, side="right")) - 1
            while filled < count and rank < len(order):
                tokens = self.split.tokens(order[rank])[offset - starts[rank] :][: count - filled]
                out[filled : filled + len(tokens)] = tokens
                filled, offset, rank = filled + len(tokens), offset + len(tokens), rank + 1
            epoch, offset = epoch + 1, 0
        return out

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._epochs:
            # A window may straddle two epochs; older ones are never read again.
            self._epochs = {key: value for key, value in self._epochs.items() if key == epoch - 1}
            order = shuffled(len(self.split), self.data_seed, epoch)
            lengths = self.split.documents["tokens"][order].astype(np.int64)
            self._epochs[epoch] = order, np.cumsum(lengths) - lengths
        return self._epochs[epoch]


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of range(count) as a function of (seed, epoch) that no library release changes.

    Documents are sorted by a hash of their index: NumPy does not promise that a generator's stream stays the same
    from one release to the next, and a resumed run may meet a newer one. The hash is the finaliser of SplitMix64
    (Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators").
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8], "little")
    z = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.argsort(z ^ (z >> np.uint64(31)), kind="stable")


def document_order_sha256(documents_sha256: str, count: int, data_seed: int) -> str:
    """Return one hash of which documents are read in which order; equal in both arms of an experiment.

    `documents_sha256` is the manifest's hash of the training documents' original text, in the order of the corpus.
    """
    first_epoch = shuffled(count, data_seed, epoch=0).astype("<u4").tobytes()
    return hashlib.sha256(f"{documents_sha256}/{data_seed}/".encode() + first_epoch).hexdigest()
