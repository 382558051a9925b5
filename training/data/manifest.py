"""Write the manifests of a corpus: what is in it, what was left out and why, how strong the dose is."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tokenization import MulFactTokenizer
from tokenization.conditions import resolve_condition
from tokenization.mul_facts import FACTS
from training.core.files import write_json
from training.data.corpus_recipe import CorpusArguments
from training.data.decontaminate import NGRAM_WORDS
from training.data.plan import Plan
from training.data.records import documents_path, facts_path
from training.data.selection import Chosen
from training.data.shards import FORMAT_VERSION, MANIFEST, SPLITS, ShardWriter, read_manifest, shard_files


@dataclass
class _Part:
    """Running totals over shards of one condition."""

    documents: int = 0
    tokens: int = 0
    plain_tokens: int = 0
    bytes: int = 0
    facts: Any = 0  # (45,)

    def add(self, other: "_Part") -> None:
        for key, value in vars(other).items():
            setattr(self, key, getattr(self, key) + value)

    def describe(self) -> dict[str, Any]:
        counts = np.broadcast_to(self.facts, len(FACTS))
        total = int(counts.sum())
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "plain_tokens": self.plain_tokens,
            "bytes": self.bytes,
            "facts": total,
            "facts_per_million_tokens": 1e6 * total / max(self.tokens, 1),
            "facts_by_name": {fact.name: int(count) for fact, count in zip(FACTS, counts, strict=True)},
        }


def write_manifests(plan: Plan, conditions: list[str], chosen: list[Chosen], report: Callable[[str], None]) -> None:
    """Cut the last pieces to what was chosen of each source, and write a manifest for each condition.

    Raises `ValueError` when there is nothing to train or to validate on, when the dose is below the recipe's minimum,
    or when another condition's corpus beside it turns out to hold other documents.
    """
    manifests = {condition: _manifest(plan, condition, chosen) for condition in conditions}
    for condition, manifest in manifests.items():
        _check(plan, condition, manifest)
    for condition, manifest in manifests.items():
        write_json(plan.output_dir / condition / MANIFEST, manifest)
        train, validation = (manifest["splits"][split] for split in SPLITS)
        report(
            f"{plan.output_dir / condition}: {train['documents']:,} training documents, {train['tokens']:,} tokens, "
            f"{train['bytes']:,} bytes of text, {train['facts_per_million_tokens']:,.1f} facts per million tokens; "
            f"{validation['documents']:,} documents held out"
        )


def below_minimum_dose(args: CorpusArguments, condition: str, dose: float) -> str | None:
    """Return why a corpus is refused for its dose, None if it is not."""
    if not resolve_condition(condition, args.injection_mode, args.operators).rewrites or dose >= args.minimum_dose:
        return None
    return (
        f"the training split holds {dose:.2e} facts per plain token, less than minimum_dose {args.minimum_dose:.2e}: "
        f"too few for '{condition}' to learn from. Add a synthetic source and `dose: 1e-3`, or say `minimum_dose: 0` "
        "in the recipe to have this corpus all the same; what is prepared is kept"
    )


@cache
def tokenizer_identity(
    condition: str, injection_mode: str, operators: str, condition_seed: int = 0
) -> tuple[str | None, str]:
    """Return the mode that a condition's tokenizer has and its fingerprint."""
    tokenizer = MulFactTokenizer.build(condition, injection_mode, operators, condition_seed)
    return tokenizer.injection_mode, tokenizer.fingerprint


def _manifest(plan: Plan, condition: str, choice: list[Chosen]) -> dict[str, Any]:
    args = plan.args
    injection_mode, fingerprint = tokenizer_identity(
        condition, args.injection_mode, args.operators, args.condition_seed
    )
    files: dict[str, dict] = {}
    shards: dict[str, list[str]] = {split: [] for split in SPLITS}
    totals = {(split, synthetic): _Part() for split in SPLITS for synthetic in (False, True)}
    sources, text = [], hashlib.sha256()
    for source, chosen in zip(plan.sources, choice, strict=True):
        of_source = _Part()
        for piece, count in chosen.train:
            stem, part, new_files = _take_train(plan, condition, chosen, piece, count)
            files |= new_files
            shards["train"].append(stem)
            of_source.add(part)
            text.update(json.dumps([count, chosen.records[piece]["train_sha256"]]).encode())
        totals["train", source.is_synthetic].add(of_source)
        for piece in chosen.used:
            record = chosen.records[piece]
            if record["splits"]["validation"]["documents"]:
                stem = f"validation-{chosen.names[piece]}"
                shards["validation"].append(stem)
                files |= {name: record["files"][condition][name] for name in shard_files(stem)}
                totals["validation", source.is_synthetic].add(_whole(record, condition, "validation"))
        sources.append(_describe_source(source.label, source.is_synthetic, chosen, of_source))
    splits = {}
    for split in SPLITS:
        both, natural, synthetic = _Part(), totals[split, False], totals[split, True]
        both.add(natural)
        both.add(synthetic)
        splits[split] = both.describe() | {
            "natural": natural.describe(),
            "synthetic": synthetic.describe(),
            "shards": shards[split],
        }
    used = [chosen.records[piece] for chosen in choice for piece in chosen.used]
    train = splits["train"]
    return {
        "format_version": FORMAT_VERSION,
        "condition": condition,
        "injection_mode": injection_mode,
        "tokenizer": fingerprint,
        "request": plan.request,
        "dose": train["facts"] / max(train["plain_tokens"], 1),
        "splits": splits,
        "sources": sources,
        "documents_sha256": text.hexdigest(),
        "held_out": {
            "documents": splits["validation"]["documents"],
            "files": _merged(record["held_out"] for record in used),
        },
        "decontamination": _describe_decontamination(plan, choice),
        "decontaminated_files": _merged(record["contaminated"]["file"] for record in used),
        "files": files,
    }


def _take_train(
    plan: Plan, condition: str, chosen: Chosen, piece: int, count: int
) -> tuple[str, _Part, dict[str, dict]]:
    """Return stem, totals and files of a piece's first `count` training documents; a part becomes a shard of its
    own."""
    name, record = chosen.names[piece], chosen.records[piece]
    stem = f"train-{name}"
    if count == record["splits"]["train"]["documents"]:
        files = {file: record["files"][condition][file] for file in shard_files(stem)}
        return stem, _whole(record, condition, "train"), files
    folder = plan.output_dir / condition
    tokens, documents = (np.load(folder / file, mmap_mode="r", allow_pickle=False) for file in shard_files(stem))
    documents = documents[:count]
    tokens = tokens[: int(documents["tokens"].sum())]
    writer = ShardWriter(folder, f"{stem}-first-{count}")
    writer.append(tokens, documents)
    places = np.load(facts_path(plan.folder, name), allow_pickle=False)
    plain = np.load(documents_path(plan.folder, name), allow_pickle=False)[:count]
    part = _Part(
        count,
        len(tokens),
        int(plain["plain_tokens"].sum(dtype=np.int64)),
        int(plain["bytes"].sum(dtype=np.int64)),
        np.bincount(places["fact"][places["document"] < count], minlength=len(FACTS)),
    )
    return writer.stem, part, writer.close()


def _whole(record: dict[str, Any], condition: str, split: str) -> _Part:
    totals = record["splits"][split]
    return _Part(
        totals["documents"],
        record["tokens"][condition][split],
        totals["plain_tokens"],
        totals["bytes"],
        np.array(totals["facts_by_fact"]),
    )


def _describe_source(label: str, synthetic: bool, chosen: Chosen, part: _Part) -> dict[str, Any]:
    used = [chosen.records[piece] for piece in chosen.used]
    described = part.describe()
    return {
        "name": label,
        "synthetic": synthetic,
        "documents_read": sum(record["documents_read"] for record in used),
        "left_out": {
            "null": sum(record["left_out"]["null"] for record in used),
            "blank": sum(record["left_out"]["blank"] for record in used),
        },
        "contaminated": len(_copies_met(chosen)),
        "train": {key: described[key] for key in ("documents", "tokens", "plain_tokens", "bytes", "facts")},
    }


def _copies_met(chosen: Chosen) -> list[tuple[int, list[str]]]:
    """Return (bytes, evaluation sets) of each copy of a test item among the documents up to the cut."""
    taken = dict.fromkeys(chosen.used, 0)
    for piece, count in chosen.train:
        taken[piece] = max(taken[piece], count)
    met = []
    for piece, count in taken.items():
        record = chosen.records[piece]
        whole = count == record["splits"]["train"]["documents"]
        met += [(size, sets) for before, size, sets in record["contaminated"]["places"] if whole or before < count]
    return met


def _describe_decontamination(plan: Plan, choice: list[Chosen]) -> dict[str, Any] | None:
    if plan.evaluation_sets is None:
        return None
    met = [copy for chosen in choice for copy in _copies_met(chosen)]
    by_set = Counter(name for _, sets in met for name in sets)
    return {
        "rule": f"{NGRAM_WORDS} words in a row, letters only, numbers and punctuation removed",
        "rule_for_synthetic_text": "the whole first line, numbers included",
        "action": plan.args.contaminated,
        "documents": len(met),
        "bytes": sum(size for size, _ in met),
        "sets": {name: {**facts, "documents": by_set[name]} for name, facts in plan.evaluation_sets.items()},
    }


def _check(plan: Plan, condition: str, manifest: dict[str, Any]) -> None:
    train, validation = (manifest["splits"][split]["documents"] for split in SPLITS)
    if train == 0 or validation == 0:
        copies = (manifest["decontamination"] or {"documents": 0})["documents"]
        raise ValueError(
            f"of {train + validation:,} documents none fell to {'training' if train == 0 else 'validation'} at "
            f"validation_fraction {plan.args.validation_fraction} ({copies:,} were copies of test items); change the "
            "fraction, add text, or set validation_synthetic if every source is synthetic"
        )
    if error := below_minimum_dose(plan.args, condition, manifest["dose"]):
        raise ValueError(error)
    for other in sorted(plan.output_dir.glob(f"*/{MANIFEST}")):
        beside = read_manifest(other.parent)
        if beside["documents_sha256"] != manifest["documents_sha256"]:
            raise ValueError(
                f"'{other.parent}' was made of other documents (sha256 {beside['documents_sha256'][:12]}, here "
                f"{manifest['documents_sha256'][:12]}) though the sources are called alike; delete "
                f"'{plan.output_dir}' and prepare both arms together"
            )


def _merged(mappings) -> dict[str, Any]:
    return {key: value for mapping in mappings for key, value in mapping.items()}
