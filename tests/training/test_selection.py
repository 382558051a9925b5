import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.records import TRAIN_DOCUMENT, documents_path
from training.data.selection import Cut, Stock, reach_dose, take

DOCUMENTS = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=6)
PIECES = st.lists(DOCUMENTS, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pieces")


class Numbered:
    """Names no piece twice, for what a stock reads of a file is kept."""

    count = 0


def stock(folder, pieces, weight=1.0, epochs=1, complete=True):
    """A stock of pieces of (plain tokens, facts) documents, with the files that it reads."""
    names, records = [], []
    for documents in pieces:
        Numbered.count += 1
        names.append(f"00-{Numbered.count:05d}")
        table = np.zeros(len(documents), TRAIN_DOCUMENT)
        for row, (tokens, facts) in zip(table, documents, strict=True):
            row["plain_tokens"], row["facts"] = tokens, facts
        np.save(documents_path(folder, names[-1]), table)
        train = {
            "documents": len(documents),
            "plain_tokens": sum(tokens for tokens, _ in documents),
            "facts_by_fact": [sum(facts for _, facts in documents)],
        }
        records.append({"splits": {"train": train}})
    return Stock(folder, names, records, weight, epochs, complete)


def prefix(documents, tokens):
    """The first documents that hold so many tokens, by counting."""
    taken = held = facts = 0
    while held < tokens and taken < len(documents):
        held, facts, taken = held + documents[taken][0], facts + documents[taken][1], taken + 1
    return Cut(taken, held, facts, ran_out=held < tokens)


@given(pieces=PIECES, epochs=st.integers(1, 3), tokens=st.integers(0, 200))
def test_first_is_the_shortest_prefix_over_the_epochs(folder, pieces, epochs, tokens):
    documents = [document for piece in pieces for document in piece] * epochs
    assert stock(folder, pieces, epochs=epochs).first(tokens) == prefix(documents, tokens)


@given(pieces=PIECES, epochs=st.integers(1, 3), tokens=st.integers(0, 200))
def test_chosen_pieces_hold_the_documents_of_the_cut(folder, pieces, epochs, tokens):
    chosen_from = stock(folder, pieces, epochs=epochs)
    cut = chosen_from.first(tokens)
    chosen = chosen_from.choose(cut)
    assert sum(count for _, count in chosen.train) == cut.documents
    taken = [document for piece, count in chosen.train for document in pieces[piece][:count]]
    assert taken == ([document for piece in pieces for document in piece] * epochs)[: cut.documents]
    assert set(chosen.used) >= {piece for piece, _ in chosen.train}


def test_target_is_filled_in_order_or_by_weight(folder):
    ten = [[(1, 0)] * 10]
    first, second = stock(folder, ten, weight=1.0), stock(folder, ten, weight=3.0)
    assert [cut.documents for cut in take([first, second], 12, weighted=False)] == [10, 2]
    assert [cut.documents for cut in take([first, second], 12, weighted=True)] == [3, 9]
    assert [cut.documents for cut in take([first, second], None, weighted=False)] == [10, 10]


FILLER = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=30)
TARGET = st.one_of(st.none(), st.integers(10, 60))
DOSE = st.sampled_from([0.01, 0.1, 0.2])


@given(natural=st.lists(st.integers(1, 9), min_size=1, max_size=30), filler=FILLER, target=TARGET, dose=DOSE)
def test_dose_is_reached_and_one_document_less_would_miss_it(folder, natural, filler, target, dose):
    natural = [(tokens, 0) for tokens in natural]
    others, fillers = [stock(folder, [natural])], [stock(folder, [filler])]
    reached = reach_dose(lambda tokens: take(others, tokens, weighted=False), fillers, target, dose)

    def facts_and_tokens(added):
        chosen = filler[:added]
        tokens = sum(each for each, _ in chosen)
        base = prefix(natural, 10**9 if target is None else target - tokens)
        return base.facts + sum(facts for _, facts in chosen), base.plain_tokens + tokens

    holds = [facts >= dose * tokens for facts, tokens in map(facts_and_tokens, range(len(filler) + 1))]
    if reached is None:
        assert not holds[-1]
        return
    (base,), (added,) = reached
    facts, tokens = facts_and_tokens(added.documents)
    assert (base.facts + added.facts, base.plain_tokens + added.plain_tokens) == (facts, tokens)
    assert facts >= dose * tokens
    assert added.documents == 0 or not holds[added.documents - 1]


@given(
    natural=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=30),
    filler=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=30),
    target=TARGET,
    dose=DOSE,
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=30),
)
def test_dose_does_not_depend_on_how_much_more_filler_is_at_hand(folder, natural, filler, target, dose, sizes):
    others = [stock(folder, [natural])]
    pieces, rest = [], list(filler)
    for size in [*sizes, len(filler)]:
        pieces, rest = [*pieces, rest[:size]], rest[size:]

    def reach(count):
        part = stock(folder, pieces[:count], complete=count == len(pieces))
        return reach_dose(lambda tokens: take(others, tokens, weighted=False), [part], target, dose)

    results = [reach(count) for count in range(1, len(pieces) + 1)]
    found = [result for result in results if result is not None]
    assert all(result == found[0] for result in found)


def test_pieces_behind_the_cut_do_not_count_even_without_documents(folder):
    held = stock(folder, [[(5, 0)], [(5, 0)], [], [(5, 0)]])
    assert held.choose(held.first(10)).used == [0, 1]
    before = stock(folder, [[(5, 0)], [(5, 0)], []], complete=False)
    assert before.choose(before.first(10)).used == [0, 1]
    assert held.choose(held.first(0)).used == []
    assert held.choose(held.whole).used == [0, 1, 2, 3]


def test_fillers_share_by_weight(folder):
    natural, heavy, light = (
        stock(folder, [[(1, facts)] * 400], weight) for facts, weight in ((0, 1.0), (1, 3.0), (1, 1.0))
    )
    _, (of_heavy, of_light) = reach_dose(lambda tokens: take([natural], tokens, False), [heavy, light], None, 0.2)
    assert of_heavy.documents + of_light.documents == 100
    assert of_heavy.documents == 75
