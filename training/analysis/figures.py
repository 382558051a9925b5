"""Draw what the project measures; no window, no pyplot, and the same bytes for the same numbers."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tokenization.mul_facts import FACTS
from training.analysis.drawing import FLOOR, INK, save
from training.data.describe import dose, never_occurring

_COLOURS = colormaps["viridis"]  # rises in lightness, so it reads with colour blindness and in grey
_ABSENT = {"facecolor": "white", "edgecolor": FLOOR, "hatch": "////", "linewidth": 0}
_GAP = 0.03  # of a cell's width, between two cells


def plot_fact_counts(manifests: dict[str, dict], path: str | Path) -> None:
    """Draw how often each fact occurs in the training split as a PNG, natural and synthetic text side by side.

    manifests: of one corpus by condition, as `read_manifests` gives them; the counts are those of the original text
    and the same for every condition. A part without documents is left out.
    """
    train = next(iter(manifests.values()))["splits"]["train"]
    parts = [part for part in ("natural", "synthetic") if train[part]["documents"]]
    most = max(max(train[part]["facts_by_name"].values()) for part in parts)
    norm = LogNorm(1, max(most, 10))
    figure = Figure(figsize=(1.2 + 6.2 * len(parts), 7.0), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(parts), squeeze=False)[0]
    for axis, part in zip(axes, parts, strict=True):
        _draw_triangle(axis, train[part], f"{part.capitalize()} text", norm)
    bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=list(axes), fraction=0.03, pad=0.02)
    bar.ax.yaxis.set_major_formatter(lambda count, _: _short(round(count)))
    bar.set_label("occurrences, logarithmic (hatched: none)", fontsize=10, color=INK)
    tokens = ", ".join(f"{manifest['splits']['train']['tokens']:,} in {name}" for name, manifest in manifests.items())
    title = f"Multiplication facts in the training text: {dose(train):.1e} facts per plain GPT-2 token"
    size = textwrap.fill(f"{train['plain_tokens']:,} plain tokens ({tokens})", 80 * len(parts))
    figure.suptitle(f"{title}\n{size}\n", fontsize=12, color=INK)
    save(figure, path)


def _draw_triangle(axis, part: dict[str, Any], title: str, norm: LogNorm) -> None:
    """Draw the facts a * b with a <= b as cells, a from top to bottom and b from left to right."""
    counts = part["facts_by_name"]
    for fact in FACTS:
        count, side = counts[fact.name], 1 - _GAP
        look = {"facecolor": _COLOURS(norm(count)), "linewidth": 0} if count else _ABSENT
        axis.add_patch(Rectangle((fact.b - side / 2, fact.a - side / 2), side, side, **look))
        ink = "white" if count and norm(count) < 0.6 else "black"
        label = axis.text(fact.b, fact.a, _short(count), ha="center", va="center", fontsize=10.5, color=ink)
        if count == 0:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 2.5})
    axis.set(xlim=(0.5, 9.5), ylim=(9.5, 0.5), aspect="equal")
    axis.set_xticks(range(1, 10))
    axis.set_yticks(range(1, 10))
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=10, labelcolor=INK)
    axis.set_xlabel("larger factor", fontsize=10, color=INK)
    axis.xaxis.set_label_position("top")
    axis.set_ylabel("smaller factor", fontsize=10, color=INK)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title(title, fontsize=12, color=INK, fontweight="bold")
    axis.text(0.6, 9.3, _summary(part), ha="left", va="bottom", fontsize=10, color=INK, linespacing=1.5)


def _summary(part: dict[str, Any]) -> str:
    """Return the lines for the empty half of a panel: how much there is, how uneven it is, and what is missing."""
    counts = np.array(sorted(part["facts_by_name"].values(), reverse=True))
    lines = [f"{part['facts']:,} facts in {part['documents']:,} documents", f"{dose(part):.1e} per plain token"]
    if part["facts"]:
        lines.append(f"{counts[:5].sum() / counts.sum():.0%} of them are the 5 most frequent")
    missing = never_occurring(part["facts_by_name"])
    lines.append(f"{len(FACTS) - len(missing)} of the {len(FACTS)} facts occur")
    return "\n".join(lines)


def _short(count: int) -> str:
    """Return a count in at most five characters: 9,999, 10k, 1.2M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
        if count >= size and unit != "k":
            return f"{count / size:.1f}{unit}"
    return f"{count:,}"
