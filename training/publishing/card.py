"""The card of a published checkpoint: what every checkpoint's card says, and its data, results and commands."""

import json
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from huggingface_hub.utils import yaml_dump

from training.core.checkpoint import checkpoint_step, read_seal
from training.core.model_card import model_card
from training.publishing.results import Result, results_of
from training.publishing.run_identity import commands_of


def published_card(
    run: Path,
    checkpoint: Path,
    facts: dict[str, Any],
    data: list[str],
    repository: str,
    revision: str | None,
    license: str,
) -> str:
    """Return the README.md of one branch of a repository.

    facts: as `published_facts` gives them. data: what the run was trained on, in words. revision: the branch, None
    for main.
    """
    results, eval_commands = results_of(run, checkpoint.name)
    metrics = [result.as_metadata() for result in results]
    name = f"{repository.rpartition('/')[2]}, step {checkpoint_step(checkpoint)}"
    metadata = [f"license: {license}"]
    if metrics:
        index = {"model_name": name, "model-index": eval_results_to_model_index(name, metrics)}
        metadata.append(yaml_dump(index, sort_keys=False).rstrip("\n"))
    sealed = read_seal(checkpoint)
    text = model_card(
        facts,
        checkpoint_step(checkpoint),
        sealed.get("work", {}),
        where=json.dumps(repository) + (f', revision="{revision}"' if revision else ""),
        metadata=metadata,
        sections=[
            'Every checkpoint is a branch of this repository: `revision="step-N"`.',
            "",
            *_section("Data", data),
            *_section("Results", _table(results)),
            *_section("Commands", _commands(facts, sealed, eval_commands)),
            *_section("Licence", [f"The weights: {license}. GPT-2's merges, in the tokenizer, are OpenAI's (MIT)."]),
        ],
    )
    # What a reader of the Hub would not understand must not get there.
    parsed = ModelCard(text, ignore_metadata_errors=False).data
    assert parsed.license == license and _in_one_order(parsed.eval_results or []) == _in_one_order(metrics), name
    return text


def _in_one_order(metrics: list[EvalResult]) -> list[EvalResult]:
    return sorted(metrics, key=repr)  # an index groups them by data


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _table(results: list[Result]) -> list[str]:
    if not results:
        return ["None were measured for this checkpoint."]

    def written(number: float | None) -> str:
        return "–" if number is None else f"{number:.4f}"

    rows = []
    for each in results:
        interval = " to ".join(map(written, each.interval)) if each.interval else "–"
        count = "–" if each.n is None else f"{each.n:,}"
        cells = [f"{each.evaluation}: {each.task}", each.measure, written(each.value), interval, count]
        rows.append(f"| {' | '.join([*cells, written(each.floor)])} |")
    return [
        "| evaluation | measure | value | 95 % interval | n | floor |",
        "|---|---|---:|---:|---:|---:|",
        *rows,
        "",
        "Intervals are over the items of this one run; the spread between seeds is not in them. Floors need no model.",
    ]


def _commands(facts: dict[str, Any], sealed: dict[str, Any], eval_commands: list[list[str]]) -> list[str]:
    launched = f"{sealed['num_processes']} process(es), engine {sealed['engine']}"
    last = facts["starts"][-1] if facts.get("starts") else {}
    versions = [f"{package} {last['versions'][package]}" for package in ("torch", "transformers") if last]
    return [
        f"Trained with ({launched}):",
        "",
        *_shell(commands_of(facts)),
        *(["", "Measured with:", "", *_shell(eval_commands)] if eval_commands else []),
        *(["", f"Commit {last['git_commit'] or 'unknown'}, {', '.join(versions)}."] if last else []),
    ]


def _shell(commands: list[list[str]]) -> list[str]:
    return ["```bash", *(f"python {shlex.join(command)}" for command in commands), "```"]
