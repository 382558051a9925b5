"""One token per multiplication fact: the rule, the tokenizer that carries it, and the fast encoder of corpora."""

from typing import TYPE_CHECKING

from tokenization.corpus_encoder import CorpusEncoder
from tokenization.injection import count_facts, inject, may_hold_facts
from tokenization.rendering import render

if TYPE_CHECKING:
    from tokenization.tokenization_mul_facts import MulFactTokenizer

__all__ = ["CorpusEncoder", "MulFactTokenizer", "count_facts", "inject", "may_hold_facts", "render"]


def __getattr__(name: str):
    # Transformers takes seconds to import; rewards, readers of answers and encoding workers do without it.
    if name == "MulFactTokenizer":
        from tokenization.tokenization_mul_facts import MulFactTokenizer

        return MulFactTokenizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
