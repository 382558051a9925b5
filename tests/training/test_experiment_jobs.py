import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tests.training.fake_slurm import FakeSlurm
from training.core.recipe import parse_recipe
from training.experiments.recipe import ExperimentArguments
from training.experiments.slurm import write_jobs

EXPERIMENT = {
    "name": "a study",
    "output_dir": "runs/study",
    "arms": {"baseline": {}, "mul_tokens": {}, "random_fact": {}},
    "seeds": [0, 1],
    "corpus": "corpus.yaml",
    "stages": [{"name": "pretrain", "program": "pretrain", "recipe": "pretrain.yaml"}],
    "evals": [{"recipe": "eval.yaml", "stages": ["pretrain"]}],
    "comparisons": [["baseline", "mul_tokens"]],
    "primary": {"name": "p", "stage": "pretrain", "eval": "eval", "task": "probes", "value": "exact"},
    "devices_per_step": 2,
}
# Each program writes down what it was given; the experiment ends as the test wants it to, or when it is stopped.
PROGRAMS = {
    "python": """
        printf '%s\\n' "$@" > "$WRITTEN/arguments"
        pwd > "$WRITTEN/folder"
        echo "${CUDA_VISIBLE_DEVICES-unset}" > "$WRITTEN/gpus"
        if [ -n "$RUNS_ON" ]; then
            trap 'sleep 0.2; exit 75' TERM
            touch "$WRITTEN/began"
            while true; do sleep 0.05; done
        fi
        exit "$CODE"
    """,
    "sbatch": """
        echo "$@" >> "$WRITTEN/submitted"
        echo "$(wc -l < "$WRITTEN/submitted")00;cluster"
    """,
}


@pytest.fixture
def slurm(tmp_path):
    return FakeSlurm.install(tmp_path)


@pytest.fixture
def clone(slurm, tmp_path, monkeypatch):
    """A folder with a blank in its name and an experiment in it, where commands are given, and programs of our own."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "eval.yaml").write_text("name: eval\ntasks: [{task: probes}]\n", encoding="utf-8")
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False), encoding="utf-8")
    (tmp_path / "written").mkdir()
    for name, body in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}", encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("WRITTEN", str(tmp_path / "written"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return folder


def write(*options):
    argv = ["experiment.yaml", "--slurm", *options]
    (args,) = parse_recipe([ExperimentArguments], argv)
    return write_jobs(args, ["training/experiment.py", *argv])


def script(name):
    return f"runs/study/slurm/{name}"


def text_of(name):
    with open(script(name), encoding="utf-8") as file:
        return file.read()


def options_of(name):
    """The options of a job, of which the last of several values counts."""
    lines = re.findall(r"^#SBATCH --(.*)$", text_of(name), re.MULTILINE)
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def environment(task=0, code=0, runs_on="", step_gpus=""):
    inside = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(task)}
    return {**os.environ, **inside, "SLURM_STEP_GPUS": step_gpus, "CODE": str(code), "RUNS_ON": runs_on}


def run(name, **keys):
    """Run a job's script as Slurm does, and return its exit status and what the programs wrote down."""
    done = subprocess.run(["bash", script(name)], env=environment(**keys), check=False, timeout=30)
    return done.returncode, written()


def written():
    folder = os.environ["WRITTEN"]
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            found[name] = file.read().splitlines()
    return found


def parsed(arguments):
    assert arguments[0] == "training/experiment.py"
    (args,) = parse_recipe([ExperimentArguments], arguments[1:])
    assert not args.slurm
    return args


def stop(number, of_step=False):
    """Send a signal to a running job's shell, and TERM to its step where that is so; return the job's exit status."""
    with subprocess.Popen(["bash", script("runs.sbatch")], env=environment(runs_on="yes")) as job:
        began = os.path.join(os.environ["WRITTEN"], "began")
        while not os.path.exists(began):
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(number)
        if of_step:
            subprocess.run(["scancel", "--signal=TERM", "7"], check=True)
        return job.wait(timeout=30)


@pytest.mark.parametrize("name", ["corpus.sbatch", "runs.sbatch", "report.sbatch", "submit.sh"])
def test_script_is_clean_bash(clone, name):
    write("--slurm_partition", "gpu")
    done = subprocess.run(["bash", "-n", script(name)], capture_output=True, text=True, check=True)
    assert text_of(name).startswith("#!/bin/bash\n") and not done.stderr


def test_array_covers_every_arm_and_seed_once(clone):
    write()
    first, last = map(int, options_of("runs.sbatch")["array"].split("-"))
    given = [parsed(run("runs.sbatch", task=task)[1]["arguments"]) for task in range(first, last + 1)]
    seen = [(*args.only_arms, *args.only_seeds) for args in given]
    assert sorted(seen) == [(arm, seed) for arm in EXPERIMENT["arms"] for seed in (0, 1)]
    assert seen[:3] == [("baseline", 0), ("mul_tokens", 0), ("random_fact", 0)]
    assert not any(args.report or args.only_corpus or args.only_report for args in given)


def test_task_repeats_the_overrides_where_they_were_given(clone):
    write("--alpha", "0.01", "--data_root", "text of others", "--accelerate_config", "it's.yaml")
    code, seen = run("runs.sbatch", task=1)
    args = parsed(seen["arguments"])
    assert (args.alpha, args.data_root, args.accelerate_config) == (0.01, "text of others", "it's.yaml")
    assert (code, seen["folder"], args.devices_per_step) == (0, [str(clone)], 2)


def test_a_part_of_the_experiment_has_tasks_for_that_part_alone(clone):
    message = write("--only_arms", "baseline", "random_fact", "--only_seeds", "1")
    assert options_of("runs.sbatch")["array"] == "0-1" and "2 runs" in message
    args = parsed(run("runs.sbatch", task=1)[1]["arguments"])
    assert (args.only_arms, args.only_seeds) == (["random_fact"], [1])


def test_recipe_that_asks_for_jobs_does_not_write_them_from_inside_a_job(clone):
    (clone / "experiment.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "slurm": True}), encoding="utf-8")
    write()
    for name in ("corpus.sbatch", "runs.sbatch", "report.sbatch"):
        assert not parsed(run(name)[1]["arguments"]).slurm


def test_corpora_are_prepared_alone_on_all_cores_without_a_gpu(clone):
    write()
    _, seen = run("corpus.sbatch", step_gpus="0,1")
    args = parsed(seen["arguments"])
    assert args.only_corpus and not args.only_report
    assert args.devices_per_step == len(os.sched_getaffinity(0))
    assert seen["gpus"] == [""] and "gres" not in options_of("corpus.sbatch")


def test_report_is_written_even_where_the_recipe_says_no(clone):
    (clone / "experiment.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "report": False}), encoding="utf-8")
    write()
    args = parsed(run("report.sbatch")[1]["arguments"])
    assert args.only_report and args.report and args.devices_per_step == 1


def test_interrupted_task_goes_back_into_the_queue_alone(clone, slurm):
    write()
    assert run("runs.sbatch", task=3, code=75)[0] == 75
    assert slurm.requeued == ["7_3"]


@pytest.mark.parametrize("code", [0, 1, 2])
def test_end_and_failure_are_final(clone, slurm, code):
    write()
    assert run("runs.sbatch", code=code)[0] == code
    assert slurm.requeued == []


def test_program_saves_before_the_time_limit_and_its_job_goes_back_into_the_queue(clone, slurm):
    write()
    kind, _, name = options_of("runs.sbatch")["signal"].partition("@")[0].partition(":")
    assert kind == "B", "to the shell, which passes it on"
    assert stop(signal.Signals[f"SIG{name}"]) == 75
    assert slurm.requeued == ["7_0"]


def test_program_saves_when_its_job_is_cancelled_which_stays_so(clone, slurm):
    write()
    assert stop(signal.SIGTERM, of_step=True) == 75
    assert slurm.requeued == []


def test_runs_ask_for_the_gpus_of_a_step(clone):
    write()
    options = options_of("runs.sbatch")
    assert options["gres"] == "gpu:2" and "cpus-per-task" not in options


def test_runs_ask_for_cores_where_no_gpu_is_planned(clone):
    write("--plan_device", "cpu", "--max_parallel", "4")
    options = options_of("runs.sbatch")
    assert options["cpus-per-task"] == "2" and "gres" not in options
    assert options["array"] == "0-5%4"


def test_options_of_the_cluster_are_in_every_job_and_beat_our_own(clone):
    write("--slurm_partition", "short", "--slurm_options", "time=02:00:00", "gres=gpu:a100:2", "signal=B:USR1@60")
    for name in ("corpus.sbatch", "runs.sbatch", "report.sbatch"):
        options = options_of(name)
        assert (options["partition"], options["time"], options["signal"]) == ("short", "02:00:00", "B:USR1@60")
    assert options_of("runs.sbatch")["gres"] == "gpu:a100:2"


def test_options_in_a_recipe_may_have_their_dashes(clone):
    changed = {**EXPERIMENT, "slurm_options": ["--time=02:00:00", "--exclusive"]}
    (clone / "experiment.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    write()
    assert "#SBATCH --time=02:00:00\n#SBATCH --exclusive\n" in text_of("runs.sbatch")


def test_folder_of_the_logs_is_there_before_slurm_writes_to_it(clone):
    write()
    assert options_of("runs.sbatch")["output"] == "runs/study/logs/slurm-%A_%a.log"
    assert (clone / "runs/study/logs").is_dir()


def test_submitting_chains_the_jobs_from_any_folder(clone, tmp_path):
    said = write().splitlines()[-1]
    command = shlex.split(said)
    assert command == ["bash", script("submit.sh")]
    done = subprocess.run(["bash", str(clone / command[1])], cwd=tmp_path, capture_output=True, text=True, check=True)
    corpus, runs, report = (line.split() for line in written()["submitted"])
    assert corpus == ["--parsable", script("corpus.sbatch")]
    assert "--dependency=afterok:100" in runs and runs[-1] == script("runs.sbatch")
    assert "--dependency=afterok:100,afterany:200" in report and report[-1] == script("report.sbatch")
    assert "--kill-on-invalid-dep=yes" in runs and "--kill-on-invalid-dep=yes" in report
    assert done.stdout == "submitted: corpora 100, runs 200, report 300\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output_dir", "runs/a b"], "output_dir 'runs/a b' has ' ' in it"),
        (["--output_dir", "runs/100%"], "output_dir 'runs/100%' has '%' in it"),
        (["--only_corpus"], "only_corpus is true, but the jobs do all"),
        (["--only_report"], "only_report is true, but the jobs do all"),
        (["--slurm_options", "time=1\nrm"], "more than one line"),
    ],
)
def test_jobs_that_cannot_be_written_are_refused(clone, options, message):
    with pytest.raises(ValueError, match=message):
        write(*options)
