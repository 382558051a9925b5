"""Prepare a tokenised corpus from sources, for all conditions in one pass over the same documents.

`prepare_corpus` writes `<output_dir>/<condition>/` (see `training/data/shards.py`),
`<output_dir>/held_out-*.jsonl`, the original text of the validation documents, and
`<output_dir>/contaminated-*.jsonl`, the documents that share words with test items. The work is cut into pieces; a piece
is done when its record is in `<output_dir>/unfinished/`, a folder that goes when the manifests are written.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data.corpus_recipe import CorpusArguments
from training.data.manifest import below_minimum_dose, tokenizer_identity, write_manifests
from training.data.pieces import read_record
from training.data.plan import UNFINISHED, Piece, Plan, describe_request
from training.data.progress import Progress
from training.data.selection import Chosen, Cut, Stock, reach_dose, take
from training.data.shards import MANIFEST, read_manifest
from training.data.worker_pool import WorkerPool, prepare_here

# FineWeb-Edu has about 4.7 bytes of text per GPT-2 token, markup and code have fewer.
BYTES_OF_TEXT_PER_TOKEN = 3.5
BYTES_ON_DISK_PER_TOKEN = 2.1  # uint16, and the rows about documents


def prepare_corpus(
    args: CorpusArguments,
    report: Callable[[str], None] = print,
    workers: int = 1,
    encoder: str = "tiktoken",
    progress: str = "lines",
) -> dict[str, dict]:
    """Prepare whatever `args` asks for that is not there yet, and return the manifest of each condition.

    With one worker the work is done in this process, else by `workers` processes; the result is the same. A finished
    corpus is left alone, an interrupted preparation goes on with the pieces that are missing, and two processes that
    want the same folder take turns. Raises `ValueError` when the folder holds another corpus, when a source runs out
    before the target, when a dose is not reached, or when there is nothing to train or validate on.
    """
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with alone_in(output_dir):
        missing = missing_conditions(args)
        if missing:
            plan = Plan.make(args)
            check_disk(plan, missing)
            with Progress(args, plan.text_bytes(), progress, report) as display:
                preparation = _Preparation(plan, missing, display)
                preparation.run(workers, encoder)
            write_manifests(plan, missing, preparation.choose(), report)
        else:
            report(f"{output_dir} is complete; nothing to do")
        _remove_leftovers(args)
        manifests = {condition: read_manifest(output_dir / condition) for condition in args.conditions}
        for condition, manifest in manifests.items():
            if error := below_minimum_dose(args, condition, manifest["dose"]):
                raise ValueError(error)
        return manifests


def missing_conditions(args: CorpusArguments) -> list[str]:
    """Return the conditions whose corpus is not there yet; raises `ValueError` when the folder holds another."""
    finished = [condition for condition in args.conditions if (Path(args.output_dir) / condition / MANIFEST).is_file()]
    if finished:
        request = describe_request(args, args.open_sources())
        for condition in finished:
            _, tokenizer = tokenizer_identity(condition, args.injection_mode, args.operators)
            _check_complete(Path(args.output_dir) / condition, request, tokenizer)
    return [condition for condition in args.conditions if condition not in finished]


@dataclass
class _State:
    """How far a source's pieces have come; they are handed out in order."""

    handed_out: int = 0
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def plain_tokens(self) -> int:
        return sum(record["splits"]["train"]["plain_tokens"] for record in self.records.values())


class _Preparation:
    """Hands out pieces until the sources hold what the recipe asks for, and chooses from them."""

    def __init__(self, plan: Plan, conditions: list[str], progress: Progress):
        self.plan, self.args, self.conditions, self.progress = plan, plan.args, conditions, progress
        self.state = [_State() for _ in plan.sources]
        indices = range(len(plan.sources))
        self.fillers = [index for index in indices if self.args.is_filler(plan.sources[index])]
        self.others = [index for index in indices if index not in self.fillers]
        self.weighted = any(plan.sources[index].weight is not None for index in self.others)
        # What the display is told goes through unchanged, but for the records.
        self.advance, self.lose, self.note = progress.advance, progress.lose, progress.note

    def finish(self, worker: int, piece: Piece, record: dict[str, Any]) -> None:
        """Keep the record of a piece that a worker has finished."""
        self.state[piece.source].records[piece.index] = record
        self.progress.finish(worker, piece, record)

    def run(self, workers: int, encoder: str) -> None:
        """Prepare what earlier runs have left to do."""
        for condition in self.conditions:
            (self.plan.output_dir / condition).mkdir(exist_ok=True)
        self._find_finished()
        if workers == 1:
            for next_piece in (self._next_of_others, self._next_filler):
                prepare_here(self.plan, self.conditions, encoder, next_piece, self)
            return
        with WorkerPool(self.plan, self.conditions, encoder, workers) as pool:
            for next_piece in (self._next_of_others, self._next_filler):
                pool.run(next_piece, self)

    def _find_finished(self) -> None:
        found = 0
        for name in sorted(file.stem for file in self.plan.folder.glob("[0-9]*-[0-9]*.json")):
            piece = self.plan.piece(*map(int, name.split("-")))
            record = read_record(self.plan.folder, piece, self.conditions) if piece else None
            if record is not None:
                self.state[piece.source].records[piece.index] = record
                self.progress.found(record)
                found += 1
        if found:
            self.note(f"{self.plan.output_dir}: continuing with {found:,} pieces that are finished")

    def _next_of_others(self) -> Piece | None:
        """Return the next piece that a target asks for, judged by what is finished now.

        That may be one piece too many for each worker; those are dropped in the end.
        """
        target = self.args.target_tokens
        held = {index: self.state[index].plain_tokens * self.plan.sources[index].epochs for index in self.others}
        weights = sum(self.plan.sources[index].weight or 0 for index in self.others)
        for index in self.others:
            if target is None:
                enough = False
            elif self.weighted:
                enough = held[index] >= target * self.plan.sources[index].weight / weights
            else:
                enough = sum(held.values()) >= target
            if not enough and (piece := self._next_piece(index)):
                return piece
        return None

    def _next_filler(self) -> Piece | None:
        if not self.fillers or self._reach_dose() is not None:
            return None
        # The one that is furthest behind its share.
        order = sorted(
            self.fillers, key=lambda index: self.state[index].handed_out / (self.plan.sources[index].weight or 1.0)
        )
        return next((piece for index in order if (piece := self._next_piece(index))), None)

    def _next_piece(self, index: int) -> Piece | None:
        """Hand out the next piece of a source that is not finished, None behind its last."""
        state = self.state[index]
        while piece := self.plan.piece(index, state.handed_out):
            state.handed_out += 1
            if piece.index not in state.records:
                return piece
        return None

    def _stock(self, index: int) -> Stock:
        """Return the pieces of a source from the first on without a gap."""
        state, source = self.state[index], self.plan.sources[index]
        pieces = []
        while len(pieces) in state.records:
            pieces.append(self.plan.piece(index, len(pieces)))
        records = [state.records[piece.index] for piece in pieces]
        return Stock(self.plan.folder, [piece.name for piece in pieces], records, source.weight or 1.0, source.epochs)

    def _reach_dose(self) -> tuple[list[Cut], list[Cut]] | None:
        fillers = [self._stock(index) for index in self.fillers]
        others = [self._stock(index) for index in self.others]
        return reach_dose(
            lambda target: take(others, target, self.weighted), fillers, self.args.target_tokens, self.args.dose
        )

    def choose(self) -> list[Chosen]:
        """Return what is taken of each source; raises `ValueError` where the sources do not hold enough."""
        stocks = {index: self._stock(index) for index in range(len(self.plan.sources))}
        if all(record["documents_read"] == 0 for state in self.state for record in state.records.values()):
            raise ValueError(
                f"the sources hold no text: {', '.join(source.label for source in self.plan.sources)} gave no document"
            )
        if self.fillers:
            reached = self._reach_dose()
            if reached is None:
                raise ValueError(self._dose_out_of_reach())
            cuts = dict(zip([*self.others, *self.fillers], [*reached[0], *reached[1]], strict=True))
        else:
            others = [stocks[index] for index in self.others]
            cuts = dict(zip(self.others, take(others, self.args.target_tokens, self.weighted), strict=True))
        total = sum(cut.plain_tokens for cut in cuts.values())
        if self.args.target_tokens is not None and total < self.args.target_tokens:
            taken = ", ".join(
                f"'{self.plan.sources[index].label}' {cut.documents:,}"
                f"{' (ran out)' if cut == stocks[index].whole else ''}"
                for index, cut in sorted(cuts.items())
            )
            raise ValueError(
                f"the sources ran out at {total:,} of target_tokens {self.args.target_tokens:,} (training documents: {taken}); add "
                "sources, raise `epochs` of the one that ran out, or lower its weight or the target"
            )
        return [stocks[index].choose(cuts[index]) for index in sorted(cuts)]

    def _dose_out_of_reach(self) -> str:
        made = ", ".join(
            f"'{self.plan.sources[index].label}' {self._stock(index).whole.documents:,} documents"
            for index in self.fillers
        )
        return (
            f"dose {self.args.dose} is out of reach: the synthetic sources ran out ({made}); raise their `documents`, "
            "leave it out for as many as needed, or lower the dose"
        )


def _check_complete(folder: Path, request: dict, tokenizer: str) -> None:
    """Raise `ValueError` when a finished folder holds another corpus than asked for, or a damaged one."""
    manifest = read_manifest(folder)
    made_for = {**manifest["request"], "tokenizer": manifest["tokenizer"]}
    for key, wanted in {**request, "tokenizer": tokenizer}.items():
        if made_for.get(key) != wanted:
            raise ValueError(
                f"'{folder}' holds another corpus: its {key} is {made_for.get(key)}, this recipe has {wanted}; choose "
                "another output_dir, or delete that folder"
            )
    for name, facts in manifest["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != facts["bytes"]:
            raise ValueError(f"shard '{folder / name}' is missing or truncated; delete '{folder}' and run again")


def check_disk(plan: Plan, conditions: list[str]) -> None:
    """Raise `ValueError` before the work where the disk cannot hold its result."""
    tokens = plan.args.target_tokens or plan.text_bytes() / BYTES_OF_TEXT_PER_TOKEN
    held_out = plan.args.validation_fraction * tokens * 5
    needed = tokens * BYTES_ON_DISK_PER_TOKEN * len(conditions) + held_out
    there = sum(file.stat().st_size for file in plan.output_dir.rglob("*.npy"))
    free = shutil.disk_usage(plan.output_dir).free
    if needed > free + there:
        raise ValueError(
            f"'{plan.output_dir}' needs about {needed / 1e9:,.1f} GB for {len(conditions)} conditions, of which "
            f"{there / 1e9:,.1f} GB are there, but its disk has {free / 1e9:,.1f} GB free; make room, choose another "
            "output_dir, or lower target_tokens"
        )


def _remove_leftovers(args: CorpusArguments) -> None:
    """Remove what the manifests do not name: pieces behind the target, and the records."""
    output_dir = Path(args.output_dir)
    keep = {MANIFEST}
    for condition in args.conditions:
        manifest = read_manifest(output_dir / condition)
        keep |= set(manifest["files"]) | set(manifest["held_out"]["files"]) | set(manifest["decontaminated_files"])
    for pattern in (*(f"{condition}/*.npy" for condition in args.conditions), "held_out-*", "contaminated-*"):
        for file in output_dir.glob(pattern):
            if file.name not in keep:
                file.unlink()
    for file in output_dir.rglob(".*.partial"):
        file.unlink()
    if (output_dir / UNFINISHED).is_dir():
        shutil.rmtree(output_dir / UNFINISHED)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: both arms may want to prepare the corpus they share at the same moment."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
