"""The keys of a corpus recipe, and what they must hold."""

import json
from dataclasses import dataclass, field

from training.data.sources import Source


@dataclass(frozen=True)
class CorpusArguments:
    """The keys of a corpus recipe.

    sources: a list of mappings, one per source (keys: `training/data/sources.py`). source_root: where their paths
    begin. target_tokens: stop at this many training tokens, counted as plain GPT-2 tokens so that both arms get the
    same documents; without it every document is taken once. shard_tokens: size of a piece, counted alike.
    validation_fraction: share of documents held out, chosen by a hash of the text. validation_synthetic: hold out
    synthetic documents as well.
    """

    sources: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    output_dir: str = "data/corpus"
    source_root: str = "."
    conditions: list[str] = field(default_factory=lambda: ["baseline", "mul_tokens"])
    injection_mode: str = "weak"
    operators: str = "*×x"
    target_tokens: int | None = None
    shard_tokens: int = 100_000_000
    validation_fraction: float = 0.01
    validation_synthetic: bool = False
    split_seed: int = 0

    def __post_init__(self):
        if not self.sources:
            raise ValueError("sources is empty; a corpus recipe lists at least one source under `sources:`")
        if not self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions is {self.conditions}; name each condition to prepare once")
        if self.target_tokens is not None and self.target_tokens < 1:
            raise ValueError(f"target_tokens is {self.target_tokens}; leave it out to take every document once")
        if self.shard_tokens < 1:
            raise ValueError(f"shard_tokens is {self.shard_tokens}; a shard holds at least one token")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; it lies between 0 and 1, such as 0.01"
            )
        sources = self.open_sources()
        labels = [source.label for source in sources]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two sources are called alike ({', '.join(labels)}); give each its own `name`")
        unweighted = [source.label for source in sources if source.weight is None]
        if 0 < len(unweighted) < len(sources):
            raise ValueError(
                f"source '{unweighted[0]}' has no weight, but others have; give every source a weight, or none"
            )
        if self.target_tokens is None:
            weighted = [source.label for source in sources if source.weight is not None or source.epochs > 1]
            if weighted:
                raise ValueError(f"source '{weighted[0]}' has a weight or epochs, which need target_tokens")

    def open_sources(self) -> list[Source]:
        """Build the sources; raises `ValueError` for settings that make no sense."""
        return [Source.from_recipe(_read_entry(entry), self.source_root) for entry in self.sources]


def _read_entry(entry: str | dict) -> dict:
    try:
        entry = json.loads(entry) if isinstance(entry, str) else entry
    except json.JSONDecodeError as error:
        raise ValueError(f"source {entry!r} is neither a mapping nor JSON ({error}); write it as `path: …`") from error
    if not isinstance(entry, dict):
        raise ValueError(f"source {entry!r} is not a mapping; write it as `path: …`, `hub: …` or `synthetic: …`")
    return entry
