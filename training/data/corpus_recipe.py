"""The keys of a corpus recipe, and what they must hold."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenization.conditions import resolve_condition
from tokenization.fast_encoding import ENGINES
from training.data.sources import Source

CONTAMINATED = ("drop", "report")
PROGRESS_STYLES = ("auto", "workers", "lines")
EXECUTORS = ("here", "datatrove", "slurm")


@dataclass(frozen=True)
class CorpusArguments:
    """The keys of a corpus recipe: what is in the corpus.

    sources: a list of mappings, one per source (keys: `training/data/sources.py`). source_root: where their paths
    begin. target_tokens: stop at this many training tokens, counted as plain GPT-2 tokens so that both arms get the
    same documents; without it every document is taken once. dose: reach this many facts per plain token in the
    training split, by adding documents of the synthetic sources. minimum_dose: refuse a treated corpus that holds
    less. piece_bytes: text per piece of Parquet files, the work of one worker at a time and one shard; a text or JSONL
    file is one piece, and a piece of a synthetic source has piece_bytes / 8192 documents. validation_fraction: share
    of documents held out, chosen by a hash of the text. validation_synthetic: hold out synthetic documents as well.
    decontaminate: a list of sources (same keys) whose texts are test items; contaminated: `drop` or only `report` the
    documents that share 13 words in a row with one (synthetic documents: the first line).
    """

    sources: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    output_dir: str = "data/corpus"
    source_root: str = "."
    conditions: list[str] = field(default_factory=lambda: ["baseline", "mul_tokens"])
    injection_mode: str = "weak"
    operators: str = "*×x"
    condition_seed: int = 0
    target_tokens: int | None = None
    dose: float | None = None
    minimum_dose: float = 1e-4
    piece_bytes: int = 2**27
    validation_fraction: float = 0.01
    validation_synthetic: bool = False
    split_seed: int = 0
    decontaminate: list[str] = field(default_factory=list)  # like sources
    contaminated: str = "drop"

    def __post_init__(self):
        if not self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions is {self.conditions}; name each condition to prepare once")
        for condition in self.conditions:
            resolve_condition(condition, self.injection_mode, self.operators, self.condition_seed)
        if self.target_tokens is not None and self.target_tokens < 1:
            raise ValueError(f"target_tokens is {self.target_tokens}; leave it out to take every document once")
        if self.dose is not None and not 0 < self.dose < 0.5:
            raise ValueError(f"dose is {self.dose}; it is facts per plain token, such as 1e-3")
        if not 0 <= self.minimum_dose < 0.5:
            raise ValueError(f"minimum_dose is {self.minimum_dose}; it is facts per plain token, 0 to allow any")
        if self.piece_bytes < 1:
            raise ValueError(f"piece_bytes is {self.piece_bytes}; a piece holds at least one byte of text")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; it lies between 0 and 1, such as 0.01"
            )
        if not 0 <= self.split_seed < 2**63:
            raise ValueError(f"split_seed is {self.split_seed}; it is a whole number from 0 to 2^63 - 1")
        if self.contaminated not in CONTAMINATED:
            raise ValueError(f"contaminated is '{self.contaminated}'; choose {' or '.join(CONTAMINATED)}")
        self._check_sources(self.open_sources())
        sets = self.open_evaluation_sets()
        if endless := [source.label for source in sets if source.is_endless]:
            raise ValueError(f"set '{endless[0]}' of decontaminate needs `documents`, how many items it has")
        labels = [source.label for source in sets]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two sets of decontaminate are called alike ({', '.join(labels)}); give each a `name`")

    def open_sources(self) -> list[Source]:
        """Build the sources; raises `ValueError` for settings that make no sense."""
        return [Source.from_recipe(_read_entry(entry), self.source_root) for entry in self.sources]

    def open_evaluation_sets(self) -> list[Source]:
        """Build the sources of test items; raises `ValueError` for settings that make no sense."""
        return [Source.from_recipe(_read_entry(entry), self.source_root) for entry in self.decontaminate]

    def is_filler(self, source: Source) -> bool:
        """Return whether a source is there to reach the dose, and taken in as far as that needs."""
        return self.dose is not None and source.is_synthetic

    def to_json(self) -> dict[str, Any]:
        """Return the keys as plain JSON types, from which `CorpusArguments(**…)` builds the same."""
        return asdict(self)

    def _check_sources(self, sources: list[Source]) -> None:
        labels = [source.label for source in sources]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two sources are called alike ({', '.join(labels)}); give each its own `name`")
        fillers = [source for source in sources if self.is_filler(source)]
        others = [source for source in sources if not self.is_filler(source)]
        if sources and self.dose is not None and not (fillers and others):
            raise ValueError(
                f"dose is {self.dose}, which mixes synthetic sources into others, but the recipe has "
                f"{len(fillers)} synthetic and {len(others)} other; add a source of the missing kind, or leave dose "
                "out"
            )
        for group in (fillers, others):
            unweighted = [source.label for source in group if source.weight is None]
            if 0 < len(unweighted) < len(group):
                raise ValueError(
                    f"source '{unweighted[0]}' has no weight, but others have; give every source a weight, or none"
                )
        for source in others:
            if source.is_endless:
                raise ValueError(
                    f"synthetic source '{source.label}' needs `documents`, how many to make; only with a dose is it "
                    "taken in as far as needed"
                )
            if self.target_tokens is None and (source.weight is not None or source.epochs > 1):
                raise ValueError(f"source '{source.label}' has a weight or epochs, which need target_tokens")
        for source in fillers:
            if source.epochs > 1:
                raise ValueError(f"source '{source.label}' has epochs {source.epochs}, but a dose takes new documents")


@dataclass(frozen=True)
class PreparationArguments:
    """How a corpus is prepared; none of this changes what is in it.

    workers: how many processes, every core unless set; on Slurm, how many tasks at a time. encoder: `tiktoken`, or the
    faster `gigatoken`, which has to prove itself equal first. progress: `auto` (a bar on a terminal, lines elsewhere),
    `workers` (a line per worker as well) or `lines`. executor: `here`, or a pipeline of datatrove on this machine
    (`datatrove`) or on a cluster (`slurm`, with `slurm_partition`, `slurm_time` and `slurm_memory_gb` per task).
    describe: print and draw what the finished corpus in this folder holds, and do nothing else.
    """

    workers: int | None = None
    encoder: str = "tiktoken"
    progress: str = "auto"
    executor: str = "here"
    slurm_partition: str | None = None
    slurm_time: str = "04:00:00"
    slurm_memory_gb: int = 2
    describe: str | None = None

    def __post_init__(self):
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; at least one process does the work")
        choices = {"encoder": ENGINES, "progress": PROGRESS_STYLES, "executor": EXECUTORS}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} is '{getattr(self, key)}'; choose {' or '.join(allowed)}")
        if self.executor == "slurm" and not self.slurm_partition:
            raise ValueError("executor slurm needs slurm_partition, the partition that the tasks are sent to")

    @property
    def processes(self) -> int:
        """How many processes work here: as asked, or one per core that this process may use."""
        return self.workers or len(os.sched_getaffinity(0))


def _read_entry(entry: str | dict) -> dict:
    try:
        entry = json.loads(entry) if isinstance(entry, str) else entry
    except json.JSONDecodeError as error:
        raise ValueError(f"source {entry!r} is neither a mapping nor JSON ({error}); write it as `path: …`") from error
    if not isinstance(entry, dict):
        raise ValueError(f"source {entry!r} is not a mapping; write it as `path: …`, `hub: …` or `synthetic: …`")
    return entry
