"""What must hold for the arms to be comparable, checked before the first run and on what the runs have recorded.

Every check says what it saw; one that fails raises `ValueError` that names the two values that differ.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenization import MulFactTokenizer
from tokenization.mul_facts import END_OF_TEXT_ID, PAD_ID, VOCABULARY_SIZE
from training.core.recipe import read_recipe
from training.data.shards import read_manifest
from training.data.sources import Source
from training.experiments.recipe import Arm, ExperimentArguments, Stage
from training.experiments.steps import corpus_dir

Check = dict[str, Any]  # name, passed, detail

# In what the recipes of two arms' runs may differ: the arm, and where things lie. Where a run reads its data is
# checked by what it read.
_OF_ARM = frozenset(
    "condition injection_mode operators condition_seed output_dir corpus_dir corpus_recipe model_name_or_path "
    "run_name logging_dir generation_kwargs".split()
)
# Facts of a run.json that are the same in all arms of a seed.
_SAME_IN_ALL_ARMS = (
    "parameters",
    "initial_weights_sha256",
    "document_order_sha256",
    "training_documents",
    "processed_tokens",
    "rows_sha256",
    "held_out_rows_sha256",
    "items",
    "prompts_sha256",
    "maximum_of_wrong",
    "minimum_of_right",
)
# What the runs of another seed have besides.
_OF_SEED = frozenset("seed data_seed init_seed sample_seed".split())
_ONLY_OF_PRETRAINING = ("initial_weights_sha256",)  # later stages begin from weights that the arms have made


def check_before(args: ExperimentArguments) -> list[Check]:
    """Check tokenizers, corpora and test items; the corpora are prepared by now."""
    return [_vocabulary(args), *_documents(args), *check_leakage(args)]


def check_after(args: ExperimentArguments) -> list[Check]:
    """Check what the runs so far have recorded, stage by stage, among the arms of a seed and among the seeds."""
    checks = []
    for stage in args.stages:
        for seed in args.seeds:
            checks += _runs_alike(args, stage, seed)
        checks += _seeds_alike(args, stage)
    return checks


def _vocabulary(args: ExperimentArguments) -> Check:
    seen = {}
    for arm in args.arms:
        seed = arm.seed_of_condition(args.seeds[0])
        tokenizer = MulFactTokenizer.build(arm.condition, arm.injection_mode, arm.operators, seed)
        seen[arm.name] = (len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    _all_alike("the vocabulary (size, end of text, padding)", seen)
    assert next(iter(seen.values())) == (VOCABULARY_SIZE, END_OF_TEXT_ID, PAD_ID)
    return _passed("vocabulary", f"{VOCABULARY_SIZE:,} ids in all {len(seen)} arms")


def _documents(args: ExperimentArguments) -> list[Check]:
    checks = []
    for dose in dict.fromkeys(arm.dose for arm in args.arms):
        arms = [arm for arm in args.arms if arm.dose == dose and arm.name in (args.only_arms or [arm.name])]
        seen, facts, test_items = {}, {}, {}
        for arm in arms:
            for seed in args.only_seeds or args.seeds:
                manifest = read_manifest(corpus_dir(args, arm, seed) / arm.condition)
                name = f"{arm.name}, seed {seed}"
                seen[name], facts[name] = manifest["documents_sha256"], manifest["dose"]
                sets = (manifest["decontamination"] or {}).get("sets", {})
                test_items[name] = sorted(sets)
        if not arms:
            continue
        where = "" if dose is None else f" at dose {dose:g}"
        _all_alike(f"the documents of the corpus{where}", seen)
        _all_alike(f"the dose of the corpus{where}", facts)
        _all_alike(f"the test items that the corpus{where} was searched for", test_items)
        sets = ", ".join(next(iter(test_items.values()))) or "none"
        detail = (
            f"the same in {', '.join(arm.name for arm in arms)}: sha256 {next(iter(seen.values()))[:12]}, "
            f"{next(iter(facts.values())):.2e} facts per plain token, searched for copies of: {sets}"
        )
        checks.append(_passed(f"documents and their order{where}", detail))
    return checks


def check_leakage(args: ExperimentArguments) -> list[Check]:
    """Check that whatever reads rows of text looks for the items of the evaluations that it could hold."""
    trained_on = {"the corpus": args.corpus} | {f"stage '{s.name}'": s.recipe for s in args.stages[1:]}
    changed = {f"stage '{stage.name}'": stage.set for stage in args.stages[1:]}
    checks = []
    for where, recipe in trained_on.items():
        keys = {**read_recipe(recipe), **changed.get(where, {})}
        sources = keys.get("sources") or keys.get("datasets") or keys.get("prompts") or []
        known = list(map(_entry, keys.get("decontaminate", [])))
        looked_for = []
        for task in (task for each in args.evals for task in each.tasks):
            identity = _identity(task)
            if identity is None or not any(_may_hold(source, task) for source in sources):
                continue
            if not any(_identity(entry) == identity and _holds_as_many(entry, task) for entry in known):
                raise ValueError(
                    f"evaluation task '{task['name']}' measures {_in_words(task)}, which {where} ({recipe}) does not "
                    f"look for: its decontaminate has {', '.join(map(_in_words, known)) or 'nothing'}; name it there"
                )
            looked_for.append(task["name"])
        checks.append(_passed(f"no test items in {where}", f"looked for: {', '.join(looked_for) or 'none could be'}"))
    return checks


def _entry(entry: Any) -> dict[str, Any]:
    return json.loads(entry) if isinstance(entry, str) else dict(entry)


def _identity(entry: Mapping[str, Any]) -> str | None:
    """Return what tells a set of items from another one, None for probes, which are facts and sums of two numbers.

    Of a generator these are all keys but `documents`: the first of its items are the same however many it makes.
    """
    if entry.get("synthetic"):
        written = [f"synthetic {entry['synthetic']}", f"seed {entry.get('seed', Source.seed)}"]
        for key in ("factor_digits", "second_steps", "held_out_facts"):
            value, default = (
                json.dumps(each) for each in (entry.get(key, getattr(Source, key)), getattr(Source, key))
            )
            written += [f"{key} {value}"] if value != default else []
        return ", ".join(written)
    place = entry.get("path") or entry.get("hub")
    if place is None:
        return None
    default = "train" if "task" not in entry else "validation" if entry["task"] == "hellaswag" else "test"
    return f"{place}, split {entry.get('split', default)}" if entry.get("hub") else str(place)


def _holds_as_many(entry: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
    """Return whether a generator makes at least the items of a task; files and data sets have what they have."""
    if not task.get("synthetic"):
        return True
    return entry.get("documents", 0) >= min(task["documents"], task.get("limit") or task["documents"])


def _in_words(entry: Mapping[str, Any]) -> str:
    documents = f", {entry['documents']:,} documents" if entry.get("documents") else ""
    return f"{_identity(entry)}{documents}"


def _may_hold(source: Any, task: Mapping[str, Any]) -> bool:
    """Return whether a source could hold a task's items: real text any real ones, generators those of their kind."""
    source = json.loads(source) if isinstance(source, str) else source
    if task.get("synthetic") or source.get("synthetic"):
        return source.get("synthetic") == task.get("synthetic")
    return True


def _runs_alike(args: ExperimentArguments, stage: Stage, seed: int) -> list[Check]:
    runs = {arm: read_run(args.run_dir(arm.name, seed, stage.name)) for arm in args.arms}
    runs = {arm: run for arm, run in runs.items() if run is not None}
    if len(runs) < 2:
        return []
    where = f"{stage.name}, seed {seed}"
    keys = sorted({key for run in runs.values() for key in run["recipe"]} - _OF_ARM)
    for key in keys:
        _all_alike(f"the recipe's {key} of {where}", _values(runs, lambda run, key=key: run["recipe"].get(key)))
    same = []
    for fact in _SAME_IN_ALL_ARMS:
        if fact in _ONLY_OF_PRETRAINING and stage.program != "pretrain":
            continue
        if not any(fact in run for run in runs.values()):
            continue
        if fact == "document_order_sha256":  # another dose is another corpus
            for dose in dict.fromkeys(arm.dose for arm in runs):
                of_dose = {arm: run for arm, run in runs.items() if arm.dose == dose}
                _all_alike(f"the {fact} of {where}", _values(of_dose, lambda run: run.get("document_order_sha256")))
        elif fact != "training_documents" or len({arm.dose for arm in runs}) == 1:
            _all_alike(f"the {fact} of {where}", _values(runs, lambda run, fact=fact: run.get(fact)))
        same.append(fact)
    names = ", ".join(arm.name for arm in runs)
    return [_passed(where, f"the same in {names}: {len(keys)} keys of the recipe, {', '.join(same)}")]


def _seeds_alike(args: ExperimentArguments, stage: Stage) -> list[Check]:
    """Compare the recipes of all runs of a stage, which differ in the arm and the seed alone."""
    runs = {}
    for seed in args.seeds:
        for arm in args.arms:
            if (run := read_run(args.run_dir(arm.name, seed, stage.name))) is not None:
                runs[f"{arm.name}, seed {seed}"] = run["recipe"]
    if len({name.rpartition(" ")[2] for name in runs}) < 2:
        return []
    keys = sorted({key for recipe in runs.values() for key in recipe} - _OF_ARM - _OF_SEED)
    for key in keys:
        _all_alike(f"the recipe's {key} of {stage.name}", {name: recipe.get(key) for name, recipe in runs.items()})
    return [_passed(f"{stage.name}, all seeds", f"the same in {len(runs)} runs: {len(keys)} keys of the recipe")]


def read_run(folder: Path) -> dict[str, Any] | None:
    """Return a run's `run.json`, None where there is none."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _values(runs: Mapping[Arm, dict[str, Any]], read: Any) -> dict[str, Any]:
    return {arm.name: read(run) for arm, run in runs.items()}


def _all_alike(what: str, seen: Mapping[str, Any]) -> None:
    """Raise `ValueError` that names the first two that differ."""
    (first, expected), *others = seen.items()
    for name, value in others:
        if value != expected:
            raise ValueError(
                f"the arms cannot be compared: {what} is {expected!r} in {first} and {value!r} in {name}; they must "
                "differ in the tokenizer alone"
            )


def _passed(name: str, detail: str) -> Check:
    return {"name": name, "passed": True, "detail": detail}
