"""The keys of a TinyGSM recipe, and what they must hold."""

import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from training.data.corpus_recipe import CorpusArguments
from training.data.sources import Source
from training.data.tinygsm.conversion import ConversionSettings, Converter
from training.data.tinygsm.teacher import Teacher, TeacherConverter

SYNTHETIC = "word_problem_programs"
OUTPUT_FORMATS = ("jsonl", "parquet")
SUFFIXES = (".jsonl", ".parquet")

# What decides the rows that are written, beside the content of the source and of the evaluation sets.
_DECIDING_KEYS = (
    "question_field code_field num_rows sample_seed max_tokens drill_minimum num_shards output_format".split()
)


@dataclass(frozen=True)
class ConversionArguments:
    """The keys of a TinyGSM recipe.

    The source is exactly one of `path` (a `.jsonl` or `.parquet` file or a folder of them, below `source_root`), `hub`
    (a data set's name, with `hub_config`, `split` and `revision`; with `download` Parquet files are fetched whole into
    the Hub's cache first) and `synthetic` (`word_problem_programs`, with `documents`). question_field, code_field: the
    fields that hold a problem and its program. num_rows: draw so many rows, chosen by `sample_seed` alone, so that a
    smaller draw is part of a larger one; without it all. style, long_multiplication, max_operations, seed: see
    `ConversionSettings`. max_tokens: longest row, in plain GPT-2 tokens of question and answer, so that both arms lose
    the same rows. decontaminate: a list of sources (the keys of a corpus recipe) whose texts are test items; rows that
    share 13 words in a row with one are dropped. drill_minimum: add word problems until each of the 45 facts occurs so
    often; 0 adds none. teacher_url, teacher_model, teacher_concurrency: let a model behind an OpenAI-compatible
    endpoint write the text, see `Teacher`; made again, such rows may be others.

    num_shards files of output_format `jsonl` or `parquet` are written to output_dir. rows_per_piece, workers (every
    core unless set) and shard (`2/8`: this machine does the second of eight parts) say how, and change nothing in what
    is written. report: write `report.md` and `report.html`.
    """

    path: str | None = None
    hub: str | None = None
    synthetic: str | None = None
    hub_config: str | None = None
    split: str = "train"
    revision: str | None = None
    download: bool = False
    documents: int = 0
    source_root: str = "."
    question_field: str = "question"
    code_field: str = "code"
    num_rows: int | None = None
    sample_seed: int = 0
    style: str = ConversionSettings.style
    long_multiplication: bool = ConversionSettings.long_multiplication
    max_operations: int = ConversionSettings.max_operations
    seed: int = ConversionSettings.seed
    max_tokens: int = 256
    decontaminate: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    teacher_url: str | None = None
    teacher_model: str = ""
    teacher_concurrency: int = 16
    drill_minimum: int = 0
    output_dir: str = "data/tinygsm"
    num_shards: int = 10
    output_format: str = "jsonl"
    rows_per_piece: int = 5000
    workers: int | None = None
    shard: str = "1/1"
    report: bool = False

    def __post_init__(self):
        kinds = [kind for kind in ("path", "hub", "synthetic") if getattr(self, kind)]
        if len(kinds) != 1:
            raise ValueError(
                f"a TinyGSM recipe needs exactly one of path, hub and synthetic, but has {kinds or 'none of them'}; "
                "give --path FILE, or --hub TinyGSM/TinyGSM"
            )
        if self.synthetic not in (None, SYNTHETIC):
            raise ValueError(f"synthetic is '{self.synthetic}'; the only one that writes programs is {SYNTHETIC}")
        if bool(self.synthetic) != (self.documents > 0):
            raise ValueError(
                f"documents is {self.documents} and synthetic {self.synthetic}; a synthetic source needs a number of "
                "documents above zero, and another source none"
            )
        if self.question_field == self.code_field:
            raise ValueError(f"question_field and code_field are both '{self.code_field}'; name two fields")
        for key in ("num_rows", "workers", "max_tokens", "num_shards", "rows_per_piece"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} is {value}; it is a count above zero")
        if self.drill_minimum < 0:
            raise ValueError(f"drill_minimum is {self.drill_minimum}; it is a count, 0 for no drills")
        for key in ("sample_seed", "seed"):
            if not 0 <= getattr(self, key) < 2**63:
                raise ValueError(f"{key} is {getattr(self, key)}; it is a whole number from 0 to 2^63 - 1")
        if self.output_format not in OUTPUT_FORMATS:
            raise ValueError(f"output_format is '{self.output_format}'; choose {' or '.join(OUTPUT_FORMATS)}")
        _ = self.settings, self.machine, self.teacher
        self.open_evaluation_sets()

    @property
    def settings(self) -> ConversionSettings:
        """How one program is converted; raises `ValueError` for settings that do not exist."""
        return ConversionSettings(**{each.name: getattr(self, each.name) for each in fields(ConversionSettings)})

    @property
    def teacher(self) -> Teacher | None:
        """The model that writes the text, None where the programs themselves are written out."""
        if self.teacher_url is None:
            return None
        return Teacher(self.teacher_url, self.teacher_model, self.teacher_concurrency)

    @property
    def machine(self) -> tuple[int, int]:
        """Which machine this is, counted from 0, and of how many."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard)
        number, machines = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= machines:
            raise ValueError(f"shard is '{self.shard}'; write i/n, such as 2/8 for the second of eight")
        return number - 1, machines

    @property
    def processes(self) -> int:
        """How many processes work here: as asked, or one per core that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))

    def open_converter(self) -> Converter:
        """Build what turns programs into rows."""
        return Converter(self.settings) if self.teacher is None else TeacherConverter(self.settings, self.teacher)

    def open_source(self) -> Source | None:
        """Build the source of rows, None for a synthetic one."""
        if self.synthetic:
            return None
        return Source(
            path=self.path,
            hub=self.hub,
            config=self.hub_config,
            split=self.split,
            revision=self.revision,
            download=self.download,
            root=self.source_root,
        )

    def open_evaluation_sets(self) -> list[Source]:
        """Build the sources of test items; raises `ValueError` for settings that make no sense."""
        return CorpusArguments(decontaminate=self.decontaminate, source_root=self.source_root).open_evaluation_sets()

    def request(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """Return what decides the rows that are written, as plain JSON types.

        `recorded` is the request that the folder was begun with, empty for a new one; it pins a branch of the Hub and
        stands in for files that are gone.
        """
        source = self.open_source()
        before, sets_before = recorded.get("source"), recorded.get("decontaminate", [])
        if source is None:
            identity: dict[str, Any] = {"synthetic": self.synthetic, "documents": self.documents}
        else:
            identity = source.fingerprint([before] if before else [])
        sets = [each.fingerprint(sets_before) for each in self.open_evaluation_sets()]
        keys = {key: getattr(self, key) for key in _DECIDING_KEYS}
        teacher = {"url": self.teacher.url, "model": self.teacher.model} if self.teacher else None
        return {
            "source": identity,
            **keys,
            "settings": asdict(self.settings),
            "teacher": teacher,
            "decontaminate": sets,
        }


def row_files(source: Source) -> list[str]:
    """Return the files of a source in the order of their names; raises `ValueError` for other kinds than we read."""
    files = [str(file) for file in source.files]
    if others := [file for file in files if Path(file).suffix not in SUFFIXES]:
        raise ValueError(
            f"'{others[0]}' is not one of {', '.join(SUFFIXES)}; rows have fields, so name a file or folder of these"
        )
    return files
