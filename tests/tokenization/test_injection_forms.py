"""One rule in four forms: `inject`, the enumeration, the steps of the normalizer, and the two encoders."""

import re
from itertools import product

import pytest

from tokenization import CorpusEncoder, count_facts, inject
from tokenization.injection import MODES, find_facts, inject_by_enumeration, rewriting_steps

SETTINGS = list(product(MODES, ("*", "*×", "*×x")))
FORGED_MARKS = [
    "6\ufdd09",
    "6\ufdd0\ufdd19",
    "6\ufdd0\ufdd29",
    "6\ufdd0\ufdd1\ufdd29=54",
    "\ufdd0\ufdd15=7",
    "6*9=54\ufdd0\ufdd13",
    "\ufdd06*9\ufdd0",
    "6*6=4\ufdd0\ufdd29",
]


@pytest.fixture(scope="module")
def texts(fuzzed_texts, word_problems) -> list[str]:
    return FORGED_MARKS + word_problems + fuzzed_texts


@pytest.fixture(scope="module")
def texts_for(texts):
    """Give all texts for the default operators; a narrower choice changes one character class, so fewer will do."""
    return lambda operators: texts if operators in (None, "*×x") else texts[:6_000]


@pytest.mark.parametrize("mode", MODES)
def test_the_texts_hold_thousands_of_facts(texts, mode):
    assert len(texts) > 20_000
    assert sum(count_facts(text, mode).sum() for text in texts) > 5_000


@pytest.mark.parametrize(("mode", "operators"), SETTINGS)
def test_inject_is_the_enumeration(texts_for, mode, operators):
    different = [
        t for t in texts_for(operators) if inject(t, mode, operators) != inject_by_enumeration(t, mode, operators)
    ]
    assert different == []


@pytest.mark.parametrize(("mode", "operators"), SETTINGS)
def test_names_in_the_places_of_facts_make_the_injected_text(texts_for, mode, operators):
    def with_names(text):
        pieces, end = [], 0
        for start, stop, fact in find_facts(text, mode, operators):
            pieces += [text[end:start], fact.name]
            end = stop
        return "".join([*pieces, text[end:]])

    assert [t for t in texts_for(operators) if with_names(t) != inject(t, mode, operators)] == []


@pytest.mark.parametrize("mode", MODES)
def test_as_many_places_are_found_as_facts_are_counted(texts, mode):
    assert [len(find_facts(text, mode)) for text in texts] == [count_facts(text, mode).sum() for text in texts]


@pytest.mark.parametrize(("mode", "operators"), SETTINGS)
def test_inject_is_idempotent_on_all_texts(texts_for, mode, operators):
    once = [inject(text, mode, operators) for text in texts_for(operators)]
    assert [inject(text, mode, operators) for text in once] == once


@pytest.mark.parametrize(("mode", "operators"), SETTINGS)
def test_the_normalizer_writes_what_inject_writes(build, texts_for, mode, operators):
    normalize = build("mul_tokens", mode, operators).backend_tokenizer.normalizer.normalize_str
    different = [text for text in texts_for(operators) if normalize(text) != inject(text, mode, operators)]
    assert different == []


@pytest.mark.parametrize("mode", MODES)
def test_the_steps_mean_the_same_to_python(texts, mode):
    steps = [
        (found if isinstance(found, re.Pattern) else re.compile(re.escape(found)), replacement)
        for found, replacement in rewriting_steps(mode, "*×x")
    ]

    def rewrite(text: str) -> str:
        for pattern, replacement in steps:
            text = pattern.sub(replacement, text)
        return text

    different = [text for text in texts[:6_000] if rewrite(text) != inject(text, mode)]
    assert different == []


@pytest.mark.parametrize(
    ("condition", "mode", "operators"), [("baseline", None, None), *(("mul_tokens", *setting) for setting in SETTINGS)]
)
def test_the_corpus_encoder_gives_the_ids_of_the_tokenizer(build, texts_for, condition, mode, operators):
    # What the normalizer writes is compared on more texts above; here it is about turning it into ids.
    texts = texts_for(operators) if mode == "weak" else texts_for(operators)[:6_000]
    expected = build(condition, mode, operators)(texts, split_special_tokens=True).input_ids
    encode = CorpusEncoder(condition, mode, operators).encode
    different = [text for text, ids in zip(texts, expected, strict=True) if encode(text).tolist() != ids]
    assert different == []


def test_no_text_can_forge_a_mark(build):
    tokenizer = build()
    for text in ("6\ufdd09", "6\ufdd0\ufdd19", "6\ufdd0\ufdd29"):
        assert tokenizer.decode(tokenizer.encode_document(text)) == text
