"""Encode the documents of a corpus to the ids that the tokenizer gives, many times faster."""

from collections.abc import Sequence

import numpy as np

from tokenization.fast_encoding import DEFAULT_ENGINE, open_engine
from tokenization.injection import OPERATORS, inject, resolve_condition
from tokenization.mul_facts import FACT_BY_NAME, NAME_PATTERN, NAME_PREFIX


class CorpusEncoder:
    """Turn documents into ids as the tokenizer of the same condition does when special tokens are off.

    `<|endoftext|>` in a document is text. No document boundary is added: the caller places `END_OF_TEXT_ID`.
    `engine` is `tiktoken`, or `gigatoken` for the same ids at several times the speed; hold it against the first by
    `tokenization.fast_encoding.prove_engine` before use. An encoder is cheap to pickle, and workers derive their
    tables once per process. Raises ValueError for a setting that does not exist or an engine that is not installed.
    """

    def __init__(
        self,
        condition: str = "mul_tokens",
        injection_mode: str | None = "weak",
        operators: str = OPERATORS,
        engine: str = DEFAULT_ENGINE,
    ):
        self.condition, self.injection_mode, self.operators = resolve_condition(condition, injection_mode, operators)
        self.engine = engine
        self._plain = open_engine(engine)

    def __reduce__(self):
        return CorpusEncoder, (self.condition, self.injection_mode, self.operators, self.engine)

    def __repr__(self) -> str:
        engine = "" if self.engine == DEFAULT_ENGINE else f", engine={self.engine!r}"
        return f"CorpusEncoder({self.condition!r}, {self.injection_mode!r}, {self.operators!r}{engine})"

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one document, uint16 of shape (tokens,); facts are the ids from `FIRST_FACT_ID` on.

        Raises ValueError for a lone surrogate, which no tokenizer can encode.
        """
        if self.condition == "baseline":
            return self.encode_plain(text)
        injected = inject(text, self.injection_mode, self.operators)
        if NAME_PREFIX not in injected:
            return self.encode_plain(injected)
        pieces, end = [], 0
        for name in NAME_PATTERN.finditer(injected):
            pieces.append(self.encode_plain(injected[end : name.start()]))
            pieces.append(np.array([FACT_BY_NAME[name.group()].id], dtype=np.uint16))
            end = name.end()
        pieces.append(self.encode_plain(injected[end:]))
        return np.concatenate(pieces)

    def encode_plain(self, text: str) -> np.ndarray:
        """Return GPT-2's ids of the text as it stands, without injection, uint16 of shape (tokens,).

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
