"""Show how a preparation goes: a bar on a terminal, with one per worker on request, and lines elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from training.core.console import format_duration
from training.data.corpus_recipe import CorpusArguments
from training.data.pieces import Advance
from training.data.plan import Piece

LINE_EVERY_SECONDS = 10.0


class Progress:
    """Count what is done and say so.

    text_bytes: how much text the files hold, 0 if unknown; with `target_tokens` in the recipe that is the end instead.
    style: `auto` (a bar on a terminal, lines elsewhere), `workers` (a line per worker as well), `lines`. Lines come
    with a finished piece, at most one in ten seconds.
    """

    def __init__(
        self,
        args: CorpusArguments,
        text_bytes: int,
        style: str = "auto",
        report: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.target_tokens, self.text_bytes = args.output_dir, args.target_tokens, text_bytes
        self.style, self.clock, self._report = style, clock, report
        self._started = self._last_line = clock()
        self._done = {"documents": 0, "bytes": 0, "plain_tokens": 0}
        self._found = dict(self._done)  # of pieces that an earlier run had finished
        self._open: dict[str, dict[str, int]] = {}  # of pieces that are being made
        self._bar: tqdm | None = None
        self._worker_bars: dict[int, tqdm] = {}
        if style == "workers" or (style == "auto" and sys.stderr.isatty()):
            self._bar = self._make_bar(self.name, self.target_tokens or text_bytes or None, 0)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        for bar in [*self._worker_bars.values(), *([self._bar] if self._bar is not None else [])]:
            bar.close()

    def found(self, record: dict[str, Any]) -> None:
        """Count a piece that was finished before."""
        for total in (self._done, self._found):
            _add(total, record)
        self._draw()

    def advance(self, worker: int, advance: Advance) -> None:
        """Count a batch of a piece that is being made."""
        if advance.begins:
            self._open[advance.piece] = dict.fromkeys(self._done, 0)
        counts = self._open.setdefault(advance.piece, dict.fromkeys(self._done, 0))
        for key in counts:
            counts[key] += getattr(advance, key)
        if self.style == "workers":
            self._draw_worker(worker, advance.piece, counts)
        self._draw()

    def lose(self, worker: int, piece: Piece) -> None:
        """Take back what was counted of a piece whose worker died."""
        self._open.pop(piece.name, None)
        self._draw()

    def finish(self, worker: int, piece: Piece, record: dict[str, Any]) -> None:
        """Count a piece as its record says."""
        self._open.pop(piece.name, None)
        _add(self._done, record)
        self._draw()
        if self._bar is None and self.clock() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = self.clock()
            self._report(f"{self.name}: {self.describe()}")

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            self._report(text)
        else:
            tqdm.write(text)

    def totals(self) -> dict[str, int]:
        """Return documents, bytes and plain training tokens so far."""
        return {key: value + sum(part[key] for part in self._open.values()) for key, value in self._done.items()}

    def speed(self) -> tuple[float, float]:
        """Return plain tokens and bytes of text per second, of this run alone."""
        seconds = max(self.clock() - self._started, 1e-9)
        totals = self.totals()
        return (
            (totals["plain_tokens"] - self._found["plain_tokens"]) / seconds,
            (totals["bytes"] - self._found["bytes"]) / seconds,
        )

    def describe(self) -> str:
        """Return one line: how far, how fast, how long still."""
        totals, (tokens_per_second, bytes_per_second) = self.totals(), self.speed()
        goal = f" of {self.target_tokens:,}" if self.target_tokens else ""
        parts = [
            f"{totals['plain_tokens']:,}{goal} training tokens",
            f"{tokens_per_second / 1e6:.2f} M tokens/s",
            f"{bytes_per_second / 1e6:.1f} MB/s",
            f"{totals['bytes'] / 1e9:.2f} GB of text",
        ]
        left = self._seconds_left(totals, tokens_per_second, bytes_per_second)
        return " | ".join(parts + ([f"{format_duration(left)} left"] if left is not None else []))

    def _seconds_left(self, totals: dict[str, int], tokens: float, text: float) -> float | None:
        if self.target_tokens and tokens > 0:
            return max(self.target_tokens - totals["plain_tokens"], 0) / tokens
        if self.text_bytes and text > 0:
            return max(self.text_bytes - totals["bytes"], 0) / text
        return None

    def _make_bar(self, name: str, total: int | None, position: int) -> tqdm:
        return tqdm(
            desc=name,
            total=total,
            unit="token" if self.target_tokens else "B",
            unit_scale=True,
            position=position,
            dynamic_ncols=True,
            leave=position == 0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}" if total else "{desc}{postfix}",
        )

    def _draw(self) -> None:
        if self._bar is None:
            return
        totals, (tokens, text) = self.totals(), self.speed()
        left = self._seconds_left(totals, tokens, text)
        self._bar.n = totals["plain_tokens"] if self.target_tokens else totals["bytes"]
        if self._bar.total:
            self._bar.n = min(self._bar.n, self._bar.total)
        self._bar.set_postfix_str(
            f"{tokens / 1e6:.2f}M tokens/s, {text / 1e6:.1f} MB/s, {totals['bytes'] / 1e9:.2f} GB"
            + (f", {format_duration(left)} left" if left is not None else ""),
            refresh=False,
        )
        self._bar.update(0)

    def _draw_worker(self, worker: int, piece: str, counts: dict[str, int]) -> None:
        if worker not in self._worker_bars:
            self._worker_bars[worker] = tqdm(
                position=worker + 1, bar_format="{desc}", dynamic_ncols=True, leave=False, mininterval=0.2
            )
        self._worker_bars[worker].set_description_str(
            f"  worker {worker}: piece {piece}, {counts['documents']:,} documents, {counts['bytes'] / 1e6:.1f} MB"
        )


def _add(totals: dict[str, int], record: dict[str, Any]) -> None:
    totals["documents"] += record["documents_read"]
    totals["bytes"] += sum(split["bytes"] for split in record["splits"].values())
    totals["plain_tokens"] += record["splits"]["train"]["plain_tokens"]
