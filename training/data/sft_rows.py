"""The rows of a fine-tuning run: read, mixed, encoded and packed below its folder, once."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from training.core.files import write_json
from training.core.sft_recipe import SftDataArguments
from training.data.packing_conversations import PackedConversations, open_packed, pack_conversations
from training.data.sft_mixture import build_mixture
from training.data.sft_sources import SftSource
from training.data.sources import Source

REPORT = "report.json"
# Held-out rows are the same for all seeds, and so is their order.
_HELD_OUT_SEED = 0


class SftRows(NamedTuple):
    """What a run trains on and what it holds out, both packed, and what became of the sources' rows.

    held_out: one row to an item; None where no source holds any out.
    """

    train: PackedConversations
    held_out: PackedConversations | None
    report: dict[str, Any]


def prepare_rows(
    args: SftDataArguments,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    max_length: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> SftRows:
    """Prepare the rows in `folder`, unless they are there already.

    Only the main process of a run may call it; the others `open_rows` afterwards. Raises `ValueError` and
    `FileNotFoundError` that name source, row and column of what cannot be used.
    """
    sources = [SftSource.from_recipe(recipe_entry(entry, "datasets"), args.data_root) for entry in args.datasets]
    tests = [Source.from_recipe(recipe_entry(entry, "decontaminate"), args.data_root) for entry in args.decontaminate]
    request = {
        "datasets": [recipe_entry(entry, "datasets") for entry in args.datasets],
        "decontaminate": [recipe_entry(entry, "decontaminate") for entry in args.decontaminate],
        "files": [file_facts(source) for source in (*sources, *tests)],
        **{key: getattr(args, key) for key in ("rows_total", "pack", "too_long")},
        "max_length": max_length,
        "seed": seed,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
    }
    if _is_prepared(folder, request):
        return open_rows(folder)
    if not tests:
        say("decontaminate is empty: copies of test items are not looked for")
    shutil.rmtree(folder, ignore_errors=True)
    mixture = build_mixture(sources, seed, folder / "sources", args.rows_total, tests)
    train = pack_conversations(
        mixture.train, tokenizer, folder / "train", max_length, seed, args.pack, args.too_long
    ).summary
    held_out = None
    if len(mixture.held_out):
        held_out = pack_conversations(
            mixture.held_out,
            tokenizer,
            folder / "held_out",
            max_length,
            _HELD_OUT_SEED,
            packing=False,
            too_long="drop",
        ).summary
    shutil.rmtree(folder / "sources")  # the items hold all that is trained on
    report = {**mixture.report, "train": train, "held_out_items": held_out}
    write_json(folder / REPORT, {"request": request, "report": report})
    for line in _describe(report):
        say(line)
    return open_rows(folder)


def open_rows(folder: Path) -> SftRows:
    """Open the rows that `prepare_rows` has prepared."""
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))["report"]
    held_out = open_packed(folder / "held_out") if report["held_out_items"] else None
    return SftRows(open_packed(folder / "train"), held_out, report)


def _is_prepared(folder: Path, request: dict[str, Any]) -> bool:
    if not (folder / REPORT).is_file():
        return False
    before = json.loads((folder / REPORT).read_text(encoding="utf-8"))["request"]
    return before == json.loads(json.dumps(request))


def file_facts(source: SftSource | Source) -> list[list] | None:
    """Return what shows that local files were changed since the rows were prepared from them."""
    place = Path(source.root) / source.path if source.path else Path(source.hub) if source.hub else None
    if place is None or not place.exists():
        return None
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    facts = [(file.name, file.stat()) for file in files if file.is_file()]
    return [[name, each.st_size, each.st_mtime_ns] for name, each in facts]


def recipe_entry(entry: str | dict, key: str) -> Any:
    if not isinstance(entry, str):
        return entry
    try:
        return json.loads(entry)
    except json.JSONDecodeError as error:
        raise ValueError(f"{key} holds {entry!r}, which is neither a mapping nor JSON ({error})") from error


def _describe(report: dict[str, Any]) -> list[str]:
    lines = []
    for each in report["sources"]:
        out = {**each["left_out"], "copies of test items": each["contaminated"]}
        out = ", ".join(f"{reason} {rows:,}" for reason, rows in out.items() if rows) or "none"
        lines.append(
            f"{each['source']}: {each['rows']:,} rows, left out: {out}; {each['held_out']:,} held out, "
            f"{each['train']:,} to train on ({each['share']:.1%} of the mixture)"
        )
    train = report["train"]
    lines.append(
        f"{train['kept']:,} rows in {train['items']:,} items, {train['plain_tokens']:,} plain tokens, "
        f"{train['tokens']:,} of this arm, {train['text_facts'] / train['kept']:.2f} facts per row; "
        f"{train['too_long']:,} too long, {train['shortened']:,} shortened by {train['exchanges_lost']:,} exchanges"
    )
    return lines
