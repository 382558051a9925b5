"""Draw what runs have logged, several seeds of both arms in one figure."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK = "#222222"


def plot_run_curves(
    runs: Mapping[str, Sequence[str | Path]], metrics: Mapping[str, str], title: str, path: str | Path
) -> None:
    """Draw one panel per metric over the steps: a thin line per run, and the mean over a group's runs as a thick one.

    runs: folders with a `metrics.jsonl` by group, such as the arm. metrics: titles by keys of its rows. Raises
    `ValueError` for a metric that no run has logged.
    """
    logged = {group: [_read(Path(folder)) for folder in folders] for group, folders in runs.items()}
    columns = min(3, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.3 * columns, 0.9 + 3.0 * lines), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (key, name) in zip(axes, metrics.items(), strict=False):
        curves = {group: [_curve(rows, key) for rows in each] for group, each in logged.items()}
        if not any(curve for each in curves.values() for curve in each):
            raise ValueError(f"no run has logged {key!r}; name a key of metrics.jsonl")
        for colour, (group, each) in zip(_COLOURS, curves.items(), strict=False):
            for curve in each:
                axis.plot(list(curve), list(curve.values()), color=colour, linewidth=0.8, alpha=0.45)
            shared = [step for step in each[0] if all(step in curve for curve in each)]
            means = [sum(curve[step] for curve in each) / len(each) for step in shared]
            axis.plot(shared, means, color=colour, linewidth=2.2, label=f"{group}, n = {len(each)}")
        axis.set_title(name, fontsize=9.5, color=_INK, loc="left")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.tick_params(labelsize=8, colors=_INK)
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    axes[0].legend(fontsize=8, frameon=False)
    figure.supxlabel("step", fontsize=10, color=_INK)
    figure.suptitle(title, fontsize=11, color=_INK)
    figure.savefig(path, format="png", metadata={"Software": None})


def _read(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]  # what is behind the last end of line was never finished


def _curve(rows: Sequence[Mapping], key: str) -> dict[int, float]:
    return {row["step"]: row[key] for row in rows if row.get(key) is not None}
