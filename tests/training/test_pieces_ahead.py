"""Which pieces are prepared at once, before it is known how many of them the target takes."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("datatrove")

from training.data.cluster import pieces_ahead
from training.data.corpus_recipe import CorpusArguments
from training.data.plan import Plan


def text_files(folder: Path, sizes: list[int]) -> None:
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        (folder / f"{number}.txt").write_text("a" * size, encoding="utf-8")


def names_ahead(tmp_path: Path, sources: list[dict], **keys) -> list[str]:
    output = tmp_path / "out"
    shutil.rmtree(output, ignore_errors=True)
    args = CorpusArguments(sources=sources, source_root=str(tmp_path), output_dir=str(output), **keys)
    return [piece.name for piece in pieces_ahead(Plan.make(args))]


def test_sources_are_filled_in_order_up_to_six_bytes_per_token(tmp_path):
    text_files(tmp_path / "first", [300, 300])
    text_files(tmp_path / "second", [300, 300, 300])
    sources = [{"path": "first"}, {"path": "second"}]
    whole = ["00-00000", "00-00001", "01-00000", "01-00001", "01-00002"]
    assert names_ahead(tmp_path, sources) == whole
    # Half of all documents are held out, so a training token takes twelve bytes of text.
    assert names_ahead(tmp_path, sources, target_tokens=75, validation_fraction=0.5) == whole[:3]
    assert names_ahead(tmp_path, sources, target_tokens=76, validation_fraction=0.5) == whole[:4]
    assert names_ahead(tmp_path, [{"path": "first", "epochs": 3}, sources[1]], target_tokens=200) == whole[:2]


def test_weighted_sources_take_their_share(tmp_path):
    text_files(tmp_path / "first", [300] * 5)
    text_files(tmp_path / "second", [300] * 5)
    sources = [{"path": "first", "weight": 1}, {"path": "second", "weight": 3}]
    ahead = names_ahead(tmp_path, sources, target_tokens=100, validation_fraction=0.5)
    assert ahead == ["00-00000", "01-00000", "01-00001", "01-00002"]


def test_fillers_of_a_dose_are_left_to_the_finish(tmp_path):
    text_files(tmp_path / "text", [300])
    sources = [{"synthetic": "drills"}, {"path": "text"}]
    assert names_ahead(tmp_path, sources, dose=1e-2) == ["01-00000"]
