"""Read the rows of text, JSONL and Parquet files, with errors that name the file and the place."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.data import hub

# Enough rows at a time that a batch costs little, and few enough that long documents do not fill the memory.
MOST_ROWS_PER_BATCH = 128
BYTES_PER_BATCH = 2**20


def text_documents(file: Path, document_start: str | None) -> Iterator[str]:
    """Yield the documents of a text file: each begins at a line that the pattern matches; without one it is one."""
    if document_start is None:
        yield "".join(_lines(file))
        return
    start = re.compile(document_start)
    document: list[str] = []
    for line in _lines(file):
        if start.search(line.rstrip("\n")) and document:
            yield "".join(document)
            document = []
        document.append(line)
    yield "".join(document)


def jsonl_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of a JSONL file, without empty lines."""
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is not JSON ({error}); repair or remove the line") from error


def parquet_groups(name: str, text_field: str, download: bool = False) -> tuple[list[int], list[str], str]:
    """Return the bytes of `text_field` (or of all columns, without it) per row group, the columns, and its type.

    Raises `ValueError` for a file that is no Parquet.
    """

    def read() -> tuple[list[int], list[str], str]:
        with _open_parquet(name, download) as table:
            columns, metadata = table.schema_arrow, table.metadata
            sizes = []
            for index in range(metadata.num_row_groups):
                group = metadata.row_group(index)
                parts = [group.column(i) for i in range(group.num_columns)]
                texts = [part for part in parts if part.path_in_schema == text_field] or parts
                sizes.append(sum(part.total_uncompressed_size for part in texts))
            kind = str(columns.field(text_field).type) if text_field in columns.names else "nothing"
            return sizes, columns.names, kind

    return hub.with_patience(lambda: _named(read, f"{name}"), f"reading the footer of {name}")


def parquet_rows(
    name: str, first_group: int, last_group: int, columns: list[str] | None, download: bool = False
) -> Iterator[tuple[int, dict]]:
    """Yield (row number in the file, values) of row groups [first_group, last_group), in order.

    Raises `ValueError` that names the row group where the file is damaged or a text is not UTF-8.
    """
    with _named(lambda: _open_parquet(name, download), name) as table:
        row = sum(table.metadata.row_group(index).num_rows for index in range(first_group))
        for group in range(first_group, last_group):
            where = f"{name}, row group {group}"
            facts = table.metadata.row_group(group)
            rows = BYTES_PER_BATCH * facts.num_rows // max(facts.total_byte_size, 1)
            batches = _named(
                lambda group=group, rows=rows: table.iter_batches(
                    max(1, min(rows, MOST_ROWS_PER_BATCH)), row_groups=[group], columns=columns, use_threads=False
                ),
                where,
            )
            while True:
                values = _named(lambda batches=batches: _next_rows(batches), where)
                if values is None:
                    break
                for value in values:
                    yield row, value
                    row += 1


def _next_rows(batches: Iterator) -> list[dict] | None:
    batch = next(batches, None)
    return None if batch is None else batch.to_pylist()


def _open_parquet(name: str, download: bool):
    import pyarrow.parquet

    # Without a buffer per column chunk: a row group of a gigabyte must not need a gigabyte.
    source = hub.open_remote(name, download) if hub.is_remote(name) else name
    return pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=2**20)


def _named(read: Callable, where: str):
    """Call `read` and name the place when the file is at fault."""
    import pyarrow

    try:
        return read()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{where} cannot be read ({error}); replace the file, or leave it out") from error
    except OSError as error:
        if type(error) is not OSError:
            raise  # a missing file, a lost connection
        raise ValueError(f"{where} cannot be read ({error}); replace the file, or leave it out") from error


def _lines(file: Path) -> Iterator[str]:
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number} is not UTF-8 ({error.reason}, byte 0x{line[error.start]:02x}); convert "
                    "the file, for example with `iconv -f latin1 -t utf-8`, or leave it out"
                ) from error
