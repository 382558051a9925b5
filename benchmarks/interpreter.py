"""Measure the safe interpreter on one core: programs per second, and the worst that hostile programs cost.

    python benchmarks/interpreter.py --programs path/to/programs.jsonl --json interpreter.json

Every round runs all programs of the file and all hostile programs of the tests once, so that a busy minute of the
machine falls on both. A hostile program's time is wall time, its best of all rounds: what it takes when nothing else
disturbs. Memory is measured in a process of its own: how far its resident peak grows over that of a harmless program,
and by tracemalloc how much each program takes alone.
"""

import argparse
import runpy
import statistics
import time
import tracemalloc
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from workers import at_least_two, order, start_worker

from training.core.console import processor_name
from training.core.files import write_json
from training.data.reading import jsonl_rows
from training.evals.interpreter import run_program

HOSTILE_PROGRAMS = Path(__file__).resolve().parents[1] / "tests" / "training" / "hostile_programs.py"
HARMLESS = "def f():\n    return 6 * 9\n"
SHOWN = 5  # of the slowest and the largest


def main(args: argparse.Namespace) -> None:
    sources = [row["code"] for _, row in jsonl_rows(args.programs)]
    hostile = hostile_programs()
    rounds = []
    for _ in range(args.rounds):
        rounds.append((timed(sources), {name: milliseconds(source) for name, source in hostile.items()}))
    wall, cpu = zip(*(seconds for seconds, _ in rounds), strict=True)
    best = {name: min(times[name] for _, times in rounds) for name in hostile}
    verdicts = Counter(run_program(source).status for source in sources)
    grown, traced = order(start_worker(measure_memory, "memory"), "measure")
    report = {
        "device": processor_name(),
        "rounds": args.rounds,
        "programs": {
            "programs": len(sources),
            "statuses": dict(verdicts.most_common()),
            "seconds": wall,
            "cpu_seconds": cpu,
            "programs_per_second": len(sources) / statistics.median(wall),
            "programs_per_cpu_second": len(sources) / statistics.median(cpu),
        },
        "hostile": {
            "programs": len(hostile),
            "statuses": dict(Counter(run_program(source).status for source in hostile.values()).most_common()),
            "milliseconds": largest(best),
            "megabytes_traced": largest(traced),
            "megabytes_of_the_process": grown,
        },
    }
    show(report)
    if args.json:
        write_json(args.json, report)


def hostile_programs() -> dict[str, str]:
    """Return the programs of the tests, which are no package, by their names."""
    groups = runpy.run_path(str(HOSTILE_PROGRAMS))["HOSTILE"].values()
    return {name: source for group in groups for name, source in group.items()}


def timed(sources: list[str]) -> tuple[float, float]:
    """Return the wall and CPU seconds of running all programs."""
    wall, cpu = time.perf_counter(), time.process_time()
    for source in sources:
        run_program(source)
    return time.perf_counter() - wall, time.process_time() - cpu


def milliseconds(source: str) -> float:
    start = time.perf_counter()
    run_program(source)
    return (time.perf_counter() - start) * 1e3


def measure_memory(pipe: Connection, name: str) -> None:
    """Run all hostile programs when told to, and answer with what the process grew by and what each program took."""
    pipe.recv()
    hostile = hostile_programs()
    run_program(HARMLESS)
    before = resident_peak()
    for source in hostile.values():
        run_program(source)
    grown = resident_peak() - before
    traced = {}
    for program, source in hostile.items():  # only now, because tracing takes memory too
        tracemalloc.start()
        run_program(source)
        traced[program] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    pipe.send((grown, traced))


def resident_peak() -> float:
    """Return the largest resident memory of this process so far, in MiB; Linux tells it."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return next(int(line.split()[1]) / 2**10 for line in status.splitlines() if line.startswith("VmHWM"))


def largest(amounts: dict[str, float]) -> dict[str, float]:
    return dict(sorted(amounts.items(), key=lambda item: -item[1])[:SHOWN])


def show(report: dict[str, Any]) -> None:
    programs, hostile = report["programs"], report["hostile"]
    print(
        f"{programs['programs']:,} programs ({programs['statuses'].get('ok', 0):,} ok): "
        f"{programs['programs_per_second']:,.0f} per second, {programs['programs_per_cpu_second']:,.0f} per second of "
        f"the processor; {report['device']}"
    )
    print(f"{hostile['programs']} hostile programs; the process grew by {hostile['megabytes_of_the_process']:.1f} MiB")
    for unit, amounts in (("ms", hostile["milliseconds"]), ("MiB", hostile["megabytes_traced"])):
        for name, amount in amounts.items():
            print(f"{name:<40}{amount:>9.2f} {unit}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True, help="a JSONL file with programs as `code`")
    parser.add_argument("--rounds", type=at_least_two, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    main(parser.parse_args())
