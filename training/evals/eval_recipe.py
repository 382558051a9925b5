"""The keys of an evaluation recipe, and the tasks that they describe."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from training.core.recipe import check_type, resolved
from training.data.rows import RowSource, rows_sha256
from training.data.sft_sources import SftSource
from training.data.sources import Source
from training.evals.decoding import Decoding
from training.evals.hellaswag import HellaSwag
from training.evals.probes import Probes
from training.evals.replies import Replies
from training.evals.task import Task
from training.evals.text_loss import TextLoss
from training.evals.word_problems import WordProblems

_ROW_TYPES = {key: hint for key, hint in get_type_hints(RowSource).items() if key != "root"}
_DECODING_TYPES = get_type_hints(Decoding)


@dataclass(frozen=True)
class EvalArguments(Decoding):
    """What is measured, on which checkpoint, and how answers are generated.

    tasks: a list of mappings with `task` (`hellaswag`, `word_problems`, `probes`, `text_loss`, `replies`) and its own
    keys, see `training/evals/eval_recipe.py`. model: a checkpoint's folder or a repository on the Hub, at `revision`.
    every_checkpoint: a run, whose checkpoints are all evaluated, with their learning curve. name: of this evaluation;
    it names the default folder of the results, beside the checkpoint in its run. data_root: where paths of tasks
    begin. batch_size: sequences generated at a time. batch_tokens: tokens scored at a time. The keys of `Decoding` are
    for every task that does not say otherwise; greedy unless temperature is above 0.
    """

    tasks: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    model: str | None = None
    revision: str | None = None
    every_checkpoint: str | None = None
    name: str = "eval"
    output_dir: str | None = None
    data_root: str = "."
    bf16: bool = False
    batch_size: int = 32
    batch_tokens: int = 4096
    seed: int = 0
    inject_prompts: bool = True

    def __post_init__(self):
        super().__post_init__()
        for key in ("batch_size", "batch_tokens"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it is at least 1")
        if not _is_file_name(self.name):
            raise ValueError(f"name is {self.name!r}; it names a folder: letters, digits, '-', '_' and '.'")
        entries = self.entries()
        names = [entry["name"] for entry in entries]
        if len(set(names)) < len(names):
            raise ValueError(f"two tasks are called alike ({', '.join(names)}); give each its own `name`")
        for entry in entries:
            self.decoding_of(entry)

    def entries(self) -> list[dict[str, Any]]:
        """Return the tasks as mappings with `task` and `name`; raises `ValueError` for unknown tasks and keys."""
        return [_read_entry(entry) for entry in self.tasks]

    def open_tasks(self) -> list[Task]:
        """Read the data of the tasks and build them.

        Raises `ValueError` and `FileNotFoundError` that say what is missing, before anything is measured.
        """
        if not self.tasks:
            raise ValueError("the recipe has no tasks; list at least one, such as `- task: probes`")
        return [TASKS[entry["task"]].build(self, entry) for entry in self.entries()]

    def decoding_of(self, entry: dict[str, Any]) -> Decoding:
        """Return the decoding of a task: its own keys, and the recipe's for the others."""
        return Decoding(**{key: entry.get(key, getattr(self, key)) for key in _DECODING_TYPES})

    def read_rows(self, entry: dict[str, Any]) -> list[dict[str, Any]]:
        """Read the rows that the keys of a task name."""
        return RowSource(**{key: entry[key] for key in _ROW_TYPES.keys() & entry.keys()}, root=self.data_root).read()


def _hellaswag(args: EvalArguments, entry: dict[str, Any]) -> Task:
    rows = args.read_rows({"split": "validation", **entry})
    return _over_rows(HellaSwag(entry["name"], rows, batch_tokens=args.batch_tokens), rows)


def _word_problems(args: EvalArguments, entry: dict[str, Any]) -> Task:
    rows = args.read_rows(entry)
    train = _train_rows(args, entry) if "train" in entry else ()
    keys = {
        key: entry[key] for key in ("question", "answer", "mode", "inject_prompts", "skip_unreadable") if key in entry
    }
    if keys.get("mode") == "answer_only" and "max_new_tokens" not in entry:
        entry = {**entry, "max_new_tokens": 16}
    task = WordProblems(
        entry["name"],
        rows,
        train=train,
        decoding=args.decoding_of(entry),
        batch_size=args.batch_size,
        seed=args.seed,
        **{"inject_prompts": args.inject_prompts, **keys},
    )
    return _over_rows(task, rows)


def _train_rows(args: EvalArguments, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the training rows of a task: of the same data set on the Hub, or from where `train` says."""
    where, train = f"task '{entry['name']}', train", entry["train"]
    if unknown := train.keys() - _ROW_TYPES.keys():
        raise ValueError(f"{where} has unknown keys {sorted(unknown)}; it has {', '.join(sorted(_ROW_TYPES))}")
    if not {"path", "hub", "synthetic"} & set(train):
        if "hub" not in entry:
            raise ValueError(f"{where} is {train}, and names no other file than the task's own; give it a path")
        train = {**{key: entry[key] for key in ("hub", "config", "revision") if key in entry}, **train}
    return args.read_rows({"split": "train", **train})


def _probes(args: EvalArguments, entry: dict[str, Any]) -> Task:
    held_out = entry.get("held_out_facts", [])
    if not all(isinstance(pair, list) for pair in held_out):
        raise ValueError(f"task '{entry['name']}': held_out_facts is {held_out}; write pairs, such as [[6, 9]]")
    return Probes(
        entry["name"],
        sets=tuple(entry["sets"]) if "sets" in entry else None,
        held_out_facts=tuple(map(tuple, held_out)),
        inject_prompts=entry.get("inject_prompts", args.inject_prompts),
        decoding=args.decoding_of({"max_new_tokens": 16, **entry}),
        batch_size=args.batch_size,
        batch_tokens=args.batch_tokens,
    )


def _text_loss(args: EvalArguments, entry: dict[str, Any]) -> Task:
    keys = {key: value for key, value in entry.items() if key not in ("task", "name", "limit")}
    source = Source.from_recipe({"split": "test", **keys, "name": entry["name"]}, args.data_root)
    texts = []
    for text in source.documents_once():
        texts.append(text)
        if len(texts) == entry.get("limit"):
            break
    if not texts:
        raise ValueError(f"task '{entry['name']}': '{source.label}' holds no documents")
    return _over_rows(
        TextLoss(entry["name"], texts, batch_tokens=args.batch_tokens), [{"text": text} for text in texts]
    )


def _replies(args: EvalArguments, entry: dict[str, Any]) -> Task:
    # Prompts are those of the training examples, injected by the tokenizer, whatever `inject_prompts` is.
    return Replies(
        entry["name"],
        [SftSource.from_recipe(source, args.data_root) for source in entry.get("datasets", [])],
        decoding=args.decoding_of(entry),
        batch_size=args.batch_size,
        seed=args.seed,
    )


@dataclass(frozen=True)
class _Kind:
    build: Callable[[EvalArguments, dict[str, Any]], Task]
    keys: dict[str, Any]  # the task's own keys and their types


_TEXT_KEYS = (
    "path hub config split revision download text_field template each document_start synthetic documents seed "
    "factor_digits second_steps"
)
TASKS: dict[str, _Kind] = {
    "hellaswag": _Kind(_hellaswag, _ROW_TYPES),
    "word_problems": _Kind(
        _word_problems,
        _ROW_TYPES
        | _DECODING_TYPES
        | {
            "question": str,
            "answer": str,
            "mode": str,
            "train": dict,
            "inject_prompts": bool,
            "skip_unreadable": bool,
        },
    ),
    "probes": _Kind(_probes, _DECODING_TYPES | {"sets": list, "held_out_facts": list, "inject_prompts": bool}),
    "text_loss": _Kind(
        _text_loss,
        {key: hint for key, hint in get_type_hints(Source).items() if key in _TEXT_KEYS.split()} | {"limit": int},
    ),
    "replies": _Kind(_replies, _DECODING_TYPES | {"datasets": list}),  # entries of a fine-tuning recipe
}


def _over_rows(task: Task, rows: list[dict[str, Any]]) -> Task:
    task.data_sha256 = rows_sha256(rows)
    return task


def _read_entry(entry: str | dict) -> dict[str, Any]:
    try:
        entry = json.loads(entry) if isinstance(entry, str) else entry
    except json.JSONDecodeError as error:
        raise ValueError(f"task {entry!r} is neither a mapping nor JSON ({error}); write it as `task: …`") from error
    if not isinstance(entry, dict) or "task" not in entry:
        raise ValueError(f"task {entry!r} is not a mapping with `task`; write `- task: {next(iter(TASKS))}`")
    kind = entry["task"]
    if kind not in TASKS:
        raise ValueError(f"there is no task '{kind}'; there are {', '.join(TASKS)}")
    entry = {"name": kind, **entry}
    if not _is_file_name(str(entry["name"])):
        raise ValueError(
            f"task {entry} has the name {entry['name']!r}; it names a file: letters, digits, '-', '_', '.'"
        )
    known = {"task": str, "name": str, **TASKS[kind].keys}
    if unknown := set(entry) - set(known):
        raise ValueError(
            f"task '{entry['name']}' has unknown keys {sorted(unknown)}; {kind} has {', '.join(sorted(known))}"
        )
    return {key: check_type(f"task '{entry['name']}'", key, value, known[key]) for key, value in entry.items()}


def _is_file_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) is not None


def resolved_recipe(args: EvalArguments) -> dict[str, Any]:
    """Return every key as plain JSON types, tasks as mappings."""
    return resolved(args) | {"tasks": args.entries()}
