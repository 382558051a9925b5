"""Encode the documents of a corpus to the ids that the tokenizer gives, several times faster."""

from functools import cache

import numpy as np
import tiktoken

from tokenization import gpt2_bpe
from tokenization.injection import OPERATORS, inject, resolve_condition
from tokenization.mul_facts import END_OF_TEXT, END_OF_TEXT_ID, FACT_BY_NAME, NAME_PATTERN, NAME_PREFIX


@cache
def _gpt2_encoding() -> tiktoken.Encoding:
    return tiktoken.Encoding(
        name="gpt2-from-packaged-merges",
        pat_str=gpt2_bpe.PRETOKEN_PATTERN,
        mergeable_ranks=gpt2_bpe.ranks(),
        special_tokens={END_OF_TEXT: END_OF_TEXT_ID},
        explicit_n_vocab=END_OF_TEXT_ID + 1,
    )


class CorpusEncoder:
    """Turn documents into ids as the tokenizer of the same condition does when special tokens are off.

    `<|endoftext|>` in a document is text. No document boundary is added: the caller places `END_OF_TEXT_ID`.
    An encoder is cheap to pickle, and workers derive their tables once per process.
    """

    def __init__(self, condition: str = "mul_tokens", injection_mode: str | None = "weak", operators: str = OPERATORS):
        self.condition, self.injection_mode, self.operators = resolve_condition(condition, injection_mode, operators)
        self._gpt2 = _gpt2_encoding()

    def __reduce__(self):
        return CorpusEncoder, (self.condition, self.injection_mode, self.operators)

    def __repr__(self) -> str:
        return f"CorpusEncoder({self.condition!r}, {self.injection_mode!r}, {self.operators!r})"

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
        try:
            return self._gpt2.encode_to_numpy(text, disallowed_special=()).astype(np.uint16)
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the text holds {error.object[error.start]!r}, half of a surrogate pair, which UTF-8 cannot write; "
                "repair the document first, e.g. text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from error
