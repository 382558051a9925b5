"""Read what the programs write: JSON, and JSON lines."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON file, None where there is none; raises `ValueError` with the file's name for what is no JSON."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; write it again") from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON lines file, none where there is no file.

    What is behind the last end of line was never finished and does not count. Raises `ValueError` that names the line
    for one that is no JSON.
    """
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not valid JSON: {error}; write the file again") from error
    return rows
