"""Rows of named fields, whole and in memory: test sets and other small tables, local, on the Hub, or synthetic."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from training.core.recipe import check_type
from training.data import hub
from training.data.reading import jsonl_rows, parquet_groups, parquet_rows
from training.data.synthetic import SyntheticDocuments
from training.data.tinygsm.drills import multiplication_row

SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class RowSource:
    """Where rows come from; exactly one of `path`, `hub` and `synthetic` says it.

    path: a `.jsonl`, `.json` (one list) or `.parquet` file below `root`. hub: a data set's name on the Hub (or the
    folder of one), with `config`, `split` and `revision`. synthetic: `word_problems`, or `multiplications` with
    factor_digits, so many digits in the two factors, and second_steps, whether half of them have another step; as many
    rows as documents says, drawn by seed, with `question` and `answer` (and multiplications with `result`, its number
    alone). limit: only the first so many rows.
    """

    path: str | None = None
    hub: str | None = None
    synthetic: str | None = None
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    documents: int = 0
    seed: int = 0
    factor_digits: tuple = (2, 1)
    second_steps: bool = True
    limit: int | None = None
    root: str = "."

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, check_type("a task", name, getattr(self, name), hint))
        kinds = [kind for kind in ("path", "hub", "synthetic") if getattr(self, kind)]
        if len(kinds) != 1:
            raise ValueError(f"rows come from exactly one of path, hub and synthetic, but here from {kinds or 'none'}")
        if self.synthetic not in (None, "word_problems", "multiplications"):
            raise ValueError(
                f"synthetic is '{self.synthetic}'; rows with questions and answers come from word_problems and "
                "multiplications"
            )
        if self.synthetic == "multiplications":
            _ = multiplication_row(0, 0, self.factor_digits)
        else:
            for key in ("factor_digits", "second_steps"):
                if getattr(self, key) != getattr(type(self), key):
                    raise ValueError(
                        f"{key} is {getattr(self, key)}, which is for synthetic multiplications; remove the key"
                    )
        if self.synthetic and self.documents < 1:
            raise ValueError(f"documents is {self.documents}; say how many problems to make")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is {self.limit}; leave it out to take every row")
        if self.path and Path(self.path).suffix not in SUFFIXES:
            raise ValueError(f"'{self.path}' is not a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")

    @property
    def label(self) -> str:
        return self.path or self.hub or f"synthetic {self.synthetic}"

    def read(self) -> list[dict[str, Any]]:
        """Return the rows in their order.

        Raises `FileNotFoundError` or `ValueError` that names the file, and the place in it, that cannot be read.
        """
        rows = []
        for where, row in self._rows():
            if not isinstance(row, dict):
                raise ValueError(f"{where} holds {type(row).__name__}, not a mapping of fields")
            rows.append(row)
            if len(rows) == self.limit:
                break
        if not rows:
            raise ValueError(f"'{self.label}' holds no rows")
        return rows

    def _rows(self) -> Iterator[tuple[str, Any]]:
        if self.synthetic == "multiplications":
            for index in range(self.documents):
                question, answer = multiplication_row(self.seed, index, self.factor_digits, self.second_steps)
                row = {"question": question, "answer": answer, "result": answer.rpartition("#### ")[2]}
                yield f"multiplication {index}", row
        elif self.synthetic:
            for index, text in enumerate(SyntheticDocuments(self.synthetic, self.documents, self.seed)):
                question, _, answer = text.partition("\n")
                yield f"word problem {index}", {"question": question, "answer": answer}
        elif self.path:
            yield from self._file_rows(Path(self.root) / self.path)
        else:
            yield from self._hub_rows(str(self.hub))

    def _file_rows(self, file: Path) -> Iterator[tuple[str, Any]]:
        if not file.is_file():
            raise FileNotFoundError(f"no file at '{file}'; correct path, or the folder that it is taken from")
        if file.suffix == ".parquet":
            yield from _whole_parquet(str(file))
        elif file.suffix == ".jsonl":
            yield from ((f"{file}, line {number}", row) for number, row in jsonl_rows(file))
        else:
            try:
                rows = json.loads(file.read_text(encoding="utf-8-sig"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{file} is not JSON ({error}); for one object per line call it .jsonl") from error
            if not isinstance(rows, list):
                raise ValueError(f"{file} holds {type(rows).__name__}, not a list of rows")
            yield from ((f"{file}, row {number}", row) for number, row in enumerate(rows))

    def _hub_rows(self, repository: str) -> Iterator[tuple[str, Any]]:
        revision = self.revision if hub.is_folder(repository) else hub.commit_of(repository, self.revision)
        names = hub.data_files(repository, self.config, self.split, revision)
        if all(name.endswith(".parquet") for name in names):
            for name in names:
                yield from _whole_parquet(name)
        else:
            from datasets import load_dataset

            rows = load_dataset(repository, self.config, split=self.split, revision=revision)
            yield from ((f"{repository}, row {number}", row) for number, row in enumerate(rows))


def _whole_parquet(name: str) -> Iterator[tuple[str, Any]]:
    sizes, _, _ = parquet_groups(name, "")
    yield from ((f"{name}, row {number}", row) for number, row in parquet_rows(name, 0, len(sizes), None))


def fields_of(row: dict[str, Any], template: str, where: str) -> str:
    """Fill a format string such as `{Body} {Question}` from a row.

    Raises `ValueError` that names the row and what it has when a field is missing or null.
    """
    try:
        text = template.format(**row)
    except (KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{where}: {template!r} needs a field {error} that the row does not have; it has {', '.join(row)}"
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {template!r} is malformed, or does not fit the row: {error}") from error
    empty = [name for name in row if row[name] is None and "{" + name in template]
    if empty:
        raise ValueError(f"{where}: field '{empty[0]}' of {template!r} is null; repair or drop that row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where} holds half of a surrogate pair at character {error.start}; repair the row"
        ) from error
    return text


def rows_sha256(rows: list[dict[str, Any]]) -> str:
    """Return one hash of rows and their order, so that results can say which items they are about."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=True, default=str).encode() + b"\n")
    return digest.hexdigest()
