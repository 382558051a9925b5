"""Small fine-tuning sources for tests: questions written to files, and a `SftSource` of them."""

import json

from training.data.sft_sources import SftSource


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(count, name="q"):
    return [{"question": f"{name}{i}?", "answer": f"{i}"} for i in range(count)]


def source_of(folder, rows, name="rows", **keys) -> SftSource:
    """Write rows, or so many questions, below a folder, and return the source that reads them."""
    rows = questions(rows, name) if isinstance(rows, int) else rows
    return SftSource(path=write_rows(folder / f"{name}.jsonl", rows).name, root=str(folder), **keys)


def asked_of(dataset):
    """Return the first question of each row of a mixture."""
    return [next(each["content"] for each in row["messages"] if each["role"] == "user") for row in dataset]
