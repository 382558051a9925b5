"""Prepare the tokenised corpus of both arms from text.

    python training/prepare_data.py recipes/synthetic_corpus.yaml
    python training/prepare_data.py recipes/small/corpus.yaml --source_root path/to/texts --output_dir data/small

Writes `output_dir/<condition>/` (uint16 shards and `manifest.json`) for each condition of the recipe, with the same
documents in the same order, and `output_dir/held_out-*.jsonl`, the original text of the validation documents. Running
it again does nothing; an interrupted run goes on behind its last piece.
"""

from training.core.recipe import run_program
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments


def main(args: CorpusArguments) -> int:
    prepare_corpus(args)
    return 0


if __name__ == "__main__":
    run_program(main, [CorpusArguments])
