import json

import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from training.analysis.run_curves import plot_run_curves


@pytest.fixture
def runs(tmp_path):
    folders = {"baseline": [tmp_path / "b0", tmp_path / "b1"], "mul_tokens": [tmp_path / "m0"]}
    for number, folder in enumerate(folder for group in folders.values() for folder in group):
        folder.mkdir()
        rows = [{"step": step, "reward": number + step / 10} for step in range(0, 50, 10)]
        rows += [{"step": 40, "eval_accuracy": 0.5}, {"step": 50, "kl": None}]
        text = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "rew'
        (folder / "metrics.jsonl").write_text(text)
    return folders


def test_thick_line_is_the_mean_over_the_runs_of_a_group(runs, tmp_path, monkeypatch):
    drawn = {}
    plot = Axes.plot

    def look(self, xs, ys, **style):
        if "label" in style:
            drawn[style["label"]] = (list(xs), list(ys))
        return plot(self, xs, ys, **style)

    monkeypatch.setattr(Axes, "plot", look)
    plot_run_curves(runs, {"reward": "reward"}, "title", tmp_path / "curves.png")
    assert drawn["baseline, n = 2"] == ([0, 10, 20, 30, 40], [0.5, 1.5, 2.5, 3.5, 4.5])
    assert drawn["mul_tokens, n = 1"] == ([0, 10, 20, 30, 40], [2, 3, 4, 5, 6])


def test_figure_shows_something_and_is_the_same_for_the_same_numbers(runs, tmp_path):
    metrics = {"reward": "reward", "eval_accuracy": "held-out accuracy"}
    for name in ("first.png", "second.png"):
        plot_run_curves(runs, metrics, "two panels", tmp_path / name)
    assert imread(tmp_path / "first.png").std() > 0.02, "it is not blank"
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


@pytest.mark.parametrize("key", ["perplexity", "kl"])
def test_metric_that_no_run_has_logged_is_an_error(runs, tmp_path, key):
    with pytest.raises(ValueError, match=f"no run has logged '{key}'"):
        plot_run_curves(runs, {key: key}, "title", tmp_path / "curves.png")
