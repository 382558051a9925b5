"""What a run was trained on, in words: how much, the dose of facts, and what was done about test items."""

import json
from pathlib import Path
from typing import Any

from training.core.provenance import RUN_FILE
from training.core.recipe import parse_recipe
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.packing import document_order_sha256
from training.data.shards import MANIFEST

_REPORTS = ("rows/report.json", "prompts/report.json")  # of fine-tuning and of GRPO


def data_in_words(run: Path, facts: dict[str, Any]) -> list[str]:
    """Return lines of Markdown about a run's data, from the manifest of its corpus or the report of its rows."""
    for name in _REPORTS:
        if (run / name).is_file():
            return _of_rows(json.loads((run / name).read_text(encoding="utf-8"))["report"])
    manifest = _manifest_of(run, facts)
    if manifest is None:
        return ["The corpus is not on the machine that published this; `run.json` has the hash of its documents."]
    return _of_corpus(manifest)


def _manifest_of(run: Path, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the corpus that a run was trained on, None where it is gone or has been made anew."""
    if "document_order_sha256" not in facts:
        return None
    # From the run itself: what is published says of these folders only how they end.
    recipe = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))["recipe"]
    folder = recipe.get("corpus_dir")
    if folder is None and Path(recipe.get("corpus_recipe") or "").is_file():
        (corpus, _) = parse_recipe([CorpusArguments, PreparationArguments], [recipe["corpus_recipe"]])
        folder = corpus.output_dir
    for place in (Path(folder or ".") / facts["condition"], Path(folder or ".")):
        if (place / MANIFEST).is_file():
            manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            order = document_order_sha256(
                manifest["documents_sha256"], facts["training_documents"], recipe["data_seed"]
            )
            return manifest if order == facts["document_order_sha256"] else None
    return None


def _of_corpus(manifest: dict[str, Any]) -> list[str]:
    train = manifest["splits"]["train"]
    lines = [
        f"- Corpus: {train['documents']:,} training documents, {train['plain_tokens']:,} plain GPT-2 tokens.",
        f"- Dose: {manifest['dose']:.2e} facts per plain token ({train['facts']:,} facts, of which "
        f"{train['synthetic']['facts']:,} in synthetic documents).",
    ]
    cleaned = manifest["decontamination"]
    if cleaned is None:
        return [*lines, "- Decontamination: none; copies of test items were not looked for."]
    done = "left out" if cleaned["action"] == "drop" else "reported, and kept"
    sets = ", ".join(f"{name} ({each['items']:,} items)" for name, each in cleaned["sets"].items())
    return [
        *lines,
        f"- Decontamination: {cleaned['documents']:,} documents {done} that share {cleaned['rule']}, with an item of "
        f"{sets}.",
    ]


def _of_rows(report: dict[str, Any]) -> list[str]:
    lines = [
        f"- {each['source']}: {each['rows']:,} rows, {each['held_out']:,} held out, {each['train']:,} to train on "
        f"({each['share']:.1%})"
        for each in report["sources"]
    ]
    packed = report["train"]
    if isinstance(packed, dict):
        lines.append(f"- Dose: {packed['text_facts']:,} facts in {packed['kept']:,} rows.")
    sets = report["evaluation_sets"]
    if not sets:
        return [*lines, "- Decontamination: none; copies of test items were not looked for."]
    copies = sum(each["contaminated"] for each in report["sources"])
    names = ", ".join(f"{name} ({each['items']:,} items)" for name, each in sets.items())
    return [*lines, f"- Decontamination: {copies:,} rows left out that copy an item of {names}."]
