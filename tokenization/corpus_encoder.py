"""Encode the documents of a corpus to the ids that the tokenizer gives, many times faster."""

import re
from collections.abc import Sequence

import numpy as np

from tokenization.conditions import resolve_condition
from tokenization.fast_encoding import DEFAULT_ENGINE, DIGIT_ENGINE, open_engine
from tokenization.injection import OPERATORS


class CorpusEncoder:
    """Turn documents into ids as the tokenizer of the same condition does when special tokens are off.

    `<|endoftext|>` in a document is text. No document boundary is added: the caller places `END_OF_TEXT_ID`.
    `engine` is `tiktoken`, or `gigatoken` for the same ids at several times the speed; hold it against the first by
    `tokenization.fast_encoding.prove_engine` before use. It is not asked for the digits of `digit_numbers`, which are
    tiktoken's. An encoder is cheap to pickle, and workers derive their tables once per process. Raises ValueError for
    a setting that does not exist or an engine that is not installed.
    """

    def __init__(
        self,
        condition: str = "mul_tokens",
        injection_mode: str | None = "weak",
        operators: str | None = OPERATORS,
        engine: str = DEFAULT_ENGINE,
        condition_seed: int | None = 0,
    ):
        self.settings = resolve_condition(condition, injection_mode, operators, condition_seed)
        self.engine = engine
        self._plain = open_engine(DIGIT_ENGINE if self.settings.splits_digits else engine)
        self._names = re.compile("|".join(map(re.escape, self.settings.ids))) if self.settings.ids else None

    def __reduce__(self):
        each = self.settings
        return CorpusEncoder, (each.name, each.injection_mode, each.operators, self.engine, each.seed)

    def __repr__(self) -> str:
        each = self.settings
        engine = "" if self.engine == DEFAULT_ENGINE else f", engine={self.engine!r}"
        seed = "" if each.seed is None else f", condition_seed={each.seed}"
        return f"CorpusEncoder({each.name!r}, {each.injection_mode!r}, {each.operators!r}{engine}{seed})"

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one document, uint16 of shape (tokens,); facts are the ids from `FIRST_FACT_ID` on.

        Raises ValueError for a lone surrogate, which no tokenizer can encode.
        """
        if self._names is None:
            return self.encode_plain(text)
        injected = self.settings.inject(text)
        pieces, end = [], 0
        for name in self._names.finditer(injected):
            pieces.append(self.encode_plain(injected[end : name.start()]))
            pieces.append(np.array([self.settings.ids[name.group()]], dtype=np.uint16))
            end = name.end()
        if not pieces:
            return self.encode_plain(injected)
        pieces.append(self.encode_plain(injected[end:]))
        return np.concatenate(pieces)

    def encode_plain(self, text: str) -> np.ndarray:
        """Return the ids of the text as it stands, without injection, uint16 of shape (tokens,): GPT-2's, but for
        `digit_numbers`.

        Raises ValueError for a lone surrogate, which no tokenizer can encode.
        """
        return self._plain.encode(text)

    def encode_plain_documents(
        self, texts: Sequence[str], encoded: Sequence[bytes] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `encode_plain` gives for each text, one after the other, and how many ids belong to each.

        The ids are uint16 of shape (tokens,), the lengths int64 of shape (texts,). Give it batches of some megabytes:
        that is what an engine is fastest on. `encoded` are the same texts as UTF-8, which saves an engine that reads
        bytes the work. Raises ValueError for a lone surrogate, which no tokenizer can encode.
        """
        return self._plain.encode_documents(texts, encoded)
