"""Run a whole experiment: all arms and seeds through corpus, pretraining, fine-tuning, GRPO, evaluation and report.

    python training/experiment.py recipes/experiment.yaml
    python training/experiment.py recipes/gpt2_124m/experiment.yaml --plan --plan_device A100 --plan_devices 8
    python training/experiment.py recipes/gpt2_124m/experiment.yaml --slurm --slurm_partition gpu

Launches the other programs through Accelerate, one step per GPU or CPU core (`--devices_per_step N`) at the same time.
Writes `output_dir/experiment.json` (what was declared, before the first run), `ledger.jsonl` (every attempt), `logs/`,
the runs, `<arm>-s<seed>/<stage>/`, and `report/`. Whatever stops it, the same command goes on from there: SIGTERM ends
with 75, Ctrl-C with 130, after the programs have saved. An experiment that has begun is not changed, nor are the
recipes it names: others need another `output_dir`. Only `deviations` may be added; each start writes them down anew.
`--only_arms`, `--only_seeds`, `--only_corpus` and `--only_report` do a part of it.
"""

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from training.core.console import processor_name
from training.core.files import write_json
from training.core.provenance import environment
from training.core.recipe import recipe_sha256, run_program
from training.experiments.costs import plan_in_words
from training.experiments.invariants import check_after, check_before
from training.experiments.ledger import Ledger
from training.experiments.recipe import ExperimentArguments
from training.experiments.runner import Runner, find_slots
from training.experiments.slurm import write_jobs
from training.experiments.steps import PROGRAMS, all_steps

EXPERIMENT = "experiment.json"


def main(args: ExperimentArguments) -> int:
    if args.plan:
        say(plan_in_words(args))
        return 0
    if args.slurm:
        say(write_jobs(args, sys.argv))
        return 0
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    facts = declare(args, folder)
    if args.only_report:
        check(check_before, args, facts, folder)  # parts that were done one by one have looked at their own arms
    else:
        runner = run_steps(args, facts, folder)
        if runner.failed:
            say(f"failed: {', '.join(runner.failed)}; mend what the logs say, and give the same command again")
        if runner.signal is not None or args.only_corpus:
            return runner.exit_code
    check(check_after, args, facts, folder)
    if args.report:
        subprocess.run([sys.executable, str(PROGRAMS / "report.py"), str(folder)], check=True)
    return 0 if args.only_report else runner.exit_code


def run_steps(args: ExperimentArguments, facts: dict[str, Any], folder: Path) -> Runner:
    """Run what is not finished, the corpora first, and check the arms in between."""
    gpus = torch.cuda.device_count()
    slots, steps = find_slots(args, gpus), all_steps(args)
    say(
        f"{args.name} ({args.scale}): {len(args.arms)} arms, {len(args.seeds)} seeds, {len(steps)} steps, "
        f"{len(slots)} at a time on {torch.cuda.get_device_name() if gpus else processor_name()}; {folder}"
    )
    with Runner(args, Ledger(folder), slots, say) as runner:
        runner.run([step for step in steps if step.program == "prepare_data"])
        if not (runner.failed or runner.signal or args.only_corpus):
            check(check_before, args, facts, folder)
            runner.run(steps)
    return runner


def check(
    checks: Callable[[ExperimentArguments], list[dict[str, Any]]],
    args: ExperimentArguments,
    facts: dict[str, Any],
    folder: Path,
) -> None:
    """Make the checks, write down what they saw, and say it."""
    found = checks(args)
    facts.setdefault("invariants", {"before": [], "after": []})[checks.__name__.removeprefix("check_")] = found
    write_json(folder / EXPERIMENT, facts)
    say("\n".join(f"the arms are alike in {each['name']}: {each['detail']}" for each in found))


def declare(args: ExperimentArguments, folder: Path) -> dict[str, Any]:
    """Write down what the experiment is before anything runs, or hold it against what was written down.

    The recipes that it names belong to it, by their content without comments. Raises `ValueError` where something has
    been changed since.
    """
    path = folder / EXPERIMENT
    declared = args.declared()
    recipes = {recipe: recipe_sha256(recipe) for recipe in args.recipes}
    if not path.is_file():
        around = environment(torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name())
        facts = {
            **declared,
            "arms": {arm.pop("name"): arm for arm in map(dict, declared["arms"])},
            "evals": [
                {**each, "name": evaluation.name, "tasks": [task["name"] for task in evaluation.tasks]}
                for each, evaluation in zip(declared["evals"], args.evals, strict=True)
            ],
            "declared_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "deviations": args.deviations,
            "recipe": declared,
            "recipes_sha256": recipes,
            "commit": around["git_commit"],
            **{key: around[key] for key in ("versions", "device", "python", "platform")},
        }
        write_json(path, facts)
        return facts
    facts = json.loads(path.read_text(encoding="utf-8"))
    for key, value in declared.items():
        if facts["recipe"].get(key) != value:
            raise ValueError(
                f"'{folder}' holds an experiment that was declared with another {key}: {facts['recipe'].get(key)!r}, "
                f"and now {value!r}; put it back, or choose another output_dir for another experiment"
            )
    before = facts.get("recipes_sha256")
    if before is None:
        say(f"'{path}' does not say what its recipes held, so it is not checked that they are the same")
    for recipe, sha256 in recipes.items() if before is not None else ():
        if before.get(recipe) != sha256:
            raise ValueError(
                f"'{recipe}' is another recipe than when the experiment in '{folder}' was declared (sha256 "
                f"{str(before.get(recipe))[:12]}, and now {sha256[:12]}); put its content back, comments aside, or "
                "choose another output_dir for another experiment"
            )
    if facts.get("deviations") != args.deviations:
        facts["deviations"] = args.deviations
        write_json(path, facts)
    return facts


def say(line: str) -> None:
    if line:
        print(line, flush=True)


if __name__ == "__main__":
    run_program(main, [ExperimentArguments])
