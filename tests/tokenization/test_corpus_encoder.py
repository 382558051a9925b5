import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import tokenization
from tokenization import CorpusEncoder
from tokenization.mul_facts import END_OF_TEXT_ID

PLAIN_END_OF_TEXT = [27, 91, 437, 1659, 5239, 91, 29]


class CountingEngine:
    """Wrap an engine and count its passes over single texts."""

    def __init__(self, engine):
        self.engine, self.passes = engine, 0

    def encode(self, text):
        self.passes += 1
        return self.engine.encode(text)


def test_known_ids():
    encoder = CorpusEncoder()
    assert encoder.encode("Hello world").tolist() == [15496, 995]
    assert encoder.encode("is 9 x 6 = 54?").tolist() == [271, 220, 50342, 30]
    assert encoder.encode_plain("6*9").tolist() == [21, 9, 24]


@pytest.mark.parametrize("condition", ["baseline", "mul_tokens"])
def test_end_of_text_in_a_document_is_text(condition):
    ids = CorpusEncoder(condition).encode("a<|endoftext|>b")
    assert END_OF_TEXT_ID not in ids and ids.tolist() == [64, *PLAIN_END_OF_TEXT, 65]


@pytest.mark.parametrize("text", ["", "a", "6*9", "a 6*9 b", "<MUL_6_9_54><MUL_6_9_54>"])
def test_ids_are_a_flat_uint16_array(text):
    ids = CorpusEncoder().encode(text)
    assert ids.dtype == np.uint16 and ids.ndim == 1


def test_a_literal_name_is_plain_text_to_the_baseline():
    encoder = CorpusEncoder("baseline")
    assert encoder.encode("<MUL_6_9_54>").max() < END_OF_TEXT_ID


def test_the_plain_encoding_never_injects():
    encoder, baseline = CorpusEncoder(), CorpusEncoder("baseline")
    for text in ("6*9=54", "<MUL_6_9_54>", "plain"):
        assert encoder.encode_plain(text).tolist() == baseline.encode(text).tolist()


@pytest.mark.parametrize("text", ["No fact: 16*9 and 6*9=55.", "<MUL_ is no name", "", "prose " * 500])
def test_a_document_without_facts_costs_one_pass(text, monkeypatch):
    encoder = CorpusEncoder()
    counting = CountingEngine(encoder._plain)
    monkeypatch.setattr(encoder, "_plain", counting)
    encoder.encode(text)
    assert counting.passes == 1


def test_a_worker_s_copy_gives_the_same_ids():
    encoder = CorpusEncoder("mul_tokens", "strict", "×*")
    copy = pickle.loads(pickle.dumps(encoder))
    text = "6*9=54, 6*9, 6x9=54"
    assert copy.encode(text).tolist() == encoder.encode(text).tolist() and copy.settings.operators == "*×"


def test_an_encoder_is_small_to_send():
    assert len(pickle.dumps(CorpusEncoder())) < 1_000


@pytest.mark.parametrize("text", ["\ud800", "a 6*9 \udfff b"])
@pytest.mark.parametrize("condition", ["baseline", "mul_tokens"])
def test_half_a_surrogate_pair_is_refused(condition, text):
    with pytest.raises(ValueError, match=r"half of a surrogate pair.*repair the document"):
        CorpusEncoder(condition).encode(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("mul",), "condition must be one of baseline, mul_tokens, opaque_token, "),
        (("mul_tokens", "loose"), "mode must be one of weak, strict, not 'loose'"),
        (("mul_tokens", None), "mode must be one of weak, strict, not None"),
        (("mul_tokens", "weak", "·"), "operators must be a non-empty subset"),
        (("mul_tokens", "weak", "*", "fastest"), "engine must be one of tiktoken, gigatoken, not 'fastest'"),
        (("baseline", None, None, None), "engine must be one of tiktoken, gigatoken, not None"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        CorpusEncoder(*settings)


def test_only_an_engine_that_is_not_the_default_is_written_out():
    assert repr(CorpusEncoder("baseline", engine="tiktoken")) == "CorpusEncoder('baseline', None, None)"
    unusual = CorpusEncoder()
    unusual.engine = "gigatoken"
    assert repr(unusual) == "CorpusEncoder('mul_tokens', 'weak', '*×x', engine='gigatoken')"


def test_a_worker_loads_neither_torch_nor_transformers_nor_another_engine():
    program = """
import sys, tokenization
encoder = tokenization.CorpusEncoder()
texts = ["6*9", "<MUL_6_9_54>"]
assert tokenization.may_hold_facts(texts).all() and tokenization.count_facts(texts[0]).any()
encoder.encode_plain_documents([tokenization.render(tokenization.inject(text)) for text in texts])
sys.exit(", ".join({"torch", "transformers", "tokenizers", "pandas", "pyarrow", "gigatoken"} & set(sys.modules)) or 0)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("name", tokenization.__all__)
def test_the_package_gives_what_it_lists(name):
    assert getattr(tokenization, name).__name__ == name and name in dir(tokenization)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tokenization' has no attribute 'MulFactTokeniser'"):
        _ = tokenization.MulFactTokeniser
