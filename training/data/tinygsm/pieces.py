"""Convert one piece of the drawn rows, and keep what came of it until all pieces are there.

A piece is three files in `unfinished/`: its rows as JSON lines, the numbers by which rows are compared over all
pieces, and last a record, which says that it is done.
"""

import contextlib
import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tokenization import CorpusEncoder
from training.core.files import partial_path, sync_folder, write_json
from training.data import hub
from training.data.records import FACT_PLACE
from training.data.tinygsm.conversion import Refusal, Row
from training.data.tinygsm.drills import FACT_PLACES
from training.data.tinygsm.plan import ConversionPlan
from training.data.tinygsm.source_rows import Piece

UNREADABLE = "fields"  # the gate before the converter's: a row without two texts
EXAMPLES_PER_GATE = 3
# What is needed of a row to compare it with all others: keys of its question and answer, its plain GPT-2 tokens.
ROW_NUMBERS = np.dtype([("question", "<u8"), ("answer", "<u8"), ("tokens", "<u4"), ("contaminated", "?")])
_ROWS_AT_ONCE = 2000  # of which the encoder and the search for test items are fast
_NOT_IN_KEY = re.compile(r"[\W_]+")


class PieceConverter:
    """Converts pieces of one plan, one after the other."""

    def __init__(self, plan: ConversionPlan):
        self.plan = plan
        self.check = RowChecks(plan)
        self.converter = plan.args.open_converter()

    def convert(self, piece: Piece) -> dict[str, Any]:
        """Convert a piece, write its files, and return its record. A network failure begins it anew."""
        return hub.with_patience(lambda: self._convert(piece), piece.name)

    def _convert(self, piece: Piece) -> dict[str, Any]:
        refused: dict[str, Counter] = defaultdict(Counter)
        examples: dict[str, list[dict]] = defaultdict(list)
        hits: list[list] = []
        numbers, facts, rows, drawn = [np.zeros(0, ROW_NUMBERS)], [np.zeros(0, FACT_PLACE)], 0, 0
        source = self.plan.rows.read(piece)
        with whole_file(rows_path(self.plan.folder, piece)) as file:
            while batch := list(islice(source, _ROWS_AT_ONCE)):
                drawn += len(batch)
                kept: list[tuple[int, Row]] = []
                for (number, question, code), row in zip(batch, self._outcomes(batch), strict=True):
                    if isinstance(row, Refusal):
                        refused[row.gate][row.reason] += 1
                        if len(examples[row.gate]) < EXAMPLES_PER_GATE:
                            examples[row.gate].append(_example(number, question, code, row.reason))
                    else:
                        kept.append((number, row))
                batch_numbers, batch_hits = self.check.numbers([row for _, row in kept])
                numbers.append(batch_numbers)
                hits += [[rows + place, *hit] for place, *hit in batch_hits]
                for number, row in kept:
                    file.write(row_line(row, number, "tinygsm"))
                places = [
                    (rows + place, FACT_PLACES[fact]) for place, (_, row) in enumerate(kept) for fact in row.facts
                ]
                facts.append(np.array(places, FACT_PLACE))
                rows += len(kept)
            size = file.tell()
        assert drawn == piece.drawn
        with whole_file(numbers_path(self.plan.folder, piece)) as file:
            np.savez(file, rows=np.concatenate(numbers), facts=np.concatenate(facts))
        record = {
            "first_row": piece.first_row,
            "drawn": drawn,
            "rows": rows,
            "bytes": size,
            "refused": refused,
            "examples": examples,
            "hits": hits,  # row in the piece, sets, the first 13 words that they share
        }
        write_json(record_path(self.plan.folder, piece), record)
        return record

    def _outcomes(self, batch: list[tuple[int, Any, Any]]) -> list[Row | Refusal]:
        broken = [_refuse_broken_text(question, code) for _, question, code in batch]
        rows = [row[1:] for row, refusal in zip(batch, broken, strict=True) if refusal is None]
        converted = iter(self.converter.convert_all(rows))
        return [refusal or next(converted) for refusal in broken]


class RowChecks:
    """The numbers and findings that decide about a converted row beside its conversion."""

    def __init__(self, plan: ConversionPlan):
        self.encoder = CorpusEncoder("baseline")
        self.ngrams = plan.test_items()

    def numbers(self, rows: list[Row]) -> tuple[np.ndarray, list[tuple[int, str, str]]]:
        """Return `ROW_NUMBERS` of rows, and (place among them, sets, 13 words) of each that copies a test item."""
        texts = [f"{row.question}\n{row.text}" for row in rows]
        encoded = [text.encode() for text in texts]
        found = np.zeros(len(rows), ROW_NUMBERS)
        found["question"] = [question_key(row.question) for row in rows]
        found["answer"] = [_key(row.answer) for row in rows]
        _, found["tokens"] = self.encoder.encode_plain_documents(texts, encoded)
        hits = self.ngrams.find(texts, encoded) if self.ngrams is not None and rows else []
        found["contaminated"][[hit.document for hit in hits]] = True
        return found, [(hit.document, ", ".join(hit.sets), hit.ngram) for hit in hits]


def read_record(folder: Path, piece: Piece) -> dict[str, Any] | None:
    """Return the record of a finished piece, None for one that is to be done, also because its files are cut."""
    path = record_path(folder, piece)
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    rows = rows_path(folder, piece)
    whole = rows.is_file() and rows.stat().st_size == record["bytes"] and numbers_path(folder, piece).is_file()
    return record if whole else None


def row_line(row: Row, source_row: int, source: str) -> bytes:
    """Return a row of the result as a line of JSON.

    source: `tinygsm` or `drill`; source_row is the row's number there.
    """
    values = {
        "question": row.question,
        "answer": row.text,
        "final_answer": row.answer,
        "steps": row.steps,
        "facts": row.facts,
        "source_row": source_row,
        "style": row.style,
        "source": source,
    }
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"


def question_key(question: str) -> int:
    """Return 64 bits of a question in which only its letters, without their case, and its digits count."""
    return _key(_NOT_IN_KEY.sub("", question.casefold()))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rows_path(folder: Path, piece: Piece) -> Path:
    """Return where the converted rows of a piece are."""
    return folder / f"{piece.name}.jsonl"


def numbers_path(folder: Path, piece: Piece) -> Path:
    """Return where `rows` (`ROW_NUMBERS`) and `facts` (`FACT_PLACE`) of a piece are."""
    return folder / f"{piece.name}.npz"


def record_path(folder: Path, piece: Piece) -> Path:
    """Return the file that says a piece is done."""
    return folder / f"{piece.name}.json"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when the block ends well, and is gone when it does not."""
    partial = partial_path(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _refuse_broken_text(question: Any, code: Any) -> Refusal | None:
    for name, text in (("question", question), ("code", code)):
        if not isinstance(text, str):
            return Refusal(UNREADABLE, f"{name}: {'null' if text is None else type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:
            return Refusal(UNREADABLE, f"{name}: half of a surrogate pair")
    return None


def _example(number: int, question: Any, code: Any, reason: str) -> dict[str, Any]:
    # As ASCII where it is no Unicode text, for the record is UTF-8.
    texts = (str(text).encode("utf-8", "backslashreplace").decode() for text in (question, code))
    return dict(zip(("source_row", "question", "code", "reason"), (number, *texts, reason), strict=True))
