"""What is chosen among the converted rows, and what is written of them."""

import hashlib
import json

import numpy as np
import pytest

from tests.training.small_tinygsm import convert_here, convert_rows, problem, problems, refused, write_rows, written
from tokenization import CorpusEncoder, count_facts
from tokenization.mul_facts import FACTS
from training.data.hub import is_folder

PEARS = "Ada buys 14 bags with 15 pears in every bag. How many pears does Ada buy?"


def pears(sign, question=PEARS):
    return problem(question, "bags = 14", "pears_per_bag = 15", f"result = bags {sign} pears_per_bag")


def test_same_question_is_kept_once(tmp_path):
    shouted = pears("*", PEARS.upper().replace(" ", "  ").replace(".", "!"))
    manifest, rows = convert_rows(tmp_path, [pears("*"), *problems(3), shouted, pears("*")])
    assert refused(manifest) == {"duplicate": 2}
    assert [row["source_row"] for row in rows] == [0, 1, 2, 3]


def test_question_with_other_numbers_is_another_question(tmp_path):
    other = problem(PEARS.replace("14", "13"), "bags = 13", "pears = 15", "result = bags * pears")
    manifest, _ = convert_rows(tmp_path, [pears("*"), other])
    assert refused(manifest) == {}


def test_majority_of_answers_wins_and_its_first_row_stays(tmp_path):
    manifest, rows = convert_rows(tmp_path, [pears("+"), pears("*"), *problems(2), pears("*")])
    assert refused(manifest) == {"duplicate": 2}
    assert (rows[0]["source_row"], rows[0]["final_answer"]) == (1, "210")


@pytest.mark.parametrize("signs", ["*+", "*+-", "**++"])
def test_without_a_majority_no_row_of_the_question_stays(tmp_path, signs):
    rows = [pears(sign, PEARS.replace("14 bags with 15", "15 bags with 14")) for sign in signs]
    swapped = [{**row, "code": row["code"].replace("14", "x").replace("15", "14").replace("x", "15")} for row in rows]
    manifest, kept = convert_rows(tmp_path, [*problems(2), *swapped])
    assert refused(manifest) == {"duplicates_disagree": len(signs)}
    assert [row["source_row"] for row in kept] == [0, 1]


def test_copies_of_test_items_are_dropped_and_counted_by_set(tmp_path):
    item = "Last Monday ada BUYS, as every week, 99 big bags with pears in every single one of them."
    write_rows(tmp_path, [{"text": item}], "items.jsonl")
    copy = pears("*", f"{item.replace('99', '14')} There are 15 in a bag. How many pears does she buy?")
    sets = [{"name": "the items", "path": "items.jsonl"}]
    manifest, rows = convert_rows(tmp_path, [*problems(2), copy, copy], decontaminate=sets)
    assert refused(manifest) == {"duplicate": 1, "contaminated": 1}
    assert {gate["gate"]: gate["reasons"] for gate in manifest["gates"]}["contaminated"] == {"the items": 1}
    assert len(rows) == 2
    shown = json.loads((tmp_path / "out" / "refusals.json").read_text())["contaminated"]
    assert shown[0]["source_row"] == 2 and "last monday ada buys as every week big bags with" in shown[0]["reason"]


def test_long_rows_are_dropped_by_plain_tokens_of_question_and_answer(tmp_path):
    source = problems(60)
    _, rows = convert_rows(tmp_path, source, long_multiplication=True)
    encode = CorpusEncoder("baseline").encode
    lengths = [len(encode(f"{row['question']}\n{row['answer']}")) for row in rows]
    limit = sorted(lengths)[30]
    manifest = convert_here(tmp_path, "cut", max_tokens=limit, long_multiplication=True)
    assert written(tmp_path / "cut") == [row for row, n in zip(rows, lengths, strict=True) if n <= limit]
    assert refused(manifest)["tokens"] == sum(n > limit for n in lengths) > 0
    assert manifest["tokens"]["tinygsm"] == sum(n for n in lengths if n <= limit)


def test_rows_without_two_texts_are_counted_by_what_is_wrong(tmp_path):
    broken = [
        {"question": None, "code": "x"},
        {"question": "q", "code": 7},
        {"question": "\ud800", "code": "x"},
        {"question": "q", "code": "\udc00"},
    ]
    manifest, rows = convert_rows(tmp_path, [*broken, *problems(1)])
    assert manifest["gates"][0] == {
        "gate": "fields",
        "rows": 4,
        "reasons": {
            "code: half of a surrogate pair": 1,
            "code: int": 1,
            "question: half of a surrogate pair": 1,
            "question: null": 1,
        },
    }
    assert [row["source_row"] for row in rows] == [4]


def test_row_holds_what_the_converter_gave(tmp_path):
    _, (row,) = convert_rows(tmp_path, [seven_eight()])
    assert row["question"] == seven_eight()["question"]
    assert row["answer"].endswith("#### 56") and "7 * 8 = 56" in row["answer"]
    assert row["final_answer"] == "56"
    assert row["facts"] == ["7*8"]
    assert (row["source_row"], row["style"], row["source"]) == (0, "labelled", "tinygsm")


def seven_eight():
    question = PEARS.replace("14", "7").replace("15", "8")
    return problem(question, "bags = 7", "pears_per_bag = 8", "result = bags * pears_per_bag")


def test_manifest_counts_facts_as_the_tokenizer_sees_them_and_knows_its_files(tmp_path):
    manifest, rows = convert_rows(
        tmp_path, problems(80) + problems(5), long_multiplication=True, drill_minimum=9, num_shards=3
    )
    for source in ("tinygsm", "drill"):
        counts = sum(
            (count_facts(row["answer"]) for row in rows if row["source"] == source), np.zeros(len(FACTS), np.int64)
        )
        assert [facts[source] for facts in manifest["facts"].values()] == counts.tolist()
    assert min(sum(facts.values()) for facts in manifest["facts"].values()) >= 9
    assert list(manifest["facts"])[:3] == ["1*1", "1*2", "1*3"]
    assert {row["source"] for row in rows} == {"tinygsm", "drill"}
    sizes = [file["rows"] for file in manifest["files"].values()]
    assert sum(sizes) == len(rows) and max(sizes) - min(sizes) <= 1
    for name, file in manifest["files"].items():
        data = (tmp_path / "out" / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["bytes"], file["sha256"])


def test_drills_do_not_repeat_a_kept_question(tmp_path):
    write_rows(tmp_path, problems(5))
    convert_here(tmp_path, "first", drill_minimum=5)
    drills = [row for row in written(tmp_path / "first") if row["source"] == "drill"]
    as_source = [problem(row["question"], "a = 1", "b = 2", "result = a * b") | {"known": True} for row in drills[:30]]
    _, rows = convert_rows(tmp_path, problems(5) + as_source, drill_minimum=5)
    questions = [row["question"] for row in rows]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("output_format", ["jsonl", "parquet"])
def test_datasets_loads_the_folder(tmp_path, output_format, monkeypatch):
    from datasets import load_dataset

    write_rows(tmp_path, problems(30))
    convert_here(tmp_path, "lines", drill_minimum=3)
    convert_here(tmp_path, "loaded", drill_minimum=3, output_format=output_format, num_shards=4)
    assert is_folder(str(tmp_path / "loaded"))
    loaded = load_dataset(str(tmp_path / "loaded"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == written(tmp_path / "lines")


def test_too_few_rows_for_the_shards_are_refused_with_the_gate_that_took_them(tmp_path):
    rows = [{"question": None, "code": ""}] * 5 + problems(2)
    write_rows(tmp_path, rows)
    with pytest.raises(ValueError, match=r"2 rows are left of 7.*num_shards 3.*gate 'fields': 5"):
        convert_here(tmp_path, num_shards=3)
    assert len(convert_here(tmp_path, num_shards=2)["files"]) == 2  # in the same folder


def test_examples_of_refused_rows_are_the_first_three_of_each_gate(tmp_path):
    rows = [{"question": f"q{index}", "code": None} for index in range(100)]
    convert_rows(tmp_path, problems(1) + rows)
    shown = json.loads((tmp_path / "out" / "refusals.json").read_text())["fields"]
    assert [(each["source_row"], each["question"], each["reason"]) for each in shown] == [
        (1, "q0", "code: null"),
        (2, "q1", "code: null"),
        (3, "q2", "code: null"),
    ]
