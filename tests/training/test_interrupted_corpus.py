"""Preparations that are stopped, repeated, or find another corpus in their folder."""

import multiprocessing

import pytest

from tests.training.small_corpora import content, prepare, text_source
from tokenization import MulFactTokenizer
from training.core.files import write_json
from training.data import corpus as corpus_module
from training.data import manifest as manifest_module
from training.data.shards import Corpus, ShardWriter


def test_second_run_does_nothing(corpus_dir):
    before = {path: path.stat().st_mtime_ns for path in corpus_dir.rglob("*.np*")}
    _, lines = prepare(corpus_dir)
    assert lines == [f"{corpus_dir} is complete; nothing to do"]
    assert before == {path: path.stat().st_mtime_ns for path in corpus_dir.rglob("*.np*")}


@pytest.mark.parametrize("closed_shards", [0, 3, 9])
def test_interrupted_preparation_goes_on_and_gives_the_same_bytes(corpus_dir, tmp_path, monkeypatch, closed_shards):
    close, closed = ShardWriter.close, []

    def dies_in_the_middle(writer):
        if len(closed) == closed_shards:
            raise KeyboardInterrupt
        closed.append(writer)
        return close(writer)

    monkeypatch.setattr(ShardWriter, "close", dies_in_the_middle)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    with pytest.raises(FileNotFoundError, match="interrupted"):
        Corpus(tmp_path / "baseline", MulFactTokenizer.build("baseline"))
    monkeypatch.undo()
    _, lines = prepare(tmp_path)
    finished = closed_shards // 4  # two arms, two splits
    assert [line for line in lines if "continuing" in line] == (
        [f"{tmp_path}: continuing with {finished} pieces that are finished"] if finished else []
    )
    assert content(tmp_path) == content(corpus_dir)


def begin_and_stop(folder, monkeypatch, **changes):
    def dies(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(corpus_module, "write_manifests", dies)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, **changes)


def test_interrupted_preparation_of_another_recipe_is_not_overwritten(tmp_path, monkeypatch):
    begin_and_stop(tmp_path, monkeypatch)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="interrupted preparation with other sources or settings"):
        prepare(tmp_path, split_seed=1)
    assert content(tmp_path) == before


def test_pieces_are_kept_when_only_the_target_changes(tmp_path, monkeypatch):
    begin_and_stop(tmp_path / "a", monkeypatch, target_tokens=5_000)
    _, lines = prepare(tmp_path / "a", target_tokens=9_000)
    assert any("continuing" in line for line in lines)
    prepare(tmp_path / "b", target_tokens=9_000)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_gap_that_an_interruption_left_is_filled(tmp_path, monkeypatch):
    target = {"target_tokens": 14_000}
    prepare(tmp_path / "reference", **target)
    begin_and_stop(tmp_path / "c", monkeypatch, **target)
    records = sorted((tmp_path / "c" / "unfinished").glob("00-*.json"))
    assert len(records) == 3
    records[1].unlink()
    prepare(tmp_path / "c", **target)
    assert content(tmp_path / "c") == content(tmp_path / "reference")


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_record_whose_shard_is_damaged_does_not_count(corpus_dir, tmp_path, monkeypatch, damage):
    begin_and_stop(tmp_path, monkeypatch)
    shard = tmp_path / "mul_tokens" / "train-00-00001.tokens.npy"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-2])
    else:
        shard.unlink()
    _, lines = prepare(tmp_path)
    assert any("continuing with 6 pieces" in line for line in lines)
    assert content(tmp_path) == content(corpus_dir)


def test_corpus_beside_it_of_another_recipe_is_not_touched(tmp_path):
    prepare(tmp_path, conditions=["baseline"])
    before = content(tmp_path)
    with pytest.raises(ValueError, match="holds another corpus: its split_seed is 0, this recipe has 1"):
        prepare(tmp_path, conditions=["mul_tokens"], split_seed=1)
    assert content(tmp_path) == before


def test_finished_corpus_does_not_need_its_sources(tmp_path):
    source = text_source(tmp_path, "a.jsonl", [f"{index} apples" for index in range(200)])
    settings = {"sources": [source], "source_root": str(tmp_path)}
    prepare(tmp_path / "c", **settings)
    (tmp_path / "a.jsonl").unlink()
    assert prepare(tmp_path / "c", **settings)[1] == [f"{tmp_path / 'c'} is complete; nothing to do"]
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        prepare(tmp_path / "d", **settings)


def test_arm_that_was_given_up_leaves_nothing_behind(tmp_path, monkeypatch):
    begin_and_stop(tmp_path, monkeypatch)
    prepare(tmp_path, conditions=["baseline"])
    assert not list((tmp_path / "mul_tokens").iterdir())


def test_manifest_of_one_arm_alone_does_not_stop_the_other(corpus_dir, tmp_path, monkeypatch):
    def dies_at_the_second(path, value):
        write_json(path, value)
        if path.name == "manifest.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(manifest_module, "write_json", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "mul_tokens" / "manifest.json").exists()
    prepare(tmp_path)
    assert content(tmp_path) == content(corpus_dir)


def test_second_arm_can_be_added_later_and_is_the_same(corpus_dir, tmp_path):
    prepare(tmp_path, conditions=["baseline"])
    prepare(tmp_path, conditions=["baseline", "mul_tokens"])
    assert content(tmp_path) == content(corpus_dir)


def _prepare_quietly(folder):
    prepare(folder)


def test_two_processes_that_want_one_corpus_take_turns(corpus_dir, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_prepare_quietly, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert content(tmp_path) == content(corpus_dir)
