"""Draw what runs have logged, several seeds of both arms in one figure."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.analysis.drawing import COLOURS, INK, plain, save
from training.analysis.result_files import read_rows


def plot_run_curves(
    runs: Mapping[str, Sequence[str | Path]], metrics: Mapping[str, str], title: str, path: str | Path
) -> None:
    """Draw one panel per metric over the steps: a thin line per run, and the mean over a group's runs as a thick one.

    runs: folders with a `metrics.jsonl` by group, such as the arm. metrics: titles by keys of its rows. Raises
    `ValueError` for a metric that no run has logged.
    """
    logged = {
        group: [read_rows(Path(folder) / "metrics.jsonl") for folder in folders] for group, folders in runs.items()
    }
    columns = min(3, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.3 * columns, 0.9 + 3.0 * lines), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (key, name) in zip(axes, metrics.items(), strict=False):
        curves = {group: [_curve(rows, key) for rows in each] for group, each in logged.items()}
        if not any(curve for each in curves.values() for curve in each):
            raise ValueError(f"no run has logged {key!r}; name a key of metrics.jsonl")
        for colour, (group, each) in zip(COLOURS, curves.items(), strict=False):
            for curve in each:
                axis.plot(list(curve), list(curve.values()), color=colour, linewidth=0.8, alpha=0.45)
            shared = [step for step in each[0] if all(step in curve for curve in each)]
            means = [sum(curve[step] for curve in each) / len(each) for step in shared]
            axis.plot(shared, means, color=colour, linewidth=2.2, label=f"{group}, n = {len(each)}")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        plain(axis, name)
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=8, frameon=False)
    figure.supxlabel("step", fontsize=10, color=INK)
    figure.suptitle(title, fontsize=11, color=INK)
    save(figure, path)


def _curve(rows: Sequence[Mapping], key: str) -> dict[int, float]:
    return {row["step"]: row[key] for row in rows if row.get(key) is not None}
