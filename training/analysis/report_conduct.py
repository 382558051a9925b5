"""The sections of a report about how the experiment was run: cost, invariants, deviations, commands and versions."""

from pathlib import Path

from training.analysis.experiment_results import Experiment
from training.analysis.protocol_checks import commits, deviations, devices, versions
from training.analysis.report_pages import Block, Bullets, Code, Heading, Section, Table
from training.analysis.report_words import large
from training.analysis.run_costs import COUNTS, cost_of, matching, seconds_of_steps
from training.core.console import format_duration
from training.core.files import end_of_path


def costs_section(experiment: Experiment) -> Section:
    """Write what a run of each stage and arm needed, and whether the arms are matched."""
    costs = [cost_of(experiment, stage, arm) for stage in experiment.stages for arm in experiment.arms]
    rows = [
        [
            f"`{cost.stage}`",
            f"`{cost.arm}`",
            ", ".join(cost.devices) or "–",
            *(large(cost.counts[name]) for name in COUNTS),
            "–" if cost.seconds is None else format_duration(cost.seconds),
            f"{cost.runs} of {len(experiment.seeds)}",
        ]
        for cost in costs
    ]
    spent = seconds_of_steps(experiment)
    total = sum(spent.values())
    blocks: list[Block] = [
        "Means over the runs of an arm; a dash where a run has not recorded it. Time is that of all attempts by the "
        "ledger, or else of the run's own clock, on a machine that may have done other work as well.",
        Table(["stage", "arm", "device", *COUNTS.values(), "time per run", "runs"], rows, names=3),
        Heading("Are the arms matched?"),
        Bullets(matching(experiment, costs) or ["There are no runs to compare."]),
    ]
    if spent:
        blocks += [
            Heading("Time by kind of step"),
            Table(["step", "time in all"], [[kind, format_duration(seconds)] for kind, seconds in spent.items()]
                  + [["all together", format_duration(total)]]),
        ]  # fmt: skip
    return Section("Compute and cost", blocks)


def invariants_section(experiment: Experiment) -> Section:
    """Write what was checked before and after the runs, failures first."""
    given = experiment.declared.get("invariants", {})
    checks = [(when, check) for when in ("before", "after") for check in given.get(when, [])]
    if not checks:
        return Section("Invariants", ["No check of invariants is recorded."])
    checks.sort(key=lambda item: bool(item[1].get("passed")))
    failed = sum(not check.get("passed") for _, check in checks)
    rows = [
        ["passed" if check.get("passed") else "FAILED", when, check["name"], str(check.get("detail", ""))]
        for when, check in checks
    ]
    summary = f"{failed} of {len(checks)} failed." if failed else f"All {len(checks)} passed."
    return Section(
        "Invariants",
        [
            "What has to be equal in all arms for the comparison to be one, checked before and after the runs. "
            f"{summary}",
            Table(["result", "when", "invariant", "values"], rows, names=4),
        ],
    )


def deviations_section(experiment: Experiment) -> Section:
    """Write what was not as planned: declared by those who ran it, and shown by the files."""
    declared, found = experiment.declared.get("deviations", []), deviations(experiment)
    return Section(
        "Protocol deviations",
        [
            Heading("Declared"),
            Bullets(declared) if declared else "None.",
            Heading("Shown by the files"),
            Bullets(found)
            if found
            else "None: nothing is missing, and steps, recipes, settings, commits, devices and "
            "versions are equal where they have to be.",
        ],
    )


def provenance_section(experiment: Experiment) -> Section:
    """Write what was declared and when, from which commits and with which commands and versions it was run."""
    declared = experiment.declared
    facts = [
        ("scale", declared["scale"]),
        ("declared", declared.get("declared_at")),
        ("commit of the declaration", declared.get("commit")),
        ("device of the declaration", declared.get("device")),
        ("seeds", ", ".join(map(str, experiment.seeds))),
        ("commits of the runs", _tally(commits(experiment))),
        ("devices of the runs", _tally(devices(experiment))),
    ]
    arms = [
        [f"`{arm}`", ", ".join(f"{key} {value}" for key, value in one.items())]
        for arm, one in declared["arms"].items()
    ]
    packages = [[package, ", ".join(found)] for package, found in versions(experiment).items()]
    steps = [[f"`{one['name']}`", one.get("recipe", ""), one.get("start") or "nothing"] for one in declared["stages"]]
    steps += [[f"`{one['name']}`", one.get("recipe", ""), ", ".join(one["stages"])] for one in declared["evals"]]
    blocks: list[Block] = [
        Table(["what", "value"], [[name, str(value)] for name, value in facts if value], names=2),
        Heading("Arms"),
        Table(["arm", "settings"], arms, names=2),
        Heading("Stages and evaluations"),
        Table(["step", "recipe", "begins at or measures"], steps, names=3),
    ]
    recipes = [[f"`{recipe}`", sha256] for recipe, sha256 in declared.get("recipes_sha256", {}).items()]
    if recipes:
        blocks += [
            Heading("Recipes as declared"),
            "The sha256 of the keys and values of each file, without its comments.",
            Table(["recipe", "sha256"], recipes, names=2),
        ]
    commands = _commands(experiment)
    if commands:
        blocks += [
            Heading("Commands"),
            "Those of the first seed, as they were started; the other seeds have the same with their number, and "
            "`ledger.jsonl` has all of them.",
            Code("\n".join(commands)),
        ]
    if packages:
        blocks += [Heading("Versions"), Table(["package", "version"], packages, names=2)]
    return Section("Commands, commits, versions", blocks)


def _commands(experiment: Experiment) -> list[str]:
    """Return the last command of each step of the corpora and of the first seed, without the folders of a machine."""
    wanted = {f"{arm}-s{experiment.seeds[0]}" for arm in experiment.arms} | {"corpus"}
    found = {}
    for row in experiment.ledger:
        if row["step"].split("/")[0] in wanted and row.get("command"):
            words = [end_of_path(word) if word.startswith("/") else word for word in row["command"]]
            found[row["step"]] = " ".join(f"'{word}'" if " " in word else word for word in words)
    return list(found.values())


def _tally(found: dict[str, int]) -> str:
    return ", ".join(
        f"{Path(value).name if value.startswith('/') else value} ({count})" for value, count in found.items()
    )
