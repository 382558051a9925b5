"""Write the report of an experiment from its result files: verdict, differences, curves, facts, cost, deviations.

    python training/report.py runs/experiment
    python training/report.py runs/experiment --replications 2000

Writes `report.md`, one self-contained `report.html` and the figures into `runs/experiment/report/`. It reads only what
the programs have written, needs neither a GPU nor PyTorch, and can be run while the experiment goes on: what is not
there yet is named as missing.
"""

import argparse

from training.analysis.experiment_report import write_report
from training.core.recipe import is_about_input


def main(experiment: str, replications: int) -> None:
    words, pages = write_report(experiment, replications)
    print(words)
    for page in pages:
        print(f"report: {page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the report of an experiment from its result files.")
    parser.add_argument("experiment", help="folder of the experiment, with experiment.json")
    parser.add_argument("--replications", type=int, default=10_000, help="of the bootstrap, 10,000 unless set")
    try:
        main(**vars(parser.parse_args()))
    except (ValueError, FileNotFoundError) as error:
        if not is_about_input(error):
            raise
        parser.exit(2, f"{parser.prog}: error: {error}\n")
