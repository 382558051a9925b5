import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.training.small_sft_sources import questions, source_of
from tests.training.tiny_subjects import tokenizer_of
from tokenization import count_facts
from tokenization.mul_facts import FACT_IDS, FACTS
from training.data.conversations import ConversationEncoder
from training.data.sft_sources import SftSource
from training.evals.answers import read_answer
from training.evals.equations import find_equations

TULU_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("messages", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
        ("source", pa.string()),
    ]
)


@pytest.fixture
def source(tmp_path):
    """Make a source of so many rows, or of these: source(100, limit=10)."""
    return lambda rows, name="rows", **keys: source_of(tmp_path, rows, name, **keys)


def read(source):
    """Return the conversations of a source as pairs of role and content, and what was left out."""
    left_out = Counter()
    rows = [[(m["role"], m["content"]) for m in messages] for _, messages in source.conversations(left_out)]
    return rows, left_out


def asked(source):
    return [row[0][1] for row in read(source)[0]]


def test_rows_of_tulu_are_read_from_parquet_with_its_schema(tmp_path):
    conversations = [
        [
            ("system", "Be brief."),
            ("user", f"What is {i}*9?"),
            ("assistant", f"{i * 9}"),
            ("user", "x"),
            ("assistant", "y"),
        ]
        for i in range(5)
    ]
    rows = [
        {"id": f"row_{i}", "messages": [{"role": r, "content": c} for r, c in each], "source": "ai2-adapt-dev/x"}
        for i, each in enumerate(conversations)
    ]
    pa.parquet.write_table(
        pa.Table.from_pylist(rows, TULU_SCHEMA), tmp_path / "train-00000-of-00001.parquet", row_group_size=2
    )
    by_folder = SftSource.from_recipe({"path": tmp_path.name, "split": "train"}, str(tmp_path.parent))
    by_file = SftSource.from_recipe({"path": "train-00000-of-00001.parquet", "messages": "messages"}, str(tmp_path))
    for source in (by_folder, by_file):
        assert read(source) == (conversations, {})
        where, _ = next(source.conversations(Counter()))
        assert re.search(r"train-00000-of-00001\.parquet, row 0$", where)


SOLUTIONS = [
    {"question": "a?", "answer": "6*9=<<6*9=54>>54\n#### 54"},
    {"question": "b?", "answer": "6*9=<<6*9=55>>55\n#### 55"},
    {"question": "c?", "answer": "It is 5.\n#### 5"},
]


@pytest.mark.parametrize(
    ("annotations", "first", "left_out"),
    [
        ("keep", "6*9=<<6*9=54>>54\n#### 54", {}),
        ("strip", "6*9=54\n#### 54", {}),
        ("equations", "6*9 = 54\n#### 54", {"false annotation": 1, "no annotation": 1}),
    ],
)
def test_annotations_are_kept_stripped_or_made_the_answer(source, annotations, first, left_out):
    rows, counted = read(source(SOLUTIONS, annotations=annotations))
    assert rows[0] == [("user", "a?"), ("assistant", first)]
    assert counted == left_out
    assert len(rows) == 3 - sum(left_out.values())


BROKEN = [*questions(2), {"question": "q2?", "answer": ""}, *questions(1, "last")]


def test_malformed_row_is_named_with_its_column(source):
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 3: column 'answer' is empty.*malformed: drop"):
        read(source(BROKEN, "broken"))


def test_malformed_rows_are_dropped_and_counted_on_request(source):
    dropping = source(BROKEN, malformed="drop")
    assert asked(dropping) == ["q0?", "q1?", "last0?"]
    assert read(dropping)[1] == {"malformed": 1}


def test_row_that_is_empty_without_its_annotations_is_malformed(source):
    rows = [*questions(1), {"question": "a?", "answer": "<<6*9=54>>"}]
    with pytest.raises(ValueError, match="line 2: the assistant's message holds annotations only"):
        read(source(rows, annotations="strip"))
    assert asked(source(rows, annotations="strip", malformed="drop")) == ["q0?"]


def test_missing_column_is_an_error_even_if_malformed_rows_are_dropped(source):
    rows = [*questions(1), {"question": "q?", "solution": "5"}]
    with pytest.raises(ValueError, match=r"line 2 has no column 'answer'; it has question, solution"):
        read(source(rows, malformed="drop"))


def drills(minimum, **keys):
    return SftSource.from_recipe({"synthetic": "drills", "drill_minimum": minimum, **keys})


def test_multiplications_are_questions_with_worked_answers():
    keys = {"synthetic": "multiplications", "documents": 40, "seed": 2}
    rows, left_out = read(SftSource.from_recipe({**keys, "factor_digits": [3, 1]}))
    assert (len(rows), left_out) == (40, {})
    for (asker, question), (replier, reply) in rows:
        assert (asker, replier) == ("user", "assistant")
        factors = [int(number) for number in re.findall(r"\d+", question)[:2]]
        assert f"{factors[0]} * {factors[1]} = {factors[0] * factors[1]}" in reply
        assert all(equation.is_true for equation in find_equations(reply))
    assert asked(SftSource.from_recipe({**keys, "limit": 5, "factor_digits": [3, 1]})) == [
        question for (_, question), _ in rows[:5]
    ]


@pytest.mark.parametrize("long_multiplication", [False, True])
def test_drills_bring_each_fact_at_least_so_often_in_true_worked_answers(long_multiplication):
    rows, _ = read(drills(6, long_multiplication=long_multiplication))
    replies = [reply for _, (_, reply) in rows]
    assert sum(map(count_facts, replies)).min() >= 6
    assert all(equation.is_true for reply in replies for equation in find_equations(reply))
    assert all(read_answer(reply).strict is not None for reply in replies)
    assert any(re.search(r"\d\d \* \d", reply) for reply in replies) == long_multiplication


@pytest.mark.parametrize("long_multiplication", [False, True])
def test_held_out_facts_are_in_no_drill_and_all_others_are(long_multiplication):
    keys = {"long_multiplication": long_multiplication, "held_out_facts": [[9, 6], [7, 7]]}
    counts = sum(count_facts(question + "\n" + reply) for (_, question), (_, reply) in read(drills(5, **keys))[0])
    assert {(fact.a, fact.b) for fact, count in zip(FACTS, counts, strict=True) if count < 5} == {(6, 9), (7, 7)}
    assert counts.min() == 0


def test_drills_are_a_function_of_their_keys():
    assert read(drills(4)) == read(drills(4))
    assert read(drills(4))[0] == read(drills(9))[0][: len(read(drills(4))[0])]
    assert not set(asked(drills(4, seed=1))) >= set(asked(drills(4)))
    assert asked(drills(4, limit=3)) == asked(drills(4))[:3]


def test_both_arms_get_the_same_drills():
    """One arm has a token for each fact; what decides which rows are kept, cut and packed is equal."""
    rows = [messages for _, messages in drills(3, long_multiplication=True).conversations(Counter())]
    plain, injected = (ConversationEncoder(tokenizer_of(arm)).encode(rows) for arm in ("baseline", "mul_tokens"))
    for one, other in zip(plain, injected, strict=True):
        assert one.ends[:, 1:].tolist() == other.ends[:, 1:].tolist()
    tokens = np.concatenate([each.input_ids[each.completion_mask] for each in injected])
    assert min(np.count_nonzero(tokens == number) for number in FACT_IDS) >= 3


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"path": "allenai/tulu-3-sft-mixture"}, {"hub": "allenai/tulu-3-sft-mixture", "split": "train"}),
        ({"path": "openai/gsm8k", "name": "main", "split": "test"}, {"config": "main", "split": "test"}),
        ({"path": "json", "data_files": "a.jsonl"}, {"path": "a.jsonl", "hub": None}),
        ({"path": "a/b", "columns": ["prompt", "completion"]}, {"prompt": "prompt", "completion": "completion"}),
        ({"path": "a/b", "columns": ["id", "messages"], "fraction": 0.7}, {"messages": "messages", "weight": 0.7}),
        ({"path": "a.parquet", "question": "{Body} {Question}", "answer": "{Answer}"}, {"path": "a.parquet"}),
        ({"hub": "a/b", "config": "main", "weight": 1}, {"hub": "a/b", "config": "main", "weight": 1.0}),
    ],
)
def test_entry_of_a_recipe_has_our_keys_or_those_of_trl(entry, expected):
    source = SftSource.from_recipe(entry)
    assert {key: getattr(source, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("rows.jsonl", "write a mapping"),
        ({}, "exactly one of path, hub and synthetic"),
        ({"path": "a.jsonl", "hub": "b"}, "exactly one of path, hub and synthetic"),
        ({"path": "a.jsonl", "synthetic": "instructions", "documents": 1}, "exactly one of path, hub and synthetic"),
        ({"path": "a.jsonl", "colunms": 1}, r"unknown keys \['colunms'\]; the keys are annotations, answer"),
        ({"path": "a.jsonl", "name": "x", "config": "y"}, "one key by two names"),
        ({"path": "json", "data_files": ["a.jsonl"]}, "write one entry per file"),
        ({"path": "a/b", "data_files": "a.jsonl"}, "goes with path json or parquet"),
        ({"path": "a/b", "columns": ["text"]}, r"has columns \['text'\]"),
        ({"path": "a.jsonl", "messages": "m", "question": "q"}, "a conversation comes from one of these"),
        ({"path": "a.jsonl", "sample": 0}, "has sample 0"),
        ({"path": "a.jsonl", "sample": "many"}, "sample must be"),
        ({"path": "a.jsonl", "weight": 0}, "has weight 0"),
        ({"path": "a.jsonl", "epochs": 2}, "has epochs 2 and no weight"),
        ({"path": "a.jsonl", "held_out": 1.5}, "has held_out 1.5; give a share"),
        ({"path": "a.jsonl", "held_out": 0}, "has held_out 0; leave it out"),
        ({"path": "a.jsonl", "annotations": "drop"}, "choose keep, strip, equations"),
        ({"path": "a.jsonl", "malformed": "skip"}, "choose error, drop"),
        ({"path": "a.jsonl", "held_out_facts": [[6, 9]]}, "has held_out_facts, which is for synthetic drills and ins"),
        ({"path": "a.jsonl", "drill_minimum": 9}, "has drill_minimum, which is for synthetic drills; remove the key"),
        ({"synthetic": "instructions"}, "documents is 0"),
        ({"synthetic": "instructions", "documents": 5, "held_out_facts": [[0, 9]]}, "pair of whole numbers"),
        ({"synthetic": "instructions", "documents": 5, "long_multiplication": True}, "is for synthetic drills"),
        ({"synthetic": "drills"}, "drill_minimum is 0 and documents 0; .* give drill_minimum above zero"),
        ({"synthetic": "drills", "drill_minimum": 3, "documents": 5}, "leave documents out"),
        ({"synthetic": "drills", "drill_minimum": 3, "path": "a.jsonl"}, "exactly one of path, hub and synthetic"),
        ({"synthetic": "drills", "drill_minimum": 3, "held_out_facts": [[6]]}, "pair of whole numbers"),
        ({"synthetic": "multiplications"}, "documents is 0"),
        (
            {"synthetic": "multiplications", "documents": 5, "factor_digits": [2, 0]},
            r"factor_digits is \[2, 0\]; give",
        ),
        ({"synthetic": "word_problems", "documents": 5, "factor_digits": [3, 1]}, "is for synthetic multiplications"),
        ({"path": "a.jsonl", "factor_digits": [3, 1]}, "is for synthetic multiplications; remove the key"),
        ({"synthetic": "multiplications", "documents": 5, "drill_minimum": 2}, "is for synthetic drills; remove"),
        ({"synthetic": "tables", "documents": 5}, "synthetic is 'tables'; choose drills, instructions, word_problems"),
    ],
)
def test_entry_that_makes_no_sense_is_refused(entry, message):
    with pytest.raises(ValueError, match=message):
        SftSource.from_recipe(entry)
