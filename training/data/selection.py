"""Choose which of the prepared documents make up the training split: targets, shares, epochs and the dose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from training.data.pieces import documents_path


@dataclass(frozen=True)
class Cut:
    """The first documents of a source, over one or several epochs."""

    documents: int
    plain_tokens: int
    facts: int


@dataclass(frozen=True)
class Chosen:
    """What a corpus takes of one source.

    train: (piece, how many of its training documents), in order, again for each epoch. used: the pieces that were
    looked at, from the first to the last that gives a document; their held-out documents are the validation split.
    """

    names: list[str]
    records: list[dict[str, Any]]
    train: list[tuple[int, int]]
    used: list[int]


class Stock:
    """The finished pieces of one source, seen as one sequence of training documents, repeated `epochs` times."""

    def __init__(self, folder: Path, names: list[str], records: list[dict[str, Any]], weight: float, epochs: int = 1):
        self.folder, self.names, self.records, self.weight, self.epochs = folder, names, records, weight, epochs
        self.sizes = np.array(
            [
                (train["documents"], train["plain_tokens"], sum(train["facts_by_fact"]))
                for train in (record["splits"]["train"] for record in records)
            ],
            np.int64,
        ).reshape(-1, 3)
        self._ends = np.cumsum(self.sizes, axis=0)  # (pieces, 3): documents, plain tokens, facts
        self._once = self._ends[-1] if len(self._ends) else np.zeros(3, np.int64)

    @property
    def whole(self) -> Cut:
        """All documents, as often as they may be read."""
        return Cut(*(int(total) * self.epochs for total in self._once))

    def first(self, plain_tokens: float) -> Cut:
        """Return the fewest documents from the beginning that hold this many tokens; all where they do not suffice."""
        if plain_tokens <= 0:
            return Cut(0, 0, 0)
        if plain_tokens > self.whole.plain_tokens:
            return self.whole
        epoch, rest = divmod(plain_tokens, float(self._once[1]))
        before = self._once * int(epoch)
        if rest == 0:
            return Cut(*map(int, before))
        piece = int(np.searchsorted(self._ends[:, 1], rest))
        before = before + self._ends[piece] - self.sizes[piece]
        sums = _running_sums(documents_path(self.folder, self.names[piece]))
        document = int(np.searchsorted(sums[:, 0], rest - (self._ends[piece] - self.sizes[piece])[1]))
        tokens, facts = sums[document]
        return Cut(int(before[0]) + document + 1, int(before[1] + tokens), int(before[2] + facts))

    def choose(self, cut: Cut) -> Chosen:
        """Return which documents of which pieces a cut consists of."""
        train, rest = [], cut.documents
        while rest > 0:
            for piece, count in enumerate(map(int, self.sizes[:, 0])):
                if count and rest > 0:
                    train.append((piece, min(count, rest)))
                    rest -= count
        last = len(self.names) - 1 if cut == self.whole else max((piece for piece, _ in train), default=-1)
        return Chosen(self.names, self.records, train, list(range(last + 1)))


@lru_cache(maxsize=64)
def _running_sums(path: Path) -> np.ndarray:
    table = np.load(path, allow_pickle=False)
    return np.cumsum(np.stack([table["plain_tokens"], table["facts"]], axis=1), axis=0, dtype=np.int64)


def take(stocks: Sequence[Stock], target: float | None, weighted: bool) -> list[Cut]:
    """Return what each source gives to `target` plain tokens: by weight, or one source after the other."""
    if target is None:
        return [stock.whole for stock in stocks]
    if weighted:
        total = sum(stock.weight for stock in stocks)
        return [stock.first(target * stock.weight / total) for stock in stocks]
    cuts, rest = [], target
    for stock in stocks:
        cuts.append(stock.first(rest))
        rest -= cuts[-1].plain_tokens
    return cuts


def reach_dose(
    others: Callable[[float | None], list[Cut]], fillers: Sequence[Stock], target: int | None, dose: float
) -> tuple[list[Cut], list[Cut]] | None:
    """Return (cuts of the other sources, cuts of the fillers) with the least filler text that brings facts per plain
    token to `dose`; None when the fillers at hand do not suffice.

    `others` maps a number of plain tokens (None: without a target) to the other sources' cuts: what the fillers add
    is taken from their part of the target.
    """
    weights = sum(stock.weight for stock in fillers)

    def with_filler(tokens: float) -> tuple[list[Cut], list[Cut]]:
        added = [stock.first(tokens * stock.weight / weights) for stock in fillers]
        return others(None if target is None else target - sum(cut.plain_tokens for cut in added)), added

    def reached(tokens: float) -> bool:
        cuts = [cut for group in with_filler(tokens) for cut in group]
        return sum(cut.facts for cut in cuts) >= dose * sum(cut.plain_tokens for cut in cuts)

    # The smallest stock in relation to its weight says how far all of them reach.
    low, high = 0, int(min(stock.whole.plain_tokens * weights / stock.weight for stock in fillers))
    if not reached(high):
        return None
    if reached(0):
        return with_filler(0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return with_filler(high)
