import pickle
import re
import sys
from functools import cache

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tokenization import CorpusEncoder, fast_encoding, gpt2_bpe
from tokenization.fast_encoding import DEFAULT_ENGINE, ENGINES, GigatokenEngine, open_engine, prove_engine
from tokenization.mul_facts import END_OF_TEXT, END_OF_TEXT_ID


def need(engine: str) -> str:
    if engine == "gigatoken":
        pytest.importorskip("gigatoken")
        pytest.importorskip("awkward")
    return engine


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    return need(request.param)


@pytest.fixture(scope="module")
def texts(fuzzed_texts, word_problems, unicode_texts) -> list[str]:
    return [*fuzzed_texts[:3_000], "", *fuzzed_texts[-50:], *word_problems[:300], *unicode_texts, ""]


def test_a_batch_gives_the_ids_of_each_document(engine, texts):
    one_by_one = [CorpusEncoder("baseline").encode_plain(text) for text in texts]
    ids, lengths = CorpusEncoder("baseline", engine=engine).encode_plain_documents(texts)
    assert ids.tolist() == np.concatenate(one_by_one).tolist()
    assert lengths.tolist() == [len(document) for document in one_by_one]


@pytest.mark.parametrize("batch", [[], [""], ["", ""], ["a", "", "6*9"], ("a", END_OF_TEXT)])
def test_a_batch_is_flat_uint16_with_one_length_per_document(engine, batch):
    ids, lengths = CorpusEncoder(engine=engine).encode_plain_documents(batch)
    assert (ids.dtype, ids.ndim, lengths.dtype, lengths.shape) == (np.uint16, 1, np.int64, (len(batch),))
    assert lengths.sum() == len(ids) and END_OF_TEXT_ID not in ids


def test_the_plain_batch_is_the_same_in_both_conditions(engine):
    batch = ["6*9=54", "<MUL_6_9_54>", "plain"]
    (ids, lengths), (baseline, baseline_lengths) = (
        CorpusEncoder(condition, engine=engine).encode_plain_documents(batch)
        for condition in ("mul_tokens", "baseline")
    )
    assert ids.tolist() == baseline.tolist() and lengths.tolist() == baseline_lengths.tolist()


def test_facts_stand_between_the_ids_of_any_engine(engine, texts):
    expected = CorpusEncoder("mul_tokens").encode
    encode = CorpusEncoder("mul_tokens", engine=engine).encode
    assert [text for text in texts if encode(text).tolist() != expected(text).tolist()] == []


def test_half_a_surrogate_pair_is_refused_in_a_batch(engine):
    with pytest.raises(ValueError, match=r"the text holds '\\ud800', half of a surrogate pair.*repair the document"):
        CorpusEncoder(engine=engine).encode_plain_documents(["fine", "a\ud800b"])


def test_a_worker_s_copy_has_the_same_engine(engine):
    copy = pickle.loads(pickle.dumps(CorpusEncoder("mul_tokens", "strict", "×*", engine)))
    assert repr(copy) == repr(CorpusEncoder("mul_tokens", "strict", "*×", engine)) and copy.engine == engine


@pytest.mark.parametrize("package", ["gigatoken", "awkward"])
def test_an_engine_that_is_not_installed_is_named_with_its_remedy(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    open_engine.cache_clear()
    message = "gigatoken cannot be imported (*; pip install 'mul-fact-tokens[fast]' or use encoder: tiktoken"
    with pytest.raises(ValueError, match=re.escape(message).replace(r"\*", ".*")):
        CorpusEncoder(engine="gigatoken")


def test_gigatoken_forgets_its_words_after_a_share_of_tokens(monkeypatch):
    need("gigatoken")
    monkeypatch.setattr(fast_encoding, "_TOKENS_PER_MEMORY", 3)
    engine, memories = GigatokenEngine(), []
    for text in ["a b", "c", "d e f", "g"]:
        ids, _ = engine.encode_documents([text])
        assert ids.tolist() == open_engine(DEFAULT_ENGINE).encode(text).tolist()
        memories.append(engine._tokenizer)
    first, second, third, fourth = memories
    assert first is second is not third is not fourth is not first


def test_both_engines_are_proven(engine, word_problems):
    prove_engine(engine)
    prove_engine(engine, word_problems[:200])


def test_an_engine_that_does_not_exist_is_not_proven():
    with pytest.raises(ValueError, match="must be one of tiktoken, gigatoken, not 'fastest'"):
        prove_engine("fastest")


class AlteredEngine:
    """Encode as tiktoken does and spoil the results, of single texts or of batches from a given one on."""

    def __init__(self, batch=None, single=None, first_spoilt=1):
        self.batch, self.single, self.first_spoilt, self.batches = batch, single, first_spoilt, 0

    def encode(self, text):
        ids = open_engine(DEFAULT_ENGINE).encode(text)
        return self.single(ids) if self.single else ids

    def encode_documents(self, texts):
        self.batches += 1
        ids, lengths = open_engine(DEFAULT_ENGINE).encode_documents(texts)
        return self.batch(ids, lengths) if self.batch and self.batches >= self.first_spoilt else (ids, lengths)


@pytest.fixture
def as_gigatoken(monkeypatch):
    """Give a function that puts another engine in the place of gigatoken's."""
    tiktoken_engine = open_engine(DEFAULT_ENGINE)

    def replace(engine):
        monkeypatch.setattr(
            fast_encoding, "open_engine", lambda name: tiktoken_engine if name == DEFAULT_ENGINE else engine
        )

    return replace


def changed_id(position):
    def change(ids, lengths):
        ids[position] ^= 1
        return ids, lengths

    return change


def shifted_boundary(document):
    def shift(ids, lengths):
        lengths[document] -= 1
        lengths[document + 1] += 1
        return ids, lengths

    return shift


def dropped_document(document):
    def drop(ids, lengths):
        end = lengths[: document + 1].sum() if document >= 0 else len(ids)
        return np.delete(ids, slice(end - lengths[document], end)), np.delete(lengths, document)

    return drop


BATCH_DEFECTS = {
    "first id": changed_id(0),
    "an id in the middle": changed_id(100_000),
    "last id": changed_id(-1),
    "a boundary shifted": shifted_boundary(1),
    "the last boundary shifted": shifted_boundary(-2),
    "first document dropped, which is empty": dropped_document(0),
    "a document dropped": dropped_document(1_000),
    "last document dropped": dropped_document(-1),
    "ids of the last document dropped": lambda ids, lengths: (ids[: -lengths[-1]], lengths),
    "a document too many": lambda ids, lengths: (ids, np.append(lengths, 0)),
    "an id too many": lambda ids, lengths: (np.append(ids, ids[-1]), lengths),
    "a length too large": lambda ids, lengths: (ids, lengths + (np.arange(len(lengths)) == len(lengths) - 1)),
    "wide ids": lambda ids, lengths: (ids.astype(np.uint32), lengths),
    "narrow lengths": lambda ids, lengths: (ids, lengths.astype(np.int32)),
}


@pytest.mark.parametrize("defect", BATCH_DEFECTS)
def test_an_engine_that_spoils_a_batch_is_refused(as_gigatoken, defect):
    as_gigatoken(AlteredEngine(batch=BATCH_DEFECTS[defect]))
    with pytest.raises(ValueError, match="^the encoder gigatoken .*; use encoder: tiktoken$"):
        prove_engine("gigatoken", ["the last document"])


def test_an_engine_that_remembers_wrongly_is_refused(as_gigatoken):
    as_gigatoken(AlteredEngine(batch=changed_id(0), first_spoilt=2))
    with pytest.raises(ValueError, match="^the encoder gigatoken differs from tiktoken on "):
        prove_engine("gigatoken")


def test_an_engine_that_spoils_single_texts_is_refused(as_gigatoken):
    as_gigatoken(AlteredEngine(single=lambda ids: ids[:7]))
    with pytest.raises(ValueError, match="^the encoder gigatoken differs from tiktoken on .*; use encoder: tiktoken$"):
        prove_engine("gigatoken")


def test_an_engine_without_a_defect_is_accepted(as_gigatoken):
    as_gigatoken(AlteredEngine())
    prove_engine("gigatoken", ["the last document"])


def test_the_refusal_shows_the_text_and_both_ids(as_gigatoken):
    as_gigatoken(AlteredEngine(batch=changed_id(-1)))
    expected = "gigatoken differs from tiktoken on 'Hello world': from token 1 on it gives [994] instead of [995]"
    with pytest.raises(ValueError, match=re.escape(expected)):
        prove_engine("gigatoken", ["Hello world"])


def test_the_refusal_of_a_long_text_is_short(as_gigatoken):
    as_gigatoken(AlteredEngine(batch=changed_id(-10_000)))
    with pytest.raises(ValueError, match=r"from token \d+ on") as raised:
        prove_engine("gigatoken", ["a long document " * 10_000])
    assert len(str(raised.value)) < 500


PATTERN = gpt2_bpe.PRETOKEN_PATTERN
WRONG_PATTERNS = {
    "contractions in capitals": PATTERN.replace("'(?:", "'(?i:"),
    "curly contractions": PATTERN.replace("'(?:", "['’](?:"),
    "no contractions": PATTERN.replace("'(?:[sdmt]|ll|ve|re)|", ""),
    "ASCII letters": PATTERN.replace(r"\p{L}", "a-zA-Z").replace("?a-zA-Z++", "?[a-zA-Z]++"),
    "marks are letters": PATTERN.replace(r" ?\p{L}++", r" ?[\p{L}\p{M}]++").replace(r"\s\p{L}", r"\s\p{L}\p{M}"),
    "ASCII digits": PATTERN.replace(r" ?\p{N}++", " ?[0-9]++").replace(r"\s\p{L}\p{N}", r"\s\p{L}0-9"),
    "digits in groups of three": PATTERN.replace(r"\p{N}++", r"\p{N}{1,3}"),
    "no blank before a number": PATTERN.replace(r" ?\p{N}", r"\p{N}"),
    "blanks take the last one": PATTERN.replace(r"|\s+(?!\S)|\s", r"|\s+"),
    "blanks at the end one by one": PATTERN.replace(r"\s++$|\s+(?!\S)|", ""),
    "ASCII blanks": PATTERN.replace(r"\s", r"\t\n\v\f\r ").replace(r"|\t\n\v\f\r ", r"|[\t\n\v\f\r ]"),
}


@pytest.mark.parametrize("wrong", WRONG_PATTERNS)
def test_an_engine_that_splits_words_otherwise_is_refused(as_gigatoken, wrong):
    class OtherSplit(fast_encoding.TiktokenEngine):
        def __init__(self):
            super().__init__()
            other = tiktoken.Encoding("other", pat_str=WRONG_PATTERNS[wrong], **TABLES)
            self._encoding = self._without_runs = other

    assert WRONG_PATTERNS[wrong] != PATTERN
    as_gigatoken(OtherSplit())
    with pytest.raises(ValueError, match="^the encoder gigatoken differs from tiktoken on "):
        prove_engine("gigatoken")


TABLES = {"mergeable_ranks": gpt2_bpe.ranks(), "special_tokens": {END_OF_TEXT: END_OF_TEXT_ID}}


def test_an_engine_that_takes_end_of_text_for_a_token_is_refused(as_gigatoken):
    class SpecialTokens(fast_encoding.TiktokenEngine):
        def encode(self, text):
            return self._encoding.encode_to_numpy(text, allowed_special="all").astype(np.uint16)

    as_gigatoken(SpecialTokens())
    with pytest.raises(ValueError, match=r"differs from tiktoken on '<\|endoftext\|>'.* gives \[50256\]"):
        prove_engine("gigatoken")


@cache
def whole_pattern() -> tiktoken.Encoding:
    ranks = gpt2_bpe.ranks()
    return tiktoken.Encoding("whole", pat_str=gpt2_bpe.PRETOKEN_PATTERN, mergeable_ranks=ranks, special_tokens={})


def assert_batch_is_that_of_the_whole_pattern(texts):
    ids, lengths = open_engine("tiktoken").encode_documents(texts)
    documents = np.split(ids, np.cumsum(lengths)[:-1])
    for text, document in zip(texts, documents, strict=True):
        assert document.tolist() == whole_pattern().encode_ordinary(text), repr(text[-300:])


def test_runs_taken_apart_give_the_ids_of_the_whole_pattern():
    difficult = fast_encoding._difficult_texts()
    # Prose around them keeps their runs rare enough to be taken apart.
    words = "word " * 300
    assert_batch_is_that_of_the_whole_pattern([text + words.rstrip() for text in difficult])
    assert_batch_is_that_of_the_whole_pattern([words + text for text in difficult])


BLANKS_AND_OTHERS = [*" \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u180e\u2003\u2028\u200b\u3000a1'.é", "'s", "the", "  ", "\n\n"]


@given(st.lists(st.lists(st.sampled_from(BLANKS_AND_OTHERS)), min_size=1, max_size=4))
def test_runs_of_any_blanks_give_the_ids_of_the_whole_pattern(documents):
    texts = ["".join(pieces) for pieces in documents]
    assert_batch_is_that_of_the_whole_pattern(texts)
    assert_batch_is_that_of_the_whole_pattern(["word " * 300 + text + " word" * 300 + text for text in texts])
