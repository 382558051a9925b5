"""Convert TinyGSM's programs to worked text, exactly and without any model, and verify every row.

    python training/convert_tinygsm.py recipes/tinygsm.yaml --report
    python training/convert_tinygsm.py recipes/small/tinygsm.yaml --source_root path/to/files --report
    python training/convert_tinygsm.py recipes/gpt2_124m/tinygsm_100k.yaml --workers 64
    python training/convert_tinygsm.py recipes/gpt2_124m/tinygsm_100k.yaml --shard 2/8

Writes `output_dir/train-*` (JSON lines or Parquet, for `datasets.load_dataset(output_dir)`), `manifest.json` with the
count of every gate and every fact, `refusals.json`, `run.json`, and with `--report` `report.md` and `report.html` to
read. Running it again does nothing; an interrupted run goes on with the pieces that are missing, and exits 75 after
SIGTERM, 130 after Ctrl-C. Machines that share `output_dir` each take a `--shard i/n`; the last to finish writes the
result.
"""

import signal
from functools import partial
from pathlib import Path

from training.core.console import EXIT_CODES, stopping_in_words
from training.core.recipe import run_program
from training.data.tinygsm.recipe import ConversionArguments
from training.data.tinygsm.report import gate_table, write_report
from training.data.tinygsm.work import convert


def main(args: ConversionArguments) -> int:
    say = partial(print, flush=True)  # also when the output is a file that somebody watches
    with stopping_in_words():
        manifest = convert(args, say)
        if manifest is not None:
            for gate, rows, share, reasons in gate_table(manifest):
                say(f"  {gate:<22}{rows:>12,}{share:>9}  {reasons}")
            rows = manifest["rows"]
            say(f"{args.output_dir}: {rows['tinygsm']:,} rows and {rows['drill']:,} drills")
            if args.report:
                for path in write_report(Path(args.output_dir), manifest, args.sample_seed):
                    say(f"report: {path}")
        return 0
    return EXIT_CODES[signal.SIGINT]


if __name__ == "__main__":
    run_program(main, [ConversionArguments])
