"""What has been run, one line per attempt; several processes and machines may write to one ledger."""

import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEDGER = "ledger.jsonl"


@dataclass
class Ledger:
    """The attempts of an experiment in the order in which they ended, read when it is made."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        path = self.folder / LEDGER
        if path.is_file():
            # A line that a process died over is no attempt that ended.
            lines = path.read_text(encoding="utf-8").split("\n")
            self.rows = [row for line in lines if (row := _read(line)) is not None]

    def attempts(self, step: str) -> int:
        return sum(row["step"] == step for row in self.rows)

    def has_finished(self, step: str, fingerprint: str) -> bool:
        """Return whether the step has been finished by the same command and recipe."""
        last = [row for row in self.rows if row["step"] == step]
        return bool(last) and last[-1]["status"] == "finished" and last[-1]["fingerprint"] == fingerprint

    def seconds(self, program: str) -> list[float]:
        """Return how long the finished steps of a program took."""
        return [row["seconds"] for row in self.rows if row["status"] == "finished" and row["program"] == program]

    def add(self, row: dict[str, Any]) -> None:
        """Append an attempt, on disk before this returns."""
        self.rows.append(row)
        with open(self.folder / LEDGER, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a process died in the middle of its line
                    file.write(b"\n")
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _read(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
