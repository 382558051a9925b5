"""Draw what belongs to single facts: accuracy in the 9 x 9 table, and how their embeddings lie."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from tokenization.mul_facts import FACTS
from training.analysis.drawing import INK, plain, save
from training.analysis.fact_embeddings import marker_colour

_WIDTH = 7.2
_SHARES, _CHANGES = colormaps["viridis"], colormaps["PuOr_r"]


def plot_fact_tables(tables: Mapping[str, np.ndarray], differences: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw 9 x 9 tables of accuracy, one per arm, and of differences; the number in a cell is in per cent or points.

    tables, differences: (9, 9) by title, the first factor down and the second across, NaN for what was not asked.
    """
    panels = [(title, table, False) for title, table in tables.items()]
    panels += [(title, table, True) for title, table in differences.items()]
    columns = 2 if len(panels) > 1 else 1
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 3.5 * lines), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    most = max((float(np.nanmax(np.abs(table))) for table in differences.values()), default=1) or 1
    levels, changes = Normalize(0, 100), Normalize(-100 * most, 100 * most)
    for axis, (title, table, is_change) in zip(axes, panels, strict=False):
        _draw_table(axis, 100 * table, _CHANGES if is_change else _SHARES, changes if is_change else levels, is_change)
        axis.set_title(title, fontsize=9.5, color=INK, loc="left")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    bars = [(levels, _SHARES, "right answers, %")]
    bars += [(changes, _CHANGES, "difference, percentage points")] if differences else []
    for norm, colours, label in bars:
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes), location="bottom", fraction=0.02, pad=0.01,
                              aspect=50)  # fmt: skip
        bar.set_label(label, fontsize=8, color=INK)
        bar.ax.tick_params(labelsize=8, colors=INK)
    save(figure, path)


def _draw_table(axis: Axes, table: np.ndarray, colours, norm: Normalize, is_change: bool) -> None:
    axis.imshow(np.ma.masked_invalid(table), cmap=colours, norm=norm)
    for (row, column), value in np.ndenumerate(table):
        if not math.isnan(value):
            red, green, blue, _ = colours(norm(value))
            ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
            text = f"{value:+.0f}".replace("-", "−") if is_change and round(value) else f"{abs(value):.0f}"
            cell = axis.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
            cell.set_in_layout(False)  # it lies inside anyway, and 81 of them take long to measure
    for ticks in (axis.set_xticks, axis.set_yticks):
        ticks(range(9), [str(digit) for digit in range(1, 10)])
    axis.set_ylabel("first factor", fontsize=8, color=INK)
    axis.set_xlabel("second factor", fontsize=8, color=INK)
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.spines[:].set_visible(False)


def plot_embeddings(maps: Mapping[str, tuple[np.ndarray, list[float]]], path: Path) -> None:
    """Draw the facts at their two principal coordinates, a panel per arm, coloured and labelled by their products.

    maps: by title, coordinates (45, 2) and the two shares of variance.
    """
    columns = 2 if len(maps) > 1 else 1
    lines = math.ceil(len(maps) / columns)
    figure = Figure(figsize=(_WIDTH, 0.5 + 3.4 * lines), dpi=120, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    colours = colormaps["viridis"]
    for axis, (title, (coordinates, shares)) in zip(axes, maps.items(), strict=False):
        for fact, (x, y) in zip(FACTS, coordinates, strict=True):
            axis.plot(x, y, "o", color=colours(marker_colour(fact.product)), markersize=5)
            axis.annotate(
                str(fact.product), (x, y), xytext=(3, 3), textcoords="offset points", fontsize=6.5, color=INK
            )
        plain(axis, title, grid=None)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(f"first component, {shares[0]:.0%} of the variance", fontsize=8, color=INK)
        axis.set_ylabel(f"second, {shares[1]:.0%}", fontsize=8, color=INK)
    for axis in axes[len(maps) :]:
        axis.set_axis_off()
    bar = figure.colorbar(ScalarMappable(LogNorm(1, 81), colours), ax=list(axes), location="bottom", fraction=0.02,
                          pad=0.02, aspect=50)  # fmt: skip
    bar.set_ticks([1, 2, 5, 10, 20, 40, 81], labels=["1", "2", "5", "10", "20", "40", "81"])
    bar.minorticks_off()
    bar.set_label("product, logarithmic", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    save(figure, path)
