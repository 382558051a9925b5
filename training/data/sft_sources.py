"""One source of a fine-tuning recipe: rows of files, of the Hub or made here, read and checked as conversations.

Nothing here knows a tokenizer, so both arms get the same rows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from tokenization.mul_facts import FACTS
from training.core.recipe import check_type
from training.data.annotations import NoEquations, annotations_as_equations, strip_annotations
from training.data.conversations import SHAPES, ConversationColumns, MalformedRow, Message
from training.data.rows import SUFFIXES, RowSource
from training.data.synthetic_instructions import SyntheticInstructions
from training.data.tinygsm.conversion import ConversionSettings
from training.data.tinygsm.drills import drill_rows

ANNOTATIONS = ("keep", "strip", "equations")
MALFORMED = ("error", "drop")
INSTRUCTIONS, DRILLS = "instructions", "drills"
SYNTHETIC = (DRILLS, INSTRUCTIONS, "word_problems", "multiplications")

_KEYS_OF_KINDS = {
    "factor_digits": ("multiplications",),
    "second_steps": ("multiplications",),
    "held_out_facts": (DRILLS, INSTRUCTIONS),
    "drill_minimum": (DRILLS,),
    "long_multiplication": (DRILLS,),
}
# What TRL's `DatasetConfig` calls by another name.
_TRL_NAMES = {"name": "config", "fraction": "weight"}
_TRL_BUILDERS = ("json", "parquet")
_COLUMN_KEYS = tuple(each.name for each in fields(ConversationColumns))


@dataclass(frozen=True)
class SftSource:
    """One source of a fine-tuning recipe; exactly one of `path`, `hub` and `synthetic` says what it is.

    path, hub (with config, split and revision), limit: as in `RowSource`. synthetic, with seed: `instructions`,
    `word_problems` or `multiplications` (with factor_digits and second_steps), as many as documents says; or `drills`,
    problems in the text of TinyGSM's rows (with or without long_multiplication), as many as it takes until each of the
    45 facts occurs drill_minimum times. held_out_facts: pairs of digits that never meet as factors in instructions and
    drills.
    messages, prompt, completion, question, answer: the columns, see `ConversationColumns`.
    sample: so many rows of the whole source, drawn by the mixture's seed; a smaller sample is part of a larger one.
    weight: share of the mixture's rows, relative to the other sources. epochs: how often a row may be in it to reach
    that share. held_out: a share of the source below 1, or a number of rows, kept for selection and early stopping.
    annotations: what becomes of GSM8K's `<<6*9=54>>`, one of `ANNOTATIONS`; `equations` leaves out rows where they do
    not make a true answer. malformed: whether a row that is no conversation is an `error`, or left out and counted
    (`drop`).
    """

    path: str | None = None
    hub: str | None = None
    synthetic: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    documents: int = 0
    seed: int = 0
    factor_digits: tuple = (2, 1)
    second_steps: bool = True
    drill_minimum: int = 0
    long_multiplication: bool = False
    held_out_facts: tuple = ()  # of pairs of factors
    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    question: str | None = None
    answer: str | None = None
    limit: int | None = None
    sample: int | None = None
    weight: float | None = None
    epochs: int = 1
    held_out: int | float | None = None
    annotations: str = "keep"
    malformed: str = "error"
    root: str = "."

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, check_type("a source of rows", name, getattr(self, name), hint))
        object.__setattr__(self, "held_out_facts", tuple(map(tuple, self.held_out_facts)))
        _ = self.columns
        self._check_origin()
        for key in ("limit", "sample", "epochs"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"source '{self.label}' has {key} {value}; it is a count above zero")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"source '{self.label}' has weight {self.weight}; a weight is above zero")
        if self.epochs > 1 and self.weight is None:
            raise ValueError(
                f"source '{self.label}' has epochs {self.epochs} and no weight; rows repeat within a mixture only to "
                "reach a weight, so set one, or train for more epochs"
            )
        if self.held_out is not None and not (0 < self.held_out < 1 or float(self.held_out).is_integer()):
            raise ValueError(f"source '{self.label}' has held_out {self.held_out}; give a share below 1 or a number")
        if self.held_out is not None and self.held_out <= 0:
            raise ValueError(f"source '{self.label}' has held_out {self.held_out}; leave it out to hold out nothing")
        for key, values in (("annotations", ANNOTATIONS), ("malformed", MALFORMED)):
            if getattr(self, key) not in values:
                raise ValueError(f"source '{self.label}' has {key} '{getattr(self, key)}'; choose {', '.join(values)}")

    def _check_origin(self) -> None:
        """Raise `ValueError` unless rows come from one place, with the keys that belong to it."""
        if self.synthetic not in (None, *SYNTHETIC):
            raise ValueError(f"synthetic is '{self.synthetic}'; choose {', '.join(SYNTHETIC)}")
        if self.synthetic not in (DRILLS, INSTRUCTIONS):
            _ = self._rows
        elif self.path or self.hub:
            raise ValueError(f"rows come from exactly one of path, hub and synthetic, but here from all of {self}")
        if self.synthetic == INSTRUCTIONS and self.documents < 1:
            raise ValueError(f"documents is {self.documents}; say how many instructions to make")
        if self.synthetic == DRILLS and (self.drill_minimum < 1 or self.documents):
            raise ValueError(
                f"drill_minimum is {self.drill_minimum} and documents {self.documents}; there are as many drills as "
                "it takes to write each fact so often: give drill_minimum above zero, and leave documents out"
            )
        for key, kinds in _KEYS_OF_KINDS.items():
            if getattr(self, key) != getattr(type(self), key) and self.synthetic not in kinds:
                raise ValueError(
                    f"source '{self.label}' has {key}, which is for synthetic {' and '.join(kinds)}; remove the key"
                )
        _ = SyntheticInstructions(0, held_out_facts=self.held_out_facts)

    @classmethod
    def from_recipe(cls, entry: Mapping[str, Any], root: str = ".") -> "SftSource":
        """Build a source from an entry of a recipe's `datasets:`, with these keys or those of TRL's `DatasetConfig`.

        In TRL's, `path` is a data set of the Hub, a folder (below `root`), or `json` or `parquet` with one file in
        `data_files`; `name` is our config, `fraction` our weight, and `columns` lists ours. Raises `ValueError` for
        keys that do not exist.
        """
        if not isinstance(entry, Mapping):
            raise ValueError(f"an entry of datasets is {entry!r}; write a mapping, such as `- path: rows.jsonl`")
        values = {_TRL_NAMES.get(key, key): value for key, value in entry.items()}
        if len(values) < len(entry):
            raise ValueError(f"the source {dict(entry)} gives one key by two names; leave out name or fraction")
        path, columns = values.get("path"), values.pop("columns", None)
        if "data_files" in values:
            file = values.pop("data_files")
            if path not in _TRL_BUILDERS or not isinstance(file, str):
                raise ValueError(
                    f"the source {dict(entry)} has data_files, which goes with path json or parquet and names one "
                    "file; write one entry per file"
                )
            values["path"] = file
        elif isinstance(path, str) and Path(path).suffix not in SUFFIXES and not (Path(root) / path).is_file():
            folder = Path(root) / path
            values["hub"] = str(folder) if folder.is_dir() else path
            del values["path"]
        if columns is not None:
            named = set(columns) if isinstance(columns, (list, tuple)) else set()
            shape = next((shape for shape in SHAPES if set(shape) <= named), None)
            if shape is None:
                raise ValueError(
                    f"the source {dict(entry)} has columns {columns!r}; they are messages, or prompt and completion, "
                    "or question and answer; name others as in `question: Problem`"
                )
            values = {key: key for key in shape} | values
        known = {each.name for each in fields(cls)} - {"root"}
        if unknown := set(values) - known:
            raise ValueError(
                f"the source {dict(entry)} has unknown keys {sorted(map(str, unknown))}; the keys are "
                f"{', '.join(sorted(known))}"
            )
        return cls(**values, root=root)

    @property
    def label(self) -> str:
        return self.path or self.hub or f"synthetic {self.synthetic}"

    @property
    def columns(self) -> ConversationColumns:
        """The columns that the recipe names; raises `ValueError` for a choice that makes no sense."""
        return ConversationColumns(**{key: getattr(self, key) for key in _COLUMN_KEYS})

    @property
    def _rows(self) -> "_StreamedRows":
        shared = {each.name for each in fields(RowSource)}
        return _StreamedRows(**{name: getattr(self, name) for name in shared})

    def conversations(self, left_out: Counter) -> Iterator[tuple[str, list[Message]]]:
        """Yield where each row is and its messages, in their order; `left_out` counts reasons for which rows are not.

        Raises `ValueError` that names row and column for a row that is no conversation, unless those are dropped.
        """
        columns = self.columns
        for where, row in self._named_rows():
            if not columns.shape:
                columns = ConversationColumns.find(row, where)
            try:
                yield where, self._annotated(columns.read(row, where), where)
            except NoEquations as reason:
                left_out[str(reason)] += 1
            except MalformedRow as error:
                if self.malformed == "error":
                    raise MalformedRow(f"{error} (malformed: drop leaves out all such rows)") from error
                left_out["malformed"] += 1

    def _named_rows(self) -> Iterator[tuple[str, Any]]:
        if self.synthetic == INSTRUCTIONS:
            for row in islice(SyntheticInstructions(self.documents, self.seed, self.held_out_facts), self.limit):
                yield row["id"], row
        elif self.synthetic == DRILLS:
            settings = ConversionSettings(long_multiplication=self.long_multiplication, seed=self.seed)
            drills = drill_rows(np.zeros(len(FACTS)), self.drill_minimum, settings, held_out_facts=self.held_out_facts)
            for number, drill in enumerate(islice(drills, self.limit)):
                yield f"drill {number}", {"question": drill.question, "answer": drill.text}
        else:
            yield from self._rows.stream()

    def _annotated(self, messages: list[Message], where: str) -> list[Message]:
        if self.annotations == "keep":
            return messages
        change = strip_annotations if self.annotations == "strip" else annotations_as_equations
        changed = [
            {**message, "content": change(message["content"])} if message["role"] == "assistant" else message
            for message in messages
        ]
        if empty := [message for message in changed if not message["content"].strip()]:
            raise MalformedRow(f"{where}: the {empty[0]['role']}'s message holds annotations only; drop the row")
        return changed


class _StreamedRows(RowSource):
    """A `RowSource` whose rows need not fit into memory."""

    def stream(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for where, row in islice(self._rows(), self.limit):
            if not isinstance(row, dict):
                raise ValueError(f"{where} holds {type(row).__name__}, not a mapping of columns")
            yield where, row
