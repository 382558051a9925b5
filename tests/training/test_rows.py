import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from training.data.rows import RowSource, fields_of, rows_sha256

ROWS = [{"question": f"Question {i}?", "answer": f"#### {i}"} for i in range(5)]


@pytest.fixture(params=["rows.jsonl", "rows.json", "rows.parquet"])
def file(request, tmp_path):
    path = tmp_path / request.param
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)
    return path


def test_every_format_gives_the_same_rows(file):
    assert RowSource(path=file.name, root=str(file.parent)).read() == ROWS


def test_limit_takes_the_first_rows(file):
    assert RowSource(path=file.name, root=str(file.parent), limit=3).read() == ROWS[:3]


def test_folder_of_a_data_set_is_read_like_one_of_the_hub(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "test-00000-of-00001.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:1]), tmp_path / "train-00000-of-00001.parquet")
    assert RowSource(hub=str(tmp_path)).read() == ROWS
    assert RowSource(hub=str(tmp_path), split="train").read() == ROWS[:1]


def test_data_set_of_json_lines_is_read_too(tmp_path):
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert RowSource(hub=str(tmp_path)).read() == ROWS


def test_synthetic_problems_end_in_a_question_mark_and_a_number():
    rows = RowSource(synthetic="word_problems", documents=20, seed=3).read()
    assert len(rows) == 20
    assert all(row["question"].endswith("?") and "\n#### " in row["answer"] for row in rows)


def test_multiplications_are_a_function_of_seed_and_place():
    rows = RowSource(synthetic="multiplications", documents=20, seed=3).read()
    assert len({row["question"] for row in rows}) == 20
    assert RowSource(synthetic="multiplications", documents=30, seed=3, limit=20).read() == rows
    others = RowSource(synthetic="multiplications", documents=20, seed=4).read()
    assert not {row["question"] for row in rows} & {row["question"] for row in others}


@pytest.mark.parametrize("digits", [[1, 1], [2, 3]])
def test_multiplications_have_factors_of_the_digits_asked_for(digits):
    rows = RowSource(synthetic="multiplications", documents=20, factor_digits=digits).read()
    for row in rows:
        assert [len(number) for number in re.findall(r"\d+", row["question"])][:2] == digits
        assert "\n#### " in row["answer"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "exactly one of path, hub and synthetic"),
        ({"path": "a.jsonl", "hub": "b"}, "exactly one of path, hub and synthetic"),
        ({"path": "a.csv"}, "'a.csv' is not a .jsonl, .json or .parquet file"),
        ({"synthetic": "drills", "documents": 3}, "come from word_problems"),
        ({"synthetic": "word_problems"}, "documents is 0"),
        ({"synthetic": "multiplications"}, "documents is 0"),
        (
            {"synthetic": "multiplications", "documents": 3, "factor_digits": [4, 1]},
            r"factor_digits is \[4, 1\]; give two numbers from 1 to 3, such as \[2, 1\]",
        ),
        ({"synthetic": "multiplications", "documents": 3, "factor_digits": [2]}, r"factor_digits is \[2\]; give two"),
        ({"synthetic": "multiplications", "documents": 3, "factor_digits": 2}, "factor_digits must be list, but is 2"),
        (
            {"synthetic": "word_problems", "documents": 3, "factor_digits": [1, 1]},
            r"factor_digits is \(1, 1\), which is for synthetic multiplications; remove the key",
        ),
        ({"path": "a.jsonl", "factor_digits": [3, 1]}, "is for synthetic multiplications; remove the key"),
        ({"path": "a.jsonl", "limit": 0}, "limit is 0"),
        ({"path": "a.jsonl", "limit": "many"}, "limit must be"),
    ],
)
def test_source_that_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        RowSource(**keys)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "[1, 2]\n", "line 1 holds list, not a mapping"),
        ("a.jsonl", '{"a": 1}\n{"a"\n', "line 2 is not JSON"),
        ("a.jsonl", "\n", "'a.jsonl' holds no rows"),
        ("a.json", '{"a": 1}', "holds dict, not a list of rows"),
        ("a.json", '{"a": 1}\n{"a": 1}', "call it .jsonl"),
        ("a.parquet", "no parquet", "a.parquet cannot be read"),
    ],
)
def test_broken_file_is_named_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        RowSource(path=name, root=str(tmp_path)).read()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        RowSource(path="nothing.jsonl", root=str(tmp_path)).read()


def test_template_is_filled_from_the_fields():
    assert fields_of({"Body": "He has 3.", "Question": "How many?"}, "{Body} {Question}", "row 0") == (
        "He has 3. How many?"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"body": "x"}, "row 7: '{question}' needs a field 'question' that the row does not have; it has body"),
        ({"question": None}, "row 7: field 'question' of '{question}' is null"),
        ({"question": "a\ud800b"}, "row 7 holds half of a surrogate pair at character 1"),
    ],
)
def test_row_without_the_field_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        fields_of(row, "{question}", "row 7")


def test_hash_of_rows_tells_contents_and_order_apart():
    hashes = {rows_sha256(rows) for rows in (ROWS, ROWS[::-1], ROWS[:4], [*ROWS[:4], {**ROWS[4], "answer": "5"}])}
    assert len(hashes) == 4
    assert rows_sha256(ROWS) == rows_sha256([dict(reversed(row.items())) for row in ROWS])


def test_multiplications_without_second_steps_ask_for_the_product():
    rows = RowSource(synthetic="multiplications", documents=40, second_steps=False).read()
    for row in rows:
        left, right = (int(word) for word in row["question"].split() if word.isdigit())
        assert row["result"] == str(left * right)
        assert row["answer"].endswith(f"\n#### {left * right}")


def test_second_steps_are_for_multiplications():
    with pytest.raises(ValueError, match="second_steps is False, which is for synthetic multiplications"):
        RowSource(synthetic="word_problems", documents=1, second_steps=False)
