"""The sections of a report about the question: differences, floors, curves and doses."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from training.analysis.comparison_figures import plot_arms, plot_differences
from training.analysis.endpoint_items import EndpointItems
from training.analysis.experiment_results import Experiment
from training.analysis.report_pages import Block, Bullets, Figure, Heading, Note, Section, Table
from training.analysis.report_words import counted, listed, mean_and_sd, probability
from training.analysis.verdict import EndpointTest, null_in_words


def differences_section(experiment: Experiment, tests: Sequence[EndpointTest], folder: Path) -> Section:
    """Write every endpoint in every comparison: tables, and a figure of every seed's difference."""
    alpha, confidence = experiment.alpha, f"{100 * (1 - experiment.alpha):g} %"
    families = {role: counted(sum(test.role == role for test in tests), "test") for role in ("secondary", "control")}
    blocks: list[Block] = [
        "Arms are compared within seeds: each seed gives one difference, treatment minus baseline, over all items of "
        f"the test. Interval ({confidence}) and p are those of the paired t test over these differences; ± is one "
        "standard deviation over seeds.",
        Bullets(
            [
                "Primary: the test that was declared to decide; its p is not adjusted.",
                "Secondary: the secondary endpoints in the primary comparison. Their p is adjusted by Holm's method "
                f"over this family ({families['secondary']}), and the adjusted p decides.",
                "Control: primary and secondary endpoints in the other comparisons, adjusted in the same way over a "
                f"family of their own ({families['control']}).",
                "A test that could not be made counts in its family as one with p = 1.",
                "Exploratory: everything else. Not adjusted; it can suggest, and proves nothing.",
                "Detectable: the true difference that a test of so many seeds, with the spread between them that was "
                f"observed, finds with 80 % power: at the level α = {alpha:g}, or in a family of m tests at α/m, as "
                "Holm's first step asks (Bonferroni's bound). A null says little about differences below it.",
            ]
        ),
    ]
    figures = {
        "differences.png": [test for test in tests if test.endpoint.role != "exploratory"],
        "differences_exploratory.png": [test for test in tests if test.endpoint.role == "exploratory"],
    }
    for file, shown in figures.items():
        if shown:
            plot_differences(shown, alpha, folder / file)
            kind = "exploratory endpoints" if "exploratory" in file else "primary and secondary endpoints"
            blocks.append(
                Figure(
                    file,
                    f"Paired differences of the {kind}, with every seed and {confidence} intervals",
                    f"Paired differences of the {kind}: each blue dot is one seed, the bar below the dots the "
                    f"{confidence} t interval over seeds, the yellow band the margin of equivalence where one was "
                    "declared. A mean is filled where p, adjusted where that is due, is below the declared level.",
                )
            )
    blocks.append(
        Note(
            "Below, the second table of each comparison looks at the same differences in other ways: a bootstrap over "
            "seeds and, for all seeds together, items or their clusters; flips of the signs of seeds, beside the "
            "smallest p that so many seeds can give; the odds ratio; and, seed by seed, how many items only the "
            "baseline / only the treatment had right."
        )
    )
    for place, pair in enumerate(experiment.comparisons):
        of_pair = [test for test in tests if (test.baseline, test.treatment) == pair]
        kind = "Primary comparison" if place == 0 else "Comparison"
        blocks.append(Heading(f"{kind}: `{pair[1]}` against `{pair[0]}`"))
        blocks += _comparison(experiment, of_pair)
    return Section("Paired differences", blocks)


def _comparison(experiment: Experiment, tests: Sequence[EndpointTest]) -> list[Block]:
    head = ["endpoint", "role", tests[0].baseline, tests[0].treatment, "difference (interval)", "p", "adjusted p"]
    rows, beside = [], []
    notes: dict[str, list[str]] = {}
    for test in tests:
        result, scale = test.result, test.scale
        name = f"{test.endpoint.name}, {scale.axis}" if scale.axis else test.endpoint.name
        if test.items is None or result is None:
            rows.append([name, test.role, "missing", "missing", *["–"] * 5])
            continue
        rows.append(
            [
                name,
                test.role,
                scale.with_spread(result.baseline_mean, result.baseline_sd),
                scale.with_spread(result.treatment_mean, result.treatment_sd),
                scale.with_interval(result.difference, result.interval),
                probability(result.p_value),
                probability(test.adjusted_p) if test.role in ("secondary", "control") else "none",
                scale.bare(test.detectable),
                f"{result.seeds}\u00a0×\u00a0{result.items:,}",
            ]
        )
        beside.append([test.endpoint.name, *_sensitivity(test)])
        for note in _notes(experiment, test):
            notes.setdefault(note, []).append(test.endpoint.name)
    blocks: list[Block] = [Table([*head, _detectable_head(tests), "seeds ×\u00a0items"], rows, names=2)]
    if beside:
        head = ["endpoint", "bootstrap interval", "its p", "sign-flip p", "smallest", "odds ratio", "only one right"]
        blocks.append(Table(head, beside))
    if notes:
        blocks.append(Bullets([f"{'; '.join(names)}: {note}" for note, names in notes.items()]))
    return blocks


def _detectable_head(tests: Sequence[EndpointTest]) -> str:
    """Return the head of the column, with the sizes of the families that its tests belong to."""
    families = {test.role: test.family for test in tests if test.family > 1}
    levels = ", ".join(f"{role}: at α/{family}" for role, family in families.items())
    return f"detectable ({levels})" if levels else "detectable"


def _notes(experiment: Experiment, test: EndpointTest) -> Iterator[str]:
    """Yield what has to be said of a test in words: a null, missing seeds, items that do not count."""
    result, items = test.result, test.items
    assert result is not None and items is not None
    if result.note:
        yield result.note
    if result.p_value is not None and not test.is_found(experiment.alpha):
        yield f"no difference was found. {null_in_words(test)}"
    if items.missing:
        yield (
            f"{result.seeds} of {counted(len(experiment.seeds), 'seed')} have both arms; missing: "
            f"{listed([f'`{run}`' for run in items.missing])}."
        )
    if items.left_out:
        yield f"{counted(items.left_out, 'item')} had no value in some run, and count in none."


def _sensitivity(test: EndpointTest) -> list[str]:
    result, scale = test.result, test.scale
    assert result is not None
    boot, flips = result.bootstrap, result.permutation
    discordant = [f"{one['only_baseline']}/{one['only_treatment']}" for one in result.mcnemar or ()]
    return [
        "–" if boot is None else scale.interval((boot["low"], boot["high"])),
        "–" if boot is None else probability(boot["p_value"]),
        "–" if flips is None else probability(flips["p_value"]),
        "–" if flips is None else probability(flips["smallest_possible"]),
        "–" if result.odds_ratio is None else f"{result.odds_ratio:.2f}",
        # A line may break after every third seed.
        " ".join("\u00a0".join(discordant[start : start + 3]) for start in range(0, len(discordant), 3)) or "–",
    ]


def floors_section(experiment: Experiment, items: EndpointItems, folder: Path) -> Section:
    """Write what each arm reached, beside what can be had without arithmetic."""
    rows, panels = [], {}
    sources: dict[str, list[str]] = {}
    for endpoint in experiment.endpoints:
        values = {arm: items.means(endpoint, arm) for arm in experiment.arms}
        scale, floor = items.scale(endpoint), items.floor(endpoint)
        cells = []
        for of_arm in values.values():
            some = 0 < len(of_arm) < len(experiment.seeds)
            level = scale.with_spread(*mean_and_sd(of_arm)) if of_arm else "missing"
            cells.append(level + (f" (n = {len(of_arm)})" if some else ""))
        name = f"{endpoint.name}, {scale.axis}" if scale.axis else endpoint.name
        rows.append([name, endpoint.role, scale.bare(floor.value) if floor is not None else "none", *cells])
        panels[endpoint.name] = (values, scale.axis, scale.factor, None if floor is None else floor.value)
        if floor is not None:
            first, *others = floor.source_words
            words = f"{first}; also computed: {listed(others)}" if others else first
            sources.setdefault(words, []).append(endpoint.name)
    plot_arms(panels, folder / "arms.png")
    floors = [f"Floor of {'; '.join(names)}: {words}." for words, names in sources.items()]
    return Section(
        "All arms and their floors",
        [
            f"Mean ± one standard deviation over {counted(len(experiment.seeds), 'declared seed')}, at the last "
            "checkpoint of each stage. The floor is the best that the same items give without arithmetic, of what was "
            "computed. An arm at the floor has not shown that it can do the task.",
            Table(["endpoint", "role", "floor", *experiment.arms], rows, names=2),
            *([Bullets(floors)] if floors else []),
            Figure(
                "arms.png",
                "Every endpoint of every arm, with every seed and the floor",
                "Each dot is one seed, the upright line the mean, the thin bar one standard deviation to both sides; "
                "the dashed red line is the floor.",
            ),
        ],
    )  # fmt: skip
