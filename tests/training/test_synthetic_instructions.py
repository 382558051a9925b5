import json
import re

import pytest

from tokenization import count_facts
from tokenization.mul_facts import FACTS
from training.data.conversations import check_messages
from training.data.instruction_tasks import TASKS
from training.data.instruction_words import DEFINITIONS
from training.data.synthetic_instructions import SyntheticInstructions


@pytest.fixture(scope="module")
def rows():
    return list(SyntheticInstructions(6000))


def exchanges(rows):
    """Every question with its reply."""
    for row in rows:
        turns = [each for each in row["messages"] if each["role"] != "system"]
        yield from zip(
            [each["content"] for each in turns[::2]], [each["content"] for each in turns[1::2]], strict=True
        )


def test_five_thousand_rows_are_distinct(rows):
    assert len({json.dumps(row["messages"]) for row in rows}) >= 5900
    assert len({row["id"] for row in rows}) == len(rows)


def test_rows_have_the_shape_of_tulu_and_say_that_they_are_synthetic(rows):
    for row in rows:
        assert list(row) == ["id", "messages", "source"] and row["source"] == "synthetic"
        assert check_messages(row["messages"], row["id"]) == row["messages"]


def test_system_messages_and_several_turns_are_common(rows):
    assert sum(row["messages"][0]["role"] == "system" for row in rows) > len(rows) / 3
    assert sum(sum(each["role"] == "user" for each in row["messages"]) > 1 for row in rows) > len(rows) / 3
    lengths = [sum(len(each["content"]) for each in row["messages"]) for row in rows]
    assert min(lengths) < 50 and max(lengths) > 500


def test_rows_depend_on_seed_and_index_alone(rows):
    assert list(SyntheticInstructions(30, first=20)) == rows[20:30]
    assert list(SyntheticInstructions(10, seed=1)) != rows[:10]


def test_every_stated_equation_is_true(rows):
    found = re.findall(r"(\d+) ([-+*×x]) (\d+) = (\d+)", "\n".join(reply for _, reply in exchanges(rows)))
    assert {sign for _, sign, _, _ in found} == set("-+*×x") and len(found) > 500
    for left, sign, right, result in found:
        left, right = int(left), int(right)
        assert int(result) == (left + right if sign == "+" else left - right if sign == "-" else left * right)


def test_numbers_are_sorted(rows):
    asked = [(q, r) for q, r in exchanges(rows) if q.startswith(("Sort these numbers", "Put these numbers"))]
    assert len(asked) > 200
    for question, reply in asked:
        assert list(map(int, re.findall(r"\d+", reply))) == sorted(map(int, re.findall(r"\d+", question)))


def test_letters_are_counted(rows):
    asked = [(q, r) for q, r in exchanges(rows) if q.startswith("How many times does the letter")]
    assert len(asked) > 200
    for question, reply in asked:
        letter, text = re.fullmatch(r'How many times does the letter (.) occur in "(.*)"\?', question).groups()
        stated = re.search(r"occurs (\w+)|\b(\d+)\b", reply)
        number = stated[1] or stated[2]
        assert {"once": 1}.get(number) or int(number) == text.count(letter), (question, reply)


def test_words_are_spelled(rows):
    asked = [(q, r) for q, r in exchanges(rows) if q.startswith("Spell the words")]
    assert len(asked) > 200
    for question, reply in asked:
        spelled = re.findall(r"\b(?:[a-z]-)+[a-z]\b", reply)
        assert [word.replace("-", "") for word in spelled] == re.findall(r'"(\w+)"', question)


def test_conversions_use_the_right_factor(rows):
    factors = {"hours": 60, "days": 24, "years": 12, "feet": 12, "pounds": 16, "centimetres": 10, "kilograms": 1000}
    asked = [re.fullmatch(r"How many \w+ are (\d+) (\w+)\?", q) for q, _ in exchanges(rows)]
    replies = [reply for _, reply in exchanges(rows)]
    checked = 0
    for question, reply in zip(asked, replies, strict=True):
        if question and question[2] in factors:
            assert str(int(question[1]) * factors[question[2]]) in re.findall(r"\d+", reply)
            checked += 1
    assert checked > 100


def test_instruction_of_the_system_is_followed(rows):
    bare = [row for row in rows if row["messages"][0]["content"].startswith("Reply with the result")]
    done = [row for row in rows if row["messages"][0]["content"].startswith("Write the word Done")]
    named = [row for row in rows if row["messages"][0]["content"].startswith("Begin every reply with the name")]
    assert min(map(len, (bare, done, named))) > 300
    assert all(reply.endswith("\nDone") for _, reply in exchanges(done))
    for row in named:
        name = row["messages"][0]["content"].rstrip(".").rsplit(" ", 1)[1]
        assert all(reply.startswith(f"{name}: ") for _, reply in exchanges([row]))
    assert not any(
        reply.startswith(("In ascending", "Here is", "The ")) for _, reply in exchanges(bare) if "means" not in reply
    )


def test_every_task_and_definition_is_asked(rows):
    text = "\n".join(question for question, _ in exchanges(rows))
    assert len(TASKS) == 13 and all(term in text for term in DEFINITIONS)


def test_held_out_facts_are_never_written():
    rows = list(SyntheticInstructions(4000, held_out_facts=((9, 6), (7, 8))))
    text = "\n".join(part for exchange in exchanges(rows) for part in exchange)
    counts = {(fact.a, fact.b): count for fact, count in zip(FACTS, count_facts(text), strict=True)}
    assert counts[6, 9] == counts[7, 8] == 0
    assert sum(count > 0 for count in counts.values()) >= 40
    boxes = {tuple(map(int, pair)) for pair in re.findall(r"has (\d) \w+ box\w* with (\d) buttons", text)}
    assert len(boxes) > 60 and not boxes & {(6, 9), (9, 6), (7, 8), (8, 7)}


def test_impossible_held_out_fact_is_refused():
    with pytest.raises(ValueError, match="pair of whole numbers from 1 to 9"):
        SyntheticInstructions(1, held_out_facts=((0, 5),))
