"""The steps of an experiment: which program runs with which arguments, behind which others."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.core.checkpoint import list_checkpoints
from training.data.shards import MANIFEST
from training.experiments.recipe import Arm, Evaluation, ExperimentArguments, Stage

PROGRAMS = Path(__file__).resolve().parents[1]
LAUNCHED = ("pretrain", "sft", "grpo", "eval")  # through Accelerate; the others are plain Python


@dataclass(frozen=True)
class Step:
    """One program to run.

    needs: the names of the steps before it. start: the run whose last checkpoint it begins from or measures. run: what
    it writes to, a run's folder or a corpus'. results: where its evaluation goes.
    """

    name: str
    program: str
    recipe: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]
    run: Path
    start: Path | None = None
    results: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Identify what the step does: its arguments and the content of its recipe."""
        content = [self.program, self.recipe, list(self.arguments), Path(self.recipe).read_text(encoding="utf-8")]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def command(self, launcher: list[str]) -> list[str]:
        """Return the command line; the start is looked up now, when the steps before are done."""
        command = [str(PROGRAMS / f"{self.program}.py"), self.recipe, *self.arguments]
        if self.start is not None:
            name = "--model" if self.program == "eval" else "--model_name_or_path"
            command += [name, str(last_checkpoint(self.start))]
        return [*(launcher if self.program in LAUNCHED else [sys.executable]), *command]

    def has_results(self) -> bool:
        """Return whether what the step writes is there."""
        if self.program == "prepare_data":
            return any(self.run.glob(f"*/{MANIFEST}"))
        if self.results is not None:
            return any((folder / "results.json").is_file() for folder in list_checkpoints(self.results))
        return bool(list_checkpoints(self.run))


def last_checkpoint(run: Path) -> Path:
    """Return the last checkpoint of a run; raises `ValueError` when there is none."""
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise ValueError(f"'{run}' has no checkpoint to go on from; remove its lines from ledger.jsonl and run again")
    return checkpoints[-1]


def all_steps(args: ExperimentArguments) -> list[Step]:
    """Return the steps in the order in which they are best begun: one seed after the other, all arms of each."""
    corpora = {step.name: step for arm, seed in _runs(args) for step in [_corpus_step(args, arm, seed)]}
    steps = list(corpora.values())
    for arm, seed in _runs(args):
        for stage in args.stages:
            steps.append(_stage_step(args, arm, seed, stage))
            steps += [_eval_step(args, arm, seed, stage, each) for each in args.evals if stage.name in each.stages]
    return steps


def corpus_dir(args: ExperimentArguments, arm: Arm, seed: int) -> Path:
    """Return the folder of the corpora that hold an arm's: those of one injection and dose lie together."""
    return Path(args.output_dir) / _corpus_step(args, arm, seed).name


def _runs(args: ExperimentArguments) -> Iterator[tuple[Arm, int]]:
    for seed in args.only_seeds or args.seeds:
        for arm in args.arms:
            if not args.only_arms or arm.name in args.only_arms:
                yield arm, seed


def _corpus_key(arm: Arm, seed: int) -> tuple:
    """Return what arms must share to be prepared in one pass."""
    from tokenization.conditions import resolve_condition

    settings = resolve_condition(arm.condition, arm.injection_mode, arm.operators, arm.seed_of_condition(seed))
    # An arm that rewrites nothing joins those of the recipe's own settings.
    mode, operators = settings.injection_mode or "weak", settings.operators or "*×x"
    return mode, operators, settings.seed or 0, arm.dose


def _corpus_step(args: ExperimentArguments, arm: Arm, seed: int) -> Step:
    key = _corpus_key(arm, seed)
    mode, operators, condition_seed, dose = key
    # All arms, also those that are not asked for now: the pieces of work of one experiment share their corpora.
    together = [other for other in args.arms for each in args.seeds if _corpus_key(other, each) == key]
    conditions = sorted({other.condition for other in together})
    signs = "".join({"*": "s", "×": "c", "x": "x"}[sign] for sign in operators)
    parts = [mode, *([signs] if signs != "scx" else []), *([f"seed{condition_seed}"] if condition_seed else [])]
    name = f"corpus/{'-'.join([*parts, *([f'dose{dose:g}'] if dose is not None else [])])}"
    folder = Path(args.output_dir) / name
    settings = ["--injection_mode", mode, "--operators", operators, "--condition_seed", str(condition_seed)]
    settings += ["--dose", str(dose)] if dose is not None else []
    return Step(
        name,
        "prepare_data",
        str(args.corpus),
        ("--output_dir", str(folder), "--source_root", args.data_root, "--conditions", *conditions, *settings),
        needs=(),
        run=folder,
    )


def _stage_step(args: ExperimentArguments, arm: Arm, seed: int, stage: Stage) -> Step:
    run = args.run_dir(arm.name, seed, stage.name)
    arguments = ["--output_dir", str(run), "--seed", str(seed)]
    if stage.program == "pretrain":
        corpus = _corpus_step(args, arm, seed)
        needs, start = (corpus.name,), None
        # An empty corpus_recipe: what the step before has prepared is taken as it is.
        arguments += ["--corpus_dir", str(corpus.run), "--corpus_recipe", "", "--condition", arm.condition]
        arguments += ["--injection_mode", arm.injection_mode, "--operators", arm.operators]
        arguments += ["--condition_seed", str(arm.seed_of_condition(seed))]
    else:
        needs, start = (_name(arm, seed, str(stage.start)),), args.run_dir(arm.name, seed, str(stage.start))
        arguments += ["--data_root", args.data_root]
    arguments += _options(stage.set)
    return Step(_name(arm, seed, stage.name), stage.program, stage.recipe, tuple(arguments), needs, run, start)


def _eval_step(args: ExperimentArguments, arm: Arm, seed: int, stage: Stage, evaluation: Evaluation) -> Step:
    run = args.run_dir(arm.name, seed, stage.name)
    arguments = ["--data_root", args.data_root, *_options(evaluation.set)]
    if evaluation.every_checkpoint:
        arguments += ["--every_checkpoint", str(run)]
    return Step(
        f"{_name(arm, seed, stage.name)}/evals/{evaluation.name}",
        "eval",
        evaluation.recipe,
        tuple(arguments),
        needs=(_name(arm, seed, stage.name),),
        run=run,
        start=None if evaluation.every_checkpoint else run,
        results=run / "evals" / evaluation.name,
    )


def _name(arm: Arm, seed: int, stage: str) -> str:
    return f"{arm.name}-s{seed}/{stage}"


def _options(changed: dict[str, Any]) -> list[str]:
    """Return keys of a recipe as options, in the way that the programs' parser reads them."""
    options = []
    for key, value in changed.items():
        if value is None:
            raise ValueError(f"`set` has {key}: null, which no command line can say; leave the key out of the recipe")
        options.append(f"--{key}")
        if isinstance(value, list):
            options += [each if isinstance(each, str) else json.dumps(each) for each in value]
        else:
            options.append(value if isinstance(value, str) else json.dumps(value))
    return options
