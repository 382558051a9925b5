"""What interleaved benchmarks share: a process for each variant, which works only when it is told to, and ratios."""

import argparse
import multiprocessing
import statistics
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


def summarize(name: str, rounds: list[dict[str, tuple[float, float]]], unit: str, amount: int) -> dict[str, Any]:
    """Reduce the rounds, wall and CPU seconds by variant, to a variant's times, its speed and its ratios to ours."""
    wall, cpu = zip(*(times[name] for times in rounds), strict=True)
    over_ours, cpu_over_ours = ([times[name][kind] / times["ours"][kind] for times in rounds] for kind in (0, 1))
    return {
        "seconds": wall,
        "cpu_seconds": cpu,
        f"{unit}_per_second": amount / statistics.median(wall),
        "time_over_ours": over_ours,
        "median_time_over_ours": statistics.median(over_ours),
        "median_cpu_time_over_ours": statistics.median(cpu_over_ours),
    }


def at_least_two(text: str) -> int:
    """Read a number of rounds."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} rounds have no quartiles; use 2 or more")
    return int(text)
