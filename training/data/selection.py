"""Choose which of the prepared documents make up the training split: targets, shares, epochs and the dose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from training.data.records import documents_path


@dataclass(frozen=True)
class Cut:
    """The first documents of a source, over one or several epochs; `ran_out` says that more were wanted."""

    documents: int
    plain_tokens: int
    facts: int
    ran_out: bool = False


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
    """The finished pieces of one source, seen as one sequence of training documents, repeated `epochs` times.

    complete: whether these are all pieces that the source has.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        records: list[dict[str, Any]],
        weight: float = 1.0,
        epochs: int = 1,
        complete: bool = True,
    ):
        self.folder, self.names, self.records = folder, names, records
        self.weight, self.epochs, self.complete = weight, epochs, complete
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
        return Cut(*(int(total) * self.epochs for total in self._once), ran_out=True)

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
        path = documents_path(self.folder, self.names[piece])
        sums = _running_sums(path, path.stat().st_mtime_ns)
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
        # Whether there are more pieces behind the cut depends on the number of workers; they do not count.
        last = len(self.names) - 1 if cut.ran_out else max((piece for piece, _ in train), default=-1)
        return Chosen(self.names, self.records, train, list(range(last + 1)))


@lru_cache(maxsize=64)
def _running_sums(path: Path, changed: int) -> np.ndarray:
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
    """Return (cuts of the other sources, cuts of the fillers) with just enough filler text to bring facts per plain
    token to `dose`; None when the fillers at hand do not suffice.

    `others` maps a number of plain tokens (None: without a target) to the other sources' cuts: what the fillers add
    is taken from their part of the target. The amount is searched for among doubling amounts, and then between the
    last two; so it does not depend on how much more filler text happens to be prepared.
    """
    weights = sum(stock.weight for stock in fillers)

    def with_filler(tokens: float) -> tuple[list[Cut], list[Cut]]:
        added = [stock.first(tokens * stock.weight / weights) for stock in fillers]
        return others(None if target is None else target - sum(cut.plain_tokens for cut in added)), added

    def reached(tokens: float) -> bool:
        cuts = [cut for group in with_filler(tokens) for cut in group]
        return sum(cut.facts for cut in cuts) >= dose * sum(cut.plain_tokens for cut in cuts)

    if reached(0):
        return with_filler(0)
    scarcest = scarcest_filler(fillers)
    at_hand = int(scarcest.whole.plain_tokens * weights / scarcest.weight)
    low, high = 0, 1
    while high <= at_hand and not reached(high):
        low, high = high, 2 * high
    if high > at_hand:
        if not scarcest.complete or not reached(at_hand):
            return None
        high = at_hand
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return with_filler(high)


def scarcest_filler(fillers: Sequence[Stock]) -> Stock:
    """Return the filler that is used up first when all give their shares."""
    return min(fillers, key=lambda stock: stock.whole.plain_tokens / stock.weight)


def density(fillers: Sequence[Stock]) -> float | None:
    """Return the facts per plain token of the fillers together, None before each has a document."""
    if not all(stock.whole.plain_tokens for stock in fillers):
        return None
    each = [stock.weight * stock.whole.facts / stock.whole.plain_tokens for stock in fillers]
    return sum(each) / sum(stock.weight for stock in fillers)
