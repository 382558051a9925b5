"""Draw endpoints: paired differences with every seed, the arms themselves, curves over training, and doses."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from training.analysis.drawing import COLOURS, FAINT, FLOOR, INK, plain, save, short_number, styles
from training.analysis.report_words import mean_and_sd
from training.analysis.verdict import EndpointTest

_WIDTH = 7.2  # inches of every figure of a report, so that type has one size on the page
_MARGIN = "#f0e442"
Values = Mapping[str, Sequence[float]]  # of all seeds, by arm


def plot_differences(tests: Sequence[EndpointTest], alpha: float, path: Path) -> None:
    """Draw paired differences: a panel per endpoint, a line per comparison, with each seed, interval and margin.

    A filled mean is one whose p, adjusted where its role asks for it, is below alpha.
    """
    by_endpoint: dict[str, list[EndpointTest]] = {}
    for test in tests:
        by_endpoint.setdefault(test.endpoint.name, []).append(test)
    heights = [0.75 + 0.36 * len(of_one) for of_one in by_endpoint.values()]
    figure = Figure(figsize=(_WIDTH, 0.6 + sum(heights)), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, of_one) in zip(axes, by_endpoint.items(), strict=True):
        _draw_differences(axis, of_one, alpha)
        better = "right" if of_one[0].endpoint.higher_is_better else "left"
        plain(axis, _wrapped(f"{name} (better: to the {better})", 80), grid="x")
        axis.set_xlabel(f"difference in {of_one[0].scale.change_axis}", fontsize=8, color=INK)
    mean = {"color": INK, "marker": "D", "markersize": 6, "linewidth": 1.5}
    handles = [
        Line2D([], [], **mean, label=f"mean and interval, p < {alpha:g}"),
        Line2D([], [], **mean, markerfacecolor="white", label="mean and interval, p not below"),
        Line2D([], [], color=COLOURS[0], marker="o", markersize=5, linewidth=0, alpha=0.6, label="one seed"),
    ]
    if any(test.endpoint.margin is not None for test in tests):
        handles.append(Patch(color=_MARGIN, alpha=0.35, label="margin of equivalence"))
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    save(figure, path)


def _draw_differences(axis: Axes, tests: Sequence[EndpointTest], alpha: float) -> None:
    axis.axvline(0, color=INK, linewidth=0.9)
    margin, factor = tests[0].endpoint.margin, tests[0].scale.factor
    if margin is not None:
        axis.axvspan(-margin * factor, margin * factor, color=_MARGIN, alpha=0.35, linewidth=0)
    for line, test in enumerate(tests):
        result = test.result
        if result is None:
            axis.text(0, line, " no seed has both arms", fontsize=8, color=FLOOR, va="center")
            continue
        seeds = [difference * factor for difference in result.seed_differences]
        axis.plot(seeds, [line - 0.17] * len(seeds), "o", color=COLOURS[0], markersize=5, alpha=0.6, linewidth=0)
        if result.interval is not None:
            axis.hlines(line + 0.12, *(bound * factor for bound in result.interval), color=INK, linewidth=1.5)
        fill = INK if test.is_found(alpha) else "white"
        axis.plot(result.difference * factor, line + 0.12, "D", color=INK, markerfacecolor=fill, markersize=6)
    axis.set_yticks(range(len(tests)), [f"{test.treatment} − {test.baseline}" for test in tests])
    axis.set_ylim(len(tests) - 0.5, -0.5)


def plot_arms(panels: Mapping[str, tuple[Values, str, float, float | None]], path: Path, title: str = "") -> None:
    """Draw the values of all arms: a panel per measure, a line per arm, each seed, the mean, and a bar of one SD.

    panels: by their titles, the values, the unit of the axis, what values are multiplied by for it, and the floor.
    """
    columns = 2 if len(panels) > 1 else 1
    lines = math.ceil(len(panels) / columns)
    most = max(len(values) for values, *_ in panels.values())
    figure = Figure(figsize=(_WIDTH, lines * (0.85 + 0.27 * most)), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    every_arm = list(dict.fromkeys(arm for values, *_ in panels.values() for arm in values))
    looks = styles(every_arm)
    for place, (axis, (name, (values, unit, factor, floor))) in enumerate(zip(axes, panels.items(), strict=False)):
        for line, (arm, of_arm) in enumerate(values.items()):
            shown = [value * factor for value in of_arm]
            colour = looks[arm]["color"]
            mean, spread = mean_and_sd(shown)
            axis.plot(shown, [line] * len(shown), "o", color=colour, markersize=5, alpha=0.55, linewidth=0)
            if mean is not None:
                axis.vlines(mean, line - 0.32, line + 0.32, color=INK, linewidth=1.8)
                if spread:
                    axis.hlines(line + 0.26, mean - spread, mean + spread, color=INK, linewidth=1.1)
        if floor is not None:
            axis.axvline(floor * factor, color=FLOOR, linestyle="--", linewidth=1)
            axis.annotate("floor", (floor * factor, 1), xycoords=("data", "axes fraction"), fontsize=8, color=FLOOR,
                          ha="left", va="top", xytext=(2, 0), textcoords="offset points")  # fmt: skip
        axis.set_yticks(range(len(values)), list(values) if place % columns == 0 else [""] * len(values))
        axis.set_ylim(len(values) - 0.4, -0.6)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        plain(axis, _wrapped(name), grid="x")
        axis.set_xlabel(unit, fontsize=8, color=INK)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    save(figure, path)


def plot_curves(
    panels: Mapping[str, tuple[Mapping[str, Sequence[Mapping[int, float]]], str, float | None]],
    arms: Sequence[str],
    path: Path,
) -> None:
    """Draw curves over steps: a panel per measure, per arm the mean over seeds in a band from the least to the most.

    panels: by their titles, a curve of each run by arm, the unit of the axis, and the floor. Where a seed lacks a step
    the mean of that step is not drawn. arms: all of them, whose colours are then the same in every figure.
    """
    columns = 2 if len(panels) > 1 else 1
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 2.5 * lines), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    looks = styles(arms)
    seen: dict[str, Line2D] = {}
    for axis, (name, (curves, unit, floor)) in zip(axes, panels.items(), strict=False):
        for arm, each in curves.items():
            steps = sorted(set.intersection(*(set(curve) for curve in each))) if each else []
            if not steps:
                continue
            values = [[curve[step] for curve in each] for step in steps]
            means = [sum(of_step) / len(of_step) for of_step in values]
            marker = "o" if len(steps) < 12 else None
            (seen[arm],) = axis.plot(steps, means, marker=marker, markersize=3.5, linewidth=1.6, **looks[arm])
            if len(each) > 1:
                axis.fill_between(steps, list(map(min, values)), list(map(max, values)), color=looks[arm]["color"],
                                  alpha=0.15, linewidth=0)  # fmt: skip
        if floor is not None:
            axis.axhline(floor, color=FLOOR, linestyle="--", linewidth=1)
            axis.annotate("floor", (1, floor), xycoords=("axes fraction", "data"), ha="left", va="center", fontsize=8,
                          color=FLOOR, xytext=(2, 0), textcoords="offset points")  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
        plain(axis, _wrapped(name, 44))
        axis.set_ylabel(unit, fontsize=8, color=INK)
        axis.set_xlabel("step", fontsize=8, color=INK)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.legend(list(seen.values()), list(seen), loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    save(figure, path)


def plot_doses(
    doses: Mapping[str, Mapping[float, Sequence[float]]], unit: str, factor: float, title: str, path: Path
) -> None:
    """Draw a measure over the dose, a line per condition, with every seed.

    doses: by condition, the values of all seeds by dose in facts per plain token.
    """
    figure = Figure(figsize=(_WIDTH, 3.4), dpi=120, layout="constrained", facecolor="white")
    axis = figure.subplots()
    looks = styles(list(doses))
    for condition, by_dose in doses.items():
        ordered = sorted(by_dose.items())
        for dose, values in ordered:
            axis.plot([dose] * len(values), [value * factor for value in values], "o", markersize=4, alpha=0.5,
                      color=looks[condition]["color"], linewidth=0)  # fmt: skip
        means = [factor * sum(values) / len(values) for _, values in ordered]
        axis.plot([dose for dose, _ in ordered], means, marker="D", linewidth=1.6, label=condition, **looks[condition])
    if all(dose > 0 for by_dose in doses.values() for dose in by_dose):
        axis.set_xscale("log")
    plain(axis, title)
    axis.set_xlabel("facts per plain GPT-2 token of the training text", fontsize=8, color=INK)
    axis.set_ylabel(unit, fontsize=8, color=INK)
    axis.legend(fontsize=8, frameon=False, edgecolor=FAINT)
    save(figure, path)


def _wrapped(title: str, width: int = 38) -> str:
    """Break a panel's title into lines that fit above half a figure."""
    lines: list[str] = [""]
    for word in title.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
