"""The prompts of a GRPO run: questions with one number as the answer, split from held-out ones.

They are the same in both arms; which of them a policy trains on, `episodes` chooses by what it can answer.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from tokenization import MulFactTokenizer
from training.core.checkpoint import list_checkpoints
from training.core.files import write_json, write_text
from training.core.grpo_recipe import GrpoDataArguments
from training.core.recipe import check_type
from training.data.packing import shuffled
from training.data.rows import rows_sha256
from training.data.sft_mixture import build_mixture
from training.data.sft_rows import file_facts, recipe_entry
from training.data.sft_sources import SftSource
from training.data.sources import Source
from training.evals.answers import Number, gold_number

REPORT = "report.json"
_TRAIN, _DEV = "train.jsonl", "dev.jsonl"
# Which prompts are measured during training is the same for all seeds.
_DEV_SEED = 0


@dataclass(frozen=True)
class Prompt:
    """A question and its answer. where: the source, and the place in it. source: its number in the recipe."""

    question: str
    gold: Number
    where: str
    source: int


@dataclass(frozen=True)
class PromptSource:
    """A source of prompts, and the episodes from first to last in which it is in use; no last one means for ever."""

    rows: SftSource
    first_episode: int = 0
    last_episode: int | None = None

    @classmethod
    def from_recipe(cls, entry: dict[str, Any], root: str) -> "PromptSource":
        """Build a source from an entry of a recipe's `prompts:`; raises `ValueError` for a key that does not fit."""
        if not isinstance(entry, dict):
            raise ValueError(f"an entry of prompts is {entry!r}; write a mapping, such as `- path: gsm8k/train.jsonl`")
        entry = dict(entry)
        first, last = entry.pop("first_episode", 0), entry.pop("last_episode", None)
        for key in ("weight", "epochs"):
            if key in entry:
                raise ValueError(
                    f"the source {entry} has {key}, but prompts are not mixed by weight; set limit or sample"
                )
        rows = SftSource.from_recipe(entry, root)
        first = check_type("a source of prompts", "first_episode", first, int)
        last = check_type("a source of prompts", "last_episode", last, int | None)
        if first < 0 or (last is not None and last < first):
            raise ValueError(
                f"source '{rows.label}' is in use from episode {first} to {last}; episodes count from 0, and the "
                "last one is not before the first"
            )
        return cls(rows, first, last)

    def is_used_in(self, episode: int) -> bool:
        return self.first_episode <= episode and (self.last_episode is None or episode <= self.last_episode)


class Prompts(NamedTuple):
    """What a run trains on and what it holds out, and what became of the sources' rows."""

    train: list[Prompt]
    dev: list[Prompt]
    report: dict[str, Any]

    @property
    def sha256(self) -> str:
        """One hash of all prompts and their order."""
        return rows_sha256([asdict(prompt) for prompt in (*self.train, *self.dev)])


def open_sources(args: GrpoDataArguments) -> list[PromptSource]:
    """Return the sources that a recipe lists."""
    return [PromptSource.from_recipe(recipe_entry(entry, "prompts"), args.data_root) for entry in args.prompts]


def prepare_prompts(
    args: GrpoDataArguments, folder: Path, longest: int, seed: int, frame: Callable[[str], str], say=print
) -> None:
    """Write the prompts of a run into `folder`, unless they are there already.

    longest: of a prompt, in plain GPT-2 tokens, so that the arms leave out the same ones; longer ones are counted.
    frame: puts a question into the prompt's text. Only the main process of a run may call it. Raises `ValueError` and
    `FileNotFoundError` that name source and row of what cannot be used.
    """
    sources = open_sources(args)
    tests = [Source.from_recipe(recipe_entry(entry, "decontaminate"), args.data_root) for entry in args.decontaminate]
    request = {
        "prompts": [recipe_entry(entry, "prompts") for entry in args.prompts],
        "decontaminate": [recipe_entry(entry, "decontaminate") for entry in args.decontaminate],
        "files": [file_facts(source) for source in (*(each.rows for each in sources), *tests)],
        "longest": longest,
        "seed": seed,
        "max_dev_prompts": args.max_dev_prompts,
    }
    request = json.loads(json.dumps(request))
    if (folder / REPORT).is_file():
        before = json.loads((folder / REPORT).read_text("utf-8"))["request"]
        changed = [key for key in request if before.get(key) != request[key]]
        # Behind a checkpoint the prompts are the run's, wherever the files lie by now.
        has_begun = bool(list_checkpoints(folder.parent))
        if not changed or (has_begun and changed == ["files"]):
            return
        if has_begun:
            raise ValueError(
                f"cannot resume '{folder.parent}' with other prompts: {changed[0]} was {before.get(changed[0])!r} and "
                f"is now {request[changed[0]]!r}; put it back, or choose another output_dir for a new run"
            )
    if not tests:
        say("decontaminate is empty: copies of test items are not looked for")
    shutil.rmtree(folder, ignore_errors=True)
    mixture = build_mixture([each.rows for each in sources], seed, folder / "sources", None, tests)
    counts = [each["train"] for each in mixture.report["sources"]]
    held_out = [each["held_out"] for each in mixture.report["sources"]]
    plain = MulFactTokenizer.build("baseline")

    def fits(question: str) -> bool:
        return len(plain.encode(frame(question), split_special_tokens=True)) <= longest

    left_out: list[Counter] = [Counter() for _ in sources]
    asked: set[str] = set()
    dev = list(_read(mixture.held_out, held_out, sources, fits, left_out, asked))
    train = list(_read(mixture.train, counts, sources, fits, left_out, asked))
    shutil.rmtree(folder / "sources")
    dev = (
        [dev[index] for index in shuffled(len(dev), _DEV_SEED, epoch=0)[: args.max_dev_prompts].tolist()]
        if dev
        else []
    )
    if not train:
        raise ValueError(f"no prompt is left to train on ({_reasons(left_out) or 'all are held out'}); see prompts")
    report = {
        **mixture.report,
        "train": len(train),
        "dev": len(dev),
        "left_out_prompts": [dict(each) for each in left_out],
    }
    for name, prompts in ((_TRAIN, train), (_DEV, dev)):
        write_text(folder / name, "".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in prompts))
    write_json(folder / REPORT, {"request": request, "report": report})
    copies = sum(each["contaminated"] for each in mixture.report["sources"])
    say(
        f"{len(train):,} prompts to train on, {len(dev):,} held out; left out: copies of test items {copies:,}"
        + "".join(f", {reason} {count:,}" for reason, count in sum(left_out, Counter()).items())
    )


def open_prompts(folder: Path) -> Prompts:
    """Open the prompts that `prepare_prompts` has written."""
    # U+2028, which may stand in a question, ends no line here.
    lines = {name: (folder / name).read_text("utf-8").split("\n") for name in (_TRAIN, _DEV)}
    train, dev = ([Prompt(**json.loads(line)) for line in lines[name] if line] for name in (_TRAIN, _DEV))
    return Prompts(train, dev, json.loads((folder / REPORT).read_text("utf-8"))["report"])


def pool_of(
    prompts: Sequence[Prompt], sources: Sequence[PromptSource], episode: int, size: int, seed: int
) -> list[Prompt]:
    """Return the prompts of an episode's pool, a function of the arguments alone; fewer where there are no more.

    Raises `ValueError` for an episode without any prompt.
    """
    used = [prompt for prompt in prompts if sources[prompt.source].is_used_in(episode)]
    if not used:
        raise ValueError(
            f"no source of prompts is in use in episode {episode}; check first_episode and last_episode under prompts"
        )
    return [used[index] for index in shuffled(len(used), seed, episode)[:size].tolist()]


def _read(
    rows: Dataset,
    counts: Iterable[int],
    sources: Sequence[PromptSource],
    fits: Callable[[str], bool],
    left_out: list[Counter],
    asked: set[str],
) -> Iterable[Prompt]:
    """Yield the rows that are prompts, the first of those that ask the same; counts: rows of each source, in order."""
    source_of = [source for source, count in enumerate(counts) for _ in range(count)]
    for row, source in zip(rows, source_of, strict=True):
        messages, where = row["messages"], f"{row['source']}: {row['where']}"
        if [message["role"] for message in messages] != ["user", "assistant"]:
            left_out[source]["not one question and one answer"] += 1
            continue
        question = messages[0]["content"]
        try:
            gold = gold_number(messages[1]["content"])
        except ValueError as error:
            if sources[source].rows.malformed == "error":
                raise ValueError(f"{where}: {error} (malformed: drop leaves out all such rows)") from error
            left_out[source]["no number as the answer"] += 1
            continue
        if question in asked:
            left_out[source]["asked before"] += 1
        elif not fits(question):
            left_out[source]["too long"] += 1
        else:
            asked.add(question)
            yield Prompt(question, gold, where, source)


def _reasons(left_out: Sequence[Counter]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in sum(left_out, Counter()).items())
