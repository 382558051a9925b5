import random
import re
from collections import Counter

import pytest

from tokenization import inject
from tokenization.mul_facts import FACT_BY_FACTORS, FACTS
from training.data.decontaminate import NgramIndex
from training.data.synthetic import GENERATORS, SyntheticDocuments
from training.data.synthetic_probes import PROBE_SETS, WORDS, probe_set, probe_texts

ALL_PROBES = [probe for name in PROBE_SETS for probe in probe_set(name)]
OUR_RANDOM_SETS = [name for name in PROBE_SETS if name not in ("mul_table", "mul_multidigit", "addition", "facts")]


def numbers_of(prompt):
    """The numbers of a question, in digits or in words, in their order."""
    found = re.findall(r"[0-9]+|\b(?:" + "|".join(WORDS) + r")\b", prompt)
    return [WORDS.index(number) if number in WORDS else int(number) for number in found]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mul_table", 81),
        ("mul_multidigit", 100),
        ("addition", 100),
        ("facts", 648),
        *((s, 100) for s in OUR_RANDOM_SETS),
    ],
)
def test_set_has_its_size(name, count):
    assert len(probe_set(name)) == count


def test_original_questions_are_drawn_as_the_original_drew_them():
    # Python's own generator, seeded anew for each set: first the two-digit factor, then the other.
    random.seed(42)
    products = [f"What is {random.randint(10, 99)} times {random.randint(2, 9)}?" for _ in range(100)]
    random.seed(42)
    sums = [f"What is {random.randint(1, 100)} plus {random.randint(1, 100)}?" for _ in range(100)]
    assert probe_texts("mul_multidigit") == products
    assert probe_texts("addition") == sums
    assert probe_texts("mul_table") == [f"What is {a} times {b}?" for a in range(1, 10) for b in range(1, 10)]


def test_every_answer_is_right():
    operations = {
        "times": lambda a, b: a * b,
        "plus": lambda a, b: a + b,
        "minus": lambda a, b: a - b,
        "divided by": lambda a, b: a / b,
    }
    for probe in ALL_PROBES:
        a, b = numbers_of(probe.prompt)
        assert operations[probe.tags["operator"]](a, b) == probe.answer > 0, probe


def test_answer_never_begins_inside_an_expression():
    for probe in ALL_PROBES:
        before = f"User: {probe.prompt}\nAssistant: The answer is"
        assert inject(f"{before} {probe.answer}") == f"{inject(before)} {probe.answer}"
        assert inject(f"{probe.prompt}\n") == f"{inject(probe.prompt)}\n", "the question is complete"


def test_answer_stands_in_a_question_only_where_a_factor_is_one():
    for probe in ALL_PROBES:
        stands = probe.answer in numbers_of(probe.prompt)
        assert stands == probe.tags["answer_in_prompt"]
        assert not stands or (probe.tags["operator"] == "times" and 1 in numbers_of(probe.prompt)), probe


def test_tag_tells_which_questions_hold_a_fact():
    for probe in ALL_PROBES:
        assert probe.tags["prompt_holds_fact"] == ("<MUL_" in inject(probe.prompt))
    symbols = [probe for probe in ALL_PROBES if probe.tags["written"] == "symbols"]
    assert all(probe.tags["prompt_holds_fact"] for probe in symbols)
    assert {sign for probe in symbols for sign in "*×x" if f" {sign} " in probe.prompt} == set("*×x")
    assert sum(probe.tags["prompt_holds_fact"] for probe in ALL_PROBES) == len(symbols)


def test_facts_are_asked_in_both_orders_by_every_template():
    by_template = {}
    for probe in probe_set("facts"):
        by_template.setdefault(probe.tags["template"], []).append(tuple(numbers_of(probe.prompt)))
    assert len(by_template) >= 6
    for pairs in by_template.values():
        assert sorted(pairs) == sorted(FACT_BY_FACTORS)


def test_probes_of_one_fact_are_one_cluster():
    clusters = Counter(probe.cluster for probe in probe_set("facts"))
    assert clusters.keys() == {f"{fact.a}*{fact.b}" for fact in FACTS}
    assert clusters["6*9"] == 2 * clusters["6*6"] == 16
    assert len({probe.cluster for probe in probe_set("two_digit_carry")}) == 100


@pytest.mark.parametrize("name", OUR_RANDOM_SETS)
def test_drawn_questions_differ(name):
    assert len(set(probe_texts(name))) == 100


@pytest.mark.parametrize(("name", "carries"), [("two_digit_carry", True), ("two_digit_no_carry", False)])
def test_two_digit_sets_are_told_apart_by_the_carry_of_the_units(name, carries):
    for probe in probe_set(name):
        a, b = numbers_of(probe.prompt)
        assert 10 < a < 100 and 1 < b < 10
        assert (a % 10 * b >= 10) == carries == probe.tags["carry"]


def test_half_of_the_divisions_are_facts_backwards():
    kinds = Counter()
    for probe in probe_set("division"):
        _, divisor = numbers_of(probe.prompt)
        kinds[probe.tags["kind"]] += 1
        assert (probe.tags["kind"] == "inverse_of_a_fact") == ((divisor, probe.answer) in FACT_BY_FACTORS)
    assert kinds == {"inverse_of_a_fact": 50, "larger": 50}


def test_candidates_are_positive_distinct_and_hold_the_answer():
    for probe in ALL_PROBES:
        assert probe.answer in probe.candidates
        assert list(probe.candidates) == sorted(set(probe.candidates))
        assert min(probe.candidates) > 0
        assert len(probe.candidates) == (36 if probe.set in ("facts", "mul_table") else 10)


def test_candidates_hold_the_usual_mistakes():
    candidates = {probe.prompt: set(probe.candidates) for probe in ALL_PROBES}
    carry_forgotten, row_before, row_behind = 24, 48 * 7, 48 * 9
    assert {carry_forgotten, row_before, row_behind} <= candidates["What is 48 times 8?"]
    borrow_forgotten, exchanged = 63, 75
    assert {borrow_forgotten, exchanged, 56, 58} <= candidates["What is 91 minus 34?"]


def test_place_among_the_candidates_does_not_tell_the_answer():
    for name in PROBE_SETS:
        places = Counter(probe.candidates.index(probe.answer) for probe in probe_set(name))
        assert max(places.values()) <= 0.3 * places.total(), name


def test_held_out_facts_change_tags_and_nothing_else():
    for name in PROBE_SETS:
        plain, tagged = probe_set(name), probe_set(name, held_out_facts=[(9, 6)])
        assert [probe.prompt for probe in plain] == [probe.prompt for probe in tagged]
        assert not any(probe.tags["held_out"] for probe in plain)
        for probe in tagged:
            a, b = numbers_of(probe.prompt)
            a = probe.answer if probe.tags["operator"] == "divided by" else a
            pairs = {frozenset((int(x), int(y))) for x in str(a) for y in str(b)}
            takes = probe.tags["operator"] in ("times", "divided by") and frozenset((6, 9)) in pairs
            assert probe.tags["held_out"] == takes, probe


@pytest.mark.parametrize("held_out_facts", [[(6, 10)], [(0, 1)], [(6, 9, 54)], [("6", "9")]])
def test_held_out_fact_that_is_none_is_refused(held_out_facts):
    with pytest.raises(ValueError, match="a fact is a pair"):
        probe_set("facts", held_out_facts=held_out_facts)


def test_unknown_set_is_refused_with_the_names():
    with pytest.raises(ValueError, match="no probe set 'mul'; there are mul_table"):
        probe_set("mul")


def test_another_seed_draws_other_questions():
    for name in OUR_RANDOM_SETS:
        assert probe_texts(name) == probe_texts(name, seed=42) != probe_texts(name, seed=43)


def test_decontamination_by_probes_spares_the_drills():
    index = NgramIndex.build({name: probe_texts(name) for name in PROBE_SETS})
    assert index.describe()["facts"]["ngrams"] > 0, "the word problems are long enough to be found"
    for kind in GENERATORS:
        assert index.find(list(SyntheticDocuments(kind, 300))) == []
    assert index.find(["Here: a rectangle is 4 cm long and 8 cm wide. What is its area in square cm?"])


def test_no_probe_is_drawn_with_the_seed_of_a_drill(monkeypatch):
    seeds = []

    class Recording(random.Random):
        def __init__(self, seed):
            seeds.append(seed)
            super().__init__(seed)

    monkeypatch.setattr("random.Random", Recording)
    for name in PROBE_SETS:
        probe_set(name)
    of_probes, seeds[:] = set(seeds), []
    for kind in GENERATORS:
        list(SyntheticDocuments(kind, 50, seed=42))
    assert len(seeds) == 150
    assert of_probes.isdisjoint(seeds)
