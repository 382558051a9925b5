"""Write the report of an experiment: `report.md`, one `report.html`, and the figures."""

from pathlib import Path

from training.analysis.endpoint_items import EndpointItems
from training.analysis.experiment_results import Experiment, read_experiment
from training.analysis.protocol_checks import deviations
from training.analysis.report_conduct import costs_section, deviations_section, invariants_section, provenance_section
from training.analysis.report_facts import embeddings_section, facts_section, halves_section, tokens_section
from training.analysis.report_pages import Bullets, Document, Lead, Note, to_html, to_markdown
from training.analysis.report_results import differences_section, floors_section
from training.analysis.report_training import curves_section, dose_section
from training.analysis.report_words import counted, listed
from training.analysis.verdict import beside_the_verdict, measure_endpoints, verdict
from training.core.files import write_text

REPORT_FOLDER = "report"


def write_report(folder: str | Path, replications: int = 10_000) -> tuple[str, list[Path]]:
    """Write `<folder>/report/` from the result files of an experiment, and return its verdict and the pages.

    replications: of the bootstrap. The same files give the same bytes. Raises `FileNotFoundError` for a folder
    without `experiment.json`, and `ValueError` for runs that did not measure the same items.
    """
    experiment = read_experiment(folder)
    items = EndpointItems(experiment)
    tests = measure_endpoints(experiment, items, replications)
    target = experiment.folder / REPORT_FOLDER
    target.mkdir(exist_ok=True)
    for old in target.glob("*.png"):  # a figure of an earlier report that this one may not have
        old.unlink()
    words = verdict(experiment, tests)
    sections = [
        differences_section(experiment, tests, target),
        floors_section(experiment, items, target),
        curves_section(experiment, items, target),
        facts_section(experiment, target),
        tokens_section(experiment, target),
        halves_section(experiment),
        embeddings_section(experiment, target),
        dose_section(experiment, items, target),
        costs_section(experiment),
        invariants_section(experiment),
        deviations_section(experiment),
        provenance_section(experiment),
    ]
    document = Document(
        (
            f"Smoke result, which says nothing about the question: {experiment.name}"
            if experiment.is_smoke
            else f"{experiment.name}: verdict and results"
        ),
        [
            Lead(words),
            Bullets([*warnings_of(experiment), *beside_the_verdict(experiment, tests)]),
            Note(_about(experiment)),
        ],
        [section for section in sections if section is not None],
    )
    pages = {"report.md": to_markdown(document), "report.html": to_html(document, target)}
    for name, text in pages.items():
        write_text(target / name, text)
    return words, [target / name for name in pages]


def warnings_of(experiment: Experiment) -> list[str]:
    """Return what makes a reader doubt the verdict before anything else."""
    given = experiment.declared.get("invariants", {})
    failed = [check["name"] for when in given.values() for check in when if not check.get("passed")]
    missing, declared = experiment.missing(), experiment.declared.get("deviations", [])
    others = len(deviations(experiment)) - len(missing)  # which begin with what is missing
    warnings = []
    if failed:
        warnings.append(f"FAILED invariants: {listed(failed)}. The arms differ in more than they should.")
    if missing:
        many = counted(len(missing), "run or evaluation", "runs or evaluations")
        warnings.append(f"{many} missing: see “Protocol deviations”.")
    if declared:
        warnings.append(f"{counted(len(declared), 'declared deviation')} from the plan: see “Protocol deviations”.")
    if others:
        many = counted(others, "deviation is", "deviations are")
        warnings.append(f"{many} shown by the files: see “Protocol deviations”.")
    return warnings


def _about(experiment: Experiment) -> str:
    """Return the question, and what was declared to answer it."""
    declared, primary = experiment.declared, experiment.primary
    baseline, treatment = experiment.comparisons[0]
    when = f", declared {declared['declared_at']}" if declared.get("declared_at") else ""
    return (
        f"Question: {declared['question']} Scale: {declared['scale']}. {counted(len(experiment.arms), 'arm')} "
        f"({', '.join(f'`{arm}`' for arm in experiment.arms)}), {counted(len(experiment.seeds), 'seed')} each. "
        f"Primary endpoint{when}: “{primary.name}” after stage `{primary.stage}`, `{treatment}` against `{baseline}`, "
        f"at the level {experiment.alpha:g}."
    )
