"""One sequence of documents from several sources, which can be taken up again where it was left."""

from collections.abc import Iterator
from dataclasses import dataclass

from training.data.sources import Source


@dataclass
class Cursor:
    """How far a source has been read."""

    documents: int = 0  # over all epochs
    bytes: int = 0
    finished: bool = False


class Mixture:
    """The one sequence of documents that all conditions share."""

    def __init__(self, sources: list[Source], cursors: list[Cursor], weighted: bool):
        self.sources, self.cursors, self.weighted = sources, cursors, weighted
        self._readers = [self._reader(index) for index in range(len(sources))]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield (source, text): one source after the other, or by weight, the source furthest behind its share of
        bytes."""
        while unfinished := [index for index, cursor in enumerate(self.cursors) if not cursor.finished]:
            if self.weighted:
                index = min(
                    range(len(self.sources)), key=lambda i: (self.cursors[i].bytes / self.sources[i].weight, i)
                )
                if self.cursors[index].finished:
                    return  # its share cannot be filled; the caller says so
            else:
                index = unfinished[0]
            text = next(self._readers[index], None)
            if text is None:
                self.cursors[index].finished = True
                continue
            self.cursors[index].documents += 1
            self.cursors[index].bytes += len(text.encode("utf-8"))
            yield index, text

    def _reader(self, index: int) -> Iterator[str]:
        skip = self.cursors[index].documents
        for _ in range(self.sources[index].epochs):
            for text in self.sources[index].documents_once():
                if skip > 0:
                    skip -= 1
                else:
                    yield text
