"""Measure the conversion of TinyGSM's programs on one core: rows per second, and what share of programs it reaches.

    python benchmarks/convert_tinygsm.py --programs path/to/programs.jsonl --json convert_tinygsm.json

Every round converts all rows once in each way, so that a busy minute of the machine falls on all. The share is taken
of the programs that parse and return a number, as the safe interpreter finds them.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from training.core.console import processor_name
from training.core.files import write_json
from training.data.reading import jsonl_rows
from training.data.tinygsm.conversion import STYLES, ConversionSettings, Converter, Refusal, Row, convert_program
from training.evals.equations import find_equations
from training.evals.interpreter import run_program

Pairs = list[tuple[str, str]]
Way = Callable[[str, str], Row | Refusal]


def main(args: argparse.Namespace) -> None:
    rows = [(row["question"], row["code"]) for _, row in jsonl_rows(Path(args.programs))]
    numbers = [pair for pair in rows if run_program(pair[1]).status == "ok"]
    ways = {style: lambda question, code, style=style: convert_program(question, code, style) for style in STYLES}
    ways["labelled, long multiplication"] = lambda question, code: convert_program(
        question, code, "labelled", long_multiplication=True
    )
    ways["the same behind all gates"] = Converter(ConversionSettings(long_multiplication=True))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way, rows))
    report = {
        "programs": len(rows),
        "return_a_number": len(numbers),
        "rounds": args.rounds,
        "device": processor_name(),
        "ways": {name: describe(way, rows, numbers, seconds[name]) for name, way in ways.items()},
    }
    show(report)
    if args.json:
        write_json(Path(args.json), report)


def timed(way: Way, rows: Pairs) -> float:
    """Return the processor's seconds: other programs on this machine cost none of it."""
    start = time.process_time()
    for row in rows:
        way(*row)
    return time.process_time() - start


def describe(way: Way, rows: Pairs, numbers: Pairs, seconds: list[float]) -> dict[str, Any]:
    made = [way(*pair) for pair in numbers]
    kept = [row for row in made if isinstance(row, Row)]
    equations = [one for row in kept if row.style != "program" for one in find_equations(row.text)]
    return {
        "cpu_seconds": seconds,
        "rows_per_second": len(rows) / statistics.median(seconds),
        "converted": len(kept),
        "share": len(kept) / len(numbers),
        "answers_that_are_the_program's": sum(agrees(row, code) for row, (_, code) in zip(made, numbers, strict=True)),
        "equations": len(equations),
        "false_equations": sum(not one.is_true for one in equations),
        "facts_per_row": sum(len(row.facts) for row in kept) / max(len(kept), 1),
        "refused": dict(
            Counter(f"{each.gate}: {each.reason}" for each in made if isinstance(each, Refusal)).most_common()
        ),
    }


def agrees(row: Row | Refusal, code: str) -> bool:
    """Return whether a row answers what the program returns, to the decimals that it writes."""
    if isinstance(row, Refusal):
        return False
    decimals = len(row.answer.partition(".")[2])
    error = abs(Fraction(row.answer) - Fraction(run_program(code).value))
    return error <= Fraction(1, 2 * 10**decimals) + Fraction(1, 10**6) * max(1, abs(Fraction(row.answer)))


def show(report: dict[str, Any]) -> None:
    print(f"{report['programs']:,} programs, {report['return_a_number']:,} return a number; {report['device']}")
    print(f"{'way':<32}{'rows/s':>8}{'converted':>11}{'share':>8}{'equations':>11}{'false':>7}{'facts/row':>11}")
    for name, way in report["ways"].items():
        print(
            f"{name:<32}{way['rows_per_second']:>8,.0f}{way['converted']:>11,}{way['share']:>8.2%}"
            f"{way['equations']:>11,}{way['false_equations']:>7}{way['facts_per_row']:>11.3f}"
        )
    widest = next(iter(report["ways"].values()))
    print("refused:", json.dumps(widest["refused"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, help="a JSONL file with question and code")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="where to write the figures")
    main(parser.parse_args())
