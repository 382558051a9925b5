from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenization import MulFactTokenizer
from training.data.synthetic import SyntheticDocuments
from training.evals.fact_places import AFTER_FACT, find_places, token_ends

ARMS = [("baseline", None, None), ("mul_tokens", "weak", "*×x"), ("mul_tokens", "strict", "*×x")]
ARMS += [("mul_tokens", "weak", "*"), ("mul_tokens", "strict", "×x")]
BLANKS = [" ", "  ", "\n", "\n\n", " \n", "\t", "\u00a0", "\u2009"]
NAMES = ["<MUL_6_9_54>", "<MUL_9_6_54>", "<|endoftext|>"]
WORDS = [" The", "'ll", "é", "日本", "٣", "²", "😀", "\u0301", "\x85", "\ufdd0"]
PIECES = st.sampled_from([*"0123456789*×x=.,^%/_a\n<>($'s", *BLANKS, "6*9=54", "7 × 8 = 56", "5x5", *NAMES, *WORDS])
EXPRESSIONS = st.tuples(*(st.sampled_from(["", " "]),) * 2).flatmap(
    lambda gap: st.tuples(st.integers(1, 9), st.sampled_from("*×x"), st.integers(1, 9), st.booleans()).map(
        lambda e: f"{e[0]}{gap[0]}{e[1]}{gap[1]}{e[2]}" + (f" = {e[0] * e[2]}" if e[3] else "")
    )
)
TEXTS = st.lists(st.one_of(PIECES, EXPRESSIONS), max_size=25).map("".join)


@pytest.fixture(scope="module")
def tokenizers():
    return [MulFactTokenizer.build(*arm) for arm in ARMS]


@pytest.fixture(scope="module")
def problems():
    return [text for kind in ("word_problems", "drills", "tables") for text in SyntheticDocuments(kind, 60, seed=5)]


def cut(tokenizer, text, places):
    """The tokens of a text as {(start, end) in bytes: id}."""
    ids = np.array(tokenizer.encode_document(text), np.int64)
    ends = token_ends(text, ids, places.expressions)
    return dict(zip(pairwise([0, *ends.tolist()]), ids.tolist(), strict=True))


def assert_tokens_after_facts_are_shared(tokenizers, text):
    places = find_places(text)
    tokens = [cut(tokenizer, text, places) for tokenizer in tokenizers]
    for place in places.after:
        assert len({of_arm[place] for of_arm in tokens}) == 1, (text, place)


def assert_facts_are_cut_out(tokenizers, text):
    places = find_places(text)
    for tokenizer in tokenizers:
        cuts = {0}.union(*cut(tokenizer, text, places))
        assert all(cuts.issuperset(place) for place in places.facts), text


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_tokens_after_a_fact_are_the_same_in_all_arms(tokenizers, text):
    assert_tokens_after_facts_are_shared(tokenizers, text)


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_all_arms_cut_facts_out_at_the_same_bytes(tokenizers, text):
    assert_facts_are_cut_out(tokenizers, text)


def test_arms_agree_around_the_facts_of_word_problems(tokenizers, problems):
    assert sum(len(find_places(text).expressions) for text in problems) > 200
    for text in problems:
        assert_tokens_after_facts_are_shared(tokenizers, text)
        assert_facts_are_cut_out(tokenizers, text)


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_the_end_of_a_fact_is_a_cut_unless_a_number_or_a_name_makes_it_none(tokenizers, text):
    places, encoded = find_places(text), text.encode()
    for tokenizer in tokenizers:
        cuts = {0}.union(*cut(tokenizer, text, places))
        for _, end in places.expressions:
            following = encoded[end:].decode()[:1]
            # A digit of another script goes on with the number; a mark may be joined with the bracket of a name.
            assert end in cuts or following.isnumeric() or encoded[end - 1 : end] == b">", (text, end)


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_places_are_apart_and_in_order(text):
    places = find_places(text)
    taken = sorted(places.facts + places.after)
    assert all(left[1] <= right[0] for left, right in pairwise(taken))
    assert all(any(s <= start and end <= e for s, e in places.facts) for start, end in places.expressions)


def test_places_are_counted_in_bytes():
    places = find_places("é 6 × 9 = 54 日")
    assert places.expressions == [(3, 14)]
    assert places.facts == [(2, 14)], "the blank belongs to the first digit's token"


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("6*9", [(0, 3)]),
        ("is 6*9.", [(2, 6)]),
        ("is  6*9.", [(3, 7)]),
        ("a\n\n6*9", [(3, 6)]),
        ("6*9 7*8", [(0, 3), (3, 7)]),
        ("6*9²", [(0, 3)]),
        ("see <MUL_6_9_54>.", [(3, 17)]),  # `>.` is one token where the name is no token
    ],
)
def test_a_fact_takes_the_fewest_bytes_that_both_arms_cut_out(text, facts):
    assert find_places(text).facts == facts


def test_tokens_after_a_fact_end_where_the_text_ends():
    assert find_places("6*9 is 54").after == [(3, 6), (6, 9)]
    assert find_places("is 6*9").after == []


def test_tokens_after_a_fact_end_where_the_next_fact_begins():
    assert find_places("6*9 and 7*8.").after == [(3, 7), (11, 12)], "not the blank, which goes with the 7"
    assert find_places("6*9, 7*8").after == [(3, 4)]


def test_tokens_after_a_fact_are_at_most_twenty():
    assert len(find_places("6*9" + " so" * 50).after) == AFTER_FACT == 20


def test_text_without_facts_has_no_places():
    places = find_places("6*9=55 and 16*9")
    assert (places.expressions, places.facts, places.after) == ([], [], [])


@pytest.mark.parametrize("ids", [[21, 9], [21, 9, 24, 24], [50304], [21, 9, 60000], []])
def test_ids_of_another_text_or_vocabulary_are_refused(ids):
    with pytest.raises(ValueError, match="not GPT-2's"):
        token_ends("6*9", np.array(ids, np.int64), [])
