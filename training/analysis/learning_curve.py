"""The learning curve of a run: the headline results of its evaluated checkpoints, as JSON and as a figure."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from training.analysis.drawing import FLOOR, INK, plain, save, short_number
from training.core.checkpoint import checkpoint_step, list_checkpoints
from training.core.files import write_json

CURVE, FIGURE = "curve.json", "curve.png"
_LINE = "#2a6f97"


def headline_of(paths: Sequence[str], results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results at dotted paths, each a mapping with at least a `value`; absent ones are left out."""
    found = {}
    for path in paths:
        value: Any = results
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[path] = value if isinstance(value, Mapping) else {"value": value}
    return found


def write_curve(folder: Path, run: Path, headlines: Mapping[str, Sequence[str]]) -> Path:
    """Collect `folder/checkpoint-N/results.json` into `curve.json` and draw `curve.png`; return the figure's path.

    headlines: of each task, the dotted paths into its results. Checkpoints that the run no longer keeps stay in the
    curve as long as their results are there.
    """
    points = []
    for checkpoint in list_checkpoints(folder):
        file = checkpoint / "results.json"
        if not file.is_file():
            continue
        results = json.loads(file.read_text(encoding="utf-8"))["results"]
        step = checkpoint_step(checkpoint)
        measured = {task: headline_of(paths, results[task]) for task, paths in headlines.items() if task in results}
        points.append({"step": step, "tokens": _tokens_per_step(run, step), "results": measured})
    write_json(folder / CURVE, {"run": str(run), "points": points})
    plot_curve(points, str(run), folder / FIGURE)
    return folder / FIGURE


def plot_curve(points: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Draw one panel per headline result over the training tokens (or steps), with intervals and floors, as a PNG."""
    panels = sorted({(task, name) for point in points for task, found in point["results"].items() for name in found})
    if not panels:
        raise ValueError(f"no results to draw for {title}")
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.3 * columns, 0.6 + 3.1 * lines), dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    by_tokens = all(point["tokens"] is not None for point in points)
    for axis, (task, name) in zip(axes, panels, strict=False):
        _draw_panel(axis, points, task, name, "tokens" if by_tokens else "step")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.supxlabel("training tokens" if by_tokens else "step", fontsize=10, color=INK)
    figure.suptitle(f"{title}: 95 % intervals over items of one run", fontsize=11, color=INK)
    save(figure, path)


def _draw_panel(axis, points: Sequence[Mapping[str, Any]], task: str, name: str, x_key: str) -> None:
    found = [(point[x_key], point["results"].get(task, {}).get(name)) for point in points]
    found = [(x, result) for x, result in found if result is not None and result["value"] is not None]
    xs = [x for x, _ in found]
    axis.plot(xs, [result["value"] for _, result in found], color=_LINE, marker="o", markersize=4, linewidth=1.5)
    if found and all(result.get("low") is not None for _, result in found):
        lows, highs = ([result[end] for _, result in found] for end in ("low", "high"))
        axis.fill_between(xs, lows, highs, color=_LINE, alpha=0.18, linewidth=0)
        if len(xs) == 1:
            axis.vlines(xs, lows, highs, color=_LINE, linewidth=1.2)
    floors = {result["floor"] for _, result in found if result.get("floor") is not None}
    for floor in floors:
        axis.axhline(floor, color=FLOOR, linestyle="--", linewidth=1)
        axis.annotate(
            "floor", (1, floor), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=FLOOR
        )
    title = f"{task}: {name.removeprefix('sets.').replace('.', ', ').replace('_', ' ')}"
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    plain(axis, title)


def _tokens_per_step(run: Path, step: int) -> int | None:
    """Return the tokens that the run had read at a step, where its `run.json` says how many a step has."""
    file = run / "run.json"
    if not file.is_file():
        return None
    per_step = json.loads(file.read_text(encoding="utf-8")).get("recipe", {}).get("total_batch_tokens")
    return per_step * step if isinstance(per_step, int) else None
