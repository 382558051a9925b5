"""Small corpora for tests: prepared from the project's synthetic recipe or a file of texts, and read back."""

import json

from tests.conftest import CORPUS
from tokenization import MulFactTokenizer
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments
from training.data.shards import Corpus


def prepare(folder, workers=1, **changes):
    lines = []
    manifests = prepare_corpus(
        CorpusArguments(**{**CORPUS, "minimum_dose": 0, "output_dir": str(folder), **changes}),
        report=lines.append,
        workers=workers,
    )
    return manifests, lines


def content(folder):
    """All files but the one that says when and how they were made."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "run.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def text_source(tmp_path, name, texts, **entry):
    (tmp_path / name).write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    return {"path": name, **entry}


def texts_of(folder, condition, split):
    tokenizer = MulFactTokenizer.build("baseline")
    opened = getattr(Corpus(folder / condition, MulFactTokenizer.build(condition)), split)
    return [tokenizer.decode(opened.tokens(i)[1:].tolist()) for i in range(len(opened))]
