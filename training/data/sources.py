"""Where documents come from: local text, JSONL and Parquet files, Hub data sets, and the synthetic generators."""

import hashlib
import json
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from training.core.recipe import check_type
from training.data.synthetic import GENERATORS, SyntheticDocuments

SUFFIXES = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Source:
    """One source of a corpus recipe; exactly one of `path`, `hub` and `synthetic` says what it is.

    path: a `.txt`, `.jsonl` or `.parquet` file or a folder of them, below the recipe's `source_root`.
    hub: a data set's name on the Hub (or the folder of one), streamed; with `config`, `split` and `revision`.
    synthetic: a generator of `training/data/synthetic.py`; with `documents`, `seed` and `held_out_facts`.
    text_field or template: which field is the text, or a format string over the fields (`"{question}\\n{answer}"`).
    document_start: for `.txt`, a regular expression; each line that it matches begins a document. Without it a file
    is one. weight: share of the corpus in bytes of text, relative to the other sources; needs `target_tokens`.
    epochs: how often the source may be read to reach its share.
    """

    name: str = ""
    path: str | None = None
    hub: str | None = None
    synthetic: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    text_field: str = "text"
    template: str | None = None
    document_start: str | None = None
    documents: int = 0
    seed: int = 0
    held_out_facts: tuple = ()  # of pairs of factors
    weight: float | None = None
    epochs: int = 1
    root: str = "."

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, check_type("source", name, getattr(self, name), hint))
        kinds = [kind for kind in ("path", "hub", "synthetic") if getattr(self, kind)]
        if len(kinds) != 1:
            raise ValueError(
                f"a source needs exactly one of path, hub and synthetic, but has {kinds or 'none of them'}: {self}"
            )
        if self.synthetic and self.synthetic not in GENERATORS:
            raise ValueError(f"unknown synthetic source '{self.synthetic}'; there are {', '.join(GENERATORS)}")
        if self.synthetic and self.documents < 1:
            raise ValueError(f"synthetic source '{self.synthetic}' needs `documents`, how many to make, at least 1")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"source '{self.label}' has weight {self.weight}; a weight is above zero")
        if self.epochs < 1:
            raise ValueError(f"source '{self.label}' has epochs {self.epochs}; it is read at least once")
        if not all(isinstance(pair, (list, tuple)) for pair in self.held_out_facts):
            raise ValueError(
                f"source '{self.label}': held_out_facts is {list(self.held_out_facts)}; write a list of pairs, such "
                "as [[6, 9]]"
            )
        object.__setattr__(self, "held_out_facts", tuple(tuple(pair) for pair in self.held_out_facts))
        if self.synthetic:
            SyntheticDocuments(self.synthetic, self.documents, self.seed, self.held_out_facts)
        try:
            re.compile(self.document_start or "")
            fields_named = [
                field for _, field, _, _ in string.Formatter().parse(self.template or "") if field is not None
            ]
        except (re.error, ValueError) as error:
            raise ValueError(f"source '{self.label}': document_start or template is malformed: {error}") from error
        if not all(field.isidentifier() for field in fields_named):
            raise ValueError(
                f"source '{self.label}': template {self.template!r} may name fields only, as in "
                f"'{{question}}\\n{{answer}}'"
            )

    @classmethod
    def from_recipe(cls, entry: dict[str, Any], root: str) -> "Source":
        """Build a source from a recipe's mapping; raises `ValueError` for keys that do not exist."""
        known = {field.name for field in fields(cls)} - {"root"}
        if unknown := set(entry) - known:
            raise ValueError(
                f"source {entry} has unknown keys {sorted(unknown)}; the keys are {', '.join(sorted(known))}"
            )
        return cls(**entry, root=root)

    @property
    def label(self) -> str:
        return self.name or self.path or self.hub or str(self.synthetic)

    @property
    def is_synthetic(self) -> bool:
        return self.synthetic is not None

    def documents_once(self) -> Iterator[str]:
        """Yield the text of every document, once, in a fixed order; blank documents are left out."""
        if self.synthetic:
            texts = iter(SyntheticDocuments(self.synthetic, self.documents, self.seed, self.held_out_facts))
        elif self.hub:
            texts = self._hub_texts()
        else:
            texts = (text for file in self.files for text in self._file_texts(file))
        for number, text in enumerate(texts):
            try:
                blank = not text.encode("utf-8").strip()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"document {number} of source '{self.label}' holds half of a surrogate pair at character "
                    f"{error.start}, which is no Unicode text; repair or drop that row"
                ) from error
            if not blank:
                yield text

    @cached_property
    def files(self) -> list[Path]:
        """The local files, sorted by name; raises `FileNotFoundError` when there are none."""
        path = Path(self.root) / str(self.path)
        found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise FileNotFoundError(
                f"source '{self.label}': there is no "
                f"{'file with ending ' + ', '.join(SUFFIXES) if path.is_dir() else 'file'} at '{path}'; paths are "
                f"taken from source_root ('{self.root}')"
            )
        if found[0].suffix not in SUFFIXES:
            raise ValueError(f"source '{self.label}': '{found[0]}' is not one of {', '.join(SUFFIXES)}")
        return found

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the documents of this source: its settings, and the content of its files or its
        revision."""
        settings = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name != "root" and getattr(self, field.name) != field.default
        }
        if self.path:
            settings["files"] = [
                {"name": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file)} for file in self.files
            ]
        if self.hub:
            settings["revision"] = self._hub_revision()
        return json.loads(json.dumps(settings))

    def _file_texts(self, file: Path) -> Iterator[str]:
        if file.suffix == ".txt":
            yield from self._text_documents(file)
        elif file.suffix == ".jsonl":
            for number, line in enumerate(_lines(file), 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError as error:
                        raise ValueError(
                            f"{file}, line {number} is not JSON ({error}); repair or remove the line"
                        ) from error
                    yield self._text_of(row, f"{file}, line {number}")
        else:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(file) as table:
                columns = None if self.template else [self.text_field]
                if columns and self.text_field not in table.schema_arrow.names:
                    raise ValueError(self._missing_field(str(file), table.schema_arrow.names))
                row = 0
                for batch in table.iter_batches(batch_size=1024, columns=columns):
                    for fields_of_row in batch.to_pylist():
                        yield self._text_of(fields_of_row, f"{file}, row {row}")
                        row += 1

    def _text_documents(self, file: Path) -> Iterator[str]:
        if self.document_start is None:
            yield "".join(_lines(file))
            return
        start = re.compile(self.document_start)
        document: list[str] = []
        for line in _lines(file):
            if start.search(line.rstrip("\n")) and document:
                yield "".join(document)
                document = []
            document.append(line)
        yield "".join(document)

    def _hub_texts(self) -> Iterator[str]:
        from datasets import load_dataset

        rows = load_dataset(self.hub, self.config, split=self.split, revision=self._hub_revision(), streaming=True)
        for number, row in enumerate(rows):
            yield self._text_of(row, f"{self.hub}, row {number}")

    def _hub_revision(self) -> str | None:
        """Return the commit that is read, so that the manifest pins it even where the recipe says only a branch."""
        if Path(str(self.hub)).is_dir():
            return self.revision
        return _hub_commit(str(self.hub), self.revision)

    def _text_of(self, row: dict[str, Any], where: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.template or "") if name is not None]
            empty = [name for name in names if row[name] is None]
            text = self.template.format(**row) if self.template else row[self.text_field]
        except (KeyError, TypeError) as error:
            raise ValueError(
                self._missing_field(where, row if isinstance(row, dict) else type(row).__name__)
            ) from error
        if empty:
            raise ValueError(f"{where}: field '{empty[0]}' of the template is null; repair or drop that row")
        if not isinstance(text, str):
            raise ValueError(f"{where}: field '{self.text_field}' holds {type(text).__name__}, not text")
        return text

    def _missing_field(self, where: str, present: Any) -> str:
        wanted = f"template {self.template!r}" if self.template else f"text_field '{self.text_field}'"
        names = ", ".join(present) if not isinstance(present, str) else present
        return (
            f"{where}: {wanted} of source '{self.label}' does not fit its fields ({names}); set text_field or template"
        )


_hub_commits: dict[tuple[str, str | None], str] = {}


def _hub_commit(repository: str, revision: str | None) -> str:
    """Ask the Hub once per process: a branch that moves between two passes would mix two corpora."""
    if (repository, revision) not in _hub_commits:
        from huggingface_hub import HfApi

        _hub_commits[repository, revision] = HfApi().dataset_info(repository, revision=revision).sha
    return _hub_commits[repository, revision]


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


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
