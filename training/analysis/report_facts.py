"""The sections of a report about single facts: accuracy, tokens, embeddings, tokenised against plain."""

from pathlib import Path

import numpy as np

from training.analysis.comparison_figures import plot_arms
from training.analysis.experiment_results import Experiment
from training.analysis.fact_embeddings import probe_products, read_fact_rows, shared_map
from training.analysis.fact_figures import plot_embeddings, plot_fact_tables
from training.analysis.fact_measures import (
    HALF,
    USES,
    WITHIN,
    FactProbe,
    accuracy_by_fact,
    find_fact_probe,
    token_use,
    within_model,
)
from training.analysis.report_pages import Block, Bullets, Figure, Heading, Note, Section, Table
from training.analysis.report_words import Scale, counted, listed, minus, probability, with_sd

_SHARE = Scale("accuracy", True)


def facts_section(experiment: Experiment, folder: Path) -> Section:
    """Draw accuracy per fact as 9 x 9 tables: one of each arm, and the differences."""
    title = "Accuracy per fact"
    probe = find_fact_probe(experiment)
    if probe is None:
        return Section(title, ["No evaluation asks for the products of two digits one by one."])
    tables = accuracy_by_fact(experiment, probe)
    shown = {f"{arm}, n = {counted(len(of_arm), 'seed')}": of_arm.mean(0) for arm, of_arm in tables.items()}
    differences = {
        f"{treatment} − {baseline}": tables[treatment].mean(0) - tables[baseline].mean(0)
        for baseline, treatment in experiment.comparisons[:1]
        if {baseline, treatment} <= tables.keys()
    }
    plot_fact_tables(shown, differences, folder / "facts.png")
    rows = []
    for arm, of_arm in tables.items():
        by_fact = of_arm.mean(0)
        level = with_sd(_SHARE.bare, [float(np.nanmean(one)) for one in of_arm])
        always, never = (f"{int((by_fact == share).sum())} of 81" for share in (1, 0))
        rows.append([f"`{arm}`", level, always, never, str(len(of_arm))])
    missing = [f"`{arm}`" for arm in experiment.arms if arm not in tables]
    blocks: list[Block] = [
        f"Right answers to the probe set `{probe.set}` after stage `{probe.stage}`, by the two factors in the order "
        "in which they were asked; a cell is the mean over seeds and over the wordings of the question.",
        Figure("facts.png", "Accuracy of each fact, arm by arm, and the difference between the arms of the primary "
               "comparison", "Numbers are per cent right, in the last panel percentage points; a cell rests on "
               "few answers, so look at rows and regions rather than at single cells."),
        Table(["arm", "right, %, mean ± SD over seeds", "cells always right", "cells never right", "seeds"], rows),
    ]  # fmt: skip
    if missing:
        blocks.append(f"Missing: {listed(missing)}.")
    return Section(title, blocks)


def tokens_section(experiment: Experiment, folder: Path) -> Section:
    """Write how often replies use the tokens, and whether they fit."""
    title = "Use of the fact tokens"
    found = token_use(experiment)
    if not found:
        return Section(title, ["No evaluation has counted the fact tokens of replies."])
    stage = found[-1][0].split(", ")[0]
    rows, panels = [], {}
    for where, measure, by_arm in found:
        is_rate = measure == USES["emitted_per_response"]
        cells = []
        for arm in experiment.arms:
            values = by_arm.get(arm, [])
            cells.append(with_sd("{:.2f}".format if is_rate else _SHARE.bare, values))
        rows.append([where, measure + ("" if is_rate else ", %"), *cells])
        if where.startswith(f"{stage}, ") and any(value for values in by_arm.values() for value in values):
            joint = ", " if ": " in measure else ": "
            panels[f"{where.split(', ')[1]}{joint}{measure}"] = (
                by_arm,
                "" if is_rate else "%",
                1 if is_rate else 100,
                None,
            )
    blocks: list[Block] = [
        "How replies use the tokens: mean ± one standard deviation over seeds. A one-digit product is counted where "
        "it stands, in digits or as a token, so that the arms can be compared; “answered by a fact” counts answers "
        "that were read from a product of two digits, which an arm without tokens can only write out. A dash means "
        "that no reply gave occasion for the measure, that the run is missing, or that the arm's token names no fact "
        "(one token for all), so that nothing of this can be asked of it.",
        Table(["after stage, task", "measure", *experiment.arms], rows, names=2),
    ]
    if panels:
        plot_arms(panels, folder / "tokens.png")
        blocks.append(
            Figure("tokens.png", f"Use of the tokens after stage {stage}, with every seed",
                   f"After stage `{stage}`: dots are seeds, the upright line is the mean, the thin bar one standard "
                   "deviation. Measures that are 0 in all arms are not drawn.")
        )  # fmt: skip
    return Section(title, blocks)


def embeddings_section(experiment: Experiment, folder: Path) -> Section:
    """Draw the embeddings of the facts and test whether they know their products, the baseline's rows as the null."""
    title = "The 45 embeddings"
    first = experiment.stages[0]
    rows, maps, missing = [], {}, []
    for arm in experiment.arms:
        found = {}
        for run in experiment.runs(arm, first):
            matrix = read_fact_rows(run.checkpoints[-1]) if run.checkpoints else None
            if matrix is None:
                missing.append(run.name)
            else:
                found[run.seed] = matrix
        if not found:
            continue
        probe = probe_products(list(found.values()))
        rows.append(
            [
                f"`{arm}`",
                with_sd(lambda value: minus(f"{value:.2f}"), probe.r_squared),
                minus(f"{probe.null_high:.2f}"),
                probability(probe.p_value),
                str(len(found)),
            ]
        )
        maps[f"{arm}, n = {counted(len(found), 'seed')}"] = shared_map(list(found.values()))
    if not maps:
        return Section(
            title, [f"No weights of stage `{first}` are there any more, so there is nothing to draw or to test."]
        )
    plot_embeddings(maps, folder / "embeddings.png")
    blocks: list[Block] = [
        "Does the row of a fact know its product? The logarithm of the product is predicted by ridge regression from "
        f"the embedding rows after stage `{first}`, each fact from the other 44. R² is 1 for a perfect prediction and "
        "0 for guessing the mean. The null is the same with the products dealt out anew among the facts, 2,000 times: "
        "95 % of its means over seeds stay below the column “null”. An arm that never saw the tokens, such as the "
        "baseline, has rows that were never trained, and shows what noise looks like.",
        Table(["arm", "R², mean ± SD over seeds", "null", "p", "seeds"], rows),
        Figure("embeddings.png", "The facts at their first two principal components, arm by arm",
               "The two first principal components over all seeds together (their Gram matrices are averaged); each "
               "point is a fact, labelled with its product. Two components of many can look ordered by chance, or "
               "hide an order: whether the rows hold their products is for the table to say."),
        Note("Frequent facts have longer rows, and small products are more frequent in text. An R² above the null "
             "shows that the product can be read off, not that it was learnt from arithmetic; an arm with random "
             "facts, where the tokens say nothing, is the comparison for that."),
    ]  # fmt: skip
    if missing:
        blocks.append(f"Without weights: {listed([f'`{name}`' for name in missing])}.")
    return Section(title, blocks)


def halves_section(experiment: Experiment) -> Section | None:
    """Compare tokenised with plain facts inside the models that have both; None without such arms."""
    arms = [arm for arm, one in experiment.declared["arms"].items() if one["condition"] == HALF]
    if not arms:
        return None
    title, probe = "Tokenised against plain facts within a model", find_fact_probe(experiment)
    if probe is None:
        return Section(title, ["No evaluation asks for the products of two digits one by one."])
    blocks: list[Block] = [
        "In these arms a half of the facts, drawn by the seed, has tokens, and the other half is plain text for the "
        "same model. So nothing that differs between runs is in the difference, tokenised minus plain; its interval "
        "and p are those of the t test over seeds. All of it is exploratory: nothing is adjusted, and it can suggest, "
        "but proves nothing. Some facts are harder than others: the lower rows take away the same difference in the "
        "baseline arm of the same dose, where both halves are plain."
    ]
    for arm in arms:
        blocks += [Heading(f"`{arm}`"), *_halves(experiment, probe, arm)]
    return Section(title, blocks)


def _halves(experiment: Experiment, probe: FactProbe, arm: str) -> list[Block]:
    found = within_model(experiment, probe, arm)
    if not found["seeds"]:
        return ["No seed has both results and a list of the facts with tokens (`tokenised_facts` in its `run.json`)."]
    rows, by_seed = [], []
    for kind, name in (("within", ""), ("adjusted", ", less the baseline's")):
        for key, result in found[kind].items():
            levels = (
                ["", ""]
                if kind == "adjusted"
                else [_SHARE.bare(result.baseline_mean), _SHARE.bare(result.treatment_mean)]
            )
            rows.append([f"{WITHIN[key]}{name}", *levels, _SHARE.signed(result.difference),
                         _SHARE.interval(result.interval), probability(result.p_value),
                         _SHARE.bare(result.minimum_detectable_effect), str(result.seeds)])  # fmt: skip
            if kind == "within":
                each = ", ".join(
                    f"seed {seed} {_SHARE.signed(one)}"
                    for seed, one in zip(found["seeds"], result.seed_differences, strict=True)
                )
                by_seed.append(f"{WITHIN[key]}, seed by seed, in points: {each}.")
    blocks: list[Block] = [
        f"Probe set `{probe.set}` after stage `{probe.stage}`; "
        f"{listed([str(n) for n in sorted(set(found['facts']))])} of 45 facts have tokens. Values in per cent.",
        Table(
            ["measure", "plain", "tokenised", "difference", "interval", "p (exploratory)", "detectable", "seeds"], rows
        ),
        Bullets(by_seed),
    ]
    if found["missing"]:
        blocks.append(f"Missing: {listed([f'seed {seed}' for seed in found['missing']])}.")
    return blocks
