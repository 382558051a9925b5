"""Print the tables of a comparison that `prepare_data.py` has measured.

python benchmarks/preparation_report.py runs/benchmarks/prepare_data.json
"""

import json
import statistics
import sys
from pathlib import Path

STARTUP = "start-up"  # the text that is next to nothing
LOOP, MAP = "build-nanogpt's loop", "datasets.map baseline"
PROJECTED_TOKENS, BYTES_PER_TOKEN = 10e9, 4.7  # of FineWeb-Edu
CORES = (1, 16, 64)
LEAST_SECONDS = 1e-3  # what a difference between two runs is at least, for there is noise in both
TOO_MUCH_STARTUP = 0.5


def main(path: str) -> None:
    print_report(json.loads(Path(path).read_text(encoding="utf-8")))


def print_report(report: dict) -> None:
    """Print a table per text, what injection costs, and the projection."""
    texts = [text for text in report["texts"] if text["name"] != STARTUP]
    for text in texts:
        entries = summarize(report["runs"], text)
        print(f"\n{text['name']}: {text['bytes'] / 1e6:.1f} MB in {text['documents']:,} documents")
        print_table(entries)
        if text is texts[0]:
            prose = entries
    print_injection(report["injection"])
    print_projection(prose, texts[0]["name"])


def summarize(runs: list[dict], text: dict) -> list[dict]:
    """Reduce the rounds to one entry per variant and number of workers, net of the start-up."""
    entries = []
    for variant, workers in dict.fromkeys((run["variant"], run["workers"]) for run in runs):
        mine = _select(runs, variant, workers, text["name"])
        if not mine:
            continue
        cpu, wall, parent = (
            _net(runs, variant, workers, text["name"], key)
            for key in ("cpu_seconds", "wall_seconds", "parent_cpu_seconds")
        )
        megabytes = text["bytes"] / 1e6
        entry = {
            "variant": variant,
            "workers": workers,
            "mb_per_cpu_second": statistics.median(megabytes / seconds for seconds in cpu),
            "mb_per_second": statistics.median(megabytes / seconds for seconds in wall),
            "parent_cpu_seconds_per_mb": statistics.median(parent) / megabytes,
            "startup_cpu_seconds": statistics.median(
                run["cpu_seconds"] for run in _select(runs, variant, workers, STARTUP)
            ),
            "cpu_seconds": statistics.median(cpu),
            "load_share": statistics.median(
                run.get("load_cpu_seconds", 0.0) / net for run, net in zip(mine, cpu, strict=True)
            ),
            "worker_peak_mb": max(run["worker_peak_mb"] for run in mine),
            "parent_peak_mb": max(run["parent_peak_mb"] for run in mine),
        }
        for key, peer in (("over_loop", LOOP), ("over_map", MAP)):
            theirs = _net(runs, peer, workers, text["name"], "cpu_seconds")
            entry[key] = _quartiles([their / our for their, our in zip(theirs, cpu, strict=False)])
        entries.append(entry)
    return entries


def print_table(entries: list[dict]) -> None:
    columns = ("variant", "workers", "MB/CPU-s", "MB/s", "x loop (IQR)", "x map (IQR)")
    layout = "{:<32} {:>7} {:>8} {:>7} {:>19} {:>19} {:>10} {:>9} {:>9}"
    print(layout.format(*columns, "start-up s", "worker MB", "parent MB"))
    for entry in entries:
        cells = (
            entry["variant"],
            entry["workers"],
            f"{entry['mb_per_cpu_second']:.1f}",
            f"{entry['mb_per_second']:.1f}",
            _describe_ratio(entry["over_loop"]),
            _describe_ratio(entry["over_map"]),
            f"{entry['startup_cpu_seconds']:.1f}",
            f"{entry['worker_peak_mb']:.0f}",
            f"{entry['parent_peak_mb']:.0f}",
        )
        print(layout.format(*cells))
    fewest = min(entry["workers"] for entry in entries)
    for entry in entries:
        if entry["load_share"] and entry["workers"] == fewest:
            rate = entry["mb_per_cpu_second"] / (1 - entry["load_share"])
            print(
                f"{entry['variant']}: {entry['load_share']:.0%} of its CPU time is load_dataset, which copies the "
                f"text; without it {rate:.1f} MB/CPU-s"
            )
    doubtful = [
        f"{entry['variant']} with {entry['workers']}"
        for entry in entries
        if entry["cpu_seconds"] < TOO_MUCH_STARTUP * entry["startup_cpu_seconds"]
    ]
    if doubtful:
        print(f"more start-up than is good for the figures (give more --megabytes): {'; '.join(doubtful)}")


def print_injection(shares: list[dict]) -> None:
    print(
        "\ninjection: CPU time to look for facts, count them and encode their documents again, over that of the rest"
    )
    for encoder, text in dict.fromkeys((share["encoder"], share["text"]) for share in shares):
        pieces = [
            piece
            for share in shares
            if (share["encoder"], share["text"]) == (encoder, text)
            for piece in share["pieces"]
        ]
        low, median, high = _quartiles([piece["cost"] for piece in pieces])
        holding = sum(piece["documents_with_facts"] for piece in pieces) / sum(piece["documents"] for piece in pieces)
        print(
            f"  {encoder} on {text}: {median:.1%} ({low:.1%}-{high:.1%}); {holding:.1%} of the documents hold a fact"
        )


def print_projection(entries: list[dict], text: str) -> None:
    megabytes = PROJECTED_TOKENS * BYTES_PER_TOKEN / 1e6
    fewest, most = (choose(entry["workers"] for entry in entries) for choose in (min, max))
    print(
        f"\nhours for {PROJECTED_TOKENS / 1e9:.0f}B tokens, {megabytes / 1e3:.0f} GB at {BYTES_PER_TOKEN} bytes per "
        f"token, if the CPU seconds per MB of {text}\nwith workers {fewest} spread evenly over the cores, and disk "
        "and network keep up. What the parent process does\nalone is done on one core: no number of cores takes less"
    )
    layout = "{:<32} {:>9} {:>9} {:>9} {:>13}"
    print(layout.format("variant", *(f"{cores} core{'s' * (cores > 1)}" for cores in CORES), "parent alone"))
    parents = {entry["variant"]: entry for entry in entries if entry["workers"] == most}
    for entry in entries:
        if entry["workers"] == fewest:
            hours = megabytes / entry["mb_per_cpu_second"] / 3600
            alone = megabytes * parents[entry["variant"]]["parent_cpu_seconds_per_mb"] / 3600
            # With one worker there may be no parent beside it.
            print(
                layout.format(
                    entry["variant"],
                    *(f"{hours / cores:.2f}" for cores in CORES),
                    f"{alone:.2f}" if most > 1 else "-",
                )
            )


def _select(runs: list[dict], variant: str, workers: int, text: str) -> list[dict]:
    return [run for run in runs if (run["variant"], run["workers"], run["text"]) == (variant, workers, text)]


def _net(runs: list[dict], variant: str, workers: int, text: str, key: str) -> list[float]:
    """Return, round by round, what the text took beyond the start-up, which is the median over the rounds."""
    of_text, of_startup = ([run[key] for run in _select(runs, variant, workers, name)] for name in (text, STARTUP))
    return [max(whole - statistics.median(of_startup), LEAST_SECONDS) for whole in of_text]


def _quartiles(values: list[float]) -> list[float] | None:
    """Return lower quartile, median and upper quartile, None of nothing."""
    if len(values) < 2:
        return values * 3 or None
    return statistics.quantiles(values, n=4, method="inclusive")


def _describe_ratio(ratio: list[float] | None) -> str:
    return "-" if ratio is None else f"{ratio[1]:.2f} ({ratio[0]:.2f}-{ratio[2]:.2f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
