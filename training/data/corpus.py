"""Prepare a tokenised corpus from sources, for all conditions in one pass over the same documents.

`prepare_corpus` writes `<output_dir>/<condition>/` (see `training/data/shards.py`), `held_out-*.jsonl`, the original
text of the validation documents, `contaminated-*.jsonl`, the documents that are copies of test items, and `run.json`.
The work is cut into pieces; a piece is done when its record is in `<output_dir>/unfinished/`, a folder that goes when
the manifests are written.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from training.core.console import processor_name
from training.core.files import alone_in
from training.core.provenance import write_run_file
from training.data.corpus_recipe import CorpusArguments
from training.data.manifest import below_minimum_dose, tokenizer_identity, write_manifests
from training.data.plan import UNFINISHED, Plan, describe_request
from training.data.preparation import BYTES_OF_TEXT_PER_TOKEN, Preparation
from training.data.progress import Progress
from training.data.shards import MANIFEST, read_manifest
from training.data.sources import SUFFIXES

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
                preparation = Preparation(plan, missing, display)
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
                _, tokenizer = tokenizer_identity(condition, args.injection_mode, args.operators, args.condition_seed)
            _check_complete(Path(args.output_dir) / condition, request, tokenizer)
    return [condition for condition in args.conditions if condition not in finished]


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
