"""Corpus preparation through datatrove, here and as jobs of a cluster."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import pytest
import yaml

pytest.importorskip("datatrove")

from tests.conftest import CORPUS, PROJECT
from tests.training.fake_slurm import FakeSlurm
from training.core.files import alone_in
from training.data.cluster import PreparePieces, launch, pieces_ahead
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.plan import Plan
from training.data.records import read_record

CONDITIONS = ["baseline", "mul_tokens"]
HERE = PreparationArguments(executor="datatrove", workers=2)
SLURM = PreparationArguments(executor="slurm", slurm_partition="cpu", workers=2)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    installed = FakeSlurm.install(tmp_path)
    monkeypatch.setenv("PATH", installed.path)
    return installed


@pytest.fixture(scope="module")
def recipe_keys(tmp_path_factory) -> dict:
    """Text files and a generator: four pieces."""
    root = tmp_path_factory.mktemp("texts")
    for name in ("first", "second"):
        rows = [{"text": f"{name} text {number}: 6 * {number % 10} is {6 * (number % 10)}"} for number in range(200)]
        (root / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sources = [{"path": "."}, {"synthetic": "drills", "documents": 200}]
    return {**CORPUS, "sources": sources, "source_root": str(root)}


@pytest.fixture(scope="module")
def expected(recipe_keys, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    prepare_corpus(CorpusArguments(**recipe_keys, output_dir=str(folder)), report=lambda line: None)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    files = [file for condition in CONDITIONS for file in (folder / condition).iterdir()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in [*files, *folder.glob("held_out-*")]}


def finish(args: CorpusArguments) -> None:
    prepare_corpus(args, report=lambda line: None)


def prepare_task(plan: Plan, rank: int, tasks: int) -> None:
    deque(PreparePieces(str(plan.output_dir), CONDITIONS, "tiktoken").run(None, rank, tasks))


def finished_pieces(plan: Plan) -> list[str]:
    return [piece.name for piece in pieces_ahead(plan) if read_record(plan.folder, piece, CONDITIONS) is not None]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("DATATROVE_")}


def test_local_pipeline_prepares_every_piece_and_the_same_corpus(recipe_keys, expected, tmp_path):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path))
    assert launch(args, HERE)
    assert finished_pieces(Plan.load(tmp_path)) == ["00-00000", "00-00001", "01-00000", "01-00001"]
    finish(args)
    assert content(tmp_path) == content(expected)


def test_only_missing_pieces_are_made_again(recipe_keys, expected, tmp_path):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path))
    plan = Plan.make(args)
    for rank in range(4):
        prepare_task(plan, rank, 4)
    markers = tmp_path / "datatrove" / "pieces" / "completions"
    markers.mkdir(parents=True)
    (markers / "00001").touch()  # of an earlier life of this folder
    (plan.folder / "00-00001.json").unlink()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "baseline").iterdir()}
    assert launch(args, PreparationArguments(executor="datatrove", workers=1))
    after = {path.name: path.stat().st_ino for path in (tmp_path / "baseline").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {
        f"{split}-00-00001.{kind}.npy" for split in ("train", "validation") for kind in ("tokens", "documents")
    }
    finish(args)
    assert content(tmp_path) == content(expected)


def test_finished_corpus_is_left_alone(corpus_dir, slurm):
    args = CorpusArguments(**CORPUS, output_dir=str(corpus_dir))
    before = content(corpus_dir)
    assert launch(args, HERE)
    assert launch(args, SLURM)
    assert content(corpus_dir) == before
    assert not (corpus_dir / "datatrove").exists()
    assert slurm.jobs == []


def test_tasks_of_any_number_share_the_pieces_without_overlap(recipe_keys, tmp_path):
    plan = Plan.make(CorpusArguments(**recipe_keys, output_dir=str(tmp_path)))
    prepare_task(plan, 1, 3)
    assert finished_pieces(plan) == ["00-00001"]
    prepare_task(plan, 0, 3)
    assert finished_pieces(plan) == ["00-00000", "00-00001", "01-00001"]


def test_task_leaves_its_finished_pieces_alone(recipe_keys, tmp_path):
    plan = Plan.make(CorpusArguments(**recipe_keys, output_dir=str(tmp_path)))
    prepare_task(plan, 1, 4)
    shard = tmp_path / "baseline" / "train-00-00001.tokens.npy"
    before = shard.stat().st_ino
    prepare_task(plan, 0, 1)
    assert len(finished_pieces(plan)) == 4
    assert shard.stat().st_ino == before


def test_block_passes_on_what_it_is_given(recipe_keys, tmp_path):
    plan = Plan.make(CorpusArguments(**recipe_keys, output_dir=str(tmp_path)))
    assert list(PreparePieces(str(tmp_path), CONDITIONS, "tiktoken").run(iter("ab"), 0, 4)) == ["a", "b"]
    assert finished_pieces(plan) == ["00-00000"]


def test_statistics_count_what_the_task_made(recipe_keys, tmp_path):
    plan = Plan.make(CorpusArguments(**recipe_keys, output_dir=str(tmp_path)))
    block = PreparePieces(str(tmp_path), CONDITIONS, "tiktoken")
    deque(block.run(None, 0, 2))
    trains = [
        json.loads((plan.folder / f"{name}.json").read_text())["splits"]["train"] for name in finished_pieces(plan)
    ]
    assert len(trains) == 2
    assert block.stats["documents"].total == 300  # of the first file and the first part of the drills
    for key in ("bytes", "plain_tokens"):
        assert block.stats[f"train_{key}"].total == sum(train[key] for train in trains)


def test_error_of_a_task_is_one_line_for_the_user(recipe_keys, tmp_path):
    (tmp_path / "broken.jsonl").write_text('{"text": "whole"}\n{"text": ', encoding="utf-8")
    sources = [{"path": "broken.jsonl"}, {"synthetic": "drills", "documents": 10}]
    keys = {**recipe_keys, "sources": sources, "source_root": str(tmp_path)}
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 2") as caught:
        launch(CorpusArguments(**keys, output_dir=str(tmp_path / "out")), HERE)
    assert caught.traceback[-1].path.is_relative_to(PROJECT)  # what programs take for an error of input


def test_pipeline_leaves_this_process_as_it_was(recipe_keys, tmp_path):
    before, program = environment(), dict(vars(sys.modules["__main__"]))
    launch(
        CorpusArguments(**recipe_keys, output_dir=str(tmp_path)), PreparationArguments(executor="datatrove", workers=1)
    )
    assert environment() == before
    assert vars(sys.modules["__main__"]) == program


def test_slurm_jobs_of_the_program_prepare_the_same_corpus(recipe_keys, expected, slurm, tmp_path):
    recipe, output = tmp_path / "corpus.yaml", tmp_path / "out"
    recipe.write_text(yaml.safe_dump({**recipe_keys, "output_dir": str(output)}), encoding="utf-8")
    options = "--executor slurm --slurm_partition cpu --slurm_time 00:10:00 --slurm_memory_gb 3 --workers 2".split()
    done = subprocess.run(
        [sys.executable, "training/prepare_data.py", recipe, *options],
        cwd=PROJECT,
        env={**os.environ, "PATH": slurm.path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not list(output.glob("*/manifest.json"))
    (pieces,), (finishing,) = slurm.named("-pieces"), slurm.named("-finish")
    wanted = {"partition": "cpu", "time": "00:10:00", "mem-per-cpu": "3G"}
    assert wanted.items() <= pieces.options.items() and wanted.items() <= finishing.options.items()
    assert (pieces.options["array"], pieces.options["cpus-per-task"]) == ("0-3%2", "1")
    assert (finishing.options["array"], finishing.options["cpus-per-task"]) == ("0-0", "2")
    assert "srun --cpus-per-task=2" in finishing.script.read_text()
    assert "requeue" in pieces.options and "mail-type" not in pieces.options and "qos" not in pieces.options
    assert f"job {pieces.number} (pieces), job {finishing.number} (finish)" in done.stdout
    slurm.run()
    logs = {log.name: log.read_text() for log in (output / "datatrove").glob("*/slurm_logs/*")}
    assert set(slurm.ended.values()) == {True}, logs
    assert content(output) == content(expected)
    statistics = json.loads((output / "datatrove" / "pieces" / "stats.json").read_text())
    assert statistics[0]["stats"]["documents"]["total"] == 600


def test_failed_task_is_the_only_one_that_is_submitted_again(recipe_keys, slurm, tmp_path):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out"))
    assert not launch(args, SLURM)
    plan = Plan.load(tmp_path / "out")
    for rank in (0, 1, 3):
        prepare_task(plan, rank, 4)
    slurm.run(lost=(0, 1, 2, 3))  # number 2 before its work was done
    assert set(slurm.ended.values()) == {False}
    assert not launch(args, SLURM)
    again = slurm.named("-pieces")[-1]
    assert again.number not in slurm.ended
    assert again.options["array"] == "0-0%2"
    assert json.loads((tmp_path / "out" / "datatrove" / "pieces" / "ranks_to_run.json").read_text()) == [2]


def test_finish_alone_is_submitted_when_all_pieces_are_there(recipe_keys, slurm, tmp_path):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out"))
    plan = Plan.make(args)
    for rank in range(4):
        prepare_task(plan, rank, 4)
    done = tmp_path / "out" / "datatrove" / "finish" / "completions"
    done.mkdir(parents=True)
    (done / "00000").touch()  # of a corpus that was deleted
    assert not launch(args, SLURM)
    assert slurm.named("-pieces") == []
    (finishing,) = slurm.named("-finish")
    assert "dependency" not in finishing.options


def test_nothing_is_submitted_while_jobs_are_on_the_cluster(recipe_keys, slurm, tmp_path, capsys):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out"))
    launch(args, SLURM)
    submitted = len(slurm.jobs)
    number = slurm.named("-finish")[0].number
    (tmp_path / "queued").write_text(f"777777\n{number}\n")
    assert not launch(args, SLURM)
    assert len(slurm.jobs) == submitted
    assert f"still on the cluster: job {number} (finish)" in capsys.readouterr().out
    (tmp_path / "queued").write_text("777777\n")
    assert not launch(args, SLURM)
    assert len(slurm.jobs) == 2 * submitted


def test_question_after_running_jobs_does_not_wait_for_their_lock(recipe_keys, slurm, tmp_path):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out"))
    launch(args, SLURM)
    (tmp_path / "queued").write_text(slurm.named("-finish")[0].number)
    with alone_in(tmp_path / "out"):
        asking = threading.Thread(target=launch, args=(args, SLURM), daemon=True)
        asking.start()
        asking.join(20)
        assert not asking.is_alive()


def test_two_submissions_at_one_moment_give_one(recipe_keys, slurm, tmp_path):
    args = CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out"))
    launch(args, SLURM)
    submitted = len(slurm.jobs)
    with alone_in(tmp_path / "out"):  # as the first of the two does, whose jobs are not in the queue yet
        second = threading.Thread(target=launch, args=(args, SLURM))
        second.start()
        second.join(0.5)
        (tmp_path / "queued").write_text(slurm.named("-finish")[0].number)
    second.join()
    assert len(slurm.jobs) == submitted


def test_refused_job_is_a_clear_error(recipe_keys, slurm, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\nexit 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"slurm_partition \('cpu'\)"):
        launch(CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out")), SLURM)


def test_folder_that_job_scripts_would_tear_apart_is_refused(recipe_keys, slurm, tmp_path):
    with pytest.raises(ValueError, match="has ' ' in it"):
        launch(CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "my corpus")), SLURM)
    assert slurm.jobs == []


def test_machine_without_slurm_is_a_clear_error(recipe_keys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs sbatch"):
        launch(CorpusArguments(**recipe_keys, output_dir=str(tmp_path / "out")), SLURM)


def test_missing_datatrove_is_a_clear_error(tmp_path):
    package = tmp_path / "datatrove"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'datatrove'\")", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import training.data.cluster"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ValueError: the executors datatrove and slurm need datatrove" in done.stderr
    assert "pip install 'mul-fact-tokens[cluster]'" in done.stderr
