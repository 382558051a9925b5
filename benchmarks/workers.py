"""What interleaved benchmarks share: a process for each variant, which works only when it is told to."""

import argparse
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def start_worker(work: Callable, name: str, *arguments: Any) -> Connection:
    """Start the process of a variant, which runs `work(pipe, name, *arguments)`, and return our end of its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=work, args=(theirs, name, *arguments), name=name, daemon=True).start()
    theirs.close()  # so that the end of the worker ends our wait for it
    return ours


def order(worker: Connection, command: str) -> Any:
    """Let one worker do one thing while all the others wait, and return its answer."""
    try:
        worker.send(command)
        return worker.recv()
    except (EOFError, BrokenPipeError):
        raise SystemExit(
            "a worker ended before its time; its error is above (out of memory kills without one)"
        ) from None


def at_least_two(text: str) -> int:
    """Read a number of rounds."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} rounds have no quartiles; use 2 or more")
    return int(text)
