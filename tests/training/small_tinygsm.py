"""Small inputs in TinyGSM's template, and conversions of them in this process."""

import json
from pathlib import Path

from training.data.tinygsm.drills import synthetic_row
from training.data.tinygsm.recipe import ConversionArguments
from training.data.tinygsm.work import convert

SMALL = {"num_shards": 2, "rows_per_piece": 40, "workers": 1, "path": "rows.jsonl"}


def problems(count: int, seed: int = 3) -> list[dict]:
    """Rows that convert."""
    return [dict(zip(("question", "code"), synthetic_row(seed, index), strict=True)) for index in range(count)]


def problem(question: str, *lines: str) -> dict:
    """One row: the program's lines but the last, which is added."""
    body = "".join(f"    {line}\n" for line in (*lines, "return result"))
    return {"question": question, "code": f"def simple_math_problem() -> int:\n{body}"}


def write_rows(folder: Path, rows: list, name: str = "rows.jsonl") -> Path:
    """Write rows as JSON lines, without changing what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def arguments(folder: Path, output: str = "out", **keys) -> ConversionArguments:
    return ConversionArguments(**{**SMALL, "source_root": str(folder), "output_dir": str(folder / output), **keys})


def convert_here(folder: Path, output: str = "out", report=lambda line: None, **keys) -> dict | None:
    return convert(arguments(folder, output, **keys), report)


def convert_rows(folder: Path, rows: list, **keys) -> tuple[dict, list[dict]]:
    """Convert rows, and return the manifest and the rows that were written."""
    write_rows(folder, rows)
    manifest = convert_here(folder, **{"num_shards": 1, **keys})
    return manifest, written(folder / "out")


def written(folder: Path) -> list[dict]:
    lines = [line for file in sorted(folder.glob("train-*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def content(folder: Path) -> dict[str, bytes]:
    """What a conversion is, byte for byte; `run.json` says when and where."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("run.json", ".lock")
    }


def refused(manifest: dict) -> dict[str, int]:
    """The gates at which rows fell."""
    return {gate["gate"]: gate["rows"] for gate in manifest["gates"] if gate["rows"]}
