"""Worker processes that prepare pieces, and what happens when one of them dies."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from training.data.pieces import Advance, PieceMaker
from training.data.plan import Piece, Plan
from training.data.records import read_record

# A worker has one core; libraries that started a thread for each would only get in each other's way.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# A piece whose worker dies this often is not tried again: the fault is its own.
DEATHS_PER_PIECE = 3


class Observer(Protocol):
    """What wants to know how the work goes."""

    def advance(self, worker: int, advance: Advance) -> None: ...

    def finish(self, worker: int, piece: Piece, record: dict[str, Any]) -> None: ...

    def lose(self, worker: int, piece: Piece) -> None: ...

    def note(self, text: str) -> None: ...


def prepare_here(
    plan: Plan, conditions: list[str], encoder: str, next_piece: Callable[[], Piece | None], observer: Observer
) -> None:
    """Prepare pieces one after the other in this process, until `next_piece` has no more."""
    maker = None
    while piece := next_piece():
        maker = maker or PieceMaker(plan, conditions, encoder)
        record = maker.make(piece, lambda advance: observer.advance(0, advance), observer.note)
        observer.finish(0, piece, record)


class WorkerPool:
    """Worker processes for the pieces of one plan; inside `with`, for they end with the block.

    A worker is a program of its own, not a fork: the parent may hold PyTorch, threads and a GPU. The parent learns
    what was done and never sees a document.
    """

    def __init__(self, plan: Plan, conditions: list[str], encoder: str, workers: int):
        self.plan, self.conditions, self.encoder, self.size = plan, conditions, encoder, workers
        self._events: queue.SimpleQueue = queue.SimpleQueue()
        self._workers: dict[int, subprocess.Popen] = {}

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception) -> None:
        for process in self._workers.values():
            process.kill()
        for process in self._workers.values():
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def run(self, next_piece: Callable[[], Piece | None], observer: Observer) -> None:
        """Prepare pieces until `next_piece` has no more and all are finished.

        `next_piece` is asked whenever a worker is free, and always by the calling thread. The piece of a worker that
        dies is done again by a new one. Raises `ValueError` for what is wrong with the input and when workers keep
        dying at the same piece, and `RuntimeError` when one fails inside.
        """
        idle, running = list(range(self.size)), {}
        deaths: Counter = Counter()
        while True:
            while idle and (piece := next_piece()):
                worker = idle.pop(0)
                self._give(worker, piece)
                running[worker] = piece
            if not running:
                return
            worker, process, message = self._events.get()
            if process is not self._workers.get(worker):
                continue  # the last words of one that was replaced
            piece = running.get(worker)
            if message is None:
                if piece is None:
                    del self._workers[worker]
                    continue
                observer.lose(worker, piece)
                deaths[piece] += 1
                self._mourn(worker, piece, deaths[piece], observer)
                self._give(worker, piece)
            elif message["kind"] == "advance":
                del message["kind"]
                observer.advance(worker, Advance(**message))
            elif message["kind"] == "note":
                observer.note(message["text"])
            elif message["kind"] == "error":
                raise (FileNotFoundError if message["not_found"] else ValueError)(message["text"])
            elif message["kind"] == "crash":
                raise RuntimeError(f"worker {worker} failed at {_describe(piece)}:\n{message['text']}")
            else:
                del running[worker]
                idle.append(worker)
                record = read_record(self.plan.folder, piece, self.conditions)
                assert record is not None
                observer.finish(worker, piece, record)

    def process_ids(self) -> list[int]:
        """Return the ids of the workers that were started."""
        return [process.pid for process in self._workers.values()]

    def _give(self, worker: int, piece: Piece) -> None:
        process = self._workers.get(worker) or self._start(worker)
        # A broken pipe means that it just died; its end of output says so, too.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{piece.source} {piece.index}\n")
            process.stdin.flush()

    def _start(self, worker: int) -> subprocess.Popen:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "training.data.piece_worker",
                str(self.plan.output_dir),
                self.encoder,
                *self.conditions,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **ONE_THREAD},
            cwd=Path.cwd(),
        )
        self._workers[worker] = process
        threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()
        return process

    def _listen(self, worker: int, process: subprocess.Popen) -> None:
        with contextlib.suppress(ValueError):  # closed while we read: the block has ended
            for line in process.stdout:
                try:
                    self._events.put((worker, process, json.loads(line)))
                except json.JSONDecodeError:
                    sys.stderr.write(line)  # something in the environment prints while Python starts
        self._events.put((worker, process, None))

    def _mourn(self, worker: int, piece: Piece, deaths: int, observer: Observer) -> None:
        process = self._workers.pop(worker)
        process.kill()  # it has closed its output, and may still hang about
        status = process.wait()
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        if deaths >= DEATHS_PER_PIECE:
            advice = (
                "if the machine ran out of memory, give fewer workers"
                if status == -signal.SIGKILL
                else ("its own words are above")
            )
            raise ValueError(
                f"{deaths} workers died at {_describe(piece)}, the last of {cause}; {advice}; what is finished is kept"
            )
        observer.note(f"worker {worker} died of {cause} at {_describe(piece)}, which is done again")


def _describe(piece: Piece) -> str:
    span = piece.span
    where = span.file or f"documents {span.first} to {span.last - 1}"
    if span.file.endswith(".parquet"):
        where = f"row groups {span.first} to {span.last - 1} of {span.file}"
    return f"piece {piece.name} ({where})"
