import dataclasses
import json
import os
import signal
import threading
import time

import pytest
import yaml

from tests.training.small_experiment import edit_json
from training.experiment import declare
from training.experiments import runner as running
from training.experiments import steps as steps_module
from training.experiments.invariants import check_after, check_leakage
from training.experiments.ledger import Ledger
from training.experiments.recipe import ExperimentArguments
from training.experiments.runner import Runner, Slot, find_slots
from training.experiments.steps import Step, all_steps

RECIPES = ("corpus", "pretrain", "sft", "eval")
PROGRAM = """
import pathlib, signal, sys, time
recipe, *arguments = sys.argv[1:]
folder = pathlib.Path(arguments[arguments.index("--output_dir") + 1])
what = pathlib.Path(recipe).read_text()
if "fail" in what:
    sys.exit("error: this cannot work")
if "wait" in what:
    asked = []
    def save(*_):
        asked.append(1)
        if len(asked) == 1:
            time.sleep(1)
            (folder.parent / "is_saved").touch()
            sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    (folder.parent / "is_waiting").touch()
    time.sleep(60)
(folder / "baseline").mkdir(parents=True)
(folder / "baseline" / "manifest.json").write_text("{}")
"""


@pytest.fixture
def recipe(tmp_path):
    """Give the keys of a small experiment whose recipes lie in a folder."""
    evaluation = {"name": "check", "tasks": [{"task": "word_problems", "path": "test.jsonl"}]}
    recipes = {
        "corpus": {"sources": [{"synthetic": "drills"}]},
        "pretrain": {},
        "sft": {"datasets": [{"path": "train.jsonl"}], "decontaminate": [{"path": "test.jsonl"}]},
        "eval": evaluation,
    }
    for name, keys in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    endpoint = {"name": "right", "stage": "sft", "eval": "check", "task": "word_problems", "value": "right"}
    return {
        "seeds": [0, 1],
        "arms": {"baseline": {}, "mul_tokens": {}},
        "corpus": str(tmp_path / "corpus.yaml"),
        "stages": [
            {"name": "pretrain", "program": "pretrain", "recipe": str(tmp_path / "pretrain.yaml")},
            {"name": "sft", "program": "sft", "recipe": str(tmp_path / "sft.yaml")},
        ],
        "evals": [{"recipe": str(tmp_path / "eval.yaml"), "stages": ["sft"]}],
        "comparisons": [["baseline", "mul_tokens"]],
        "primary": endpoint,
        "output_dir": str(tmp_path / "experiment"),
    }


@pytest.fixture
def make_runner(tmp_path, monkeypatch, recipe):
    """Give a runner of stand-in programs, and steps for it."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("prepare_data", "pretrain"):
        (programs / f"{program}.py").write_text(PROGRAM)
    monkeypatch.setattr(steps_module, "PROGRAMS", programs)
    monkeypatch.setattr(running, "PROGRAMS", programs)
    args = ExperimentArguments(**recipe)
    (tmp_path / "experiment").mkdir()

    def make(**behaviour):
        said = []
        steps = []
        for name, what in behaviour.items():
            file = tmp_path / f"{name}.what"
            file.write_text(what)
            run = tmp_path / "out" / name
            needs = ("first",) if name == "second" else ()
            steps.append(Step(name, "prepare_data", str(file), ("--output_dir", str(run)), needs, run))
        (tmp_path / "out").mkdir(exist_ok=True)
        slots = [Slot((min(os.sched_getaffinity(0)),), is_gpu=False)]
        return Runner(args, Ledger(tmp_path / "experiment"), slots, said.append), steps, said

    return make


def test_each_step_waits_for_what_it_starts_from(recipe):
    steps = all_steps(ExperimentArguments(**recipe))
    places = {step.name: place for place, step in enumerate(steps)}
    assert len(steps) == 1 + 2 * 2 * 3
    for step in steps:
        assert all(places[need] < places[step.name] for need in step.needs)
    assert [step.needs for step in steps if step.name == "mul_tokens-s1/sft/evals/check"] == [("mul_tokens-s1/sft",)]


def test_arms_of_one_injection_and_dose_share_a_corpus(recipe):
    arms = {
        "baseline": {},
        "mul_tokens": {},
        "strict": {"condition": "mul_tokens", "injection_mode": "strict"},
        "half_facts": {"condition_seed": "seed"},
        "more": {"condition": "mul_tokens", "dose": 1e-2},
    }
    corpora = [step for step in all_steps(ExperimentArguments(**recipe | {"arms": arms})) if not step.needs]
    conditions = {
        step.name: [word for word in step.arguments if word in ("baseline", "mul_tokens", "half_facts")]
        for step in corpora
    }
    assert conditions == {
        "corpus/weak": ["baseline", "half_facts", "mul_tokens"],
        "corpus/strict": ["mul_tokens"],
        "corpus/weak-dose0.01": ["mul_tokens"],
        "corpus/weak-seed1": ["half_facts"],
    }


def test_a_part_of_the_arms_and_seeds_can_be_done_alone(recipe):
    steps = all_steps(ExperimentArguments(**recipe, only_arms=["mul_tokens"], only_seeds=[1]))
    assert {step.name.split("/")[0] for step in steps} == {"corpus", "mul_tokens-s1"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": [0, 0]}, "list each seed once"),
        ({"arms": {"baseline": {}}}, "compares at least two"),
        ({"arms": {"baseline": {}, "mul": {}}}, "condition must be one of"),
        ({"arms": {"baseline": {}, "mul_tokens": {"mode": "weak"}}}, "unknown keys ['mode']"),
        ({"comparisons": [["baseline", "opaque"]]}, "give pairs of two of the arms"),
        ({"comparisons": []}, "comparisons is empty"),
        ({"alpha": 5}, "alpha is 5"),
        ({"stages": []}, "stages is empty"),
        ({"corpus": None}, "corpus is not set"),
        ({"only_seeds": [7]}, "only_seeds has 7"),
    ],
)
def test_recipe_that_makes_no_sense_is_refused(recipe, changed, message):
    with pytest.raises(ValueError) as error:
        ExperimentArguments(**recipe | changed)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stage", "pretrain", "which is not made"),
        ("task", "probes", "is of task 'probes'"),
        ("margin", -0.1, "it is above zero"),
        ("colour", "red", "unknown keys ['colour']"),
    ],
)
def test_endpoint_that_nothing_measures_is_refused(recipe, key, value, message):
    with pytest.raises(ValueError) as error:
        ExperimentArguments(**recipe | {"primary": recipe["primary"] | {key: value}})
    assert message in str(error.value)


def test_a_declared_experiment_is_not_changed(recipe, tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    declared = declare(ExperimentArguments(**recipe), folder)
    again = declare(ExperimentArguments(**recipe, only_seeds=[0], devices_per_step=4), folder)
    assert again == declared
    with pytest.raises(ValueError, match="declared with another alpha: 0.05, and now 0.1"):
        declare(ExperimentArguments(**recipe, alpha=0.1), folder)


def test_a_recipe_that_was_changed_since_the_declaration_is_refused_by_name(recipe, tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    args = ExperimentArguments(**recipe)
    declared = declare(args, folder)
    assert list(declared["recipes_sha256"]) == [str(tmp_path / f"{name}.yaml") for name in RECIPES]
    sft = tmp_path / "sft.yaml"
    sft.write_text("# a comment does not count\n" + sft.read_text())
    assert declare(args, folder) == declared
    for name in RECIPES:
        file = tmp_path / f"{name}.yaml"
        before = file.read_text()
        file.write_text(before + "seed: 7\n" if before != "{}\n" else "seed: 7\n")
        with pytest.raises(ValueError, match=rf"{name}\.yaml' is another recipe than .* put its content back"):
            declare(args, folder)
        file.write_text(before)


def test_a_declaration_from_before_the_hashes_goes_on_and_says_so(recipe, tmp_path, capsys):
    folder = tmp_path / "experiment"
    folder.mkdir()
    declare(ExperimentArguments(**recipe), folder)
    edit_json(folder / "experiment.json", lambda facts: facts.pop("recipes_sha256"))
    declare(ExperimentArguments(**recipe), folder)
    assert "does not say what its recipes held" in capsys.readouterr().out


def test_deviations_are_declared_after_the_start(recipe, tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    declare(ExperimentArguments(**recipe), folder)
    late = ["seed 1 was trained twice"]
    declare(ExperimentArguments(**recipe, deviations=late), folder)
    assert json.loads((folder / "experiment.json").read_text())["deviations"] == late


def test_a_declaration_names_the_tasks_of_its_evaluations(recipe, tmp_path):
    declared = declare(ExperimentArguments(**recipe), tmp_path)
    assert [(each["name"], each["tasks"]) for each in declared["evals"]] == [("check", ["word_problems"])]


def test_finished_steps_are_not_run_again_unless_their_recipe_changes(make_runner, tmp_path):
    runner, steps, _ = make_runner(first="", second="")
    with runner:
        runner.run(steps)
    assert [(row["step"], row["status"]) for row in runner.ledger.rows] == [
        ("first", "finished"),
        ("second", "finished"),
    ]
    runner, steps, _ = make_runner(first="", second="")
    assert all(runner.is_finished(step) for step in steps)
    _, changed, _ = make_runner(first="other", second="")
    assert [runner.is_finished(step) for step in changed] == [False, True]


def test_a_step_whose_results_are_gone_is_run_again(make_runner, tmp_path):
    runner, steps, _ = make_runner(first="")
    with runner:
        runner.run(steps)
    (steps[0].run / "baseline" / "manifest.json").unlink()
    assert not runner.is_finished(steps[0])


def test_a_failure_is_told_and_keeps_only_what_needs_it_from_running(make_runner):
    runner, steps, said = make_runner(first="fail", second="", third="")
    with runner:
        runner.run(steps)
    assert runner.failed == ["first", "second"] and runner.exit_code == 1
    assert {row["step"]: row["status"] for row in runner.ledger.rows} == {"first": "failed", "third": "finished"}
    assert "this cannot work" in "\n".join(said)


def stop_when_it_waits(runner, steps, out):
    """Run the steps, and ask to stop when the first of them is waiting."""

    def ask():
        while not (out / "is_waiting").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    with runner:
        thread = threading.Thread(target=ask)
        thread.start()
        runner.run(steps)
        thread.join()


def test_a_signal_stops_programs_and_steps_and_the_next_start_goes_on(make_runner, tmp_path):
    runner, steps, _ = make_runner(first="wait", second="")
    stop_when_it_waits(runner, steps, tmp_path / "out")
    assert runner.exit_code == 75
    assert [(row["step"], row["status"]) for row in runner.ledger.rows] == [("first", "interrupted")]
    runner, steps, _ = make_runner(first="", second="")
    with runner:
        runner.run(steps)
    assert [row["attempt"] for row in runner.ledger.rows] == [1, 2, 1] and runner.exit_code == 0


def test_a_program_saves_before_the_runner_ends_though_its_launcher_dies_of_the_signal(make_runner, tmp_path):
    runner, (step, _), _ = make_runner(first="wait", second="")
    stop_when_it_waits(runner, [dataclasses.replace(step, program="pretrain")], tmp_path / "out")
    assert (tmp_path / "out" / "is_saved").exists()
    ((status, code),) = [(row["status"], row["returncode"]) for row in runner.ledger.rows]
    assert (status, code) == ("interrupted", -signal.SIGTERM)


def test_the_ledger_survives_a_process_that_died_in_its_line(tmp_path):
    (tmp_path / "ledger.jsonl").write_text(
        '{"step": "a", "status": "finished", "fingerprint": "1"}\n{"step": "b", "st'
    )
    ledger = Ledger(tmp_path)
    assert ledger.has_finished("a", "1") and not ledger.has_finished("a", "2") and ledger.attempts("b") == 0
    ledger.add({"step": "b", "status": "finished", "fingerprint": "1"})
    assert Ledger(tmp_path).has_finished("b", "1")


def test_more_devices_than_there_are_for_a_step_are_refused(recipe):
    args = ExperimentArguments(**recipe, devices_per_step=3)
    assert [slot.devices for slot in find_slots(args, gpus=8)] == [(0, 1, 2), (3, 4, 5)]
    with pytest.raises(ValueError, match="devices_per_step is 3, but this machine has 2 GPUs"):
        find_slots(args, gpus=2)


def test_a_step_on_gpus_sees_those_that_a_scheduler_gave(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert Slot((2, 3), is_gpu=True).environment()["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_items_that_a_stage_does_not_look_for_are_an_error(recipe, tmp_path):
    args = ExperimentArguments(**recipe)
    assert [check["detail"] for check in check_leakage(args)] == [
        "looked for: none could be",
        "looked for: word_problems",
    ]
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({"datasets": [{"path": "train.jsonl"}]}))
    with pytest.raises(ValueError, match="measures test.jsonl, which stage 'sft'"):
        check_leakage(args)


GENERATED = {"synthetic": "multiplications", "factor_digits": [2, 1], "documents": 400, "seed": 1000000}


@pytest.mark.parametrize(
    ("looked_for", "found"),
    [
        ({}, True),
        ({"documents": 500}, True),
        ({"documents": 399}, False),
        ({"factor_digits": [1, 1]}, False),
        ({"second_steps": False}, False),
        ({"seed": 0}, False),
    ],
)
def test_generated_items_are_looked_for_by_all_that_makes_them(recipe, tmp_path, looked_for, found):
    task = {"task": "word_problems", **GENERATED}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump({"name": "check", "tasks": [task]}))
    datasets = [{"synthetic": "multiplications", "documents": 3000}]
    sft = {"datasets": datasets, "decontaminate": [GENERATED | looked_for]}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(sft))
    args = ExperimentArguments(**recipe)
    if found:
        assert check_leakage(args)[-1]["detail"] == "looked for: word_problems"
    else:
        with pytest.raises(ValueError, match="synthetic multiplications, seed 1000000, 400 documents, which stage"):
            check_leakage(args)


def write_run(args, arm, seed, stage="pretrain", **facts):
    folder = args.run_dir(arm, seed, stage)
    folder.mkdir(parents=True)
    facts = {"recipe": {"max_steps": 3, "condition": arm}, "initial_weights_sha256": f"weights {seed}"} | facts
    (folder / "run.json").write_text(json.dumps(facts))


def test_runs_that_differ_in_the_arm_alone_pass(recipe):
    args = ExperimentArguments(**recipe)
    for seed in args.seeds:
        for arm in args.arms:
            write_run(args, arm.name, seed)
    checks = check_after(args)
    assert [check["name"] for check in checks] == ["pretrain, seed 0", "pretrain, seed 1", "pretrain, all seeds"]
    assert all(check["passed"] for check in checks)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"initial_weights_sha256": "other"}, "initial_weights_sha256 of pretrain, seed 0 is 'weights 0' in baseline"),
        ({"recipe": {"max_steps": 4}}, "max_steps of pretrain, seed 0 is 3 in baseline and 4 in mul_tokens"),
    ],
)
def test_runs_that_differ_in_more_than_the_arm_are_an_error_with_both_values(recipe, facts, message):
    args = ExperimentArguments(**recipe)
    write_run(args, "baseline", 0)
    write_run(args, "mul_tokens", 0, **facts)
    with pytest.raises(ValueError) as error:
        check_after(args)
    assert message in str(error.value)


def test_seeds_that_were_trained_by_other_recipes_are_an_error_with_both_values(recipe):
    args = ExperimentArguments(**recipe)
    for arm in ("baseline", "mul_tokens"):
        write_run(args, arm, 0, recipe={"max_steps": 3, "seed": 0})
        write_run(args, arm, 1, recipe={"max_steps": 9, "seed": 1})
    with pytest.raises(ValueError, match="max_steps of pretrain is 3 in baseline, seed 0 and 9 in baseline, seed 1"):
        check_after(args)


def test_every_key_of_a_recipe_is_either_declared_or_free(recipe):
    args = ExperimentArguments(**recipe)
    assert set(args.declared()) < {field.name for field in dataclasses.fields(args)}
    assert {"seeds", "arms", "primary", "alpha", "comparisons"} <= set(args.declared())
