import json
import os
import shutil

import pytest

from training.core.checkpoint import (
    check_process_count,
    link_best,
    list_checkpoints,
    newest_checkpoint,
    publish,
    remove_old_checkpoints,
    seal,
    verify_checkpoint,
)


def make(run, step, **facts):
    staged = run / ".saving" / f"checkpoint-{step}"
    (staged / "state").mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"weights" * step)
    (staged / "state" / "rank0").write_bytes(b"state")
    seal(staged, {"step": step, "num_processes": 1, "engine": "NO", **facts})
    return publish(staged, run)


def test_checkpoints_are_listed_by_step_and_nothing_else_is(tmp_path):
    for step in (10, 9, 100):
        make(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "damaged-checkpoint-200").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_whole_checkpoint_verifies_and_the_newest_is_found(tmp_path):
    make(tmp_path, 1)
    newest = make(tmp_path, 2)
    assert verify_checkpoint(newest)["step"] == 2
    assert newest_checkpoint(tmp_path, warn=pytest.fail) == newest


def damage_size(folder):
    (folder / "model.safetensors").write_bytes(b"weight")


def damage_bit(folder):
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[0] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def damage_missing(folder):
    (folder / "state" / "rank0").unlink()


def damage_seal(folder):
    (folder / "checkpoint.json").write_text("{", encoding="utf-8")


def damage_empty_seal(folder):
    (folder / "checkpoint.json").write_text("[]", encoding="utf-8")


def damage_no_seal(folder):
    (folder / "checkpoint.json").unlink()


@pytest.mark.parametrize(
    "damage", [damage_size, damage_bit, damage_missing, damage_seal, damage_empty_seal, damage_no_seal]
)
def test_damaged_checkpoint_is_set_aside_and_said_so(tmp_path, damage):
    good, bad = make(tmp_path, 1), make(tmp_path, 2)
    damage(bad)
    warnings = []
    assert newest_checkpoint(tmp_path, warnings.append) == good
    assert len(warnings) == 1
    assert "checkpoint-2 is damaged" in warnings[0]
    assert (tmp_path / "damaged-checkpoint-2").is_dir()
    assert list_checkpoints(tmp_path) == [good]


def test_staged_checkpoint_is_never_picked_up(tmp_path):
    good = make(tmp_path, 1)
    (tmp_path / ".saving" / "checkpoint-2").mkdir(parents=True)
    assert newest_checkpoint(tmp_path, warn=pytest.fail) == good


def test_saving_a_step_again_replaces_it(tmp_path):
    make(tmp_path, 1)
    again = make(tmp_path, 1, note="again")
    assert json.loads((again / "checkpoint.json").read_text())["note"] == "again"


@pytest.mark.parametrize(("keep", "left"), [(None, 4), (2, 2), (1, 1), (9, 4)])
def test_the_newest_checkpoints_are_kept(tmp_path, keep, left):
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    remove_old_checkpoints(tmp_path, keep)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in range(5 - left, 5)]


@pytest.mark.parametrize(("keep", "left"), [(2, [1, 3, 4]), (1, [1, 4]), (4, [1, 2, 3, 4])])
def test_best_checkpoint_is_kept_besides_the_newest(tmp_path, keep, left):
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    link_best(tmp_path, tmp_path / "checkpoint-1")
    remove_old_checkpoints(tmp_path, keep)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]


def test_checkpoint_that_is_no_longer_the_best_is_removed(tmp_path):
    for step in (1, 2, 3):
        link_best(tmp_path, make(tmp_path, step))
        remove_old_checkpoints(tmp_path, 1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-3"]


def test_link_to_the_best_checkpoint_moves_with_the_run(tmp_path):
    run = tmp_path / "run"
    for step in (1, 2):
        make(run, step)
        link_best(run, run / f"checkpoint-{step}")
    shutil.move(run, tmp_path / "moved")
    best = tmp_path / "moved" / "best"
    assert os.readlink(best) == "checkpoint-2"
    assert verify_checkpoint(best)["step"] == 2
    assert sorted(path.name for path in (tmp_path / "moved").iterdir() if "check" not in path.name) == [
        ".saving",
        "best",
    ]


@pytest.mark.parametrize("engine", ["DEEPSPEED-ZERO2", "FSDP"])
def test_sharded_state_refuses_another_process_count_with_both_numbers(tmp_path, engine):
    saved = make(tmp_path, 1, engine=engine, num_processes=4)
    check_process_count(saved, 4, engine)
    with pytest.raises(ValueError, match="saved by 4 processes .* this run has 2"):
        check_process_count(saved, 2, engine)
    with pytest.raises(ValueError, match=f"under {engine}, and this run has 4 under NO"):
        check_process_count(saved, 4, "NO")


def test_unsharded_state_may_continue_at_any_process_count(tmp_path):
    saved = make(tmp_path, 1, engine="MULTI_GPU", num_processes=4)
    check_process_count(saved, 1, "NO")
