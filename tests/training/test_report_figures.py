import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tests.training.small_experiment import DECLARED, PRIMARY, SECONDARY, write_experiment
from training.analysis import report_training
from training.analysis.comparison_figures import plot_arms, plot_curves, plot_differences
from training.analysis.drawing import COLOURS, FLOOR, styles
from training.analysis.endpoint_items import EndpointItems
from training.analysis.experiment_results import read_experiment
from training.analysis.fact_figures import plot_fact_tables
from training.analysis.report_words import Scale
from training.analysis.verdict import measure_endpoints

CURVE = {100: 27.5, 200: 30.0, 300: 32.5, 400: 35.0}


@pytest.fixture
def drawn(monkeypatch):
    """The figure as it is when it is saved."""
    kept = SimpleNamespace()
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: setattr(kept, "figure", self))
    return kept


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    experiment = read_experiment(write_experiment(tmp_path_factory.mktemp("study"), weights=False))
    found = measure_endpoints(experiment, EndpointItems(experiment), replications=50)
    return [test for test in found if test.endpoint.role != "exploratory"]


def floors_of(axis):
    return [line for line in axis.lines if line.get_color() == FLOOR]


def test_every_seed_of_every_comparison_is_a_dot(tests, drawn):
    plot_differences(tests, 0.05, "nowhere.png")
    axis = drawn.figure.axes[0]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    expected = [[100 * one for one in test.result.seed_differences] for test in tests if test.role != "secondary"]
    assert [list(line.get_xdata()) for line in dots] == [expected[0], expected[1], expected[4]]


def test_mean_is_filled_where_the_deciding_p_is_below_alpha(tests, drawn):
    plot_differences(tests, 0.05, "nowhere.png")
    for axis, endpoint in zip(drawn.figure.axes, (PRIMARY, *SECONDARY), strict=True):
        filled = [line.get_markerfacecolor() != "white" for line in axis.lines if line.get_marker() == "D"]
        assert filled == [test.is_found(0.05) for test in tests if test.endpoint.name == endpoint["name"]]
    assert filled == [False] * 3, "sums differ in no comparison"


def test_margin_of_equivalence_is_a_band_around_nothing(tests, drawn):
    plot_differences(tests, 0.05, "nowhere.png")
    (band,) = [patch for patch in drawn.figure.axes[0].patches if patch.get_alpha() == 0.35]
    assert (band.get_x(), band.get_x() + band.get_width()) == (-2, 2)


def test_floor_is_a_line_in_its_unit(drawn):
    plot_arms({"shares": ({"a": [0.1, 0.2], "b": []}, "%", 100, 0.05)}, "nowhere.png")
    axis = drawn.figure.axes[0]
    assert [line.get_xdata()[0] for line in floors_of(axis)] == [5]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b"], "an arm without values has its line"


def test_band_reaches_from_the_lowest_to_the_highest_seed(drawn):
    curves = {"a": [{10: 1.0, 20: 2.0}, {10: 3.0, 20: 6.0, 30: 1.0}], "b": []}
    plot_curves({"loss": (curves, "nats", None)}, ["a", "b"], "nowhere.png")
    axis = drawn.figure.axes[0]
    assert [list(axis.lines[0].get_xdata()), list(axis.lines[0].get_ydata())] == [[10, 20], [2, 4]]
    corners = {tuple(point) for point in axis.collections[0].get_paths()[0].vertices}
    assert {(10, 1), (10, 3), (20, 2), (20, 6)} <= corners


def test_cells_hold_per_cent_and_signed_points(drawn):
    table, change = np.full((9, 9), np.nan), np.zeros((9, 9))
    table[8, 5], change[0, 1] = 0.25, -0.5
    plot_fact_tables({"arm": table}, {"difference": change}, "nowhere.png")
    first, second = drawn.figure.axes[:2]
    assert {text.get_position(): text.get_text() for text in first.texts} == {(5, 8): "25"}
    assert {text.get_position(): text.get_text() for text in second.texts}[1, 0] == "−50"


def test_evaluations_of_one_task_make_one_curve_of_a_run(tmp_path):
    evals = [{"name": name, "recipe": "x.yaml", "stages": ["pretrain"]} for name in ("full", "curve")]
    evals += [{"name": "probes", "recipe": "x.yaml", "stages": ["sft_math"]}, {**evals[0], "name": "text"}]
    folder = write_experiment(tmp_path, effects={"baseline": 0, "mul_tokens": 1}, seeds=2, weights=False, evals=evals)
    for run in folder.glob("*/pretrain"):
        for name, step in (("full", 400), *(("curve", step) for step in (100, 200, 300, 400))):
            results = run / f"evals/{name}/checkpoint-{step}/results.json"
            results.parent.mkdir(parents=True)
            results.write_text(json.dumps({"results": {"hellaswag": {"acc_norm": {"value": 0.25 + step / 4000}}}}))
    panels = report_training._hellaswag(read_experiment(folder), "pretrain")
    (curves,) = panels.values()
    assert list(curves) == ["baseline", "mul_tokens"]
    assert all(curve == pytest.approx(CURVE) for each in curves.values() for curve in each)
    assert [len(each) for each in curves.values()] == [2, 2]


def panels_of(folder, monkeypatch, out):
    """Give the panels that the learning curves of an experiment draw, by stage."""
    found = []
    monkeypatch.setattr(report_training, "plot_curves", lambda panels, *_: found.append(panels))
    experiment = read_experiment(folder)
    report_training.curves_section(experiment, EndpointItems(experiment), out)
    return dict(zip(experiment.stages, found, strict=True))


def test_measure_that_was_never_a_number_gets_no_panel(tmp_path, monkeypatch):
    folder = write_experiment(tmp_path, effects={"baseline": 0, "mul_tokens": 1}, seeds=1, weights=False)
    for log in folder.glob("*/sft_math/metrics.jsonl"):
        with open(log, "a") as file:
            file.write(json.dumps({"step": 120, "eval_accuracy": None}) + "\n")
    assert "right answers on held-out prompts" not in panels_of(folder, monkeypatch, tmp_path)["sft_math"]


def test_loss_of_grpo_is_not_called_a_likelihood(tmp_path, monkeypatch):
    stages = [DECLARED["stages"][0], {**DECLARED["stages"][1], "program": "grpo"}]
    effects = {"baseline": 0, "mul_tokens": 1}
    folder = write_experiment(tmp_path, effects=effects, seeds=1, weights=False, stages=stages)
    panels = panels_of(folder, monkeypatch, tmp_path)
    units = {stage: {title: panel[1] for title, panel in panels[stage].items()} for stage in panels}
    assert units["pretrain"]["training loss (not comparable between arms)"] == "nats per token"
    assert units["sft_math"]["policy loss of GRPO (no measure of progress)"] == ""


def test_numbers_of_one_cell_have_the_same_number_of_places():
    nats = Scale("nats", False)
    assert nats.with_spread(12.34567, 0.12345).replace("\u00a0", " ") == "12.35 ± 0.12"
    assert nats.with_interval(-3.0, (-12.5, 6.5)).replace("\u00a0", " ") == "−3.00 (−12.50 to +6.50)"
    assert Scale("", True).with_interval(0.1, (-0.02, 0.2)).replace("\u00a0", " ") == "+10.0 (−2.0 to +20.0)"


def test_more_arms_than_colours_differ_in_the_kind_of_line():
    looks = styles([str(number) for number in range(10)])
    assert len({tuple(look.values()) for look in looks.values()}) == 10
    assert {to_hex(look["color"]) for look in looks.values()} == set(COLOURS)
