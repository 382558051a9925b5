"""Prepare a tokenised corpus from sources, for all conditions in one pass over the same documents.

`prepare_corpus` writes `<output_dir>/<condition>/` (see `training/data/shards.py`), `held_out-*.jsonl`, the original
text of the validation documents, `contaminated-*.jsonl`, the documents that are copies of test items, and `run.json`.
The work is cut into pieces; a piece is done when its record is in `<output_dir>/unfinished/`, a folder that goes when
the manifests are written.
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.core.console import processor_name
from training.core.provenance import write_run_file
from training.data.corpus_recipe import CorpusArguments
from training.data.manifest import below_minimum_dose, tokenizer_identity, write_manifests
from training.data.plan import UNFINISHED, Piece, Plan, describe_request
from training.data.progress import Progress
from training.data.records import finished_names, read_record
from training.data.selection import Chosen, Cut, Stock, density, reach_dose, take
from training.data.shards import MANIFEST, read_manifest
from training.data.sources import SUFFIXES
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
    with alone_in(output_dir, report):
        missing = missing_conditions(args)
        if missing:
            _remove_partials(output_dir)
            plan = Plan.make(args)
            check_disk(plan, missing)
            how = {"workers": workers, "encoder": encoder, "conditions_prepared": missing}
            write_run_file(output_dir, {"recipe": args.to_json(), **how}, processor_name())
            with Progress(args, plan.text_bytes(), progress, report) as display:
                _name_ignored_files(plan, display.note)
                preparation = _Preparation(plan, missing, display)
                preparation.run(workers, encoder)
            write_manifests(plan, missing, preparation.choose(), report)
        else:
            report(f"{output_dir} is complete; nothing to do")
        _remove_leftovers(output_dir)
        manifests = {condition: read_manifest(output_dir / condition) for condition in args.conditions}
        for condition, manifest in manifests.items():
            if error := below_minimum_dose(args, condition, manifest["dose"]):
                raise ValueError(error)
        return manifests


def missing_conditions(args: CorpusArguments) -> list[str]:
    """Return the conditions whose corpus is not there yet; raises `ValueError` when the folder holds another."""
    finished = sorted(path.parent.name for path in Path(args.output_dir).glob(f"*/{MANIFEST}"))
    if finished:
        request = describe_request(args, args.open_sources())
        for condition in finished:
            tokenizer = None
            if condition in args.conditions:
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
        for name in finished_names(self.plan.folder):
            piece = self.plan.piece(*map(int, name.split("-")))
            record = read_record(self.plan.folder, piece, self.conditions) if piece else None
            if record is not None:
                self.state[piece.source].records[piece.index] = record
                self.progress.found(record)
                found += 1
        if found:
            self.note(f"{self.plan.output_dir}: continuing with {found:,} pieces that are finished")

    def _next_of_others(self) -> Piece | None:
        """Return the next piece that a target asks for, judged by what is finished and, roughly, by what is in work.

        That may be one piece too many for each worker; those are dropped in the end.
        """
        if piece := self._first_gap(self.others):
            return piece
        target = self.args.target_tokens
        held = {index: self._tokens_coming(index) * self.plan.sources[index].epochs for index in self.others}
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
        if not self.fillers:
            return None
        if piece := self._first_gap(self.fillers):
            return piece
        if self._reach_dose() is not None:
            return None
        density_now = density([self._stock(index) for index in self.fillers])
        if density_now is None:
            # One piece of each says how many facts they hold.
            return next((self._next_piece(i) for i in self.fillers if self.state[i].handed_out == 0), None)
        if density_now <= self.args.dose:
            return None
        # What limits the mixture is the one that is furthest behind its share; when that is used up, all are.
        scarcest = min(
            self.fillers, key=lambda index: self._tokens_coming(index) / (self.plan.sources[index].weight or 1.0)
        )
        return self._next_piece(scarcest)

    def _first_gap(self, indices: list[int]) -> Piece | None:
        """Hand out a piece that stands before a finished one: an earlier run was stopped in the middle of it.

        What is chosen are pieces from the first on without a gap, so that those behind it count for nothing.
        """
        for index in indices:
            state = self.state[index]
            while state.records and state.handed_out <= max(state.records):
                piece = self.plan.piece(index, state.handed_out)
                state.handed_out += 1
                if piece is not None and piece.index not in state.records:
                    return piece
        return None

    def _next_piece(self, index: int) -> Piece | None:
        """Hand out the next piece of a source, None behind its last."""
        piece = self.plan.piece(index, self.state[index].handed_out)
        if piece is not None:
            self.state[index].handed_out += 1
        return piece

    def _tokens_coming(self, index: int) -> float:
        """Return the plain training tokens of the finished pieces and, by an estimate, of those in work."""
        state = self.state[index]
        in_work = [number for number in range(state.handed_out) if number not in state.records]
        if state.records:
            return state.plain_tokens * (1 + len(in_work) / len(state.records))
        return sum(self.plan.piece(index, number).span.bytes for number in in_work) / BYTES_OF_TEXT_PER_TOKEN

    def _stock(self, index: int) -> Stock:
        """Return the pieces of a source from the first on without a gap."""
        state, source = self.state[index], self.plan.sources[index]
        pieces = []
        while len(pieces) in state.records:
            pieces.append(self.plan.piece(index, len(pieces)))
        return Stock(
            self.plan.folder,
            [piece.name for piece in pieces],
            [state.records[piece.index] for piece in pieces],
            source.weight or 1.0,
            source.epochs,
            complete=self.plan.piece(index, len(pieces)) is None,
        )

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
                f"'{self.plan.sources[index].label}' {cut.documents:,}{' (ran out)' if cut.ran_out else ''}"
                for index, cut in sorted(cuts.items())
            )
            raise ValueError(
                f"the sources ran out at {total:,} of target_tokens {self.args.target_tokens:,} (training documents: "
                f"{taken}); add sources, raise `epochs` of the one that ran out, or lower its weight or the target; "
                "what is prepared is kept"
            )
        return [stocks[index].choose(cuts[index]) for index in sorted(cuts)]

    def _dose_out_of_reach(self) -> str:
        stocks = {self.plan.sources[index].label: self._stock(index) for index in self.fillers}
        density_now = density(list(stocks.values()))
        if density_now is not None and density_now <= self.args.dose:
            return (
                f"dose {self.args.dose} is out of reach: the synthetic sources themselves hold {density_now:.3g} "
                "facts per plain token; lower the dose, or take denser ones, such as tables"
            )
        made = ", ".join(f"'{label}' {stock.whole.documents:,} documents" for label, stock in stocks.items())
        return (
            f"dose {self.args.dose} is out of reach: the synthetic sources ran out ({made}); raise their `documents`, "
            "leave it out for as many as needed, or lower the dose"
        )


def _check_complete(folder: Path, request: dict, tokenizer: str | None) -> None:
    """Raise `ValueError` when a finished folder holds another corpus than asked for, or a damaged one."""
    manifest = read_manifest(folder)
    made_for = {**manifest["request"], "tokenizer": manifest["tokenizer"]}
    for key, wanted in {**request, "tokenizer": tokenizer or manifest["tokenizer"]}.items():
        if made_for.get(key) != wanted:
            raise ValueError(
                f"'{folder}' holds another corpus: its {key} is {made_for.get(key)}, this recipe has {wanted}; choose "
                "another output_dir, or delete that folder"
            )
    texts = {**manifest["held_out"]["files"], **manifest["decontaminated_files"]}
    files = {folder / name: facts["bytes"] for name, facts in manifest["files"].items()}
    files |= {folder.parent / name: facts["bytes"] for name, facts in texts.items()}
    for file, size in files.items():
        if not file.is_file() or file.stat().st_size != size:
            raise ValueError(f"'{file}' is missing or truncated; delete '{folder}' and run again")


def check_disk(plan: Plan, conditions: list[str]) -> None:
    """Raise `ValueError` before the work where the disk cannot hold its result."""
    tokens = plan.args.target_tokens or plan.text_bytes() / BYTES_OF_TEXT_PER_TOKEN
    held_out = plan.args.validation_fraction * tokens * 5
    needed = tokens * BYTES_ON_DISK_PER_TOKEN * len(conditions) + held_out
    there = sum(file.stat().st_size for name in conditions for file in plan.output_dir.glob(f"{name}/*.npy"))
    free = shutil.disk_usage(plan.output_dir).free
    if needed > free + there:
        raise ValueError(
            f"'{plan.output_dir}' needs about {needed / 1e9:,.1f} GB for {len(conditions)} conditions, of which "
            f"{there / 1e9:,.1f} GB are there, but its disk has {free / 1e9:,.1f} GB free; make room, choose another "
            "output_dir, or lower target_tokens"
        )


def _name_ignored_files(plan: Plan, note: Callable[[str], None]) -> None:
    for source in plan.sources:
        if ignored := source.ignored_files:
            shown = ", ".join(ignored[:3]) + (", …" if len(ignored) > 3 else "")
            note(f"source '{source.label}': {len(ignored)} files are none of {', '.join(SUFFIXES)}, not read: {shown}")


def _remove_partials(output_dir: Path) -> None:
    for file in output_dir.rglob(".*.partial"):
        file.unlink()


def _remove_leftovers(output_dir: Path) -> None:
    """Remove what no manifest names: pieces behind the target, arms that were given up, and the records."""
    keep: set[Path] = set()
    for path in output_dir.glob(f"*/{MANIFEST}"):
        manifest = read_manifest(path.parent)
        keep |= {path.parent / name for name in manifest["files"]}
        keep |= {output_dir / name for name in (*manifest["held_out"]["files"], *manifest["decontaminated_files"])}
    for pattern in ("*/train-*.npy", "*/validation-*.npy", "held_out-*.jsonl", "contaminated-*.jsonl"):
        for file in output_dir.glob(pattern):
            if file not in keep:
                file.unlink()
    _remove_partials(output_dir)
    if (output_dir / UNFINISHED).is_dir():
        shutil.rmtree(output_dir / UNFINISHED)


@contextmanager
def alone_in(folder: Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Hold a lock on the folder: both arms may want to prepare the corpus they share at the same moment."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir '{folder}' is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"{folder}: another process prepares this corpus; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
