import json
import string
import sys
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import decontaminate
from training.data.decontaminate import NGRAM_WORDS, Hit, NgramIndex, words

ITEM = "the quick brown fox jumps over lazy dogs while seventeen patient elephants watched"  # 13 words
ALL_BLANKS = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]


def found(document: str, item: str = ITEM) -> bool:
    return bool(NgramIndex.build({"set": [item]}).find([document]))


def brute_force(sets: dict[str, list[str]], texts: list[str]) -> list[Hit]:
    """The definition, word for word: compare tuples of 13 words."""

    def ngrams(text):
        plain = words(text)
        return [tuple(plain[first : first + NGRAM_WORDS]) for first in range(len(plain) - NGRAM_WORDS + 1)]

    known = {name: {ngram for item in items for ngram in ngrams(item)} for name, items in sets.items()}
    hits = []
    for document, text in enumerate(texts):
        shared = [ngram for ngram in ngrams(text) if any(ngram in of_set for of_set in known.values())]
        if shared:
            names = sorted(name for name, of_set in known.items() if not of_set.isdisjoint(shared))
            hits.append(Hit(document, tuple(names), " ".join(shared[0])))
    return hits


# Two words differ behind the eighth letter only, which the fast path does not read before the last check.
VOCABULARY = ["a", "be", "cup", "incomprehensible", "incomprehensibly"]
NOISE = st.text(st.sampled_from("0123456789.,'-–’é中\u0130\u212a\x00\x7f\xad\u200b\ufeff\U0001f600"), max_size=2)
BLANKS = st.text(st.sampled_from(ALL_BLANKS), min_size=1, max_size=3)


@st.composite
def sets_and_texts(draw):
    """Evaluation sets and documents that are cut from one sequence of words, and dressed up differently."""
    story = draw(st.lists(st.sampled_from(VOCABULARY), min_size=25, max_size=50))
    dressing = st.tuples(st.booleans(), NOISE, NOISE, BLANKS, NOISE, BLANKS)
    dressings = draw(st.lists(dressing, min_size=1, max_size=5))

    def dressed(text):
        pieces, first = [], draw(st.integers(0, len(dressings) - 1))
        for word, (upper, inside, after, *between) in zip(text, cycle(dressings[first:] + dressings), strict=False):
            cased = word.upper() if upper else word
            pieces += [cased[:1], inside, cased[1:], after, *between]
        return "".join(pieces[: draw(st.sampled_from([None, -3]))])

    def cut_out():
        first = draw(st.integers(0, 15))
        text = story[first : first + draw(st.sampled_from([60, 25, 14, 13, 12, 6, 0]))]
        if text and draw(st.integers(0, 2)) == 0:
            text[draw(st.integers(0, len(text) - 1))] = draw(st.sampled_from(VOCABULARY))
        return dressed(text)

    sets = {name: [cut_out() for _ in range(draw(st.integers(0, 3)))] for name in draw(st.permutations(["x", "y"]))}
    return sets, [cut_out() for _ in range(draw(st.integers(0, 5)))]


@settings(max_examples=100, deadline=None)
@given(sets_and_texts())
def test_hits_are_those_of_the_plain_definition(case):
    sets, texts = case
    assert NgramIndex.build(sets).find(texts) == brute_force(sets, texts)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_unicode_text_has_the_words_that_the_definition_says(texts):
    """The text stands between two halves of an item, and is itself part of the item."""
    head, tail = "one two three four five six ", " seven eight nine ten eleven twelve"
    items = [f"{head}{' '.join(words(text))}{tail}" for text in texts]
    documents = [f"{head}{text}{tail}" for text in texts]
    assert NgramIndex.build({"set": items}).find(documents) == brute_force({"set": items}, documents)


def test_words_are_lower_case_ascii_letters_between_white_space():
    text = "It's 5 APPLES,\x1ctwo-thirds\u2009of naïve\u3000\u212a\u0130 3.14 — x\x00y"
    assert words(text) == ["its", "apples", "twothirds", "of", "nave", "xy"]


def test_every_white_space_parts_words():
    documents = [blank.join(ITEM.split()) for blank in ALL_BLANKS]
    hits = NgramIndex.build({"set": [ITEM]}).find(documents)
    assert [hit.document for hit in hits] == list(range(len(ALL_BLANKS)))


def test_every_other_character_vanishes_inside_a_word():
    surrogates, letters = range(0xD800, 0xE000), {ord(letter) for letter in string.ascii_letters}
    others = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if not chr(code).isspace() and code not in surrogates and code not in letters
    ]
    share = len(others) // NGRAM_WORDS + 1
    pieces = ["".join(others[share * number : share * (number + 1)]) for number in range(NGRAM_WORDS)]
    assert found(" ".join(word[:1] + piece + word[1:] for word, piece in zip(ITEM.split(), pieces, strict=True)))


def test_numbers_punctuation_and_case_do_not_hide_a_hit():
    assert found(
        "The quick, 12 brown -- FOX jum-ps (over) lazy\n\n3.5% dog's while “seventeen” patient elephants watched!"
    )


@pytest.mark.parametrize("before", range(15))
@pytest.mark.parametrize("after", [0, 1, 9])
def test_hit_is_found_wherever_it_stands_in_a_document(before, after):
    document = " ".join(["filler"] * before + [ITEM] + ["other"] * after)
    assert NgramIndex.build({"set": [ITEM]}).find(["first", document, "last"]) == [Hit(1, ("set",), ITEM)]


@pytest.mark.parametrize("position", range(NGRAM_WORDS))
@pytest.mark.parametrize("other", ["zebra", "", "two words"])
def test_one_other_word_is_no_hit(position, other):
    plain = ITEM.split()
    plain[position] = other
    assert not found(" ".join(["filler", *plain, "filler"]))


@pytest.mark.parametrize("position", range(NGRAM_WORDS))
def test_words_that_differ_late_are_different(position):
    item = [f"abcdefghij{letter}" for letter in string.ascii_lowercase[:NGRAM_WORDS]]
    document = list(item)
    document[position] += "s"
    assert found(" ".join(item), " ".join(item))
    assert not found(" ".join(document), " ".join(item))


@pytest.mark.parametrize("left_out", [0, 1])
@pytest.mark.parametrize("cut", range(1, NGRAM_WORDS - 1))
def test_ngrams_do_not_cross_documents(cut, left_out):
    """With a word left out, the boundary itself stands in the place of a word."""
    plain = ITEM.split()
    parts = [" ".join(plain[:cut]), " ".join(plain[cut + left_out :])]
    index = NgramIndex.build({"set": [ITEM]})
    assert not any(index.find(["filler " * shift + parts[0], parts[1]]) for shift in range(7))


@pytest.mark.parametrize("cut", range(1, NGRAM_WORDS))
def test_ngrams_do_not_cross_items(cut):
    plain = [*ITEM.split(), *reversed(ITEM.split())]
    index = NgramIndex.build({"set": [" ".join(plain[:NGRAM_WORDS]), " ".join(plain[NGRAM_WORDS:])]})
    assert not index.find([" ".join(plain[cut : cut + NGRAM_WORDS])])


def test_every_set_of_a_document_is_named_and_its_first_ngram_shown():
    other = "it was a bright cold day in april and the clocks were striking thirteen"
    index = NgramIndex.build({"b": [other], "a": [ITEM, other], "c": [ITEM], "d": ["none of this"]})
    hits = index.find([f"see {other} and {ITEM}", "clean", other])
    first = " ".join(other.split()[:NGRAM_WORDS])
    assert hits == [Hit(0, ("a", "b", "c"), first), Hit(2, ("a", "b"), first)]


def test_sixty_four_sets_are_told_apart_and_more_are_refused():
    texts = {f"set {number:02}": [f"{'q' * (number + 1)} {ITEM}"] for number in range(64)}
    index = NgramIndex.build(texts)
    assert index.find([f"{'q' * 64} {ITEM.rsplit(' ', 1)[0]}"])[0].sets == ("set 63",)
    with pytest.raises(ValueError, match="65 evaluation sets"):
        NgramIndex.build(texts | {"one more": []})


def test_facts_count_items_short_items_and_distinct_ngrams():
    twelve = ITEM.rsplit(" ", 1)[0]
    index = NgramIndex.build({"a": [ITEM, twelve, f"{ITEM} 7 now", "", ITEM], "b": [twelve + " 13"], "empty": []})
    counts = {
        name: (facts["items"], facts["items_too_short"], facts["ngrams"]) for name, facts in index.describe().items()
    }
    assert counts == {"a": (5, 2, 2), "b": (1, 1, 0), "empty": (0, 0, 0)}
    assert not index.find([twelve, "now"])


def test_sha256_follows_the_texts_their_order_and_their_bounds():
    variants = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""]]
    assert len({NgramIndex.build({"set": texts}).describe()["set"]["sha256"] for texts in variants}) == len(variants)


def test_building_is_deterministic_and_the_order_of_sets_does_not_matter(tmp_path):
    sets = {"a": [ITEM, f"so {ITEM}"], "b": [f"{ITEM} then"], "c": ["short"]}
    documents = [f"so {ITEM} then", "nothing", ITEM]
    indices = [NgramIndex.build(sets), NgramIndex.build({name: iter(texts) for name, texts in sets.items()})]
    for number, index in enumerate(indices):
        index.save(tmp_path / f"{number}.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()
    backwards = NgramIndex.build(dict(reversed(sets.items())))
    assert backwards.describe() == indices[0].describe()
    assert backwards.find(documents) == indices[0].find(documents) == brute_force(sets, documents)


def test_saved_index_finds_the_same(tmp_path):
    sets = {"b": [ITEM], "ä": [f"and {ITEM}"], "short": ["x"]}
    built = NgramIndex.build(sets)
    built.save(tmp_path / "index")
    loaded = NgramIndex.load(tmp_path / "index")
    documents = [f"and {ITEM} there", "clean", ITEM]
    assert loaded.find(documents) == built.find(documents) == brute_force(sets, documents)
    assert json.dumps(loaded.describe()) == json.dumps(built.describe())
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_saved_index_holds_no_pickle(tmp_path):
    NgramIndex.build({"set": [ITEM]}).save(tmp_path / "index.npz")
    with np.load(tmp_path / "index.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays)


def test_index_of_another_format_is_refused(tmp_path, monkeypatch):
    NgramIndex.build({"set": [ITEM]}).save(tmp_path / "index.npz")
    monkeypatch.setattr(decontaminate, "_FORMAT_VERSION", 99)
    with pytest.raises(ValueError, match=r"index\.npz has format 1, this version reads 99"):
        NgramIndex.load(tmp_path / "index.npz")


@pytest.mark.parametrize("texts", [[], [""], ["", ""], [" \n\u2003"], ["a"], ["\x00"], ["中" * 50], ["word " * 12]])
@pytest.mark.parametrize("items", [[], ["too short"], [ITEM]])
def test_texts_without_thirteen_words_are_no_hit(texts, items):
    assert NgramIndex.build({"set": items}).find(texts) == []


def test_thirteen_equal_words_are_an_ngram():
    assert found("no " * 13, "No! " * 20)
    assert not found("no " * 12 + "yes " + "no " * 12, "no " * 13)


def test_very_long_words_are_compared_whole():
    long = "x" * 100_000
    assert found(f"{long} {ITEM}", f"{long} {ITEM.rsplit(' ', 1)[0]}")
    assert not found(f"{long}x {ITEM}", f"{long} {ITEM.rsplit(' ', 1)[0]}")


def test_nul_parts_no_words_and_hides_none():
    assert found(ITEM.replace("o", "\x00o\x00").replace(" ", "\x00 \x00"))
    assert not found(ITEM.replace(" ", "\x00", 1))


def test_hits_in_a_large_batch_keep_the_order_of_documents():
    rng = np.random.default_rng(0)
    vocabulary = np.array(["".join(chr(97 + number // 26**place % 26) for place in range(3)) for number in range(500)])
    texts = [" ".join(rng.choice(vocabulary, rng.integers(0, 300))) for _ in range(400)]
    items = [" ".join(text.split()[5:25]) for text in texts[::7]]
    hits = NgramIndex.build({"set": items}).find(texts)
    assert hits == brute_force({"set": items}, texts)
    assert len(hits) > 40


@pytest.mark.parametrize("characters", [1, 100, 200])
def test_documents_keep_their_numbers_when_a_batch_is_cut_into_parts(monkeypatch, characters):
    monkeypatch.setattr(decontaminate, "_PART_CHARACTERS", characters)
    index, documents = NgramIndex.build({"set": [ITEM]}), ["", ITEM, "clean", "clean", f"so {ITEM}", "", ITEM]
    assert [hit.document for hit in index.find(documents)] == [1, 4, 6]
    with pytest.raises(ValueError, match="document 7 holds half"):
        index.find([*documents, "\ud800", ITEM])


def test_half_a_surrogate_pair_is_named_with_its_place():
    with pytest.raises(ValueError, match="document 1 holds half of a surrogate pair at character 2"):
        NgramIndex.build({"set": [ITEM]}).find(["fine", "ab\ud800c"])
    with pytest.raises(
        ValueError, match="evaluation set 'a {set}', item 1 holds half of a surrogate pair at character 0"
    ):
        NgramIndex.build({"a {set}": ["fine", "\udfff"]})


def test_one_text_in_the_place_of_a_set_is_refused():
    with pytest.raises(ValueError, match="evaluation set 'gsm8k' is one text"):
        NgramIndex.build({"gsm8k": ITEM})
