"""What a preparation has to do, cut into pieces, as a file that every worker on every machine reads."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenization.injection import RULE_VERSION
from training.core.files import write_json
from training.data.corpus_recipe import CorpusArguments
from training.data.decontaminate import NgramIndex
from training.data.exact_items import FirstLines
from training.data.shards import FORMAT_VERSION, MANIFEST
from training.data.sources import Source
from training.data.spans import Span

UNFINISHED = "unfinished"  # below output_dir: the plan, and a record of each finished piece; gone with the manifest
_PLAN, _NGRAMS, _FIRST_LINES = "plan.json", "ngrams.npz", "first_lines.json"

# What decides which of the prepared documents are taken, but not how one is prepared.
_SELECTION_KEYS = ("weight", "epochs")


@dataclass(frozen=True)
class Piece:
    """The work of one worker at a time, and one shard per arm and split: part number `index` of a source."""

    source: int
    index: int
    span: Span

    @property
    def name(self) -> str:
        return f"{self.source:02d}-{self.index:05d}"


@dataclass(frozen=True)
class Plan:
    """The recipe, the spans of its sources, and what identifies the result.

    spans: per source, None for a generator, whose spans follow from their number. request: what decides the documents.
    evaluation_sets: what the test items were, None without decontamination.
    """

    args: CorpusArguments
    sources: list[Source]
    spans: list[list[Span] | None]
    request: dict[str, Any]
    evaluation_sets: dict[str, dict] | None

    @classmethod
    def make(cls, args: CorpusArguments) -> "Plan":
        """Look at all sources and test items, and write what the workers need to `output_dir/unfinished`.

        Raises `ValueError` for a source that cannot be read, or when that folder was begun for other documents.
        """
        sources, sets = args.open_sources(), args.open_evaluation_sets()
        if not sources:
            raise ValueError("sources is empty; a corpus recipe lists at least one source under `sources:`")
        request = describe_request(args, sources)
        spans = [None if source.is_synthetic else list(source.spans(args.piece_bytes)) for source in sources]
        texts = {each.label: each.texts_of_test_items() for each in sets}
        index = NgramIndex.build(texts) if sets else None
        plan = cls(args, sources, spans, request, index.describe() if index else None)
        plan._write(index, FirstLines.build(texts))
        return plan

    @classmethod
    def load(cls, output_dir: Path) -> "Plan":
        """Read the plan of a preparation that was begun in `output_dir`."""
        saved = json.loads((output_dir / UNFINISHED / _PLAN).read_text(encoding="utf-8"))
        args = CorpusArguments(**saved["args"])
        spans = [None if part is None else [Span(**span) for span in part] for part in saved["spans"]]
        return cls(args, args.open_sources(), spans, saved["request"], saved["evaluation_sets"])

    @property
    def output_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def folder(self) -> Path:
        return self.output_dir / UNFINISHED

    def piece(self, source: int, index: int) -> Piece | None:
        """Return part number `index` of a source, None behind its last."""
        spans = self.spans[source]
        if spans is None:
            span = self.sources[source].span_of_generator(index, self.args.piece_bytes)
        else:
            span = spans[index] if index < len(spans) else None
        return None if span is None else Piece(source, index, span)

    def pieces(self, source: int) -> Iterator[Piece]:
        """Yield the parts of a source in their order; endless for an endless generator."""
        index = 0
        while piece := self.piece(source, index):
            yield piece
            index += 1

    def test_items(self) -> tuple[NgramIndex | None, FirstLines | None]:
        """Load what finds copies of test items, in text and in synthetic text; None without decontamination."""
        if self.evaluation_sets is None:
            return None, None
        return NgramIndex.load(self.folder / _NGRAMS), FirstLines.load(self.folder / _FIRST_LINES)

    def text_bytes(self) -> int:
        """Return how much text the files hold, as far as that is known beforehand."""
        return sum(span.bytes for spans in self.spans if spans is not None for span in spans)

    def _write(self, index: NgramIndex | None, first_lines: FirstLines) -> None:
        spans = [None if part is None else [asdict(span) for span in part] for part in self.spans]
        # What a piece holds follows from these; which pieces are taken does not matter here.
        identity = _sha256_of(
            [_without_selection(self.request), spans, self.evaluation_sets, FORMAT_VERSION, RULE_VERSION]
            + [self.args.condition_seed] * (self.args.condition_seed != 0)
        )
        path = self.folder / _PLAN
        if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["identity"] != identity:
            raise ValueError(
                f"'{self.output_dir}' holds an interrupted preparation with other sources or settings; give the same "
                "recipe again to finish it, or delete that folder to begin anew"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if index is not None:
            index.save(self.folder / _NGRAMS)
            first_lines.save(self.folder / _FIRST_LINES)
        write_json(
            path,
            {
                "identity": identity,
                "args": self.args.to_json(),
                "request": self.request,
                "evaluation_sets": self.evaluation_sets,
                "spans": spans,
            },
        )


def describe_request(args: CorpusArguments, sources: list[Source]) -> dict[str, Any]:
    """Return what decides the documents of a corpus and their order.

    The tokenizer comes beside it, and so do the conditions: both arms have the same documents. A source that names no
    commit keeps the one that this folder was begun with, and files that are gone are what they were.
    """
    keys = (
        "injection_mode operators target_tokens dose piece_bytes validation_fraction validation_synthetic split_seed"
    ).split()
    recorded = _recorded_request(Path(args.output_dir))
    before = recorded.get("sources", [])
    sets_before = (recorded.get("decontamination") or {}).get("sets", [])
    sets = [each.fingerprint(sets_before) for each in args.open_evaluation_sets()]
    return {key: getattr(args, key) for key in keys} | {
        "sources": [source.fingerprint(before) for source in sources],
        "decontamination": {"sets": sets, "contaminated": args.contaminated} if sets else None,
    }


def _recorded_request(output_dir: Path) -> dict[str, Any]:
    """Return what a finished or interrupted preparation in this folder was asked for; empty when there is none."""
    for path in (*sorted(output_dir.glob(f"*/{MANIFEST}")), output_dir / UNFINISHED / _PLAN):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8")).get("request", {})
    return {}


def _without_selection(request: dict[str, Any]) -> dict[str, Any]:
    sources = [
        {key: value for key, value in source.items() if key not in _SELECTION_KEYS} for source in request["sources"]
    ]
    return {key: value for key, value in request.items() if key not in ("target_tokens", "dose")} | {
        "sources": sources
    }


def _sha256_of(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
