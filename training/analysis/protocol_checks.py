"""What the files of an experiment say against its protocol: what is missing, unequal, or was tried twice."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from training.analysis.endpoint_items import value_at
from training.analysis.experiment_results import Experiment, Run
from training.analysis.report_words import counted, listed
from training.core.checkpoint import checkpoint_step

# Recipe keys that may differ between the runs of a stage: names and places, the switch itself, and the seeds.
_FREE = frozenset(
    "output_dir run_name corpus_dir corpus_recipe model_name_or_path condition condition_seed injection_mode "
    "operators dose prompts_dir seed data_seed init_seed sample_seed".split()
)
_SHOWN = 6


def deviations(experiment: Experiment) -> list[str]:
    """Return a sentence for everything that the files show and that a plan would not have had in it."""
    return [
        *experiment.missing(),
        *_attempts(experiment),
        *_unequal_steps(experiment),
        *_unequal_starts(experiment),
        *_unequal_recipes(experiment),
        *_other_conditions(experiment),
        *_unequal_evaluations(experiment),
        *_places(experiment),
    ]


def commits(experiment: Experiment) -> dict[str, int]:
    """Return the commits that runs were started from, with how many starts each had."""
    return _tally(start.get("git_commit") or "not recorded" for _, start in _starts(experiment))


def devices(experiment: Experiment) -> dict[str, int]:
    return _tally(start.get("device") or "not recorded" for _, start in _starts(experiment))


def versions(experiment: Experiment) -> dict[str, list[str]]:
    """Return the versions of each package that runs were started with."""
    found: dict[str, set[str]] = {}
    for _, start in _starts(experiment):
        for package, version in (start.get("versions") or {}).items():
            found.setdefault(package, set()).add(str(version))
        if start.get("python"):
            found.setdefault("python", set()).add(start["python"])
    return {package: sorted(of_package) for package, of_package in sorted(found.items())}


def _attempts(experiment: Experiment) -> Iterator[str]:
    for status in ("failed", "interrupted"):
        steps = [row["step"] for row in experiment.ledger if row.get("status") == status]
        if steps:
            yield f"{counted(len(steps), 'attempt')} {status}: {_some(f'`{step}`' for step in dict.fromkeys(steps))}."


def _unequal_steps(experiment: Experiment) -> Iterator[str]:
    for stage in experiment.stages:
        steps = {run.name: run.last_step for run in experiment.runs(stage=stage) if run.last_step is not None}
        if len(set(steps.values())) > 1:
            yield f"The runs of `{stage}` end at unequal steps: {_groups(steps)}."
        for evaluation in experiment.evals_of(stage):
            for run in experiment.runs(stage=stage):
                measured = run.measured(evaluation)
                if measured and run.last_step is not None and checkpoint_step(measured[-1]) < run.last_step:
                    yield (
                        f"`{evaluation}` of `{run.name}` was measured at step {checkpoint_step(measured[-1]):,}, but "
                        f"the run goes to step {run.last_step:,}."
                    )


def _unequal_starts(experiment: Experiment) -> Iterator[str]:
    """Compare what the arms of a seed have to share in pretraining."""
    by_dose: dict[float | None, list[str]] = {}
    for arm, one in experiment.declared["arms"].items():
        by_dose.setdefault(one.get("dose"), []).append(arm)
    # Another dose is another text, and so another order; initial weights are the same for all.
    shared = [("initial_weights_sha256", "initial weights", experiment.arms)]
    shared += [("document_order_sha256", "document order", arms) for arms in by_dose.values()]
    for key, name, arms in shared:
        for seed in experiment.seeds:
            runs = [experiment.run(arm, seed, experiment.stages[0]) for arm in arms]
            hashes = {run.name: run.facts[key][:12] for run in runs if run.facts and run.facts.get(key)}
            if len(set(hashes.values())) > 1:
                yield f"Not all arms of seed {seed} have the same {name}: {_groups(hashes)}."


def _unequal_recipes(experiment: Experiment) -> Iterator[str]:
    for stage in experiment.stages:
        recipes = {run.name: run.facts.get("recipe", {}) for run in experiment.runs(stage=stage) if run.facts}
        for key in sorted({key for recipe in recipes.values() for key in recipe} - _FREE):
            values = {name: repr(recipe.get(key)) for name, recipe in recipes.items()}
            if len(set(values.values())) > 1:
                yield f"The recipes of `{stage}` differ in `{key}`: {_groups(values)}."


def _other_conditions(experiment: Experiment) -> Iterator[str]:
    for run in experiment.runs():
        declared = experiment.declared["arms"][run.arm]["condition"]
        found = (run.facts or {}).get("condition", declared)
        if found != declared:
            yield f"`{run.name}` has the condition `{found}`, and its arm declares `{declared}`."


def _unequal_evaluations(experiment: Experiment) -> Iterator[str]:
    for stage in experiment.stages:
        for evaluation in experiment.evals_of(stage):
            settings = _by_run(
                experiment.runs(stage=stage), lambda run, name=evaluation: (run.results(name) or {}).get("settings")
            )
            tasks = sorted({task for one in settings.values() for task in one})
            for task in tasks:
                values = {name: repr(one.get(task)) for name, one in settings.items()}
                if len(set(values.values())) > 1:
                    keys = sorted({key for one in settings.values() for key in one.get(task) or {}})
                    unequal = [
                        key
                        for key in keys
                        if len({repr(value_at(one, f"{task}.{key}")) for one in settings.values()}) > 1
                    ]
                    yield (
                        f"The evaluation `{evaluation}` after `{stage}` measured `{task}` with unequal settings: "
                        f"{listed([f'`{key}`' for key in unequal]) or 'the task'}."
                    )


def _places(experiment: Experiment) -> Iterator[str]:
    for name, found in (("commits", commits(experiment)), ("devices", devices(experiment))):
        if len(found) > 1:
            places = _some(f"{value} ({count})" for value, count in found.items())
            yield f"The runs were started on {len(found)} {name}: {places}."
    changed = [commit for commit in commits(experiment) if commit.endswith("+changes")]
    if changed:
        yield f"The work tree had changes that are not in the commit: {listed(changed)}."
    for package, found in versions(experiment).items():
        if len(found) > 1:
            yield f"The runs were started with several versions of {package}: {listed(found)}."


def _starts(experiment: Experiment) -> Iterator[tuple[Run, dict[str, Any]]]:
    for run in experiment.runs():
        for start in (run.facts or {}).get("starts", []):
            yield run, start


def _by_run(runs: Iterable[Run], look: Callable[[Run], Any]) -> dict[str, Any]:
    found = {run.name: look(run) for run in runs}
    return {name: value for name, value in found.items() if value is not None}


def _groups(values: dict[str, Any]) -> str:
    """Return the runs by their value: `600 in 11 runs, 500 in baseline-s0/pretrain`."""
    by_value: dict[str, list[str]] = {}
    for name, value in values.items():
        by_value.setdefault(str(value), []).append(name)
    ordered = sorted(by_value.items(), key=lambda item: -len(item[1]))
    return ", ".join(
        f"{value:.80} in {counted(len(names), 'run') if len(names) > 3 else listed([f'`{name}`' for name in names])}"
        for value, names in ordered[:_SHOWN]
    )


def _some(texts: Iterable[str]) -> str:
    texts = list(texts)
    return listed(texts) if len(texts) <= _SHOWN else f"{', '.join(texts[:_SHOWN])} and {len(texts) - _SHOWN} more"


def _tally(values: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return found
