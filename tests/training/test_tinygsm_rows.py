"""Which rows a conversion draws, and how they are cut into pieces and read."""

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.small_tinygsm import arguments, problems, write_rows
from training.data import hub
from training.data.tinygsm.source_rows import DrawnRows, Sample

COMMIT = "0123456789" * 4


def read_all(args):
    rows, pieces = DrawnRows.find(args)
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    read = [list(rows.read(piece)) for piece in pieces]
    assert [len(part) for part in read] == [piece.drawn for piece in pieces]
    return [row for part in read for row in part], pieces


def drawn_of(total, wanted, seed):
    return set(np.flatnonzero(Sample.draw(total, wanted, seed).contains(0, total)).tolist())


def test_sample_has_the_number_asked_for_and_is_part_of_a_larger_one():
    samples = [drawn_of(5000, wanted, 1) for wanted in (1, 10, 700, 5000)]
    assert [len(sample) for sample in samples] == [1, 10, 700, 5000]
    assert all(smaller <= larger for smaller, larger in pairwise(samples))


def test_seed_decides_the_sample_on_every_machine_alike():
    assert sorted(drawn_of(1000, 5, 0)) == [243, 308, 456, 958, 995]
    assert len(drawn_of(100_000, 1000, 0) & drawn_of(100_000, 1000, 1)) < 30  # 10 by chance


def test_sample_is_spread_evenly():
    drawn = np.array(sorted(drawn_of(100_000, 10_000, 5)))
    assert np.histogram(drawn, bins=10, range=(0, 100_000))[0] == pytest.approx(1000, abs=120)
    assert (drawn % 2).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("num_rows", [None, 300])
@pytest.mark.parametrize("rows_per_piece", [1, 7, 100, 5000])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "synthetic"])
def test_every_drawn_row_is_in_exactly_one_piece(tmp_path, kind, rows_per_piece, num_rows):
    rows = problems(700)
    keys = {"num_rows": num_rows, "rows_per_piece": rows_per_piece, "path": "files"}
    folder = tmp_path / "files"
    folder.mkdir()
    if kind == "synthetic":
        keys |= {"path": None, "synthetic": "word_problem_programs", "documents": 700, "seed": 3}
    elif kind == "jsonl":
        lines = [json.dumps(row) for row in rows]
        (folder / "a.jsonl").write_text("\ufeff" + "\n \n\n".join(lines[:400]), encoding="utf-8")
        (folder / "b.jsonl").write_text("\r\n".join(["", *lines[400:], "", ""]), encoding="utf-8")
    else:
        for name, part, size in (("a", rows[:400], 30), ("b", rows[400:], 1000)):
            pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet", row_group_size=size)
    read, pieces = read_all(arguments(tmp_path, **keys))
    expected = sorted(drawn_of(700, num_rows, 0))
    assert [number for number, _, _ in read] == expected
    assert [(question, code) for _, question, code in read] == [
        (rows[number]["question"], rows[number]["code"]) for number in expected
    ]
    if kind == "jsonl":
        assert max(piece.drawn for piece in pieces) <= rows_per_piece


def test_parquet_pieces_are_whole_row_groups(tmp_path):
    pq.write_table(pa.Table.from_pylist(problems(100)), tmp_path / "rows.parquet", row_group_size=30)
    _, pieces = read_all(arguments(tmp_path, path="rows.parquet", rows_per_piece=40))
    assert [(piece.begin, piece.end, piece.drawn) for piece in pieces] == [(0, 2, 60), (2, 4, 40)]


def test_source_with_too_few_rows_is_refused(tmp_path):
    write_rows(tmp_path, problems(5))
    with pytest.raises(ValueError, match="num_rows is 6, but the source holds 5 rows"):
        DrawnRows.find(arguments(tmp_path, num_rows=6))


def test_source_without_rows_is_refused(tmp_path):
    write_rows(tmp_path, [])
    with pytest.raises(ValueError, match="holds no rows"):
        DrawnRows.find(arguments(tmp_path))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_missing_field_is_named_with_those_that_are_there(tmp_path, suffix):
    rows = [{"problem": "?", "code": "x"}]
    write_rows(tmp_path, rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match=r"question.*problem, code.*set question_field"):
        read_all(arguments(tmp_path, path=f"rows.{suffix}"))


def test_fields_may_have_other_names(tmp_path):
    write_rows(tmp_path, [{"problem": "how many?", "solution": "x"}])
    read, _ = read_all(arguments(tmp_path, question_field="problem", code_field="solution"))
    assert read == [(0, "how many?", "x")]


@pytest.mark.parametrize("line", [b'{"question": "a", ', b'{"question": "\xff", "code": ""}', b"[1]"])
def test_damaged_line_is_named(tmp_path, line):
    (tmp_path / "rows.jsonl").write_bytes(json.dumps(problems(1)[0]).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, (byte|line|row)"):
        read_all(arguments(tmp_path))


def test_other_kinds_of_files_are_refused(tmp_path):
    write_rows(tmp_path / "files", problems(2))
    (tmp_path / "files" / "notes.txt").write_text("not rows")
    with pytest.raises(ValueError, match=r"notes\.txt' is not one of \.jsonl, \.parquet"):
        DrawnRows.find(arguments(tmp_path, path="files"))


def test_jsonl_files_of_the_hub_are_fetched_whole(tmp_path, monkeypatch):
    write_rows(tmp_path, problems(3))
    address = f"hf://datasets/TinyGSM/TinyGSM@{COMMIT}/rows.jsonl"
    fetched = []

    def open_remote(file, download):
        fetched.append((file, download))
        return open(tmp_path / "rows.jsonl", "rb")

    monkeypatch.setattr(hub, "commit_of", lambda repository, revision: COMMIT)
    monkeypatch.setattr(hub, "data_files", lambda *source: [address])
    monkeypatch.setattr(hub, "open_remote", open_remote)
    read, _ = read_all(arguments(tmp_path, path=None, hub="TinyGSM/TinyGSM"))
    assert [question for _, question, _ in read] == [row["question"] for row in problems(3)]
    assert fetched == [(address, True)]


def test_folder_of_a_hub_data_set_is_read_like_the_hub(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    pq.write_table(pa.Table.from_pylist(problems(4)), repository / "train-00000.parquet")
    read, _ = read_all(arguments(tmp_path, path=None, hub=str(repository)))
    assert [question for _, question, _ in read] == [row["question"] for row in problems(4)]
