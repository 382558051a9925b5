"""The parts into which sources are cut, one for a worker at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

# Pieces of synthetic documents, some 150 bytes each, are far smaller than those of files: a small corpus needs few of
# them, and what is made beyond its dose is thrown away.
BYTES_PER_SYNTHETIC_DOCUMENT = 8192


@dataclass(frozen=True)
class Span:
    """A part of a source that one worker reads: row groups [first, last) of a Parquet file, documents [first, last)
    of a generator, data file `first` of `last` of a Hub data set in another format, or a local file as a whole.

    bytes: how much text it holds, as far as that is known beforehand.
    """

    file: str = ""
    first: int = 0
    last: int = 0
    bytes: int = 0


def runs_of_row_groups(name: str, sizes: list[int], piece_bytes: int) -> Iterator[Span]:
    """Cut a file's row groups, given by their bytes, into spans of about `piece_bytes`."""
    first, held = 0, 0
    for index, size in enumerate(sizes):
        held += size
        if held >= piece_bytes or index == len(sizes) - 1:
            yield Span(name, first, index + 1, held)
            first, held = index + 1, 0
