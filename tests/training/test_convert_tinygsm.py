"""The conversion as a whole: workers, machines, interruptions, and the program."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tests.conftest import PROJECT, program_environment
from tests.training.small_tinygsm import (
    arguments,
    content,
    convert_here,
    problem,
    problems,
    refused,
    write_rows,
    written,
)
from training import convert_tinygsm
from training.core.recipe import parse_recipe
from training.data.tinygsm import pieces as tinygsm_pieces
from training.data.tinygsm.recipe import ConversionArguments

BAD = [
    problem("How many pears are there?", "result = pears("),
    {"question": "How many pears are there?", "code": "import os"},
    {"question": None, "code": "x"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """400 rows, some of which do not convert, and their conversion in one go."""
    folder = write_rows(tmp_path_factory.mktemp("source"), problems(300) + BAD * 10 + problems(70, seed=4))
    convert_here(folder, "expected", drill_minimum=40)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    return content(folder / "expected")


def test_workers_do_not_change_a_byte(folder, expected):
    convert_here(folder, "by_two", drill_minimum=40, workers=2)
    assert content(folder / "by_two") == expected


def test_interrupted_conversion_goes_on_and_ends_the_same(folder, expected, monkeypatch):
    monkeypatch.setattr(tinygsm_pieces, "row_line", fail_after(tinygsm_pieces.row_line, 130))
    with pytest.raises(KeyboardInterrupt):
        convert_here(folder, "resumed", drill_minimum=40)
    monkeypatch.undo()
    done = set((folder / "resumed" / "unfinished").glob("piece-*.json"))
    assert len(done) == 3
    assert not list(folder.glob("resumed/train-*"))
    said = []
    convert_here(folder, "resumed", said.append, drill_minimum=40)
    assert any("continuing with 3 pieces" in line for line in said)
    assert content(folder / "resumed") == expected


def fail_after(function, calls):
    """The function, until it was called so often; then somebody presses Ctrl-C."""
    left = iter(range(calls))

    def call(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return call


def test_cut_piece_is_done_again(folder, expected):
    assert convert_here(folder, "cut", drill_minimum=40, shard="1/2") is None
    rows, numbers = (folder / "cut" / "unfinished" / f"piece-00000.{suffix}" for suffix in ("jsonl", "npz"))
    rows.write_bytes(rows.read_bytes()[:-10])
    (folder / "cut" / "unfinished" / "piece-00002.npz").unlink()
    said = []
    convert_here(folder, "cut", said.append, drill_minimum=40)
    assert any("continuing with 3 pieces" in line for line in said)
    assert numbers.parent.exists() is False
    assert content(folder / "cut") == expected


def test_machines_share_the_work_and_the_last_writes_the_result(folder, expected):
    said = []
    assert convert_here(folder, "shared", said.append, drill_minimum=40, shard="3/3") is None
    assert "shard 3/3 is done; 7 of 10 pieces are left to 1/3, 2/3" in said[-1]
    assert convert_here(folder, "shared", drill_minimum=40, shard="1/3") is None
    assert convert_here(folder, "shared", drill_minimum=40, shard="2/3") is not None
    assert content(folder / "shared") == expected


def test_finished_conversion_is_left_alone(folder, expected):
    before = {file: file.stat().st_mtime_ns for file in (folder / "expected").glob("[a-z]*")}
    said = []
    convert_here(folder, "expected", said.append, drill_minimum=40, rows_per_piece=7, workers=2)
    assert said == [f"{folder / 'expected'} is complete; nothing to do"]
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"style": "equations"}, "style is 'labelled', this recipe has 'equations'"),
        ({"num_rows": 10}, "num_rows is None, this recipe has 10"),
        ({"decontaminate": [{"path": "rows.jsonl", "text_field": "code"}]}, "decontaminate is"),
    ],
)
@pytest.mark.parametrize("output", ["expected", "begun"])
def test_folder_of_another_recipe_is_refused_with_what_differs(folder, output, keys, words):
    if output == "begun":
        convert_here(folder, "begun", drill_minimum=40, shard="1/5")
    with pytest.raises(ValueError, match=words):
        convert_here(folder, output, **{"drill_minimum": 40, **keys})


def test_finished_folder_with_other_last_gates_is_refused(folder):
    with pytest.raises(ValueError, match="max_tokens is 256, this recipe has 99"):
        convert_here(folder, "expected", drill_minimum=40, max_tokens=99)


def test_what_only_the_end_needs_may_change_before_it(folder, expected):
    wanted = {"num_shards": 7, "max_tokens": 50, "drill_minimum": 3, "output_format": "parquet"}
    assert convert_here(folder, "changing", shard="1/2", **wanted) is None
    convert_here(folder, "changing", drill_minimum=40)
    assert content(folder / "changing") == expected


def test_drills_in_a_style_without_facts_are_refused_before_the_work(folder):
    with pytest.raises(ValueError, match="drill_minimum 1 is out of reach"):
        convert_here(folder, "early", style="program", drill_minimum=4)
    assert not list(folder.glob("early/unfinished/piece-*"))


def test_changed_source_is_refused(folder):
    convert_here(folder, "changed", path="other.jsonl" if write_rows(folder, problems(9), "other.jsonl") else None)
    write_rows(folder, problems(10), "other.jsonl")
    with pytest.raises(ValueError, match=r"source\.files"):
        convert_here(folder, "changed", path="other.jsonl")


def test_damaged_result_is_refused(folder, tmp_path):
    write_rows(tmp_path, problems(20))
    convert_here(tmp_path)
    shard = tmp_path / "out" / "train-00001-of-00002.jsonl"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(ValueError, match="missing or truncated"):
        convert_here(tmp_path)


def test_leftover_shards_of_another_try_do_not_stay(tmp_path):
    write_rows(tmp_path, problems(20))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00000-of-00009.jsonl").write_text("{}\n")
    convert_here(tmp_path)
    assert len(list(tmp_path.glob("out/train-*"))) == 2


def test_dead_worker_ends_in_words_and_what_is_finished_is_kept(tmp_path):
    write_rows(tmp_path, problems(3000))
    others = set(multiprocessing.active_children())

    def kill_one():
        while not list(tmp_path.glob("out/unfinished/piece-*.json")):
            time.sleep(0.01)
        next(iter(set(multiprocessing.active_children()) - others)).kill()

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(ValueError, match=r"a worker died.*is kept, give the same command again.*fewer workers than 2"):
        convert_here(tmp_path, workers=2, rows_per_piece=20)
    assert set(multiprocessing.active_children()) <= others
    assert list(tmp_path.glob("out/unfinished/piece-*.json"))


def test_fault_of_the_input_comes_through_from_a_worker(tmp_path):
    write_rows(tmp_path, [*problems(50), ["no", "row"], *problems(50)])
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 50 lacks 'question'.*it has list"):
        convert_here(tmp_path, workers=2)


def test_program_stopped_by_sigterm_goes_on_and_ends_the_same(tmp_path):
    write_rows(tmp_path, problems(2500))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("path: rows.jsonl\nnum_shards: 2\nrows_per_piece: 20\n")
    command = [sys.executable, PROJECT / "training" / "convert_tinygsm.py", recipe, "--workers", "2"]
    process = subprocess.Popen(
        [*map(str, command), "--source_root", str(tmp_path), "--output_dir", str(tmp_path / "out")],
        cwd=PROJECT,
        env=program_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not list(tmp_path.glob("out/unfinished/piece-*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    workers = [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75, output
    assert "what is finished is kept, give the same command again" in output
    assert "Traceback" not in output
    assert len(workers) == 2 and not psutil.wait_procs(workers, timeout=10)[1]
    assert 0 < len(list(tmp_path.glob("out/unfinished/piece-*.json"))) < 125

    said = []
    convert_here(tmp_path, "out", said.append, rows_per_piece=20)
    assert any("continuing with" in line for line in said)
    convert_here(tmp_path, "expected")
    assert content(tmp_path / "out") == content(tmp_path / "expected")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["recipe"]["path"] == "rows.jsonl"


def test_control_c_ends_in_words(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(convert_tinygsm, "convert", interrupted)
    assert convert_tinygsm.main(arguments(tmp_path)) == 130
    assert "what is finished is kept, give the same command again" in capsys.readouterr().err


def test_program_prints_the_gates_and_writes_the_report(folder, capsys):
    args = arguments(folder, "expected", drill_minimum=40, report=True)
    assert convert_tinygsm.main(args) == 0
    printed = capsys.readouterr().out
    assert "duplicate" in printed and "2.50%" in printed  # 10 of 400 rows have no question
    assert (folder / "expected" / "report.html").is_file()
    (folder / "expected" / "report.html").unlink()
    (folder / "expected" / "report.md").unlink()


def test_manifest_counts_every_drawn_row_once(folder):
    manifest = json.loads((folder / "expected" / "manifest.json").read_text())
    assert manifest["rows_in_source"] == manifest["rows_drawn"] == 400
    assert sum(refused(manifest).values()) + manifest["rows"]["tinygsm"] == 400
    assert refused(manifest)["fields"] == 10
    rows = written(folder / "expected")
    assert len(rows) == sum(manifest["rows"].values()) == sum(file["rows"] for file in manifest["files"].values())
    assert [row["source"] for row in rows] == sorted((row["source"] for row in rows), reverse=True)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"path": None}, "exactly one of path, hub and synthetic.*none"),
        ({"hub": "TinyGSM/TinyGSM"}, r"exactly one of path, hub and synthetic, but has \['path', 'hub'\]"),
        ({"path": None, "synthetic": "drills", "documents": 5}, "synthetic is 'drills'"),
        ({"path": None, "synthetic": "word_problem_programs"}, "documents is 0"),
        ({"documents": 3}, "documents is 3"),
        ({"code_field": "question"}, "are both 'question'"),
        ({"num_rows": 0}, "num_rows is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"num_shards": 0}, "num_shards is 0"),
        ({"rows_per_piece": 0}, "rows_per_piece is 0"),
        ({"drill_minimum": -1}, "drill_minimum is -1"),
        ({"sample_seed": -1}, "sample_seed is -1"),
        ({"output_format": "csv"}, "output_format is 'csv'; choose jsonl or parquet"),
        ({"style": "poem"}, "style is 'poem'"),
        ({"shard": "0/2"}, "shard is '0/2'"),
        ({"shard": "3/2"}, "shard is '3/2'"),
        ({"shard": "second"}, "shard is 'second'"),
        ({"decontaminate": [{"synthetic": "word_problems"}]}, "needs `documents`"),
        ({"decontaminate": [{"file": "x"}]}, "unknown keys"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, keys, words):
    with pytest.raises(ValueError, match=words):
        arguments(tmp_path, **keys)


def test_command_line_beats_the_recipe(tmp_path):
    recipe = PROJECT / "recipes" / "tinygsm.yaml"
    (args,) = parse_recipe(
        [ConversionArguments], [str(recipe), "--num_rows", "7", "--shard", "2/3", "--report", "--style", "equations"]
    )
    assert (args.num_rows, args.machine, args.report, args.settings.style) == (7, (1, 3), True, "equations")
