"""The sections of a report about training: learning curves, and the dose of facts."""

from pathlib import Path

from training.analysis.comparison_figures import plot_curves, plot_doses
from training.analysis.endpoint_items import EndpointItems, value_at
from training.analysis.experiment_results import Experiment, Run
from training.analysis.report_pages import Block, Figure, Heading, Section, Table
from training.analysis.report_words import large
from training.analysis.result_files import read_json
from training.analysis.run_costs import dose_of
from training.core.checkpoint import checkpoint_step

# What the log of a run may hold, its title, and its unit.
_LOGGED = {
    "loss": ("training loss (not comparable between arms)", "nats per token"),
    "eval_bits_per_byte": ("validation, all documents", "bits per byte"),
    "eval_bits_per_byte_without_facts": ("validation, documents without facts", "bits per byte"),
    "reward": ("reward", ""),
    "eval_reward": ("reward on held-out prompts", ""),
    "eval_accuracy": ("right answers on held-out prompts", ""),
}
# Its loss is that of the policy: weighted by advantages, around zero, and no likelihood of a text.
_LOGGED_BY_GRPO = {"loss": ("policy loss of GRPO (no measure of progress)", "")}


def curves_section(experiment: Experiment, items: EndpointItems, folder: Path) -> Section:
    """Draw what was logged and measured along the way, stage by stage."""
    blocks: list[Block] = [
        "The line is the mean over seeds, the band reaches from the lowest seed to the highest. Loss per token is not "
        "comparable between arms, because their tokens are not the same; bits per byte of the original text are, "
        "exactly so on documents without facts (over text with facts the arms that inject have the easier task)."
    ]
    for stage in experiment.stages:
        panels = {}
        for key, (title, unit) in _logged_keys(experiment, stage).items():
            panels[title] = (
                {arm: [_curve(run, key) for run in _logging(experiment, arm, stage)] for arm in experiment.arms},
                unit,
                None,
            )
        for endpoint in (one for one in experiment.endpoints if one.stage == stage):
            scale = items.scale(endpoint)
            curves = {
                arm: [
                    {step: value * scale.factor for step, value in curve.items()}
                    for seed in experiment.seeds
                    if (curve := items.curve(endpoint, arm, seed))
                ]
                for arm in experiment.arms
            }
            if any(len(curve) > 1 for each in curves.values() for curve in each):
                floor = items.floor(endpoint)
                line = None if floor is None else floor.value * scale.factor
                panels[endpoint.name] = (curves, scale.axis, line)
        for title, curves in _hellaswag(experiment, stage).items():
            panels.setdefault(title, (curves, "%", 25.0))
        blocks.append(Heading(f"Stage `{stage}`"))
        if not panels:
            blocks.append("No run of this stage has a log.")
            continue
        file = f"curves_{stage}.png"
        plot_curves(panels, experiment.arms, folder / file)
        counts = ", ".join(f"`{arm}` {len(_logging(experiment, arm, stage))}" for arm in experiment.arms)
        blocks.append(
            Figure(file, f"Learning curves of stage {stage}", f"Stage `{stage}`; seeds with a log: {counts}.")
        )
    return Section("Learning curves", blocks)


def dose_section(experiment: Experiment, items: EndpointItems, folder: Path) -> Section:
    """Write how many facts the training text held, and how the primary endpoint follows where that differs."""
    doses = {arm: dose_of(experiment, arm) for arm in experiment.arms}
    rows = []
    for arm, dose in doses.items():
        shares = ("–" if one is None else f"{one:.2e}" for one in (dose.declared, dose.measured))
        rows.append([f"`{arm}`", *shares, large(dose.facts), large(dose.tokens)])
    blocks: list[Block] = [
        "The dose is the number of multiplication facts per plain GPT-2 token of the training text. It is a property "
        "of the text, so arms of one dose have the same text and differ in how it is written. A dash: not recorded.",
        Table(["arm", "declared", "in the corpus", "facts in the text", "training tokens"], rows),
    ]
    by_condition: dict[str, dict[float, list[float]]] = {}
    for arm, dose in doses.items():
        values = items.means(experiment.primary, arm)
        if dose.value is not None and values:
            condition = experiment.declared["arms"][arm]["condition"]
            by_condition.setdefault(condition, {}).setdefault(dose.value, []).extend(values)
    if any(len(by_dose) > 1 for by_dose in by_condition.values()):
        scale = items.scale(experiment.primary)
        plot_doses(by_condition, scale.axis, scale.factor, experiment.primary.name, folder / "dose.png")
        blocks.append(
            Figure("dose.png", "The primary endpoint over the dose", "Dots are seeds, diamonds their means.")
        )
    else:
        blocks.append("No condition was run at more than one dose, so there is no dose response to show.")
    return Section("Dose", blocks)


def _logging(experiment: Experiment, arm: str, stage: str) -> list[Run]:
    return [run for run in experiment.runs(arm, stage) if run.metrics]


def _logged_keys(experiment: Experiment, stage: str) -> dict[str, tuple[str, str]]:
    rows = (row for run in experiment.runs(stage=stage) for row in run.metrics)
    seen = {key for row in rows for key, value in row.items() if value is not None}
    titles = _LOGGED | (_LOGGED_BY_GRPO if experiment.program_of(stage) == "grpo" else {})
    return {key: title for key, title in titles.items() if key in seen}


def _hellaswag(experiment: Experiment, stage: str) -> dict[str, dict[str, list[dict[int, float]]]]:
    """Return the curves of HellaSwag's accuracy in per cent by title, where several checkpoints were measured."""
    found: dict[str, dict[str, list[dict[int, float]]]] = {}
    for run in experiment.runs(stage=stage):
        curves: dict[str, dict[int, float]] = {}
        for evaluation in experiment.evals_of(stage):  # of which several may measure one task, at other checkpoints
            for folder in run.measured(evaluation):
                for task, results in read_json(folder / "results.json")["results"].items():
                    value = value_at(results, "acc_norm.value")
                    if value is not None:
                        curves.setdefault(f"{task}, acc_norm", {})[checkpoint_step(folder)] = 100 * value
        for title, curve in curves.items():
            found.setdefault(title, {}).setdefault(run.arm, []).append(curve)
    several = {
        title for title, of_arm in found.items() if any(len(one) > 1 for each in of_arm.values() for one in each)
    }
    return {title: curves for title, curves in found.items() if title in several}


def _curve(run: Run, key: str) -> dict[int, float]:
    return {row["step"]: row[key] for row in run.metrics if value_at(row, key) is not None}
