import os
import signal

import pytest

from tests.training.small_corpora import content, prepare
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments
from training.data.plan import Plan
from training.data.records import read_record
from training.data.worker_pool import WorkerPool

SOURCES = [{"synthetic": "drills", "documents": 200}, {"synthetic": "tables", "documents": 200}]


class Watcher:
    """Notes what a pool says, and does something to it at chosen moments."""

    def __init__(self, on_advance=lambda worker, advance: None):
        self.on_advance = on_advance
        self.finished, self.lost, self.notes = [], [], []

    def advance(self, worker, advance):
        self.on_advance(worker, advance)

    def finish(self, worker, piece, record):
        self.finished.append(piece.name)

    def lose(self, worker, piece):
        self.lost.append(piece.name)

    def note(self, text):
        self.notes.append(text)


def run_pool(args, watcher_of, workers=2):
    plan = Plan.make(args)
    pieces = (piece for source in range(len(plan.sources)) for piece in plan.pieces(source))
    with WorkerPool(plan, ["baseline", "mul_tokens"], "tiktoken", workers) as pool:
        watcher = watcher_of(pool)
        pool.run(lambda: next(pieces, None), watcher)
        return plan, watcher


def test_worker_that_dies_is_reported_and_its_piece_is_done_again(tmp_path):
    settings = {
        "sources": SOURCES,
        "piece_bytes": 100 * 8192,
        "validation_fraction": 0.1,
        "validation_synthetic": True,
    }
    killed = []

    def watcher_of(pool):
        def kill_once(worker, advance):
            if not killed:
                killed.append(advance.piece)
                os.kill(pool.process_ids()[worker], signal.SIGKILL)

        return Watcher(kill_once)

    args = CorpusArguments(**settings, output_dir=str(tmp_path / "a"))
    _, watcher = run_pool(args, watcher_of, workers=1)
    # Where the worker finished its piece before the signal came, it is the next one that is lost.
    assert sorted(watcher.finished) == ["00-00000", "00-00001", "01-00000", "01-00001"]
    assert all("died of SIGKILL" in note and "done again" in note for note in watcher.notes)
    assert len(watcher.notes) == len(watcher.lost) == 1
    prepare_corpus(args, report=lambda line: None)
    prepare(tmp_path / "b", **settings)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_piece_that_kills_every_worker_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    # A source file that is a named pipe stops its worker in the middle of the piece, where the test finds it.
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.txt").write_text("First, 6 * 9 apples.", encoding="utf-8")
    (tmp_path / "rows" / "b.txt").write_text("Second, 6 * 9 pears.", encoding="utf-8")
    args = CorpusArguments(
        sources=[{"path": "rows"}], source_root=str(tmp_path), output_dir=str(tmp_path / "c"), piece_bytes=10
    )
    plan = Plan.make(args)
    (tmp_path / "rows" / "b.txt").unlink()
    os.mkfifo(tmp_path / "rows" / "b.txt")
    pieces = plan.pieces(0)
    with WorkerPool(plan, ["baseline"], "tiktoken", 1) as pool:
        give = pool._give

        def give_and_kill(worker, piece):
            give(worker, piece)
            if piece.index == 1:
                os.kill(pool.process_ids()[worker], signal.SIGKILL)

        monkeypatch.setattr(pool, "_give", give_and_kill)
        watcher = Watcher()
        with pytest.raises(ValueError, match=r"3 workers died at piece 00-00001 \(.*b\.txt\), the last of SIGKILL"):
            pool.run(lambda: next(pieces, None), watcher)
    assert watcher.finished == ["00-00000"]
    assert len(watcher.notes) == 2
    assert read_record(plan.folder, plan.piece(0, 0), ["baseline"]) is not None


def test_bad_input_in_a_worker_reaches_the_user_as_one_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "6 * 9 apples"}\n{"text": 5}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: field 'text' holds int, not text"):
        prepare(tmp_path / "c", workers=2, sources=[{"path": "a.jsonl"}], source_root=str(tmp_path))


def test_workers_end_with_the_block(tmp_path):
    args = CorpusArguments(sources=SOURCES, output_dir=str(tmp_path / "a"), piece_bytes=100 * 8192)
    started = []

    def watcher_of(pool):
        def stop(worker, advance):
            started.extend(pool.process_ids())
            raise KeyboardInterrupt

        return Watcher(stop)

    with pytest.raises(KeyboardInterrupt):
        run_pool(args, watcher_of)
    for process in started:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_what_the_environment_prints_is_no_answer_of_a_worker(tmp_path, monkeypatch, capfd):
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text("print('hello from the environment')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "noise"))
    args = CorpusArguments(sources=SOURCES, output_dir=str(tmp_path / "a"))
    _, watcher = run_pool(args, lambda pool: Watcher())
    assert sorted(watcher.finished) == ["00-00000", "01-00000"]
    assert "hello from the environment" in capfd.readouterr().err
