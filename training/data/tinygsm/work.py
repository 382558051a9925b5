"""Convert TinyGSM's programs to worked text: plan, workers, result.

`convert` writes `output_dir/train-*` and last `manifest.json`. The work is cut into pieces; a piece is done when its
record is in `output_dir/unfinished/`, a folder that goes when the manifest is there.
"""

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.core.console import EXIT_CODES, format_duration, processor_name
from training.core.files import alone_in
from training.core.provenance import write_run_file
from training.core.recipe import is_about_input
from training.data.tinygsm.pieces import PieceConverter, read_record
from training.data.tinygsm.plan import MANIFEST, ConversionPlan, check_request
from training.data.tinygsm.recipe import ConversionArguments
from training.data.tinygsm.shards import write_result
from training.data.tinygsm.source_rows import Piece
from training.data.worker_pool import ONE_THREAD

_LINE_EVERY_SECONDS = 10.0
_converter: PieceConverter | None = None  # of a worker process


def convert(args: ConversionArguments, report: Callable[[str], None] = print) -> dict[str, Any] | None:
    """Convert what `args` asks for, and return the manifest; None while other machines have pieces to do.

    A finished folder is left alone, an interrupted conversion goes on with the pieces that are missing. The rows are
    the same bytes whatever the workers, the machines and the interruptions. Raises `ValueError` for a source that
    cannot be read, a folder that holds another conversion, a worker that dies, and when too few rows are left.
    """
    output_dir = Path(args.output_dir)
    machine, machines = args.machine
    with alone_in(output_dir, report):
        if manifest := read_finished(args):
            report(f"{output_dir} is complete; nothing to do")
            return manifest
        plan = ConversionPlan.make(args)
        write_run_file(output_dir, {"recipe": asdict(args)}, processor_name())
    mine = [piece for piece in plan.pieces if piece.number % machines == machine]
    with alone_in(plan.folder / f"machine-{machine + 1}-of-{machines}", report):
        _convert_pieces(plan, mine, report)
    with alone_in(output_dir, report):
        if manifest := read_finished(args):  # another machine was faster
            report(f"{output_dir} is complete")
            return manifest
        left = [piece for piece in plan.pieces if read_record(plan.folder, piece) is None]
        if left:
            others = sorted({piece.number % machines + 1 for piece in left})
            report(
                f"{output_dir}: shard {args.shard} is done; {len(left):,} of {len(plan.pieces):,} pieces are left to "
                f"{', '.join(f'{number}/{machines}' for number in others)}; the last one to finish writes the result"
            )
            return None
        report(f"{output_dir}: all {len(plan.pieces):,} pieces are converted; comparing and writing the rows")
        manifest = write_result(plan)
        shutil.rmtree(plan.folder)
    return manifest


def read_finished(args: ConversionArguments) -> dict[str, Any] | None:
    """Return the manifest of a finished conversion, None where there is none.

    Raises `ValueError` when it is one of another recipe, or its shards are damaged.
    """
    folder = Path(args.output_dir)
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    check_request(folder, manifest["request"], args.request(manifest["request"]))
    for name, facts in manifest["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != facts["bytes"]:
            raise ValueError(f"'{folder / name}' is missing or truncated; delete '{folder}' and convert again")
    return manifest


def _convert_pieces(plan: ConversionPlan, pieces: list[Piece], report: Callable[[str], None]) -> None:
    """Convert those of the pieces that are not done yet."""
    with _Progress(plan.args.output_dir, sum(piece.drawn for piece in pieces), report) as progress:
        missing = []
        for piece in pieces:
            record = read_record(plan.folder, piece)
            if record is None:
                missing.append(piece)
            else:
                progress.found(record)
        if len(missing) < len(pieces):
            report(f"{plan.output_dir}: continuing with {len(pieces) - len(missing):,} pieces that are finished")
        # Closed at once also when this process is stopped in between: workers must not outlive the block.
        with closing(_converted(plan, missing, plan.args.processes)) as records:
            for record in records:
                progress.finish(record)


def _converted(plan: ConversionPlan, pieces: list[Piece], workers: int) -> Iterator[dict[str, Any]]:
    """Convert pieces, and yield the record of each as soon as it is done."""
    if workers == 1 or len(pieces) == 1:
        converter = PieceConverter(plan)
        yield from map(converter.convert, pieces)
    elif pieces:
        with _workers(plan, min(workers, len(pieces))) as pool:
            futures = {pool.submit(_work, piece): piece for piece in pieces}
            for future in as_completed(futures):
                try:
                    outcome = future.result()
                except BrokenProcessPool as error:
                    raise ValueError(
                        f"a worker died, perhaps because the machine ran out of memory; what is finished in "
                        f"'{plan.folder}' is kept, give the same command again to go on, with fewer workers than "
                        f"{workers} if need be"
                    ) from error
                if isinstance(outcome, str):
                    raise ValueError(outcome)
                yield outcome


@contextmanager
def _workers(plan: ConversionPlan, count: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that end with the block, at once when it fails."""
    before, environment = set(multiprocessing.active_children()), dict(os.environ)
    os.environ.update(ONE_THREAD)  # a worker has one core
    # New programs, not forks: this process may hold threads and PyTorch.
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _begin_work, (plan,))
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - before:
            worker.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for name in ONE_THREAD.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _begin_work(plan: ConversionPlan) -> None:
    global _converter
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)  # they are for the parent, which ends its workers
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    _converter = PieceConverter(plan)


def _end_with_the_parent() -> None:
    """Wait for the parent's end; its next run must not meet this process in the same files."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _work(piece: Piece) -> dict[str, Any] | str:
    """Return a piece's record, or what is wrong with the input in words: a traceback would not survive the way."""
    try:
        return _converter.convert(piece)
    except (ValueError, FileNotFoundError) as error:
        if not is_about_input(error):
            raise
        return str(error)


class _Progress:
    """Say how far the conversion is: a bar on a terminal, lines elsewhere, at most one in ten seconds."""

    def __init__(self, name: str, rows: int, report: Callable[[str], None]):
        self.name, self.rows, self.report = name, rows, report
        self.drawn = self.kept = self.drawn_before = 0
        self.began = self.last_line = time.monotonic()
        self.bar = tqdm(desc=name, total=rows, unit="row", dynamic_ncols=True) if sys.stderr.isatty() else None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.drawn > self.drawn_before:
            self.report(f"{self.name}: {self.describe()}")

    def found(self, record: dict[str, Any]) -> None:
        """Count a piece that an earlier run has converted."""
        self.drawn_before += record["drawn"]
        self._add(record)

    def finish(self, record: dict[str, Any]) -> None:
        """Count a piece that this run has converted."""
        self._add(record)
        if self.bar is None and time.monotonic() - self.last_line >= _LINE_EVERY_SECONDS:
            self.last_line = time.monotonic()
            self.report(f"{self.name}: {self.describe()}")

    def describe(self) -> str:
        """Return one line: how far, how fast, how much is kept, how long still."""
        speed = (self.drawn - self.drawn_before) / max(time.monotonic() - self.began, 1e-9)
        parts = [f"{self.drawn:,} of {self.rows:,} rows", f"{speed:,.0f} rows/s", f"{self._share():.1%} kept"]
        if speed > 0 and self.drawn < self.rows:
            parts.append(f"{format_duration((self.rows - self.drawn) / speed)} left")
        return " | ".join(parts)

    def _add(self, record: dict[str, Any]) -> None:
        self.drawn += record["drawn"]
        self.kept += record["rows"]
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self._share():.1%} kept", refresh=False)
            self.bar.update(record["drawn"])

    def _share(self) -> float:
        return self.kept / max(self.drawn, 1)
