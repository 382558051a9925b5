"""Tell people what a prepared corpus holds, from its manifests alone."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenization.mul_facts import FACT_BY_FACTORS, FACTS
from training.data.shards import MANIFEST, SPLITS, read_manifest

_WIDTH = 110
_PARTS = ("natural", "synthetic")


def read_manifests(folder: Path) -> dict[str, dict]:
    """Return the manifests of a corpus by condition; `folder` holds one folder per condition, or is one of these.

    Raises `FileNotFoundError` or `ValueError` with what to do.
    """
    folders = (
        [folder] if (folder / MANIFEST).is_file() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    )
    # Without any, reading the folder itself says what is missing.
    manifests = [read_manifest(each) for each in folders or [folder]]
    return {manifest["condition"]: manifest for manifest in manifests}


def describe_corpus(manifests: dict[str, dict]) -> str:
    """Return a summary that fits 110 columns: sources, splits, dose, facts, decontamination, and what identifies it.

    manifests: by condition, as `read_manifests` gives them.
    """
    first = next(iter(manifests.values()))
    train = first["splits"]["train"]
    modes = {manifest["injection_mode"] for manifest in manifests.values()} - {None}
    lines = [f"Corpus for {' and '.join(manifests)}" + (f", {modes.pop()} injection" if modes else "")]
    lines += _section("Sources, and what the training split takes of them", _describe_sources(first["sources"]))
    for split in SPLITS:
        parts = {name: manifest["splits"][split] for name, manifest in manifests.items()}
        lines += _section(f"{split.capitalize()} split", _describe_split(parts))
    for part in _parts_of(train):
        counts = train[part]["facts_by_name"]
        lines += _section(f"Facts in the {part} training text, by their factors", _describe_facts(part, counts))
    lines += ["", *_describe_missing("the training split", train["facts_by_name"])]
    lines += _section("Decontamination", _describe_decontamination(first["decontamination"]))
    lines += _section("Identity", _describe_identity(manifests))
    return "\n".join(line.rstrip() for line in lines)


def never_occurring(facts_by_name: dict[str, int]) -> list[str]:
    """Return the facts without a single occurrence, as `6*9`, in the order of `FACTS`."""
    return [f"{fact.a}*{fact.b}" for fact in FACTS if facts_by_name[fact.name] == 0]


def dose(part: dict[str, Any]) -> float:
    """Return the facts per plain GPT-2 token of a split or a part of one."""
    return part["facts"] / max(part["plain_tokens"], 1)


def _parts_of(split: dict[str, Any]) -> list[str]:
    return [part for part in _PARTS if split[part]["documents"]]


def _describe_sources(sources: list[dict[str, Any]]) -> list[str]:
    total = max(sum(source["train"]["plain_tokens"] for source in sources), 1)
    rows = [["", "read", "null", "blank", "contam.", "documents", "plain tokens", "bytes", "share"]]
    for source in sources:
        train = source["train"]
        counts = [source["documents_read"], *source["left_out"].values(), source["contaminated"]]
        counts += [train["documents"], train["plain_tokens"], train["bytes"]]
        name = source["name"] + (" (synthetic)" if source["synthetic"] else "")
        rows.append([name, *(f"{count:,}" for count in counts), f"{train['plain_tokens'] / total:.1%}"])
    return [
        *_table(rows),
        "  null, blank: rows without text, left out. contam.: documents that share words with a test item. share: of",
        "  plain tokens, as plain GPT-2 counts them in every condition.",
    ]


def _describe_split(splits: dict[str, dict[str, Any]]) -> list[str]:
    """Describe one split; what is the same for every condition stands once."""
    measures: list[tuple[str, Callable[[dict], str]]] = [
        ("documents", lambda part: f"{part['documents']:,}"),
        ("bytes of text", lambda part: f"{part['bytes']:,}"),
        ("plain tokens", lambda part: f"{part['plain_tokens']:,}"),
        ("facts", lambda part: f"{part['facts']:,}"),
        ("dose, facts per plain token", lambda part: f"{dose(part):.1e}"),
        ("tokens", lambda part: f"{part['tokens']:,}"),
        ("bytes per token", lambda part: f"{part['bytes'] / max(part['tokens'], 1):.4f}"),
        ("facts per million tokens", lambda part: f"{part['facts_per_million_tokens']:,.1f}"),
    ]
    parts = _parts_of(next(iter(splits.values())))
    columns = ["all", *parts] if len(parts) > 1 else parts
    rows = [["", *columns]]
    for label, show in measures:
        values = {
            condition: [show(split if part == "all" else split[part]) for part in columns]
            for condition, split in splits.items()
        }
        if len(set(map(tuple, values.values()))) == 1:
            rows.append([label, *next(iter(values.values()))])
        else:
            rows += [[f"{label}, {condition}", *row] for condition, row in values.items()]
    return _table(rows)


def _describe_facts(part: str, counts: dict[str, int]) -> list[str]:
    if not any(counts.values()):
        return ["  none at all"]
    rows = [["", *map(str, range(1, 10))]]
    for a in range(1, 10):
        cells = [f"{counts[FACT_BY_FACTORS[a, b].name]:,}" if a <= b else "" for b in range(1, 10)]
        rows.append([f"{a} *", *cells])
    return [*_table(rows), *(f"  {line}" for line in _describe_missing(f"{part} training text", counts))]


def _describe_missing(where: str, counts: dict[str, int]) -> list[str]:
    missing = never_occurring(counts)
    if not missing:
        return [f"Each of the {len(FACTS)} facts occurs in {where}."]
    text = f"Never in {where}, {len(missing)} of the {len(FACTS)} facts: {', '.join(missing)}"
    return textwrap.wrap(text, _WIDTH - 4, subsequent_indent="  ", break_on_hyphens=False)


def _describe_decontamination(facts: dict[str, Any] | None) -> list[str]:
    if facts is None:
        return ["  none: the recipe names no test items under `decontaminate`"]
    done = "left out" if facts["action"] == "drop" else "reported, and kept"
    rows = [["", "items", "too short", "13-grams", "documents"]]
    for name, each in facts["sets"].items():
        counts = (each["items"], each["items_too_short"], each["ngrams"], each["documents"])
        rows.append([name, *(f"{count:,}" for count in counts)])
    return [
        f"  rule: {facts['rule']}",
        f"  documents that share that with a test item: {facts['documents']:,} ({facts['bytes']:,} bytes), {done}",
        *_table(rows),
        "  too short: items that this rule cannot find. documents: those that share words with the set.",
    ]


def _describe_identity(manifests: dict[str, dict]) -> list[str]:
    documents = {manifest["documents_sha256"] for manifest in manifests.values()}
    if len(documents) == 1:
        every = "each condition" if len(manifests) > 1 else "the one condition here"
        lines = [f"  documents of {every}: sha256 {documents.pop()}"]
    else:
        lines = ["  the conditions hold DIFFERENT documents; delete the folder and prepare them together"]
        lines += [f"  documents of {name}: sha256 {each['documents_sha256']}" for name, each in manifests.items()]
    for condition, manifest in manifests.items():
        train, validation = (len(manifest["splits"][split]["shards"]) for split in SPLITS)
        size = sum(file["bytes"] for file in manifest["files"].values())
        lines += [
            f"  {condition}: tokenizer {manifest['tokenizer']}",
            f"  {' ' * len(condition)}  {train:,} shards to train, {validation:,} to validate; {size:,} bytes on disk",
        ]
    return lines


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *lines]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns, the first to the left; it is cut at its beginning where the line would be too long."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], _WIDTH - 2 - sum(2 + width for width in widths[1:]))
    lines = []
    for first, *others in rows:
        if len(first) > widths[0]:
            first = "…" + first[1 - widths[0] :]
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([f"  {first:<{widths[0]}}", *cells]))
    return lines
