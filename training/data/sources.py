"""Where documents come from: local text, JSONL and Parquet files, Hub data sets, and the synthetic generators."""

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, get_type_hints

from training.core.recipe import check_type
from training.data import hub
from training.data.reading import jsonl_rows, parquet_groups, parquet_rows, text_documents
from training.data.spans import BYTES_PER_SYNTHETIC_DOCUMENT, Span, runs_of_row_groups
from training.data.synthetic import GENERATORS, SyntheticDocuments

SUFFIXES = (".txt", ".jsonl", ".parquet")
_MULTIPLICATIONS = "multiplications"


@dataclass(frozen=True)
class Source:
    """One source of a corpus recipe; exactly one of `path`, `hub` and `synthetic` says what it is.

    path: a `.txt`, `.jsonl` or `.parquet` file or a folder of them, below the recipe's `source_root`.
    hub: a data set's name on the Hub (or the folder of one); with `config`, `split` and `revision`. Its files are
    read in place, or with `download` fetched whole into the Hub's cache first.
    synthetic: a generator of `training/data/synthetic.py`; with `documents`, `seed` and `held_out_facts`; or
    `multiplications`, the problems of fine-tuning (see `training/data/rows.py`), with `factor_digits` and
    `second_steps`.
    text_field or template: which field is the text, or a format string over the fields (`"{question}\\n{answer}"`).
    each: a field that holds a list; its row gives one text per item, the item standing for the list in the template.
    document_start: for `.txt`, a regular expression; each line that it matches begins a document. Without it a file
    is one. weight: share of the corpus in plain GPT-2 tokens, relative to the other sources; needs `target_tokens`.
    epochs: how often the source may be read to reach its share.
    """

    name: str = ""
    path: str | None = None
    hub: str | None = None
    synthetic: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    download: bool = False
    text_field: str = "text"
    template: str | None = None
    each: str | None = None
    document_start: str | None = None
    documents: int = 0
    seed: int = 0
    held_out_facts: tuple = ()  # of pairs of factors
    factor_digits: tuple = (2, 1)
    second_steps: bool = True
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
        kinds = [*GENERATORS, _MULTIPLICATIONS]
        if self.synthetic and self.synthetic not in kinds:
            raise ValueError(f"unknown synthetic source '{self.synthetic}'; there are {', '.join(kinds)}")
        own = ("held_out_facts",) if self.synthetic == _MULTIPLICATIONS else ("factor_digits", "second_steps")
        for key in own:
            if getattr(self, key) != getattr(type(self), key):
                raise ValueError(
                    f"source '{self.label}' has {key} {getattr(self, key)}, which it does not know; remove it"
                )
        if self.documents < 0:
            raise ValueError(f"source '{self.label}' has documents {self.documents}; it is a count")
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
            self._generator(0, 1)
        if self.each and not self.template:
            raise ValueError(f"source '{self.label}' has each: {self.each}, which needs a template that names it")
        try:
            re.compile(self.document_start or "")
            named = self._template_fields
        except (re.error, ValueError) as error:
            raise ValueError(f"source '{self.label}': document_start or template is malformed: {error}") from error
        if not all(field.isidentifier() for field in named):
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

    @property
    def is_endless(self) -> bool:
        """Whether it is a generator that nobody told where to stop."""
        return self.is_synthetic and self.documents == 0

    def span_of_generator(self, index: int, piece_bytes: int) -> Span | None:
        """Return the part number `index` of a generator, None behind its last."""
        step = max(1, piece_bytes // BYTES_PER_SYNTHETIC_DOCUMENT)
        first = index * step
        if self.documents and first >= self.documents:
            return None
        return Span(first=first, last=min(first + step, self.documents) if self.documents else first + step)

    def spans(self, piece_bytes: int) -> Iterator[Span]:
        """Yield the parts of the source in their order, of about `piece_bytes` of text each; endless for an endless
        generator. Raises `ValueError` for a Parquet file that cannot be read or lacks the fields."""
        if self.is_synthetic:
            index = 0
            while span := self.span_of_generator(index, piece_bytes):
                yield span
                index += 1
            return
        names = [str(file) for file in self.files]
        parquet = [name.endswith(".parquet") for name in names]
        if self.hub and any(parquet) and not all(parquet):
            raise ValueError(
                f"data set '{self.hub}' has Parquet files and others in split '{self.split}'; choose a config of one "
                "kind, or download it and name the files by path"
            )
        if self.hub and not any(parquet):
            # Another format has no row groups; `datasets` reads it, file by file.
            yield from (Span(file=name, first=index, last=len(names)) for index, name in enumerate(names))
            return
        with ThreadPoolExecutor(8) as pool:  # footers come over the network
            tables = pool.map(lambda name: self._row_groups(name) if name.endswith(".parquet") else None, names)
            for name, groups in zip(names, tables, strict=True):
                if groups is None:
                    yield Span(file=name, bytes=Path(name).stat().st_size)
                else:
                    yield from runs_of_row_groups(name, groups, piece_bytes)

    def documents_in(self, span: Span, left_out: Counter) -> Iterator[tuple[str, bytes]]:
        """Yield each document of a span as text and as UTF-8; `left_out` counts rows that are `null` or `blank`."""
        for number, text in enumerate(self._texts(span)):
            if text is None:
                left_out["null"] += 1
                continue
            try:
                encoded = text.encode("utf-8")
            except UnicodeEncodeError as error:
                where = f" of '{span.file}'" if span.file else ""
                raise ValueError(
                    f"document {number}{where} of source '{self.label}' holds half of a surrogate pair at character "
                    f"{error.start}, which is no Unicode text; repair or drop that row"
                ) from error
            if encoded.isspace() or not encoded.strip():
                left_out["blank"] += 1
                continue
            yield text, encoded

    def documents_once(self) -> Iterator[str]:
        """Yield the text of every document, once, in a fixed order, without null and blank ones."""
        for span in self.spans(piece_bytes=2**27):
            yield from (text for text, _ in self.documents_in(span, Counter()))

    def texts_of_test_items(self) -> list[str]:
        """Return the text of every item of an evaluation set, with patience for the network.

        Raises `ValueError` for a set without any, which could find no copies.
        """
        texts = hub.with_patience(lambda: list(self.documents_once()), f"reading {self.label}")
        if not texts:
            raise ValueError(f"evaluation set '{self.label}' holds no text; check its path, split and template")
        return texts

    @cached_property
    def files(self) -> list[Path | str]:
        """The files in their order, by name; raises `FileNotFoundError` when there are none."""
        if self.hub:
            revision = self.revision if hub.is_folder(self.hub) else self._hub_revision()
            return list(hub.data_files(self.hub, self.config, self.split, revision))
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

    @property
    def ignored_files(self) -> list[str]:
        """The files of a folder that are none of the kinds that are read."""
        path = Path(self.root) / str(self.path)
        if not self.path or not path.is_dir():
            return []
        return sorted(str(file) for file in path.rglob("*") if file.is_file() and file.suffix not in SUFFIXES)

    def fingerprint(self, recorded: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        """Return what decides the documents of this source: its settings, and the content of its files or its
        revision.

        `recorded` are fingerprints taken before. One with the same settings decides the commit behind a branch, which
        may have moved, and stands in for local files that are no longer there.
        """
        settings = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("root", "download") and getattr(self, field.name) != field.default
        }
        settings = json.loads(json.dumps(settings))
        same = [each for each in recorded if _without_content(each) == _without_content(settings)]
        if self.hub and not hub.is_folder(self.hub):
            if not hub.is_commit(self.revision):
                settings["branch"] = self.revision or "main"
                of_branch = [each["revision"] for each in same if each.get("branch") == settings["branch"]]
                if of_branch:
                    hub.remember_commit(self.hub, self.revision, of_branch[0])
            settings["revision"] = self._hub_revision()
        elif not self.is_synthetic:
            try:
                files = [Path(file) for file in self.files]
            except FileNotFoundError:
                if same:
                    return settings | {"files": same[0]["files"]}
                raise
            with ThreadPoolExecutor(8) as pool:  # hashing releases Python's lock
                hashes = pool.map(_sha256, files)
                settings["files"] = [
                    {"name": file.name, "bytes": file.stat().st_size, "sha256": digest}
                    for file, digest in zip(files, hashes, strict=True)
                ]
        return settings

    def _generator(self, first: int, last: int) -> Iterable[str]:
        if self.synthetic == _MULTIPLICATIONS:
            from training.data.tinygsm.drills import multiplication_row  # TinyGSM's conversion, which few sources need

            settings = (self.factor_digits, self.second_steps)
            return ["\n".join(multiplication_row(self.seed, index, *settings)) for index in range(first, last)]
        return SyntheticDocuments(str(self.synthetic), last, self.seed, self.held_out_facts, first)

    def _texts(self, span: Span) -> Iterator[str | None]:
        if self.is_synthetic:
            yield from self._generator(span.first, span.last)
        elif span.file.endswith(".txt") and self.path:
            yield from text_documents(Path(span.file), self.document_start)
        elif span.file.endswith(".jsonl") and self.path:
            for number, row in jsonl_rows(Path(span.file)):
                yield from self._texts_of(row, f"{span.file}, line {number}")
        elif span.file.endswith(".parquet"):
            columns = None if self.template else [self.text_field]
            for row, values in parquet_rows(span.file, span.first, span.last, columns, self.download):
                yield from self._texts_of(values, f"{span.file}, row {row}")
        else:
            from datasets import load_dataset

            # The commit of the plan: a branch may have moved since.
            revision = hub.commit_in(span.file) or self.revision
            rows = load_dataset(self.hub, self.config, split=self.split, revision=revision, streaming=True).shard(
                num_shards=span.last, index=span.first
            )
            for number, row in enumerate(rows):
                yield from self._texts_of(row, f"{span.file}, row {number}")

    def _row_groups(self, name: str) -> list[int]:
        needed = self._template_fields + ([self.each] if self.each else []) if self.template else [self.text_field]
        sizes, present, kind = parquet_groups(name, self.text_field, self.download)
        if set(needed) - set(present):
            raise ValueError(self._missing_field(name, present))
        if not self.template and kind not in ("string", "large_string", "string_view"):
            raise ValueError(f"{name}: column '{self.text_field}' of source '{self.label}' holds {kind}, not text")
        return sizes

    def _hub_revision(self) -> str | None:
        """Return the commit that is read, so that the manifest pins it even where the recipe says only a branch."""
        return self.revision if hub.is_folder(str(self.hub)) else hub.commit_of(str(self.hub), self.revision)

    @cached_property
    def _template_fields(self) -> list[str]:
        return [field for _, field, _, _ in string.Formatter().parse(self.template or "") if field is not None]

    def _texts_of(self, row: dict[str, Any], where: str) -> Iterator[str | None]:
        if self.each is None:
            yield self._text_of(row, where)
            return
        items = row.get(self.each) if isinstance(row, dict) else None
        if not isinstance(items, list):
            raise ValueError(f"{where}: field '{self.each}' holds {type(items).__name__}, not a list")
        for item in items:
            yield self._text_of({**row, self.each: item}, where)

    def _text_of(self, row: dict[str, Any], where: str) -> str | None:
        try:
            empty = [name for name in self._template_fields if row[name] is None]
            text = self.template.format(**row) if self.template else row[self.text_field]
        except (KeyError, TypeError) as error:
            raise ValueError(
                self._missing_field(where, row if isinstance(row, dict) else type(row).__name__)
            ) from error
        except ValueError as error:  # a format that the value does not know
            raise ValueError(f"{where}: template {self.template!r} of source '{self.label}': {error}") from error
        if empty:
            raise ValueError(f"{where}: field '{empty[0]}' of the template is null; repair or drop that row")
        if not isinstance(text, str | None):
            raise ValueError(f"{where}: field '{self.text_field}' holds {type(text).__name__}, not text")
        return text

    def _missing_field(self, where: str, present: Any) -> str:
        wanted = f"template {self.template!r}" if self.template else f"text_field '{self.text_field}'"
        names = ", ".join(present) if not isinstance(present, str) else present
        return (
            f"{where}: {wanted} of source '{self.label}' does not fit its fields ({names}); set text_field or template"
        )


def _without_content(fingerprint: dict[str, Any]) -> dict[str, Any]:
    content = ("files", "revision", "branch", "weight", "epochs")
    return {key: value for key, value in fingerprint.items() if key not in content}


def _sha256(file: Path) -> str:
    facts = file.stat()
    return _sha256_of_content(file, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of_content(file: Path, size: int, changed: int) -> str:
    """Hash a file once per process, as long as nobody changes it."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
