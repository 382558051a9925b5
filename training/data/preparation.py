"""Hand out the pieces of a corpus until its sources hold what the recipe asks for, and choose from them."""

from dataclasses import dataclass, field
from typing import Any

from training.data.plan import Piece, Plan
from training.data.progress import Progress
from training.data.records import finished_names, read_record
from training.data.selection import Chosen, Cut, Stock, density, reach_dose, take
from training.data.worker_pool import WorkerPool, prepare_here

# FineWeb-Edu has about 4.7 bytes of text per GPT-2 token, markup and code have fewer.
BYTES_OF_TEXT_PER_TOKEN = 3.5


@dataclass
class _State:
    """How far a source's pieces have come; they are handed out in order."""

    handed_out: int = 0
    records: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def plain_tokens(self) -> int:
        return sum(record["splits"]["train"]["plain_tokens"] for record in self.records.values())


class Preparation:
    """The work on one plan: hands out pieces, keeps their records, and chooses documents from them."""

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
