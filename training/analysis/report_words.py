"""Write numbers for readers: in the unit of an endpoint, with sign, interval and p."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How the values of an endpoint are written: shares as percentages and their differences in points."""

    unit: str
    is_share: bool

    def level(self, value: float | None) -> str:
        """Return a value: `45.0 %`, `1.6412 bits per byte`."""
        if value is None:
            return "–"
        return f"{100 * value:.1f} %" if self.is_share else f"{_digits(value)} {self.unit}".strip()

    def bare(self, value: float | None) -> str:
        """Return a value without its unit, in that of `axis`."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}" if self.is_share else _digits(value)

    def with_spread(self, mean: float, spread: float | None) -> str:
        """Return `40.0 ± 1.2` in the unit of `axis`, both with the same number of places."""
        if spread is None:
            return self.bare(mean)
        if self.is_share:
            return plus_minus(self.bare(mean), self.bare(spread))
        places = _places(mean, spread)
        return plus_minus(_digits(mean, places), _digits(spread, places))

    def with_interval(self, difference: float, bounds: tuple[float, float] | None) -> str:
        """Return `+5.0 (+3.0 to +7.0)`, all with the same number of places."""
        if bounds is None:
            return self.signed(difference)
        places = _places(difference, *bounds)
        return f"{self.signed(difference, places)} ({self.interval(bounds, places)})"

    def change(self, value: float | None) -> str:
        """Return a difference with its sign: `+5.0 points`."""
        if value is None:
            return "–"
        return f"{self.signed(value)} {'points' if self.is_share else self.unit}".strip()

    def size(self, value: float | None) -> str:
        """Return how large a difference is, without a sign: `5.0 points`."""
        return self.change(value).removeprefix("+") if value is not None else "–"

    def signed(self, value: float, places: int | None = None) -> str:
        if self.is_share:
            # Adding 0.0 turns a rounded -0.0 into 0.0.
            return minus(f"{round(100 * value, 1) + 0.0:+.1f}")
        return ("+" if value >= 0 else "") + _digits(value, places)

    def interval(self, bounds: tuple[float, float] | None, places: int | None = None) -> str:
        """Return `+3.0 to +7.0`, without a unit, both with the same number of places."""
        if bounds is None:
            return "–"
        places = _places(*bounds) if places is None else places
        return _whole(f"{self.signed(bounds[0], places)} to {self.signed(bounds[1], places)}")

    @property
    def axis(self) -> str:
        return "%" if self.is_share else self.unit

    @property
    def change_axis(self) -> str:
        return "percentage points" if self.is_share else self.unit

    @property
    def factor(self) -> float:
        """What values are multiplied by on an axis."""
        return 100.0 if self.is_share else 1.0


def minus(text: str) -> str:
    """Return a number with a minus sign in place of a hyphen, which browsers would break a line at."""
    return text.replace("-", "−")


def probability(p: float | None, least: float = 0.001) -> str:
    """Return a p value in three decimals, and `< 0.001` below them."""
    if p is None:
        return "–"
    return f"<\u00a0{least:g}" if p < least else f"{p:.3f}"


def with_p(p: float | None) -> str:
    """Return `p = 0.012` or `p < 0.001`."""
    text = probability(p)
    return f"p\u00a0{text}" if text.startswith("<") else f"p\u00a0=\u00a0{text}"


def counted(number: int, one: str, more: str | None = None) -> str:
    """Return a number with its noun: `1 seed`, `6 seeds`."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def listed(names: list[str]) -> str:
    """Return `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def large(number: float | None) -> str:
    """Return a count for a table: `4,915,200`, `1.30e13`."""
    if number is None:
        return "–"
    return f"{number:.2e}".replace("e+", "e") if abs(number) >= 1e10 else f"{number:,.0f}"


def with_sd(write: Callable[[float], str], values: Sequence[float]) -> str:
    """Return `40.0 ± 1.2` over seeds, without the SD for one value, and a dash for none."""
    mean, spread = mean_and_sd(values)
    if mean is None:
        return "–"
    return plus_minus(write(mean), None if spread is None else write(spread))


def plus_minus(mean: str, spread: str | None) -> str:
    """Return `40.0 ± 1.2`, which no line breaks within."""
    return mean if spread is None else _whole(f"{mean} ± {spread}")


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the standard deviation over seeds, which a single one does not have."""
    if not values:
        return None, None
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def _whole(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _places(*values: float) -> int:
    """Return the places behind the point with which the largest of some numbers has about five digits."""
    largest = max(map(abs, values))
    return 4 if largest < 10 else 2 if largest < 1000 else 0


def _digits(value: float, places: int | None = None) -> str:
    """Return a number in about five digits, or with so many places."""
    places = _places(value) if places is None else places
    return minus(f"{round(value, places) + 0.0:,.{places}f}")
