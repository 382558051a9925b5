"""Run evaluations of one subject into one folder: over processes, through interruptions, one row per item.

`<task>.jsonl` appears when a task is finished; until then each process appends its rows to a part file after every
batch, and a later start does only the batches that are missing.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from tqdm import tqdm

from training.analysis.learning_curve import headline_of
from training.core.device import device_name
from training.core.files import write_json, write_text
from training.core.processes import Processes, agree
from training.core.provenance import RUN_FILE, write_run_file
from training.evals.subject import Subject
from training.evals.task import Row, Task

RESULTS = "results.json"
# What may differ when an evaluation goes on: where things are, and what is done beside it.
FREE_KEYS = frozenset({"output_dir", "model", "revision", "every_checkpoint", "data_root"})
PLACE_KEYS = frozenset({"model", "commit"})  # of a subject: its weights and tokenizer say what it is


def evaluate(
    subject: Subject,
    tasks: Sequence[Task],
    folder: Path,
    processes: Processes,
    recipe: dict[str, Any],
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run the tasks, write rows, `run.json` and `results.json` into the folder, and return the results.

    Tasks that are finished there are not run again. Every process calls it and gets the same results. Raises
    `ValueError` when the folder holds results of another model, tokenizer or recipe.
    """
    main = processes.process_index == 0
    facts = {**_requested(tasks, recipe), "subject": subject.describe()}
    refused = agree(lambda: _open(folder, facts), processes)
    if refused is not None:
        raise ValueError(refused)
    results: dict[str, Any] = {}
    for task in tasks:
        finished = agree((folder / f"{task.name}.jsonl").is_file, processes)
        if not finished:
            _run_missing(task, subject, folder, processes)
            processes.wait_for_everyone()
            if main:
                _publish(task, subject, folder)
            processes.wait_for_everyone()
        rows = _read_rows([folder / f"{task.name}.jsonl"])
        # Halving a batch changes the last digits of likelihoods, and so must not stay unknown.
        results[task.name] = task.summarize(rows) | {"halved_items": sum("halved" in row for row in rows)}
        if main:
            say(f"{task.name}: {_in_words(task, results[task.name])}")
        # Not after a task that was finished before: the file there may know of later ones.
        if main and (not finished or task is tasks[-1]):
            summary = {"subject": facts["subject"], "settings": facts["tasks"], "results": results}
            write_json(folder / RESULTS, summary)
    return results


def is_finished(tasks: Sequence[Task], folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether the folder holds the rows and the results of every task, by this recipe and on this data.

    Whose results they are is not looked at, because that takes the weights.
    """
    if not (folder / RESULTS).is_file() or not (folder / RUN_FILE).is_file():
        return False
    results, before = (json.loads((folder / file).read_text(encoding="utf-8")) for file in (RESULTS, RUN_FILE))
    if _difference(before, before | _requested(tasks, recipe)):
        return False
    return all(task.name in results["results"] and (folder / f"{task.name}.jsonl").is_file() for task in tasks)


def _requested(tasks: Sequence[Task], recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what `run.json` says of an evaluation besides its subject, as it reads back from a file."""
    settings = {task.name: {**task.settings(), "data_sha256": task.data_sha256} for task in tasks}
    return json.loads(json.dumps({"recipe": recipe, "tasks": settings}))


def _open(folder: Path, facts: dict[str, Any]) -> str | None:
    """Make the folder and write `run.json`; return why that cannot be, or None."""
    file = folder / RUN_FILE
    if file.is_file() and (difference := _difference(json.loads(file.read_text(encoding="utf-8")), facts)):
        return f"'{folder}' holds results of {difference}; choose another output_dir or name, or remove that folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_run_file(folder, facts, device_name())
    except OSError as error:
        return f"cannot write results into '{folder}' ({error}); choose another output_dir"
    return None


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Return in what two evaluations differ, with both values, or None."""
    for group, free in (("recipe", FREE_KEYS), ("subject", PLACE_KEYS), ("tasks", frozenset())):
        # A key of the recipe that one side lacks came or went with a version of this program.
        for key in sorted((before[group].keys() & now[group].keys()) - free):
            if before[group][key] != now[group][key]:
                what = {"recipe": "another recipe", "subject": "another model or tokenizer", "tasks": "other data"}[
                    group
                ]
                return f"{what}: {key} was {before[group][key]!r} and is now {now[group][key]!r}"
    return None


def _run_missing(task: Task, subject: Subject, folder: Path, processes: Processes) -> None:
    """Do this process's share of the batches that no part file holds."""
    done = {row["index"] for row in _read_rows(_parts(task, folder))}
    batches = task.batches(subject)
    missing = [batch for batch in batches if not done.issuperset(batch)]
    items, before = sum(map(len, batches)), sum(map(len, batches)) - sum(map(len, missing))
    mine = missing[processes.process_index :: processes.num_processes]
    # Before anybody writes, or a slower process would read rows of this start and share out the batches differently.
    processes.wait_for_everyone()
    bar = tqdm(
        total=items,
        initial=before,
        desc=task.name,
        unit="item",
        smoothing=0.05,
        mininterval=0.2 if sys.stderr.isatty() else 60,  # a log file gets a line a minute,
        delay=0 if sys.stderr.isatty() else 60,  # and nothing of what takes less
        leave=sys.stderr.isatty(),
        disable=processes.process_index != 0,
    )
    with open(_part(task, folder, processes.process_index), "a", encoding="utf-8") as file:
        # A killed process may have left half a line.
        file.write("\n" if file.tell() else "")
        for batch in mine:
            rows = _run_halving(task, subject, batch)
            file.write("".join(map(_line, rows)))
            file.flush()
            bar.update(min(len(batch) * processes.num_processes, items - bar.n))
    bar.close()


def _run_halving(task: Task, subject: Subject, batch: Sequence[int]) -> list[Row]:
    """Run a batch and return its rows; one that does not fit into memory is run in halves, and its rows say so."""
    try:
        return task.run(subject, batch)
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
        if len(batch) == 1:
            raise ValueError(
                f"task '{task.name}': item {batch[0]} alone does not fit into memory "
                f"({str(error).splitlines()[0][:200]}); lower batch_size and batch_tokens, or use a larger device"
            ) from error
    # Behind the handler, whose traceback holds on to the tensors of the failed try.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    rows = _run_halving(task, subject, batch[:middle]) + _run_halving(task, subject, batch[middle:])
    return [row | {"halved": row.get("halved", 0) + 1} for row in rows]


def _publish(task: Task, subject: Subject, folder: Path) -> None:
    """Write the rows of a finished task in the order of its items and remove the part files."""
    rows = _read_rows(_parts(task, folder))
    expected = sorted(index for batch in task.batches(subject) for index in batch)
    assert [row["index"] for row in rows] == expected, f"{task.name}: {len(rows)} rows of {len(expected)} items"
    write_text(folder / f"{task.name}.jsonl", "".join(map(_line, rows)))
    for part in _parts(task, folder):
        part.unlink()


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _part(task: Task, folder: Path, process: int) -> Path:
    return folder / f".{task.name}.part-{process}.jsonl"


def _parts(task: Task, folder: Path) -> list[Path]:
    return sorted(folder.glob(f".{task.name}.part-*.jsonl"))


def _read_rows(files: Iterable[Path]) -> list[Row]:
    """Return the rows of all files by index; a line that was cut off by the end of a process does not count."""
    rows = {}
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):  # U+2028 ends no line here
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(row, dict):
                rows[row["index"]] = row
    return [rows[index] for index in sorted(rows)]


def _in_words(task: Task, results: dict[str, Any]) -> str:
    parts = []
    for path, result in headline_of(task.headline, results).items():
        text = f"{path.rpartition('.')[0].rpartition('.')[2] + ' ' if '.' in path else ''}{path.rpartition('.')[2]} "
        text += "none" if result["value"] is None else f"{result['value']:.4f}"
        if result.get("low") is not None:
            text += f" ({result['low']:.4f} to {result['high']:.4f}, n {result['n']:,})"
        if result.get("floor") is not None:
            text += f", floor {result['floor']:.4f}"
        parts.append(text)
    return "; ".join(parts)
