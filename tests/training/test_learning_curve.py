import json

import pytest
from matplotlib.image import imread

from training.analysis.learning_curve import headline_of, write_curve


def result(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100, "floor": 0.25}


@pytest.fixture
def folder(tmp_path):
    for step in (200, 100, 1000):
        checkpoint = tmp_path / "evals" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        results = {"hellaswag": {"acc": result(step / 2000), "n": 100}, "text": {"bits": step / 1000}, "other": {}}
        (checkpoint / "results.json").write_text(json.dumps({"results": results}))
    (tmp_path / "evals" / "checkpoint-300").mkdir()  # begun and not finished
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {"total_batch_tokens": 512}}))
    return tmp_path / "evals"


HEADLINES = {"hellaswag": ("acc", "missing"), "text": ("bits",), "later": ("acc",)}


def test_curve_holds_the_finished_checkpoints_in_order_with_their_tokens(folder):
    write_curve(folder, folder.parent, HEADLINES)
    points = json.loads((folder / "curve.json").read_text())["points"]
    assert [(point["step"], point["tokens"]) for point in points] == [(100, 51200), (200, 102400), (1000, 512000)]
    assert points[0]["results"] == {"hellaswag": {"acc": result(0.05)}, "text": {"bits": {"value": 0.1}}}


def test_figure_shows_something_and_is_the_same_for_the_same_numbers(folder):
    path = write_curve(folder, folder.parent, HEADLINES)
    first = path.read_bytes()
    image = imread(path)
    assert image.std() > 0.02, "it is not blank"
    assert write_curve(folder, folder.parent, HEADLINES).read_bytes() == first


def test_curve_without_results_says_so(tmp_path):
    with pytest.raises(ValueError, match="no results to draw"):
        write_curve(tmp_path, tmp_path, HEADLINES)


def test_headline_follows_dotted_paths():
    results = {"sets": {"facts": {"exact": result(0.5)}}, "loss": 2.0, "none": None}
    assert headline_of(("sets.facts.exact", "loss", "none", "sets.absent.exact", "loss.deeper"), results) == {
        "sets.facts.exact": result(0.5),
        "loss": {"value": 2.0},
    }
