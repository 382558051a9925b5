"""The rows of a source that a conversion draws, cut into pieces for workers.

Rows are numbered throughout, over the files in the order of their names. A row is drawn by a hash of its number, so
that every worker knows by itself which rows are its own, and 100,000 rows are part of 500,000.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow.parquet

from training.data import hub
from training.data.reading import parquet_groups, parquet_rows
from training.data.tinygsm.drills import synthetic_row
from training.data.tinygsm.recipe import ConversionArguments, row_files

_ROWS_PER_MARK = 256  # a piece of a JSONL file begins at most so many lines before its first drawn row
_MASK = 2**64 - 1


@dataclass(frozen=True)
class Sample:
    """The rows whose hash is at most `highest`; made by `draw`."""

    seed: int
    highest: int

    @classmethod
    def draw(cls, total: int, wanted: int | None, seed: int) -> "Sample":
        """Choose exactly `wanted` of `total` rows, or all of them without a number.

        Raises `ValueError` when there are fewer.
        """
        if wanted is None:
            return cls(seed, _MASK)
        if wanted > total:
            raise ValueError(
                f"num_rows is {wanted:,}, but the source holds {total:,} rows; lower num_rows, or leave it out for all"
            )
        # The hash is a bijection of 64-bit numbers: no two rows share one.
        return cls(seed, int(np.partition(_hashes(seed, 0, total), wanted - 1)[wanted - 1]))

    def contains(self, first: int, last: int) -> np.ndarray:
        """Return for each of the rows [first, last) whether it is drawn, bool of shape (rows,)."""
        return _hashes(self.seed, first, last) <= np.uint64(self.highest)


@dataclass(frozen=True)
class Piece:
    """The work of one worker at a time: the drawn ones of the rows [first_row, last_row).

    file: its number in `DrawnRows.files`, 0 for synthetic rows. begin: byte of a JSONL file from which to read, `skip`
    rows before `first_row`; first row group of a Parquet file. end: row group behind the last. drawn: how many rows.
    """

    number: int
    file: int
    first_row: int
    last_row: int
    drawn: int
    begin: int = 0
    end: int = 0
    skip: int = 0

    @property
    def name(self) -> str:
        return f"piece-{self.number:05d}"


@dataclass(frozen=True)
class _Table:
    """Where the rows of a file are.

    bounds: row numbers in the file at which its parts begin, and how many rows it has, (parts + 1,) int64. offsets:
    the bytes of a JSONL file at which the parts begin, (parts,); None for Parquet, whose parts are its row groups.
    """

    bounds: np.ndarray
    offsets: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return int(self.bounds[-1])


class DrawnRows:
    """The drawn rows of a recipe's source; made by `find`, or from what that found.

    files: paths, or addresses on the Hub. total: how many rows the source holds.
    """

    def __init__(self, args: ConversionArguments, files: list[str], total: int, sample: Sample):
        self.args, self.files, self.total, self.sample = args, files, total, sample

    @classmethod
    def find(cls, args: ConversionArguments) -> tuple["DrawnRows", list[Piece]]:
        """Count the rows of the source, draw from them, and cut what is drawn into pieces.

        Raises `ValueError` for a file that cannot be read or lacks a field, and for a source with too few rows.
        """
        files = open_files(args)
        if args.synthetic:
            tables = [_Table(np.array([0, args.documents]))]
        else:
            with ThreadPoolExecutor(8) as pool:  # footers come over the network
                tables = list(pool.map(lambda file: _look_at(file, args), files))
        total = sum(table.rows for table in tables)
        if not total:
            raise ValueError(
                f"the source '{args.path or args.hub}' holds no rows; check its path, hub_config and split"
            )
        rows = cls(args, files, total, Sample.draw(total, args.num_rows, args.sample_seed))
        pieces: list[Piece] = []
        first_row = 0
        for number, table in enumerate(tables):
            pieces += rows._cut(table, number, first_row, len(pieces))
            first_row += table.rows
        return rows, pieces

    def read(self, piece: Piece) -> Iterator[tuple[int, Any, Any]]:
        """Yield row number, question and code of each drawn row of a piece, in order; the values as they stand.

        Raises `ValueError` that names the file and row that cannot be read or lacks a field.
        """
        drawn = self.sample.contains(piece.first_row, piece.last_row).tolist()
        question, code = self.args.question_field, self.args.code_field
        if self.args.synthetic:
            for row, wanted in enumerate(drawn, piece.first_row):
                if wanted:
                    yield row, *synthetic_row(self.args.seed, row)
            return
        file = self.files[piece.file]
        if file.endswith(".parquet"):
            values = parquet_rows(file, piece.begin, piece.end, [question, code], self.args.download)
            rows = (row for wanted, row in zip(drawn, values, strict=True) if wanted)
        else:
            rows = _json_rows(file, piece, drawn)
        numbers = (row for row, wanted in enumerate(drawn, piece.first_row) if wanted)
        for number, (where, values) in zip(numbers, rows, strict=True):
            try:
                yield number, values[question], values[code]
            except (KeyError, TypeError) as error:
                names = ", ".join(values) if isinstance(values, dict) else type(values).__name__
                raise ValueError(
                    f"{file}, row {where} lacks '{question}' or '{code}' (it has {names}); set question_field and "
                    "code_field"
                ) from error

    def _cut(self, table: _Table, file: int, first_of_file: int, first_number: int) -> list[Piece]:
        """Cut the drawn rows of a file into runs of `rows_per_piece`, those of Parquet at the next row group."""
        drawn = np.flatnonzero(self.sample.contains(first_of_file, first_of_file + table.rows))
        step = self.args.rows_per_piece
        if self.args.synthetic or table.offsets is not None:
            cuts = [*range(0, len(drawn), step), len(drawn)]
        else:
            cuts = [0]
            for before in np.searchsorted(drawn, table.bounds[1:]).tolist():  # drawn rows before each group's end
                if before - cuts[-1] >= step or before == len(drawn) > cuts[-1]:
                    cuts.append(before)
        pieces = []
        for first, last in pairwise(cuts):
            if first == last:
                continue
            rows = (int(drawn[first]), int(drawn[last - 1]) + 1)
            part = int(np.searchsorted(table.bounds, rows[0], side="right")) - 1
            place: dict[str, int] = {}
            if table.offsets is not None:
                place = {"begin": int(table.offsets[part]), "skip": rows[0] - int(table.bounds[part])}
            elif not self.args.synthetic:
                end = int(np.searchsorted(table.bounds, rows[1]))
                rows = (int(table.bounds[part]), int(table.bounds[end]))
                place = {"begin": part, "end": end}
            first_row, last_row = (first_of_file + row for row in rows)
            pieces.append(Piece(first_number + len(pieces), file, first_row, last_row, last - first, **place))
        return pieces


def open_files(args: ConversionArguments) -> list[str]:
    """Return the files of the recipe's source in the order of their names; JSONL files of the Hub are fetched."""
    source = args.open_source()
    if source is None:
        return []
    files = []
    for file in row_files(source):
        if hub.is_remote(file) and not file.endswith(".parquet"):
            with hub.with_patience(
                lambda file=file: hub.open_remote(file, download=True), f"fetching {file}"
            ) as whole:
                file = whole.name
        files.append(file)
    return files


def _look_at(file: str, args: ConversionArguments) -> _Table:
    return _look_at_parquet(file, args) if file.endswith(".parquet") else _look_at_lines(file)


def _look_at_lines(file: str) -> _Table:
    """Note where every so many rows of a JSONL file begin; blank lines are no rows."""
    rows = offset = 0
    offsets = []
    with open(file, "rb") as lines:
        for line in lines:
            if not line.isspace():
                if rows % _ROWS_PER_MARK == 0:
                    offsets.append(offset)
                rows += 1
            offset += len(line)
    return _Table(np.array([*range(0, rows, _ROWS_PER_MARK), rows]), np.array(offsets, np.int64))


def _look_at_parquet(file: str, args: ConversionArguments) -> _Table:
    _, columns, _ = parquet_groups(file, args.code_field, args.download)  # its errors name the file
    if missing := {args.question_field, args.code_field} - set(columns):
        raise ValueError(
            f"{file} has no column '{min(missing)}' (it has {', '.join(columns)}); set question_field and code_field"
        )

    def rows_per_group() -> list[int]:
        source = hub.open_remote(file, args.download) if hub.is_remote(file) else file
        metadata = pyarrow.parquet.read_metadata(source)
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    rows = hub.with_patience(rows_per_group, f"reading the footer of {file}")
    return _Table(np.cumsum([0, *rows]))


def _json_rows(file: str, piece: Piece, drawn: list[bool]) -> Iterator[tuple[int, Any]]:
    """Yield (number in the source, value) of the drawn rows of a piece of a JSONL file."""
    offset = piece.begin
    row = piece.first_row - piece.skip
    with open(file, "rb") as lines:
        lines.seek(offset)
        for line in lines:
            if not line.isspace():
                if row >= piece.first_row and drawn[row - piece.first_row]:
                    yield row, _parse(line, offset, file)
                row += 1
                if row == piece.last_row:
                    return
            offset += len(line)


def _parse(line: bytes, offset: int, file: str) -> Any:
    try:
        return json.loads(line.decode("utf-8" if offset else "utf-8-sig"))
    except ValueError as error:  # of the decoder, or of the parser
        raise ValueError(
            f"{file}, line at byte {offset} is not JSON in UTF-8 ({error}); repair or remove it"
        ) from error


def _hashes(seed: int, first: int, last: int) -> np.ndarray:
    """Return the hash of each row [first, last), uint64: SplitMix64 (Steele et al. 2014) from where the seed says."""
    start = _mix(np.array([seed], np.uint64))
    return _mix(start + np.arange(first, last, dtype=np.uint64))


def _mix(numbers: np.ndarray) -> np.ndarray:
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
