"""What all figures share: colours, a plain look, and PNG files with the same bytes for the same numbers."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, FAINT, FLOOR = "#222222", "#dddddd", "#b0413e"
_LINES = ("-", "--", ":", "-.")


def styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return a colour and a kind of line for each name; the kind changes where the colours begin again."""
    return {
        name: {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": _LINES[place // len(COLOURS) % len(_LINES)],
        }
        for place, name in enumerate(names)
    }


def plain(axis: Axes, title: str = "", grid: str | None = "y") -> None:
    """Give a panel the project's look: small type, a title on the left, faint lines, no box."""
    axis.set_title(title, fontsize=9.5, color=INK, loc="left")
    axis.tick_params(labelsize=8, colors=INK)
    if grid:
        axis.grid(axis=grid, color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG without Matplotlib's version, which such files carry otherwise."""
    figure.savefig(path, format="png", metadata={"Software": None})


def short_number(number: float) -> str:
    """Return a number for an axis: 250, 1.5k, 20M, 10B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
