"""Write what a person should read about a conversion, as Markdown and as one HTML file.

Both hold the gate table, how often each fact occurs, rows drawn at random, and some refused rows of each gate.
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.core.files import write_text
from training.data.reading import jsonl_rows, parquet_groups, parquet_rows
from training.data.tinygsm.shards import REPORT_DATA
from training.data.tinygsm.source_rows import Sample

ROWS_SHOWN = 100
_REASONS_SHOWN = 4
_FACTS_NOTE = "How often each fact stands in the answers; behind a plus, in drills."
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .2rem .7rem; border-bottom: 1px solid #ddd; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
article { margin: 1.2rem 0; padding: .6rem 1rem; border: 1px solid #ddd; border-radius: .4rem; }
article p { margin: .2rem 0; }
pre { margin: .5rem 0; padding: .5rem; background: #f6f6f6; white-space: pre-wrap; overflow-wrap: anywhere; }
.note { color: #666; font-size: .9rem; }
"""


def write_report(folder: Path, manifest: dict[str, Any], seed: int = 0) -> list[Path]:
    """Write `report.md` and `report.html` of a finished conversion, and return their paths.

    The rows shown are drawn by `seed` from all that were written, drills included.
    """
    rows = random_rows(folder, manifest, ROWS_SHOWN, seed)
    refusals = json.loads((folder / REPORT_DATA).read_text(encoding="utf-8"))
    written = []
    for name, write in (("report.md", _markdown), ("report.html", _html)):
        write_text(folder / name, write(manifest, rows, refusals))
        written.append(folder / name)
    return written


def random_rows(folder: Path, manifest: dict[str, Any], wanted: int, seed: int) -> list[dict[str, Any]]:
    """Return `wanted` of the written rows, or all if there are fewer, in the order in which they stand."""
    total = sum(file["rows"] for file in manifest["files"].values())
    drawn = Sample.draw(total, min(wanted, total), seed).contains(0, total).tolist()
    rows, first = [], 0
    for name, file in manifest["files"].items():
        here = drawn[first : first + file["rows"]]
        if any(here):
            rows += [row for is_drawn, row in zip(here, _rows_of(folder / name), strict=True) if is_drawn]
        first += file["rows"]
    return rows


def gate_table(manifest: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    """Return gate, rows refused, their share of the drawn rows, and the commonest reasons, for each gate in order."""
    drawn = manifest["rows_drawn"]
    table = []
    for gate in manifest["gates"]:
        reasons = list(gate["reasons"].items())
        shown = "; ".join(f"{reason} {count:,}" for reason, count in reasons[:_REASONS_SHOWN])
        more = f"; {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
        table.append((gate["gate"], gate["rows"], f"{gate['rows'] / drawn:.2%}", shown + more))
    kept = manifest["rows"]["tinygsm"]
    return [*table, ("kept", kept, f"{kept / drawn:.2%}", "")]


def fact_table(manifest: dict[str, Any]) -> list[list[str]]:
    """Return the lines of the table of products from 1 to 9, its head first: how often each fact was written."""
    digits = range(1, 10)
    table = [["*", *map(str, digits)]]
    for a in digits:
        counts = [manifest["facts"].get(f"{a}*{b}") for b in digits]
        cells = [f"{n['tinygsm']:,}" + (f" + {n['drill']:,}" if n["drill"] else "") if n else "" for n in counts]
        table.append([str(a), *cells])
    return table


def _rows_of(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        yield from (row for _, row in jsonl_rows(path))
    else:
        sizes, _, _ = parquet_groups(str(path), "")
        yield from (row for _, row in parquet_rows(str(path), 0, len(sizes), None))


def _summary(manifest: dict[str, Any]) -> str:
    rows, settings = manifest["rows"], manifest["request"]["settings"]
    given = ", ".join(f"{key} {value}" for key, value in settings.items())
    return (
        f"{manifest['rows_drawn']:,} of {manifest['rows_in_source']:,} source rows were drawn, {rows['tinygsm']:,} "
        f"kept, and {rows['drill']:,} drills added ({given}). A kept row holds {manifest['facts_per_row']['tinygsm']} "
        f"facts on average, with drills {manifest['facts_per_row']['all']}."
    )


def _markdown(manifest: dict[str, Any], rows: list[dict], refusals: dict[str, list[dict]]) -> str:
    parts = ["# TinyGSM conversion", _summary(manifest), "## Gates"]
    table = ["| gate | rows | share | commonest reasons |", "|---|---:|---:|---|"]
    table += [f"| {gate} | {count:,} | {share} | {_cell(why)} |" for gate, count, share, why in gate_table(manifest)]
    parts += ["\n".join(table), "## Facts"]
    head, *table = fact_table(manifest)
    facts = [f"| {' | '.join(map(_cell, head))} |", "|---|" + "---:|" * 9]
    facts += [f"| {' | '.join(map(_cell, line))} |" for line in table]
    parts += [_FACTS_NOTE, "\n".join(facts), f"## {len(rows)} rows at random"]
    for row in rows:
        parts += [f"### {row['source']}, row {row['source_row']}", _fenced(row["question"]), _fenced(row["answer"])]
    parts.append("## Refused rows")
    for gate, examples in refusals.items():
        for each in examples:
            parts += [f"### {gate}, row {each['source_row']}", _fenced(each["reason"]), _fenced(each["question"])]
            parts.append(_fenced(each.get("code") or each.get("answer") or ""))
    return "\n\n".join(parts) + "\n"


def _html(manifest: dict[str, Any], rows: list[dict], refusals: dict[str, list[dict]]) -> str:
    escape = html.escape
    gates = "".join(
        f'<tr><td>{escape(gate)}</td><td class="number">{count:,}</td><td class="number">{share}</td>'
        f"<td>{escape(why)}</td></tr>\n"
        for gate, count, share, why in gate_table(manifest)
    )
    facts = "".join(_html_line(line) for line in fact_table(manifest))
    shown = "".join(
        f'<article><p class="note">{escape(row["source"])}, row {row["source_row"]}</p>'
        f"<p>{escape(row['question'])}</p><pre>{escape(row['answer'])}</pre></article>\n"
        for row in rows
    )
    refused = "".join(
        f'<article><p class="note">{escape(gate)}, row {each["source_row"]}: {escape(each["reason"])}</p>'
        f"<p>{escape(each['question'])}</p><pre>{escape(each.get('code') or each.get('answer') or '')}</pre>"
        "</article>\n"
        for gate, examples in refusals.items()
        for each in examples
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>TinyGSM conversion</title><style>{_STYLE}</style></head>
<body>
<h1>TinyGSM conversion</h1>
<p>{escape(_summary(manifest))}</p>
<h2>Gates</h2>
<table><tr><th>gate</th><th>rows</th><th>share</th><th>commonest reasons</th></tr>
{gates}</table>
<h2>Facts</h2>
<p>{escape(_FACTS_NOTE)}</p>
<table>
{facts}</table>
<h2>{len(rows)} rows at random</h2>
{shown}<h2>Refused rows</h2>
{refused}</body>
</html>
"""


def _html_line(cells: list[str]) -> str:
    first, *others = (html.escape(cell) for cell in cells)
    return f"<tr><th>{first}</th>" + "".join(f'<td class="number">{cell}</td>' for cell in others) + "</tr>\n"


def _cell(text: str) -> str:
    """Return text as a table cell shows it: nothing in it is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    """Return text as a code block, in a fence that is longer than any in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
