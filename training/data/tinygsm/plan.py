"""What a conversion has to do, as a file that every machine which takes part in it reads."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenization.mul_facts import FACTS
from training.core.files import write_json
from training.data.decontaminate import NgramIndex
from training.data.tinygsm.drills import drill_rows
from training.data.tinygsm.recipe import ConversionArguments
from training.data.tinygsm.source_rows import DrawnRows, Piece, Sample, open_files

MANIFEST = "manifest.json"
UNFINISHED = "unfinished"  # below output_dir: the plan and the finished pieces; gone with the manifest
_PLAN, _NGRAMS = "plan.json", "ngrams.npz"


@dataclass(frozen=True)
class ConversionPlan:
    """The recipe, the drawn rows in pieces, and what identifies the result.

    request: what decides the rows that are written. evaluation_sets: what the test items were, None without
    decontamination.
    """

    args: ConversionArguments
    rows: DrawnRows
    pieces: list[Piece]
    request: dict[str, Any]
    evaluation_sets: dict[str, dict] | None

    @classmethod
    def make(cls, args: ConversionArguments) -> "ConversionPlan":
        """Look at the source and the test items and write the plan, or read the one of an interrupted conversion.

        Raises `ValueError` for a source that cannot be read, and for a folder that was begun with another recipe.
        """
        path = Path(args.output_dir) / UNFINISHED / _PLAN
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            request = args.request(saved["request"])
            check_request(path.parent.parent, *(_deciding_pieces(each) for each in (saved["request"], request)))
            if saved["rows_per_piece"] != args.rows_per_piece:
                raise ValueError(
                    f"'{args.output_dir}' was begun with rows_per_piece {saved['rows_per_piece']}, not "
                    f"{args.rows_per_piece}; go on with that, or delete '{path.parent}' to begin anew"
                )
            rows = DrawnRows(args, open_files(args), saved["total"], Sample(**saved["sample"]))
            return cls(args, rows, [Piece(**piece) for piece in saved["pieces"]], request, saved["evaluation_sets"])
        request = args.request({})
        if args.drill_minimum:
            next(
                drill_rows(np.zeros(len(FACTS)), 1, args.settings)
            )  # a style without facts is refused before the work
        sets = args.open_evaluation_sets()
        rows, pieces = DrawnRows.find(args)
        index = NgramIndex.build({each.label: each.texts_of_test_items() for each in sets}) if sets else None
        path.parent.mkdir(parents=True, exist_ok=True)
        if index is not None:
            index.save(path.with_name(_NGRAMS))
        plan = cls(args, rows, pieces, request, index and index.describe())
        write_json(
            path,
            {
                "request": request,
                "rows_per_piece": args.rows_per_piece,
                "total": rows.total,
                "sample": asdict(rows.sample),
                "evaluation_sets": plan.evaluation_sets,
                "pieces": [asdict(piece) for piece in pieces],
            },
        )
        return plan

    @property
    def output_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def folder(self) -> Path:
        return self.output_dir / UNFINISHED

    @property
    def rows_drawn(self) -> int:
        return sum(piece.drawn for piece in self.pieces)

    def test_items(self) -> NgramIndex | None:
        """Load what finds copies of test items; None without decontamination."""
        return None if self.evaluation_sets is None else NgramIndex.load(self.folder / _NGRAMS)


def check_request(folder: Path, made_for: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `ValueError` that names what differs when a folder was begun or finished with another recipe."""
    before, now = _flat(made_for), _flat(wanted)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"'{folder}' holds the conversion of another recipe: its {key} is {before.get(key)!r}, this recipe "
                f"has {now.get(key)!r}; choose another output_dir, or delete that folder"
            )


def _deciding_pieces(request: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a request on which the pieces depend; the rest may change until the result is written."""
    late = ("max_tokens", "drill_minimum", "num_shards", "output_format")
    return {key: value for key, value in request.items() if key not in late}


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request with the keys of `source` and `settings` beside the others."""
    nested = ("source", "settings")
    flat = {key: value for key, value in request.items() if key not in nested}
    for name in nested:
        flat |= {f"{name}.{key}" if name == "source" else key: value for key, value in request[name].items()}
    return flat
