"""Finish a conversion: the gates that look at all rows together, drills, shards, and the manifest."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenization.mul_facts import FACTS
from training.core.files import write_json
from training.data.tinygsm.conversion import GATES, Row
from training.data.tinygsm.drills import FACT_PLACES, drill_rows
from training.data.tinygsm.pieces import (
    EXAMPLES_PER_GATE,
    ROW_NUMBERS,
    UNREADABLE,
    RowChecks,
    numbers_path,
    read_record,
    row_line,
    rows_path,
    whole_file,
)
from training.data.tinygsm.plan import MANIFEST, ConversionPlan

FORMAT_VERSION = 1
REPORT_DATA = "refusals.json"  # beside the manifest: some refused rows of each gate
LATE_GATES = ("duplicate", "duplicates_disagree", "contaminated", "tokens")
_MOST_REASONS = 50  # per gate in the manifest
_ROWS_PER_GROUP = 10_000  # of a Parquet file
_DRILLS = "drills.jsonl"
_KEPT = 0  # in the array of gates; the others are 1 + their place in LATE_GATES


@dataclass(frozen=True)
class _Drills:
    file: Path
    rows: int
    tokens: int
    facts: np.ndarray  # (45,)


def write_result(plan: ConversionPlan) -> dict[str, Any]:
    """Choose among the rows of all pieces, add drills, and write the shards, `refusals.json` and the manifest.

    Returns the manifest. Raises `ValueError` when too few rows are left, or drills cannot reach their minimum.
    """
    refused: dict[str, Counter] = {gate: Counter() for gate in (UNREADABLE, *GATES, *LATE_GATES)}
    examples: dict[str, list[dict]] = {gate: [] for gate in refused}
    sizes = []
    for piece in plan.pieces:
        record = read_record(plan.folder, piece)
        assert record is not None
        sizes.append(record["rows"])
        for gate, reasons in record["refused"].items():
            refused[gate].update(reasons)
            examples[gate] += record["examples"][gate][: EXAMPLES_PER_GATE - len(examples[gate])]
    numbers = np.concatenate([np.zeros(0, ROW_NUMBERS), *(load_numbers(plan, i) for i in range(len(sizes)))])
    gates = _late_gates(numbers, plan.args.max_tokens)
    parts = np.split(gates, np.cumsum(sizes)[:-1])
    kept_questions = np.sort(numbers["question"][gates == _KEPT])
    tokens = int(numbers["tokens"][gates == _KEPT].sum())
    del numbers
    facts = np.zeros(len(FACTS), np.int64)
    for index, part in enumerate(parts):
        _count_late_refusals(plan, index, part, refused, examples)
        places = load_numbers(plan, index, "facts")
        facts += np.bincount(places["fact"][part[places["document"]] == _KEPT], minlength=len(FACTS))
    natural = int((gates == _KEPT).sum())
    drills = _write_drills(plan, facts, kept_questions)
    total = natural + drills.rows
    if total < plan.args.num_shards:
        worst = max(refused, key=lambda gate: refused[gate].total())
        raise ValueError(
            f"{total} rows are left of {plan.rows_drawn:,}, too few for num_shards {plan.args.num_shards} (most fell "
            f"at gate '{worst}': {refused[worst].total():,}); lower num_shards, which keeps what is converted"
        )
    files = _write_shards(plan, _lines(plan, parts, drills), total)
    write_json(plan.output_dir / REPORT_DATA, examples)
    manifest = {
        "format_version": FORMAT_VERSION,
        "request": plan.request,
        "evaluation_sets": plan.evaluation_sets,
        "rows_in_source": plan.rows.total,
        "rows_drawn": plan.rows_drawn,
        "gates": [_gate(gate, reasons) for gate, reasons in refused.items()],
        "rows": {"tinygsm": natural, "drill": drills.rows},
        "facts_per_row": {
            "tinygsm": round(float(facts.sum()) / max(natural, 1), 4),
            "all": round(float((facts + drills.facts).sum()) / total, 4),
        },
        "facts": {
            f"{fact.a}*{fact.b}": {"tinygsm": int(facts[place]), "drill": int(drills.facts[place])}
            for place, fact in enumerate(FACTS)
        },
        "tokens": {"tinygsm": tokens, "drill": drills.tokens},
        "bytes": sum(file["bytes"] for file in files.values()),
        "files": files,
    }
    write_json(plan.output_dir / MANIFEST, manifest)
    return manifest


def load_numbers(plan: ConversionPlan, piece: int, name: str = "rows") -> np.ndarray:
    """Return `rows` or `facts` of a piece."""
    with np.load(numbers_path(plan.folder, plan.pieces[piece]), allow_pickle=False) as arrays:
        return arrays[name]


def _late_gates(numbers: np.ndarray, max_tokens: int) -> np.ndarray:
    """Return which of `LATE_GATES` each row falls at, counted from 1, or `_KEPT`; (rows,) uint8."""
    number = {name: place for place, name in enumerate(LATE_GATES, 1)}
    gates = np.full(len(numbers), _KEPT, np.uint8)
    if not len(numbers):
        return gates
    order = np.lexsort((numbers["answer"], numbers["question"]))  # stable: equal rows stay in their order
    question, answer = numbers["question"][order], numbers["answer"][order]
    new_question = np.append(True, question[1:] != question[:-1])
    first_of_run = np.flatnonzero(new_question | np.append(True, answer[1:] != answer[:-1]))  # a run has one answer
    first_of_question = np.flatnonzero(new_question)
    votes = np.diff(np.append(first_of_run, len(order)))
    question_of_run = np.searchsorted(first_of_question, first_of_run, side="right") - 1
    rows_of_question = np.diff(np.append(first_of_question, len(order)))
    has_majority = 2 * votes > rows_of_question[question_of_run]
    agreed = np.zeros(len(first_of_question), bool)
    agreed[question_of_run[has_majority]] = True
    verdict = np.where(np.repeat(agreed, rows_of_question), number["duplicate"], number["duplicates_disagree"])
    verdict[first_of_run[has_majority]] = _KEPT
    gates[order] = verdict
    for name, falls in (("contaminated", numbers["contaminated"]), ("tokens", numbers["tokens"] > max_tokens)):
        gates[(gates == _KEPT) & falls] = number[name]
    return gates


def _count_late_refusals(
    plan: ConversionPlan, index: int, gates: np.ndarray, refused: dict[str, Counter], examples: dict[str, list[dict]]
) -> None:
    """Add what falls of a piece at the late gates to the counts, and some of it to the examples."""
    piece = plan.pieces[index]
    hits = {row: (sets, ngram) for row, sets, ngram in read_record(plan.folder, piece)["hits"]}
    reasons = {
        "duplicate": "same question as a kept row, or an answer outvoted",
        "duplicates_disagree": "same question, no majority for an answer",
        "tokens": f"more than {plan.args.max_tokens}",
    }
    wanted: dict[int, tuple[str, str]] = {}
    for place, gate in enumerate(LATE_GATES, 1):
        rows = np.flatnonzero(gates == place).tolist()
        if gate == "contaminated":
            refused[gate].update(hits[row][0] for row in rows)
        elif rows:
            refused[gate][reasons[gate]] += len(rows)
        for row in rows[: EXAMPLES_PER_GATE - len(examples[gate])]:
            wanted[row] = gate, f"{hits[row][0]}: {hits[row][1]}" if gate == "contaminated" else reasons[gate]
    if not wanted:
        return
    with open(rows_path(plan.folder, piece), "rb") as lines:
        for row, line in enumerate(lines):
            if row in wanted:
                values, (gate, reason) = json.loads(line), wanted[row]
                shown = {key: values[key] for key in ("source_row", "question", "answer")}
                examples[gate].append({**shown, "reason": reason})


def _write_drills(plan: ConversionPlan, counts: np.ndarray, kept_questions: np.ndarray) -> _Drills:
    """Write the drills that bring every fact to `drill_minimum` times; `kept_questions` are sorted keys."""
    check = RowChecks(plan)
    accepted: dict[int, int] = {}  # question key and tokens of each drill, in their order
    facts = np.zeros(len(FACTS), np.int64)

    def accept(row: Row) -> bool:
        numbers, _ = check.numbers([row])
        key, tokens = int(numbers["question"][0]), int(numbers["tokens"][0])
        place = np.searchsorted(kept_questions, np.uint64(key))
        is_known = key in accepted or (place < len(kept_questions) and int(kept_questions[place]) == key)
        if is_known or numbers["contaminated"][0] or tokens > plan.args.max_tokens:
            return False
        accepted[key] = tokens
        return True

    path = plan.folder / _DRILLS
    with whole_file(path) as file:
        for number, row in enumerate(drill_rows(counts, plan.args.drill_minimum, plan.args.settings, accept)):
            file.write(row_line(row, number, "drill"))
            facts += np.bincount([FACT_PLACES[fact] for fact in row.facts], minlength=len(FACTS))
    return _Drills(path, len(accepted), sum(accepted.values()), facts)


def _lines(plan: ConversionPlan, parts: list[np.ndarray], drills: _Drills) -> Iterator[bytes]:
    """Yield the lines of the result in their order."""
    for piece, gates in zip(plan.pieces, parts, strict=True):
        with open(rows_path(plan.folder, piece), "rb") as lines:
            yield from (line for line, gate in zip(lines, gates.tolist(), strict=True) if gate == _KEPT)
    with open(drills.file, "rb") as lines:
        yield from lines


def _write_shards(plan: ConversionPlan, lines: Iterator[bytes], total: int) -> dict[str, dict]:
    """Write the lines to `num_shards` files of equal size, give or take one row; return what is in each."""
    for leftover in (*plan.output_dir.glob("train-*"), *plan.output_dir.glob(".train-*.partial")):
        leftover.unlink()  # of a try that was given up; `load_dataset` would read it
    shards, files = plan.args.num_shards, {}
    write = _write_parquet if plan.args.output_format == "parquet" else _write_jsonl
    for shard in range(shards):
        path = plan.output_dir / f"train-{shard:05d}-of-{shards:05d}.{plan.args.output_format}"
        rows = total * (shard + 1) // shards - total * shard // shards
        write(path, (next(lines) for _ in range(rows)))
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"rows": rows, "bytes": path.stat().st_size, "sha256": digest}
    assert next(lines, None) is None
    return files


def _write_jsonl(path: Path, lines: Iterable[bytes]) -> None:
    with whole_file(path) as file:
        file.writelines(lines)


def _write_parquet(path: Path, lines: Iterable[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = "question answer final_answer steps facts source_row style source".split()
    kinds = dict.fromkeys(names, pa.string()) | {
        "steps": pa.list_(pa.string()),
        "facts": pa.list_(pa.string()),
        "source_row": pa.int64(),
    }
    schema = pa.schema(kinds.items())
    with ExitStack() as stack:
        writer = stack.enter_context(pq.ParquetWriter(stack.enter_context(whole_file(path)), schema))
        rows: list[dict] = []
        for line in lines:
            rows.append(json.loads(line))
            if len(rows) == _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _gate(name: str, reasons: Counter) -> dict[str, Any]:
    """Return a row of the gate table, with the commonest reasons first."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ordered[:_MOST_REASONS])
    if rest := sum(count for _, count in ordered[_MOST_REASONS:]):
        shown["(others)"] = rest
    return {"gate": name, "rows": reasons.total(), "reasons": shown}
