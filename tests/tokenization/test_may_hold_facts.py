from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenization import count_facts, may_hold_facts
from tokenization.injection import MODES, OPERATORS

OPERATOR_SETS = ["".join(chosen) for size in (1, 2, 3) for chosen in combinations(OPERATORS, size)]
BLANKS = [" ", "\t", "\u00a0", "\u2009", "\u202f"]
PIECES = st.sampled_from(
    [*"0123456789", *OPERATORS * 2, *BLANKS, *"=.,^%/_a\n<", "6*9=54", " x ", "**", "<MUL_6_9_54>", "<MUL_", "é", "日"]
)
GAPS = st.lists(st.sampled_from(BLANKS), max_size=2).map("".join)
FACTORS = st.sampled_from("123456789")
EXPRESSIONS = st.tuples(FACTORS, GAPS, st.sampled_from(OPERATORS), GAPS, FACTORS).map("".join)
TEXTS = st.lists(st.one_of(PIECES, EXPRESSIONS), max_size=12).map("".join)

PROSE = [
    "The next box, x-rays and six taxis: extra large, at most 5 of them.",
    "* a bullet\n* 2 bullets\n  * 3 nested ones\n\n- 4 more",
    "**1** bold 2, *3* italics *4* and a 5* hotel",
    "In 1996, Xerox sold 7 boxes; x = 8 and 9 exits.",
    "a × b, 3 × n and m × 4",
    "6\n* 9",
    "10 x 100 and 0x9",
    "if a < 3 or b < M: <unk> <b>5</b>",
    "6\t        x 9",
    "6X9, 6·9, ６*９",
    "日本語の文章、中国語的文字和標點×符號",
]


def has_facts(text: str) -> bool:
    return any(count_facts(text, mode, operators).any() for mode in MODES for operators in OPERATOR_SETS)


@given(st.lists(TEXTS, max_size=5))
def test_no_text_with_a_fact_is_ruled_out(texts):
    assert not [text for text, may in zip(texts, may_hold_facts(texts), strict=True) if not may and has_facts(text)]


@given(EXPRESSIONS)
def test_two_factors_around_a_sign_are_always_seen(expression):
    assert may_hold_facts(["", expression, "a"]).tolist() == [False, True, False]


def test_no_fuzzed_text_with_a_fact_is_ruled_out(fuzzed_texts, word_problems):
    texts = fuzzed_texts + word_problems
    facts = np.array([count_facts(text).any() for text in texts])
    assert facts.sum() > 5_000 and may_hold_facts(texts)[facts].all()


@pytest.mark.parametrize("text", PROSE)
def test_prose_and_lists_are_ruled_out(text):
    assert may_hold_facts([text]).tolist() == [False]


@pytest.mark.parametrize("text", ["<MUL_6_9_54>", "a<MUL_1_1_1>", "6*9", "16 x 95", "6*9=55"])
def test_names_and_near_misses_are_let_through(text):
    assert may_hold_facts([text]).tolist() == [True]


@pytest.mark.parametrize("halves", [("6", "*9"), ("6*", "9"), ("6 ", " x 9"), ("<", "MUL_6_9_54>")])
def test_halves_of_an_expression_in_neighbouring_documents_are_no_fact(halves):
    assert may_hold_facts(halves).tolist() == [False, False]


@pytest.mark.parametrize("distance", range(-12, 3))
def test_a_fact_is_seen_wherever_the_search_is_cut(monkeypatch, distance):
    monkeypatch.setattr("tokenization.injection._BYTES_AT_ONCE", 64)
    texts = ["b" * (64 + distance), "6\u2009\u2009×\u2009\u20099", "c" * 100, "<MUL_6_9_54>", ""]
    assert may_hold_facts(texts).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("texts", [[], [""], ["6*9"] * 3, ("a", "\ud800 6*9")])
def test_the_answer_is_one_bool_per_text(texts):
    answer = may_hold_facts(texts)
    assert answer.dtype == bool and answer.shape == (len(texts),)
