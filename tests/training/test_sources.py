import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from training.data import hub
from training.data.sources import Source


def documents(root, **entry):
    return list(Source.from_recipe(entry, str(root)).documents_once())


def test_text_file_is_one_document_and_keeps_every_character(tmp_path):
    (tmp_path / "a.txt").write_bytes("é 6*9\r\nzwei\n".encode())
    assert documents(tmp_path, path="a.txt") == ["é 6*9\r\nzwei\n"]


def test_document_start_cuts_a_text_file_without_losing_a_line(tmp_path):
    text = "intro\n = One = \n body\n = = Section = = \n more\n = Two = \n end\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = documents(tmp_path, path="a.txt", document_start=r"^ = [^=].* = $")
    assert found == ["intro\n", " = One = \n body\n = = Section = = \n more\n", " = Two = \n end\n"]


def test_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert documents(tmp_path, path="a.txt") == ["hello"]


def test_jsonl_and_parquet_rows_are_documents(tmp_path):
    rows = [{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    for file in ("a.jsonl", "b.parquet"):
        assert documents(tmp_path, path=file, template="{question}\n{answer}") == ["q1\na1", "q2\na2"]
        assert documents(tmp_path, path=file, text_field="answer") == ["a1", "a2"]


def test_folder_is_read_in_the_order_of_names(tmp_path):
    for name, text in (("b.txt", "second"), ("a.txt", "first"), ("c.md", "no text source")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert documents(tmp_path, path=".") == ["first", "second"]


def test_blank_documents_are_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": " \\n"}\n{"text": "x"}\n', encoding="utf-8")
    assert documents(tmp_path, path="a.jsonl") == ["x"]


def test_data_set_folder_streams_through_datasets(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"text": "one"}, {"text": "two"}]), tmp_path / "train.parquet")
    assert documents(tmp_path, hub=str(tmp_path)) == ["one", "two"]


def test_fingerprint_follows_content_and_settings_but_not_the_place(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text("same", encoding="utf-8")
    here, there = (Source.from_recipe({"path": "x.txt"}, str(tmp_path / folder)) for folder in ("a", "b"))
    assert here.fingerprint() == there.fingerprint()
    other = Source.from_recipe({"path": "x.txt", "document_start": "^="}, str(tmp_path / "a"))
    assert other.fingerprint() != here.fingerprint()
    (tmp_path / "b" / "x.txt").write_text("else", encoding="utf-8")
    assert Source.from_recipe({"path": "x.txt"}, str(tmp_path / "b")).fingerprint() != here.fingerprint()


def test_branch_keeps_the_commit_that_a_corpus_was_begun_with(monkeypatch):
    at = {"commit": "b" * 40}
    monkeypatch.setattr(hub, "_commits", {})
    monkeypatch.setattr(HfApi, "dataset_info", lambda *args, **kwargs: SimpleNamespace(sha=at["commit"]))

    def fingerprint(recorded=(), **entry):
        hub._commits.clear()
        return Source.from_recipe({"hub": "someone/texts", **entry}, ".").fingerprint(recorded)

    begun = fingerprint()
    assert begun["revision"] == "b" * 40
    at["commit"] = "c" * 40  # somebody pushes
    assert fingerprint([begun]) == begun
    assert fingerprint([begun], revision="v2")["revision"] == "c" * 40
    assert fingerprint([begun], text_field="body")["revision"] == "c" * 40
    assert fingerprint([begun], revision="d" * 40)["revision"] == "d" * 40


@pytest.mark.parametrize(
    ("name", "content", "entry", "words"),
    [
        ("a.txt", b"ok\nd\xe9j\xe0 vu\n", {}, ["a.txt, line 2", "not UTF-8", "0xe9", "iconv"]),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', {}, ["a.jsonl, line 2", "not JSON"]),
        ("a.jsonl", b'{"body": "x"}\n', {}, ["a.jsonl, line 1", "text_field 'text'", "body"]),
        ("a.jsonl", b'{"q": "x"}\n', {"template": "{q}{a}"}, ["template '{q}{a}'", "(q)"]),
        ("a.jsonl", b'{"q": "x", "a": null}\n', {"template": "{q}{a}"}, ["line 1", "'a'", "is null"]),
        ("a.jsonl", b'{"text": 5}\n', {}, ["line 1", "holds int, not text"]),
        ("a.jsonl", b"[1]\n", {}, ["line 1", "text_field"]),
        ("a.jsonl", b'{"text": "\\ud800"}\n', {}, ["document 0", "surrogate"]),
        ("a.csv", b"x", {}, ["a.csv", "not one of .txt"]),
    ],
)
def test_bad_file_is_named_with_the_place(tmp_path, name, content, entry, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"\w") as error:
        documents(tmp_path, path=name, **entry)
    for word in words:
        assert word in str(error.value)


def test_parquet_without_the_field_names_its_columns(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"body": "x"}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="body"):
        documents(tmp_path, path="a.parquet")


def test_missing_file_and_empty_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.txt"):
        documents(tmp_path, path="nothing.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        documents(tmp_path, path="empty")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "exactly one of path, hub and synthetic"),
        ({"path": "a", "synthetic": "drills"}, "exactly one"),
        ({"synthetic": "poems", "documents": 1}, "unknown synthetic source 'poems'"),
        ({"synthetic": "drills", "documents": -1}, "documents -1"),
        ({"path": "a", "each": "endings"}, "needs a template"),
        ({"path": "a", "weight": 0}, "weight 0"),
        ({"path": "a", "epochs": 0}, "epochs 0"),
        ({"path": "a", "colour": 1}, "unknown keys ['colour']"),
        ({"synthetic": "drills", "documents": "many"}, "documents must be int, but is 'many'"),
        ({"path": "a", "weight": [3]}, "weight must be float or null, but is [3]"),
        ({"synthetic": "drills", "documents": 1, "held_out_facts": [6, 9]}, "write a list of pairs, such as [[6, 9]]"),
        ({"synthetic": "drills", "documents": 1, "held_out_facts": [[6, 10]]}, "whole numbers from 1 to 9"),
        ({"path": "a", "document_start": "("}, "malformed"),
        ({"path": "a", "template": "{q"}, "malformed"),
        ({"path": "a", "template": "{q.__class__}"}, "may name fields only"),
    ],
)
def test_source_that_makes_no_sense_is_refused(entry, words):
    with pytest.raises(ValueError, match=r"\w") as error:
        Source.from_recipe(entry, ".")
    assert words in str(error.value)
