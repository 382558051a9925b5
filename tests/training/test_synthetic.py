import re

import pytest

from tokenization import count_facts
from tokenization.mul_facts import FACTS
from training.data.synthetic import GENERATORS, SyntheticDocuments


@pytest.mark.parametrize("kind", GENERATORS)
def test_documents_depend_on_kind_seed_and_index_alone(kind):
    assert list(SyntheticDocuments(kind, 20, seed=3)) == list(SyntheticDocuments(kind, 40, seed=3))[:20]
    assert list(SyntheticDocuments(kind, 20, seed=3)) != list(SyntheticDocuments(kind, 20, seed=4))


@pytest.mark.parametrize("kind", GENERATORS)
def test_held_out_facts_are_never_written(kind):
    texts = "\n".join(SyntheticDocuments(kind, 300, held_out_facts=[(9, 6), (7, 8)]))
    counts = dict(zip(((fact.a, fact.b) for fact in FACTS), count_facts(texts, "weak"), strict=True))
    assert counts[6, 9] == counts[7, 8] == 0
    assert sum(count > 0 for count in counts.values()) >= 40
    numbers = [tuple(map(int, pair)) for pair in re.findall(r"\b(\d)\s*[*×x]\s*(\d)\b", texts)]
    assert numbers
    assert not {(6, 9), (9, 6), (7, 8), (8, 7)} & set(numbers)


@pytest.mark.parametrize("kind", GENERATORS)
def test_every_written_equation_is_true(kind):
    texts = "\n".join(SyntheticDocuments(kind, 200))
    equations = re.findall(r"(\d+)\s*([-+*×x])\s*(\d+)\s*(?:=|is|\?)\s*(\d+)", texts)
    assert len(equations) > 100
    for left, operator, right, result in equations:
        left, right = int(left), int(right)
        expected = left + right if operator == "+" else left - right if operator == "-" else left * right
        assert int(result) == expected, (left, operator, right, result)


def test_word_problem_ends_with_the_answer_of_its_last_step():
    for text in SyntheticDocuments("word_problems", 200):
        steps = re.findall(r"= ?(\d+)", text)
        assert text.rsplit("#### ", 1)[1] == steps[-1]


def test_every_fact_appears():
    texts = "\n".join(SyntheticDocuments("drills", 500))
    assert (count_facts(texts, "weak") > 0).all()


@pytest.mark.parametrize("pairs", [[(0, 5)], [(6, 10)], [(6,)], [("6", "9")]])
def test_impossible_held_out_fact_is_refused(pairs):
    with pytest.raises(ValueError, match="pair of whole numbers from 1 to 9"):
        SyntheticDocuments("drills", 1, held_out_facts=pairs)


def test_holding_out_everything_is_refused():
    with pytest.raises(ValueError, match="all 45"):
        SyntheticDocuments("drills", 1, held_out_facts=[(a, b) for a in range(1, 10) for b in range(1, 10)])
