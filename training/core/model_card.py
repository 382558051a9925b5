"""The README.md of a checkpoint: what the model is, what it was trained on so far, and how to load it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenization.conditions import CONDITIONS
from training.core.files import end_of_path

_CONDITIONS = CONDITIONS | {"stock": "a tokenizer of its own, without the experiment's injection"}
_UNITS = {
    "rows": "conversations",
    "tokens": "tokens",
    "bytes": "bytes of text",
    "supervised_bytes": "bytes of replies",
    "completions": "completions",
    "flops": "floating-point operations",
}
# What a reader asks first; run.json beside the checkpoint has every key.
_KEYS = (
    "learning_rate lr_scheduler_type warmup_steps weight_decay total_batch_tokens total_batch_items bf16 use_peft "
    "num_generations rewards beta loss_type seed data_seed init_seed"
).split()


CARD = "README.md"


def write_model_card(folder: Path, facts: dict[str, Any], step: int, work: dict[str, int]) -> None:
    """Write `README.md` into a checkpoint's folder; the arguments are those of `model_card`."""
    (folder / CARD).write_text(model_card(facts, step, work), encoding="utf-8")


def model_card(
    facts: dict[str, Any],
    step: int,
    work: dict[str, int],
    where: str = '"FOLDER"',
    metadata: Sequence[str] = (),
    sections: Sequence[str] = (),
) -> str:
    """Return the card of a checkpoint.

    facts: as in `run.json`, of which `recipe`, `condition` and `parameters` are needed. work: what the run has read
    after `step`. The same run gives the same text, so no date or machine is named. where: what `from_pretrained` is
    given. metadata, sections: further lines of YAML and of Markdown, for a published checkpoint.
    """
    recipe, condition = facts["recipe"], facts["condition"]
    start = recipe.get("model_name_or_path")
    header = ["library_name: transformers", "pipeline_tag: text-generation", "language: en"]
    # A run says which commit of the Hub it began with, None for a folder, which may be gone by now.
    if start and not Path(start).exists() and facts.get("initial_commit", True):
        header.append(f"base_model: {start}")
    header.append(f"tags: [gpt2, arithmetic, {condition}]")
    rows = [("arm", f"{condition}: {_CONDITIONS[condition]}"), ("parameters", f"{facts['parameters']:,}")]
    if start:
        rows.append(("started from", f"`{end_of_path(start)}`"))
    rows += [("trained on", source) for source in _sources(recipe)]
    rows.append(("step", f"{step:,} of {recipe['max_steps']:,}"))
    rows += [(f"{_UNITS[name]} so far", f"{count:,}") for name, count in work.items()]
    rows += [(f"`{key}`", str(recipe[key])) for key in _KEYS if recipe.get(key) is not None]
    lines = [
        "---",
        *header,
        *metadata,
        "---",
        "",
        f"# {recipe['run_name']}, step {step:,}",
        "",
        "A GPT-2-class language model from a compute-matched experiment: does one token per multiplication fact help",
        "with arithmetic? Its twin of the other arm differs in the tokenizer alone.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        *_loading(where),
        "```",
        "",
        *sections,
        "`run.json` of the run has the whole recipe, versions, device and commit; `metrics.jsonl` has its figures.",
    ]
    return "\n".join(lines) + "\n"


def _loading(where: str) -> list[str]:
    line = f"kind.from_pretrained({where}) for kind in (AutoModelForCausalLM, AutoTokenizer)"
    return [f"model, tokenizer = ({line})"] if len(line) < 90 else ["model, tokenizer = (", f"    {line}", ")"]


def _sources(recipe: dict[str, Any]) -> list[str]:
    listed = recipe.get("datasets") or recipe.get("prompts")
    if listed is None:
        return [f"`{end_of_path(recipe.get('corpus_recipe') or recipe['corpus_dir'])}`"]
    # On a command line an entry is JSON.
    entries = [json.loads(entry) if isinstance(entry, str) else entry for entry in listed]
    return [", ".join(f"{key}: {_described(value)}" for key, value in entry.items()) for entry in entries]


def _described(value: Any) -> str:
    return end_of_path(value) if isinstance(value, str) and Path(value).is_absolute() else str(value)
