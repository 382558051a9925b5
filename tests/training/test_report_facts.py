"""What a report says of single facts, of doses, and of how the runs were made."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.training.small_experiment import edit_json, rows_of, write_corpus_manifest, write_experiment, write_rows
from tokenization.mul_facts import FACT_BY_NAME, FACT_IDS, FACTS
from training.analysis.experiment_results import read_experiment
from training.analysis.fact_embeddings import probe_products, read_fact_rows, shared_map
from training.analysis.fact_measures import accuracy_by_fact, find_fact_probe, token_use, within_model
from training.analysis.protocol_checks import deviations
from training.analysis.report_facts import embeddings_section, halves_section, tokens_section
from training.analysis.report_pages import Table
from training.analysis.run_costs import cost_of, dose_of, matching, seconds_of, seconds_of_steps

TWO = {"baseline": 0, "mul_tokens": 12}
PRODUCTS = np.log([fact.product for fact in FACTS])


@pytest.fixture
def folder(tmp_path):
    return write_experiment(tmp_path, effects=TWO, seeds=2, weights=False)


def test_cell_of_a_fact_is_where_its_factors_were_asked(folder):
    file, rows = rows_of(folder, "baseline-s0/sft_math", "probes")
    for row in rows:
        row["exact"] = row["prompt"] == "What is 9 times 6?"
    write_rows(file, rows)
    experiment = read_experiment(folder)
    table = accuracy_by_fact(experiment, find_fact_probe(experiment))["baseline"][0]
    assert table[8, 5] == 1
    assert table.sum() == 1


def test_larger_probe_set_is_preferred(folder):
    for results in folder.glob("*/sft_math/evals/probes/*/results.json"):
        edit_json(results, lambda one: one["results"]["probes"]["sets"].update(facts={"exact": {"value": 0}}))
    assert find_fact_probe(read_experiment(folder)).set == "facts"


def test_token_use_keeps_every_seed_of_every_arm(folder):
    found = {(where, measure): by_arm for where, measure, by_arm in token_use(read_experiment(folder))}
    assert found["sft_math, gsm8k", "one-digit products written as a token"] == {
        "baseline": [0, 0],
        "mul_tokens": [0.9, pytest.approx(0.91)],
    }
    assert found["sft_math, probes", "mul_table: answered by a fact"]["mul_tokens"] == [0.2, pytest.approx(0.22)]


def test_arm_whose_token_names_no_fact_has_no_token_use(tmp_path):
    folder = write_experiment(tmp_path, effects={**TWO, "opaque": 0}, seeds=2, weights=False)
    experiment = read_experiment(folder)
    assert all("opaque" not in by_arm and "baseline" in by_arm for _, _, by_arm in token_use(experiment))
    (table,) = [block for block in tokens_section(experiment, tmp_path).blocks if isinstance(block, Table)]
    place = table.head.index("opaque")
    assert {row[place] for row in table.rows} == {"–"}


def half_study(tmp_path, seeds=4):
    """A study in whose `half_facts` models exactly the tokenised facts are right."""
    folder = write_experiment(tmp_path, effects={"baseline": 0, "half_facts": 0}, seeds=seeds, weights=False)
    for seed in range(seeds):
        named = json.loads((folder / f"half_facts-s{seed}/pretrain/run.json").read_text())["tokenised_facts"]
        clusters = {f"{FACT_BY_NAME[name].a}*{FACT_BY_NAME[name].b}" for name in named}
        file, rows = rows_of(folder, f"half_facts-s{seed}/sft_math", "probes")
        for row in rows:
            row["exact"] = row["cluster"] in clusters
        write_rows(file, rows)
    return folder


def test_tokenised_facts_are_compared_with_plain_ones_of_the_same_model(tmp_path):
    experiment = read_experiment(half_study(tmp_path))
    found = within_model(experiment, find_fact_probe(experiment), "half_facts")
    assert found["facts"] == [22] * 4
    assert found["within"]["exact"].seed_differences == (1, 1, 1, 1)
    easy = found["within"]["exact_in_digits"]
    assert easy.seeds == 4
    assert 0 < easy.baseline_mean < 1


def test_difficulty_of_the_facts_is_taken_away_by_the_baseline(tmp_path):
    folder = half_study(tmp_path)
    for seed in range(4):
        _, rows = rows_of(folder, f"half_facts-s{seed}/sft_math", "probes")
        write_rows(rows_of(folder, f"baseline-s{seed}/sft_math", "probes")[0], rows)
    experiment = read_experiment(folder)
    found = within_model(experiment, find_fact_probe(experiment), "half_facts")
    assert found["adjusted"]["exact"].difference == 0


def test_reference_of_a_half_is_the_baseline_of_its_dose(tmp_path):
    effects = {"baseline": 0, "more": 0, "half_facts": 0}
    arms = {"more": {"condition": "baseline", "dose": 0.01}, "half_facts": {"dose": 0.01}}
    folder = write_experiment(tmp_path, effects=effects, arms=arms, seeds=2, weights=False)
    for seed in range(2):
        _, rows = rows_of(folder, f"half_facts-s{seed}/sft_math", "probes")
        write_rows(rows_of(folder, f"more-s{seed}/sft_math", "probes")[0], rows)
    experiment = read_experiment(folder)
    probe = find_fact_probe(experiment)
    assert within_model(experiment, probe, "half_facts")["adjusted"]["exact"].difference == 0
    edit_json(folder / "experiment.json", lambda one: one["arms"]["half_facts"].update(dose=0.1))
    assert within_model(read_experiment(folder), probe, "half_facts")["adjusted"] == {}


def test_halves_are_called_exploratory(tmp_path):
    blocks = halves_section(read_experiment(half_study(tmp_path))).blocks
    assert "exploratory" in blocks[0]
    assert [block.head[5] for block in blocks if isinstance(block, Table)] == ["p (exploratory)"]


def test_seed_without_a_list_of_tokenised_facts_is_missing(tmp_path):
    folder = half_study(tmp_path, seeds=2)
    edit_json(folder / "half_facts-s1/pretrain/run.json", lambda run: run.pop("tokenised_facts"))
    experiment = read_experiment(folder)
    found = within_model(experiment, find_fact_probe(experiment), "half_facts")
    assert (found["seeds"], found["missing"]) == ([0], [1])


def test_only_experiments_with_halves_have_a_section_for_them(folder, tmp_path):
    assert halves_section(read_experiment(folder)) is None
    assert halves_section(read_experiment(half_study(tmp_path / "half"))) is not None


def rows_with_products(rng, strength, width=24):
    return rng.normal(0, 1, (45, width)) + strength * np.outer(PRODUCTS, rng.normal(0, 1, width))


def test_rows_that_hold_the_product_are_found():
    rng = np.random.default_rng(0)
    probe = probe_products([rows_with_products(rng, 1.0) for _ in range(3)], permutations=500)
    assert probe.mean > 0.8
    assert probe.p_value == pytest.approx(1 / 501)
    assert len(probe.r_squared) == 3


def test_noise_is_a_null():
    rng = np.random.default_rng(1)
    p_values = [probe_products([rng.normal(size=(45, 24))], permutations=200, seed=n).p_value for n in range(40)]
    assert 0 < np.mean(np.array(p_values) < 0.25) < 0.5, "about a quarter"


def test_left_out_prediction_is_that_of_a_regression_without_the_row():
    rows = rows_with_products(np.random.default_rng(2), 0.3)
    centred = rows - rows.mean(0)
    penalty = (centred**2).sum() / len(rows)
    errors, around = [], []
    for left in range(45):
        others = np.arange(45) != left
        mean, target = rows[others].mean(0), PRODUCTS[others]
        x = rows[others] - mean
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (target - target.mean()))
        errors.append(PRODUCTS[left] - target.mean() - (rows[left] - mean) @ weights)
        around.append(PRODUCTS[left] - target.mean())
    expected = 1 - np.square(errors).sum() / np.square(around).sum()
    assert probe_products([rows], permutations=1).r_squared[0] == pytest.approx(expected, rel=1e-9)


def test_map_does_not_depend_on_how_a_model_turns_its_axes():
    rng = np.random.default_rng(3)
    rows = rows_with_products(rng, 1.0)
    turn, _ = np.linalg.qr(rng.normal(size=(24, 24)))
    first, shares = shared_map([rows, rows])
    second, _ = shared_map([rows, 3 * rows @ turn + 5])
    assert np.allclose(np.abs(first), np.abs(second), atol=1e-8)
    assert shares[0] > shares[1]
    assert np.corrcoef(first[:, 0], PRODUCTS)[0, 1] > 0.9


def test_rows_are_those_of_the_facts(tmp_path):
    weights = np.arange(50349 * 2, dtype=np.float32).reshape(50349, 2)
    save_file({"transformer.wte.weight": weights}, tmp_path / "model.safetensors")
    assert (read_fact_rows(tmp_path) == weights[FACT_IDS.start : FACT_IDS.stop]).all()


def test_without_weights_the_section_says_so(folder, tmp_path):
    section = embeddings_section(read_experiment(folder), tmp_path)
    assert "No weights of stage `pretrain` are there any more" in section.blocks[0]


def test_dose_is_read_from_the_corpora_of_the_runs(tmp_path):
    arms = {"mul_tokens": {"dose": 0.001}}
    folder = write_experiment(tmp_path, effects=TWO, seeds=2, arms=arms, weights=False)
    write_corpus_manifest(folder, "0.001", "mul_tokens", 0.0011)
    dose = dose_of(read_experiment(folder), "mul_tokens")
    assert (dose.declared, dose.measured, dose.facts) == (0.001, 0.0011, 1100)
    assert dose_of(read_experiment(folder), "baseline").value is None


def test_unequal_tokens_are_told_with_their_ratio(folder):
    for seed in (0, 1):
        edit_json(folder / f"mul_tokens-s{seed}/pretrain/run.json", lambda run: run.update(processed_tokens=368640))
    experiment = read_experiment(folder)
    costs = [cost_of(experiment, stage, arm) for stage in experiment.stages for arm in experiment.arms]
    pretrain, sft = matching(experiment, costs)
    assert "Not equal: tokens: `baseline` 409,600, `mul_tokens` 368,640 (−10.00%)" in pretrain
    assert "Equal in all arms: steps, tokens and FLOPs" in sft


def test_study_as_planned_has_no_deviations(folder):
    assert deviations(read_experiment(folder)) == []


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        (
            "mul_tokens-s1/pretrain/run.json",
            lambda one: one.update(initial_weights_sha256="f" * 64),
            "Not all arms of seed 1 have the same initial weights: 000000000000 in `baseline-s1/pretrain`, ffff",
        ),
        (
            "mul_tokens-s0/sft_math/run.json",
            lambda one: one["recipe"].update(learning_rate=0.1),
            "The recipes of `sft_math` differ in `learning_rate`: 0.001 in `baseline-s0/sft_math`",
        ),
        (
            "mul_tokens-s0/sft_math/run.json",
            lambda one: one["starts"][0].update(git_commit="abc+changes", device="a GPU"),
            "The runs were started on 2 devices: AMD EPYC, 1 threads (7) and a GPU (1)",
        ),
        (
            "mul_tokens-s0/sft_math/run.json",
            lambda one: one["starts"][0].update(git_commit="abc+changes"),
            "The work tree had changes that are not in the commit: abc+changes",
        ),
        (
            "mul_tokens-s0/sft_math/run.json",
            lambda one: one.update(condition="baseline"),
            "`mul_tokens-s0/sft_math` has the condition `baseline`, and its arm declares `mul_tokens`",
        ),
        (
            "mul_tokens-s0/sft_math/evals/probes/checkpoint-120/results.json",
            lambda one: one["settings"]["gsm8k"].update(batch_size=1),
            "measured `gsm8k` with unequal settings: `batch_size`",
        ),
    ],
)
def test_deviation_is_told_with_what_differs(folder, file, change, told):
    edit_json(folder / file, change)
    assert told in "\n".join(deviations(read_experiment(folder)))


def test_unequal_ends_are_told(folder):
    log = folder / "mul_tokens-s1/sft_math/metrics.jsonl"
    rows = [line for line in log.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= 80]
    log.write_text("".join(rows))
    assert "The runs of `sft_math` end at unequal steps: 120 in `baseline-s0/sft_math`" in "\n".join(
        deviations(read_experiment(folder))
    )


def test_failed_attempts_are_told(folder):
    with open(folder / "ledger.jsonl", "a") as file:
        file.write(json.dumps({"step": "baseline-s0/pretrain", "status": "failed", "seconds": 3}) + "\n")
    assert "1 attempt failed: `baseline-s0/pretrain`." in deviations(read_experiment(folder))


def test_time_is_added_up_by_kind_of_step_without_the_report_itself(folder):
    with open(folder / "ledger.jsonl", "a") as file:
        for step, seconds in (("corpus/all", 7), ("report", 9), ("baseline-s0/pretrain", 3)):
            file.write(json.dumps({"step": step, "status": "finished", "seconds": seconds}) + "\n")
    assert seconds_of_steps(read_experiment(folder)) == {
        "pretrain": 123,
        "evaluation text after pretrain": 120,
        "sft_math": 120,
        "evaluation probes after sft_math": 120,
        "preparing corpora": 7,
    }


def test_time_of_a_run_is_that_of_all_its_attempts(folder):
    with open(folder / "ledger.jsonl", "a") as file:
        file.write(json.dumps({"step": "baseline-s0/pretrain", "status": "failed", "seconds": 10}) + "\n")
    experiment = read_experiment(folder)
    assert seconds_of(experiment, experiment.run("baseline", 0, "pretrain")) == 40
