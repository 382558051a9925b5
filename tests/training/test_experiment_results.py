import json
import math

import numpy as np
import pytest

from tests.training.small_experiment import (
    EXPLORATORY,
    PRIMARY,
    SECONDARY,
    WIGGLE,
    edit_json,
    rows_of,
    write_experiment,
    write_rows,
)
from training.analysis.endpoint_items import EndpointItems, floor_of, value_at
from training.analysis.experiment_results import Endpoint, read_experiment
from training.data.synthetic_probes import probe_set

TWO = {"baseline": 0, "mul_tokens": 12}


@pytest.fixture
def folder(tmp_path):
    return write_experiment(tmp_path, effects=TWO, seeds=2, weights=False)


def test_items_are_those_of_the_last_checkpoint(folder):
    experiment = read_experiment(folder)
    pair = EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")
    assert pair.seeds == [0, 1]
    assert pair.baseline.shape == (2, 100)
    assert pair.baseline.sum(1).tolist() == [40 + 3 * wiggle for wiggle in WIGGLE[:2]]


def test_items_are_paired_by_index_whatever_their_order_in_the_file(folder):
    file, rows = rows_of(folder, "mul_tokens-s1/sft_math", "probes")
    experiment = read_experiment(folder)
    before = EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")
    write_rows(file, rows[::-1])
    after = EndpointItems(read_experiment(folder)).pair(experiment.primary, "baseline", "mul_tokens")
    assert (before.treatment == after.treatment).all()


def test_item_that_asks_something_else_is_refused_with_both_values(folder):
    file, rows = rows_of(folder, "mul_tokens-s1/sft_math", "probes")
    changed = next(row for row in rows if row["set"] == "mul_multidigit")
    asked, changed["prompt"] = changed["prompt"], "What is 1 times 10?"
    write_rows(file, rows)
    experiment = read_experiment(folder)
    with pytest.raises(ValueError, match="not the same in two runs") as error:
        EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")
    assert all(part in str(error.value) for part in (asked, "What is 1 times 10?", str(file), "baseline-s0"))


def test_runs_with_unequal_numbers_of_items_are_refused(folder):
    file, rows = rows_of(folder, "baseline-s1/sft_math", "probes")
    write_rows(file, rows[:-120])
    experiment = read_experiment(folder)
    with pytest.raises(ValueError, match=r"100 items in .* and \d+ in .*baseline-s1"):
        EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")


def test_endpoint_that_selects_nothing_is_an_error(tmp_path):
    folder = write_experiment(tmp_path, effects=TWO, seeds=1, primary={**PRIMARY, "where": {"set": "division"}})
    experiment = read_experiment(folder)
    with pytest.raises(ValueError, match="no row has {'set': 'division'}"):
        EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")


def test_value_that_is_no_number_is_an_error(tmp_path):
    folder = write_experiment(tmp_path, effects=TWO, seeds=1, primary={**PRIMARY, "value": "prompt"})
    experiment = read_experiment(folder)
    with pytest.raises(ValueError, match="'prompt' is 'What is"):
        EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")


def test_seed_that_one_arm_lacks_is_left_out_of_both_and_named(folder):
    rows_of(folder, "mul_tokens-s0/sft_math", "probes")[0].unlink()
    experiment = read_experiment(folder)
    pair = EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")
    assert pair.seeds == [1]
    assert pair.missing == ["mul_tokens-s0"]


def test_item_without_a_value_in_one_run_counts_in_none(tmp_path):
    nll = {**PRIMARY, "name": "nll", "value": "likelihood.nll", "unit": "nats"}
    folder = write_experiment(tmp_path, effects=TWO, seeds=2, primary=nll, weights=False)
    file, rows = rows_of(folder, "mul_tokens-s1/sft_math", "probes")
    next(row for row in rows if row["set"] == "mul_multidigit")["likelihood"]["nll"] = None
    write_rows(file, rows)
    experiment = read_experiment(folder)
    pair = EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")
    assert pair.left_out == 1
    assert pair.baseline.shape == pair.treatment.shape == (2, 99)
    assert np.isfinite(pair.treatment).all()


def test_bits_per_byte_are_the_ratio_of_the_sums(folder):
    experiment = read_experiment(folder)
    endpoint = next(one for one in experiment.endpoints if one.name == EXPLORATORY[0]["name"])
    values = EndpointItems(experiment).values(endpoint, "baseline", 0)
    _, rows = rows_of(folder, "baseline-s0/pretrain", "text", 400, "text")
    expected = sum(row["nats"] for row in rows) / math.log(2) / sum(row["bytes"] for row in rows)
    assert values.mean() == pytest.approx(expected, rel=1e-12)


def test_item_without_a_value_weighs_nothing_in_a_ratio(folder):
    for run in ("baseline-s0", "mul_tokens-s0"):
        file, rows = rows_of(folder, f"{run}/pretrain", "text", 400, "text")
        write_rows(file, [{**row, "nats": None} if row["index"] >= 30 else row for row in rows])
    experiment = read_experiment(folder)
    items, endpoint = EndpointItems(experiment), experiment.endpoints[3]
    of_values = [row for row in rows if row["index"] < 30]
    expected = sum(row["nats"] for row in of_values) / math.log(2) / sum(row["bytes"] for row in of_values)
    assert items.means(endpoint, "mul_tokens")[0] == pytest.approx(expected, rel=1e-12)
    pair = items.pair(endpoint, "baseline", "mul_tokens")
    assert pair.left_out == 10
    assert pair.treatment[0].mean() == pytest.approx(expected, rel=1e-12)
    _, other = rows_of(folder, "mul_tokens-s1/pretrain", "text", 400, "text")
    of_values = [row for row in other if row["index"] < 30]
    expected = sum(row["nats"] for row in of_values) / math.log(2) / sum(row["bytes"] for row in of_values)
    assert pair.treatment[1].mean() == pytest.approx(expected, rel=1e-12), "the items that the other seed lacks"


def test_clusters_are_read_where_the_endpoint_names_them(folder):
    experiment = read_experiment(folder)
    endpoint = next(one for one in experiment.endpoints if one.name == SECONDARY[0]["name"])
    pair = EndpointItems(experiment).pair(endpoint, "baseline", "mul_tokens")
    assert pair.clusters == [probe.cluster for probe in probe_set("mul_table")]


def test_filter_takes_a_list_of_values_and_dotted_paths(tmp_path):
    where = {"set": ["mul_multidigit", "addition"], "tags.carry": True}
    folder = write_experiment(tmp_path, effects=TWO, seeds=1, primary={**PRIMARY, "where": where})
    experiment = read_experiment(folder)
    pair = EndpointItems(experiment).pair(experiment.primary, "baseline", "mul_tokens")
    carrying = [probe for name in where["set"] for probe in probe_set(name) if probe.tags.get("carry")]
    assert 0 < pair.baseline.shape[1] == len(carrying) < 200


def test_path_reaches_into_lists():
    assert value_at({"replies": [{"right": True}]}, "replies.0.right") is True
    assert value_at({"replies": []}, "replies.0.right") is None


@pytest.mark.parametrize(
    ("where", "value", "floor"),
    [
        ({"set": "a"}, "exact", 0.1),
        ({"set": "a"}, "likelihood.right", 0.3),
        ({"set": "a"}, "likelihood.nll", None),
        ({"set": ["a", "b"]}, "exact", 0.1 * 0.25 + 0.2 * 0.75),
        ({"set": "a", "tags.carry": True}, "exact", 0.05),
        ({"set": "a", "tags.carry": True, "tags.order": "equal"}, "exact", None),
    ],
)
def test_floor_belongs_to_the_same_items(where, value, floor):
    of_a = {"exact": {"floor": 0.1, "n": 25}, "likelihood": {"floor": 0.3, "n": 25}}
    sets = {
        "a": {**of_a, "by": {"carry": {"true": {"exact": {"floor": 0.05, "n": 9}}}}},
        "b": {"exact": {"floor": 0.2, "n": 75}},
    }
    endpoint = Endpoint("primary", "x", "s", "e", "probes", value, where)
    found = floor_of(endpoint, {"results": {"probes": {"sets": sets}}})
    assert (None if found is None else found.value) == pytest.approx(floor)


@pytest.mark.parametrize(
    ("value", "name"), [("replies.0.strict_right", "strict_accuracy"), ("correct.acc_norm", "acc_norm")]
)
def test_floor_is_found_by_the_name_of_the_result(value, name):
    endpoint = Endpoint("primary", "x", "s", "e", "task", value)
    assert floor_of(endpoint, {"results": {"task": {name: {"floor": 0.25, "n": 4}}}}).value == 0.25


def test_floor_names_what_was_computed_the_highest_first():
    floors = {"last_number_of_question": {"value": 0.0}, "best_constant_of_train": {"value": 0.03}}
    task = {"strict_accuracy": {"floor": 0.03, "n": 4}, "floors": floors}
    endpoint = Endpoint("primary", "x", "s", "e", "task", "replies.0.strict_right")
    assert floor_of(endpoint, {"results": {"task": task}}).source_words == [
        "the training rows' commonest answer to all",
        "the question's last number",
    ]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("exact_final", ("question_again", "best_constant")),
        ("exact_in_digits", ("best_constant", "question_again_in_digits")),
        ("likelihood.right", ("best_constant", "guess_among_candidates")),
    ],
)
def test_share_has_the_floors_of_its_kind_alone(value, names):
    values = {"best_constant": 0.05, "question_again": 0.1, "question_again_in_digits": 0.0}
    floors = {name: {"value": one} for name, one in {**values, "guess_among_candidates": 0.03}.items()}
    highest = max(floors[name]["value"] for name in names)
    of_set = {value.split(".")[0]: {"floor": highest, "n": 4}, "floors": floors}
    endpoint = Endpoint("primary", "x", "s", "e", "probes", value, {"set": "a"})
    assert floor_of(endpoint, {"results": {"probes": {"sets": {"a": of_set}}}}).sources == names


def gsm8k_with_floors(tmp_path, gold, floors):
    """Give the floor of the word problems when their items have these gold answers and their results these floors."""
    folder = write_experiment(tmp_path, effects=TWO, seeds=1, weights=False)
    floor = max(one["value"] for one in floors.values())
    for run in ("baseline-s0/sft_math", "mul_tokens-s0/sft_math"):
        file, rows = rows_of(folder, run, "gsm8k")
        write_rows(file, [{**row, "gold": gold[row["index"] % len(gold)]} for row in rows])
        task = {"strict_accuracy": {"value": 0, "n": 60, "floor": floor}, "floors": floors}
        edit_json(file.with_name("results.json"), lambda one: one["results"]["gsm8k"].update(task))  # noqa: B023
    experiment = read_experiment(folder)
    return EndpointItems(experiment).floor(experiment.endpoints[-1])


def test_results_without_a_constant_answer_get_the_best_one_of_the_items(tmp_path):
    floor = gsm8k_with_floors(tmp_path, [18, 18, 24], {"last_number_of_question": {"value": 0.0}})
    assert floor.value == pytest.approx(2 / 3)
    assert floor.source_words == ["the best one answer to all, in hindsight", "the question's last number"]


def test_constant_answer_of_the_training_rows_is_not_replaced(tmp_path):
    floor = gsm8k_with_floors(tmp_path, [18, 18, 24], {"best_constant_of_train": {"value": 0.1}})
    assert (floor.value, floor.sources) == (0.1, ("best_constant_of_train",))


def test_missing_runs_logs_and_evaluations_are_each_named(folder):
    (folder / "baseline-s0/sft_math/run.json").unlink()
    (folder / "mul_tokens-s1/pretrain/metrics.jsonl").unlink()
    for results in (folder / "mul_tokens-s0/sft_math/evals/probes").glob("*/results.json"):
        results.unlink()
    text = " ".join(read_experiment(folder).missing())
    assert "The run `baseline-s0/sft_math` is missing" in text
    assert "The log of `mul_tokens-s1/pretrain`" in text
    assert "The evaluation `probes` of `mul_tokens-s0/sft_math` is missing" in text


def test_evaluation_that_was_begun_is_missing_what_it_has_not_finished(folder):
    evaluation = folder / "mul_tokens-s0/sft_math/evals/probes/checkpoint-120"
    edit_json(evaluation / "results.json", lambda one: one["results"].pop("gsm8k"))
    (evaluation / "gsm8k.jsonl").unlink()
    expected = ["The evaluation `probes` of `mul_tokens-s0/sft_math` lacks `gsm8k`."]
    assert read_experiment(folder).missing() == expected
    edit_json(folder / "experiment.json", lambda one: one["evals"][0].update(tasks=["probes", "gsm8k", "svamp"]))
    assert "The evaluation `probes` of `baseline-s0/sft_math` lacks `svamp`." in read_experiment(folder).missing()


def test_whole_experiment_misses_nothing(folder):
    assert read_experiment(folder).missing() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("primary"), "has no primary"),
        (lambda one: one["primary"].update(stage="grpo"), "stage 'grpo'; the stages are pretrain, sft_math"),
        (lambda one: one["primary"].update(eval="text"), "reads evaluation 'text' of stage 'sft_math'"),
        (lambda one: one["primary"].update(colour="red"), "malformed"),
        (lambda one: one.update(comparisons=[["baseline", "opaque"]]), "the arms are baseline, mul_tokens"),
        (lambda one: one.update(comparisons=[]), "declares no comparison"),
        (lambda one: one["secondary"].append(one["primary"]), "two endpoints have one name"),
    ],
)
def test_declaration_that_does_not_hang_together_is_refused(folder, change, message):
    edit_json(folder / "experiment.json", change)
    with pytest.raises(ValueError, match=message):
        read_experiment(folder)


def test_folder_without_a_declaration_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no experiment.json"):
        read_experiment(tmp_path)


def test_broken_line_is_named(folder):
    file, rows = rows_of(folder, "baseline-s0/sft_math", "probes")
    file.write_text(json.dumps(rows[0]) + "\n{\n")
    experiment = read_experiment(folder)
    with pytest.raises(ValueError, match=r"probes\.jsonl, line 2 is not valid JSON"):
        EndpointItems(experiment).values(experiment.primary, "baseline", 0)
