"""Prepare the tokenised corpus of both arms from text.

    python training/prepare_data.py recipes/synthetic_corpus.yaml
    python training/prepare_data.py recipes/small/corpus.yaml --source_root path/to/texts --output_dir data/small
    python training/prepare_data.py recipes/gpt2_124m/corpus.yaml --workers 64 --encoder gigatoken
    python training/prepare_data.py recipes/gpt2_124m/corpus.yaml --executor slurm --slurm_partition cpu --workers 64
    python training/prepare_data.py --describe data/fineweb_edu_10b

Writes `output_dir/<condition>/` (uint16 shards and `manifest.json`) for each condition of the recipe, with the same
documents in the same order, `output_dir/held_out-*.jsonl`, the original text of the validation documents, and
`output_dir/run.json`. Running it again does nothing; an interrupted run goes on with the pieces that are missing, and
exits 75 after SIGTERM, 130 after Ctrl-C. `--describe` prints what a finished corpus holds and draws
`facts_by_name.png` in it.
"""

import signal
from functools import partial
from pathlib import Path

from training.core.console import EXIT_CODES, stopping_in_words
from training.core.recipe import run_program
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments, PreparationArguments


def main(args: CorpusArguments, preparation: PreparationArguments) -> int:
    if preparation.describe is not None:
        return describe(Path(preparation.describe))
    with stopping_in_words():
        if preparation.executor != "here":
            from training.data import cluster  # it needs datatrove, which is an extra

            if not cluster.launch(args, preparation):
                return 0
        say = partial(print, flush=True)  # also when the output is a file that somebody watches
        prepare_corpus(args, say, preparation.processes, preparation.encoder, preparation.progress)
        return 0
    return EXIT_CODES[signal.SIGINT]


def describe(folder: Path) -> int:
    """Print the summary of a finished corpus and draw its facts."""
    from training.analysis.figures import plot_fact_counts
    from training.data.describe import describe_corpus, read_manifests

    manifests = read_manifests(folder)
    print(describe_corpus(manifests))
    figure = folder / "facts_by_name.png"
    plot_fact_counts(manifests, figure)
    print(f"figure: {figure}")
    return 0


if __name__ == "__main__":
    run_program(main, [CorpusArguments, PreparationArguments])
