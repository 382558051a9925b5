"""What an experiment will cost: tokens, operations, hours and price of every stage, before anything runs.

For comparison: llm.c trains GPT-2 124M with 1.75 million tokens per second on 8 A100, which is 56 % of their peak.
"""

import textwrap
from collections.abc import Sequence

from training.core.device import PEAK_FLOPS
from training.experiments.planned_work import Work, planned_work
from training.experiments.recipe import ExperimentArguments

_WIDTH = 110
_HEADER = ("stage", "part", "tokens", "FLOPs", "time", "GPU hours", "price")


def plan_in_words(args: ExperimentArguments) -> str:
    """Return a table of what each stage costs, for one run and for all, and what it rests on.

    Raises `ValueError` for a device whose peak is not known, a utilisation that does not exist, and a negative price.
    """
    peak = peak_of(args.plan_device)
    if not 0 < args.plan_utilisation <= 1:
        raise ValueError(f"plan_utilisation is {args.plan_utilisation}; it is a share of the peak, such as 0.4")
    if args.plan_price < 0:
        raise ValueError(f"plan_price is {args.plan_price}; it is a price per device and hour, such as 2.0")
    arms, seeds = len(args.only_arms or args.arms), len(args.only_seeds or args.seeds)
    work = planned_work(args)
    plan = _Plan(args, peak, arms * seeds)
    title = (
        f"{args.name}: {_counted(arms, 'arm')} x {_counted(seeds, 'seed')} = {_counted(arms * seeds, 'run')} of each "
        f"stage, on {args.plan_devices} x {args.plan_device}"
    )
    notes = [line for note in _notes(args, plan, work) for line in _wrapped(note)]
    return "\n".join([title, "", *plan.table(work), "", *notes])


def peak_of(device: str) -> float:
    """Return the dense bf16 peak of a named device in FLOP/s; raises `ValueError` for one that is not known."""
    peak = next((peak for part, peak in PEAK_FLOPS.items() if part in device), None)
    if peak is None:
        raise ValueError(f"plan_device is {device!r}, whose peak is not known; choose {', '.join(PEAK_FLOPS)}")
    return peak


class _Plan:
    """The machine and the number of runs, and what work means there."""

    def __init__(self, args: ExperimentArguments, peak: float, runs: int):
        self.devices, self.price, self.runs = args.plan_devices, args.plan_price, runs
        self.peak = peak * args.plan_devices
        self.flops_per_second = self.peak * args.plan_utilisation

    def seconds(self, flops: int) -> float:
        """Return how long the operations of one run take on all devices."""
        return flops / self.flops_per_second

    def table(self, work: Sequence[Work]) -> list[str]:
        known = [each for each in work if each.flops is not None]
        label = "total" if len(known) == len(work) else "total of what is known"
        total = Work(label, "", sum(each.tokens for each in known), sum(each.flops for each in known))
        rows = [_HEADER, *map(self._cells, [*known, total])]
        # A row without numbers goes on beyond its names, and so does the name of the total.
        widths = [
            max(len(name) for name in names)
            for names in ((_HEADER[0], *(each.stage for each in work)), (_HEADER[1], *(each.part for each in work)))
        ]
        widths[0] = max(widths[0], len(label) - widths[1] - 2)
        widths += [max(len(row[column]) for row in rows) for column in range(2, len(_HEADER))]
        left, of_one, of_all = sum(widths[:2]) + 4, sum(widths[2:5]) + 4, sum(widths[5:]) + 2
        lines = [
            " " * left + "one run".center(of_one, "-") + "  " + f"all {self.runs}".center(of_all, "-"),
            _aligned(_HEADER, widths),
        ]
        for each in work:
            if each.flops is not None:
                lines.append(_aligned(self._cells(each), widths))
            else:
                reason = textwrap.shorten(each.unknown, _WIDTH - left, placeholder=" …")
                lines.append(f"{each.stage:<{widths[0]}}  {each.part:<{widths[1]}}  {reason}")
        numbers = _aligned(("", "", *self._cells(total)[2:]), widths)[left:]
        return [*lines, "-" * (left + of_one + of_all + 2), f"{label:<{left}}{numbers}"]

    def _cells(self, work: Work) -> tuple[str, ...]:
        bound = "≤ " if work.bound else ""
        seconds = self.seconds(work.flops)
        hours = seconds / 3600 * self.devices * self.runs
        return (
            work.stage,
            work.part,
            bound + _count(work.tokens),
            bound + _scientific(work.flops),
            _duration(seconds),
            _number(hours),
            _money(hours * self.price),
        )


def _notes(args: ExperimentArguments, plan: _Plan, work: Sequence[Work]) -> list[str]:
    """Return what the numbers rest on, in sentences."""
    first = work[0]
    seconds = plan.seconds(first.flops)
    share = first.flops / 3600 / plan.peak
    within_an_hour = f"would need {share:.0%} of the peak" + (", more than there is" if share > 1 else "")
    notes = [
        f"Time: FLOPs / ({args.plan_devices} x {plan.peak / plan.devices / 1e12:g} TFLOP/s, the dense bf16 peak of "
        f"{args.plan_device}, x {100 * args.plan_utilisation:g}% plan_utilisation). It is that of one run on all "
        "devices; runs beside each other on fewer devices each take longer, and as many GPU hours.",
        f"Price: {_money(args.plan_price)} per device and hour, for the hours of arithmetic alone.",
        f"{first.stage}: {_count(first.tokens / seconds)} tokens per second, "
        f"{_count(first.tokens / seconds / plan.devices)} per device. A run within one hour {within_an_hour}.",
        "FLOPs: by the model's own count of matrix products and causal attention, forward and backward; a forward "
        "pass alone is a third of it.",
    ]
    bounds: dict[str, list[str]] = {}
    for each in work:
        if each.bound and each.stage not in (stages := bounds.setdefault(each.bound, [])):
            stages.append(each.stage)
    upper = "; ".join(f"{bound} ({', '.join(stages)})" for bound, stages in bounds.items())
    notes += [f"≤: tokens and FLOPs are an upper bound, {upper}."] if upper else []
    planned = [each.stage for each in work if each.part.endswith("as planned")]
    notes += (
        [f"As planned: planned_tokens of {', '.join(planned)}, an estimate of the recipe's author."] if planned else []
    )
    if any(stage.program == "grpo" for stage in args.stages) or any(each.part.startswith("eval") for each in work):
        notes.append(
            "Drawing completions waits for memory rather than arithmetic: it takes longer than its FLOPs say at this "
            "utilisation, by a factor that depends on decode_batch_size and batch_size."
        )
    missing = dict.fromkeys(each.stage for each in work if each.flops is None and not each.part.startswith("eval"))
    if missing:
        notes.append(f"Not in the total: training of {', '.join(missing)}, whose tokens nobody has planned.")
    evals = {each.part: each.unknown for each in work if each.flops is None and each.part.startswith("eval")}
    notes += [
        f"Not in the total, of {part}: {reason.removeprefix('not counted: ')}; how many items they have is not in the "
        "recipe, or they only score short texts."
        for part, reason in evals.items()
    ]
    notes.append(
        "Nowhere counted: preparing corpora and rows, validation and evaluations during training, starting, "
        "compiling, saving, and what an interruption loses."
    )
    return notes


def _wrapped(note: str) -> list[str]:
    return textwrap.wrap(note, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Lay names to the left and numbers to the right."""
    cells = [
        f"{cell:<{width}}" if column < 2 else f"{cell:>{width}}"
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _counted(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _count(number: float) -> str:
    """Return a count with three digits and its thousands in words: `10.0 B`, `262 M`, `41.0 K`."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= 0.9995 * size:
            return f"{_number(number / size)} {unit}"
    return _number(number)


def _number(number: float) -> str:
    """Return a number with three digits, those before the point whole."""
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _scientific(number: float) -> str:
    return f"{number:.1e}".replace("e+", "e")


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _money(dollars: float) -> str:
    return f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:.2f}"
