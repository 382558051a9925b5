"""The job files of recipes/slurm: clean bash, commands that the programs understand, and jobs that go on after every
kind of stop, in a Slurm of scripts."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from tests.conftest import PROJECT, assert_same_run, pretrain_here, program_environment
from tests.programs import wait_for_step
from tests.test_recipes import GROUPS, blocks
from tests.training.fake_slurm import FakeSlurm
from training.core.checkpoint import checkpoint_step, list_checkpoints
from training.core.recipe import parse_recipe

FOLDER = PROJECT / "recipes" / "slurm"
JOBS = sorted(path.name for path in FOLDER.glob("*.sbatch"))
# What sbatch is given behind the job file where the file itself names no default.
ARGUMENTS = {
    "post_training.sbatch": ["runs/gpt2_124m/baseline-s3/checkpoint-19073"],
    "eval.sbatch": ["recipes/gpt2_124m/eval.yaml", "--model", "CHECKPOINT"],
}
# In place of the programs: writes down how it was called, and ends as the test wants it to, or when it is stopped.
RECORDER = """\
#!/bin/bash
trap 'sleep 0.2; exit "$CODE"' TERM
line=$(printf '%s\\t' "$(basename "$0")" "$SLURM_NODEID" "$@")
echo "$line" >> "$WRITTEN"
while [ -n "$RUNS_ON" ]; do sleep 0.05; done
exit "$CODE"
"""


@pytest.fixture
def slurm(tmp_path) -> FakeSlurm:
    return FakeSlurm.install(tmp_path)


@pytest.fixture
def recorded(slurm, tmp_path, monkeypatch):
    """The programs as recorders; what they were given, as it is asked for."""
    for program in ("python", "accelerate"):
        (slurm.folder / "bin" / program).write_text(RECORDER, encoding="utf-8")
        (slurm.folder / "bin" / program).chmod(0o755)
    written = tmp_path / "written"
    for key, value in {"WRITTEN": str(written), "CODE": "0", "RUNS_ON": ""}.items():
        monkeypatch.setenv(key, value)

    def calls() -> list[tuple[str, str, list[str]]]:
        """Program, rank of the node and arguments of each call."""
        lines = written.read_text(encoding="utf-8").splitlines() if written.exists() else []
        return [(program, rank, words) for program, rank, *words in (line.split("\t")[:-1] for line in lines)]

    return calls


@pytest.fixture
def stages(tmp_path) -> Path:
    """A job file that runs two programs, one behind the other."""
    job = tmp_path / "job.sbatch"
    job.write_text(
        "source recipes/slurm/run_until_done.sh\nrun_until_done python first\nrun_until_done python 'the second'\n"
    )
    return job


def options(text: str) -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE)
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def allocation(job: str, given: dict[str, str]) -> dict[str, str]:
    """What Slurm tells a job of the nodes that it has asked for."""
    asked = options((FOLDER / job).read_text(encoding="utf-8")) | given
    gpus = {"SLURM_GPUS_ON_NODE": asked["gpus-per-node"]} if "gpus-per-node" in asked else {}
    return {"SLURM_NNODES": asked["nodes"], "SLURM_CPUS_PER_TASK": asked["cpus-per-task"], **gpus}


def run(slurm: FakeSlurm, job: str, *arguments: str, given: dict[str, str] | None = None) -> tuple[int, str]:
    process = slurm.start(FOLDER / job, *arguments, **allocation(job, given or {}))
    out, _ = process.communicate(timeout=60)
    return process.returncode, out


def check(program: str, words: list[str]) -> None:
    """Let the launcher and the program parse what they were given, from the root of the project."""
    if program == "accelerate":
        assert words[0] == "launch"
        args = launch_command_parser().parse_args(words[1:])
        assert (PROJECT / args.config_file).is_file()
        assert args.num_processes >= 1
        words = [args.training_script, *args.training_script_args]
    path = PROJECT / words[0]
    assert path.is_file() and path.parent == PROJECT / "training"
    parse_recipe(GROUPS[path.name], [str(PROJECT / words[1]), *words[2:]])


def documented() -> list[tuple[str, list[str], dict[str, str]]]:
    """The job files that the page submits: name, arguments for the program, and options for sbatch."""
    found = []
    for line in "".join(blocks(FOLDER / "README.md", "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["sbatch"]:
            at = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
            given = dict(word.removeprefix("--").split("=") for word in words[1:at])
            assert (PROJECT / words[at]).parent == FOLDER
            found.append((Path(words[at]).name, words[at + 1 :], given))
    return found


def wait_for_call(process: subprocess.Popen, recorded, number: int = 1) -> None:
    """Wait until a program runs, which then listens to signals."""
    deadline = time.monotonic() + 60
    while len(recorded()) < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def step_gets_term(slurm: FakeSlurm) -> None:
    """As a preemption with a grace time does it, and `scancel --signal=TERM`."""
    subprocess.run([slurm.folder / "bin" / "scancel", "--signal=TERM", "7"], check=True)


@pytest.mark.parametrize("name", [*JOBS, "run_until_done.sh"])
def test_script_is_clean_bash(name):
    done = subprocess.run(["bash", "-n", FOLDER / name], capture_output=True, text=True, check=True)
    assert not done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    scripts = sorted(FOLDER.glob("*.s*"))
    done = subprocess.run(["shellcheck", "-x", *scripts], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("job", JOBS)
def test_job_is_requeued_hears_of_its_limit_and_continues_its_log(job):
    asked = options((FOLDER / job).read_text(encoding="utf-8"))
    assert "requeue" in asked and asked["open-mode"] == "append"
    shell, seconds = asked["signal"].split("@")
    assert shell == "B:USR1" and int(seconds) >= 120
    assert asked["partition"] == ("gpu" if "gpus-per-node" in asked else "cpu")


@pytest.mark.parametrize("job", JOBS)
def test_commands_of_a_job_parse(job, slurm, recorded):
    code, out = run(slurm, job, *ARGUMENTS.get(job, []))
    assert code == 0, out
    assert recorded()
    for program, _, words in recorded():
        check(program, words)


def test_documented_submissions_parse_and_name_every_job(slurm, recorded):
    assert {job for job, _, _ in documented()} == set(JOBS)
    for job, arguments, given in documented():
        seen = len(recorded())
        code, out = run(slurm, job, *arguments, given=given)
        assert code == 0, out
        assert len(recorded()) > seen
        for program, _, words in recorded()[seen:]:
            check(program, words)


def test_documented_programs_parse():
    lines = "".join(blocks(FOLDER / "README.md", "bash")).splitlines()
    calls = [shlex.split(line) for line in lines if line.startswith("python ")]
    assert calls
    for program, *words in calls:
        check(program, words)


def test_documented_job_of_ones_own_requeues_itself(slurm, recorded, tmp_path):
    (own,) = (text for text in blocks(FOLDER / "README.md", "bash") if text.startswith("#!"))
    assert {"requeue", "signal"} <= options(own).keys()
    job = tmp_path / "own.sbatch"
    job.write_text(own, encoding="utf-8")
    with slurm.start(job, RUNS_ON="yes", CODE=75) as process:
        wait_for_call(process, recorded)
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=60)
    assert slurm.requeued == ["7"], out
    ((program, _, words),) = recorded()
    check(program, words)


def test_each_node_launches_its_own_rank_of_one_group(slurm, recorded):
    code, out = run(slurm, "pretrain_nodes.sbatch", "recipes/mul_tokens.yaml", "--seed", "4", given={"nodes": "3"})
    assert code == 0, out
    assert sorted(rank for _, rank, _ in recorded()) == ["0", "1", "2"]
    parsed = {rank: launch_command_parser().parse_args(words[1:]) for _, rank, words in recorded()}
    assert all(args.machine_rank == int(rank) for rank, args in parsed.items())
    (group,) = {
        (args.num_machines, args.num_processes, args.main_process_ip, args.main_process_port)
        for args in parsed.values()
    }
    assert group == (3, 24, os.uname().nodename, 20_007)
    assert parsed["2"].training_script_args == ["recipes/mul_tokens.yaml", "--seed", "4"]


def test_every_stage_begins_at_the_best_checkpoint_of_the_one_before(slurm, recorded):
    code, out = run(slurm, "post_training.sbatch", "runs/mine/mul_tokens-s3/checkpoint-9")
    assert code == 0, out
    scripts = [launch_command_parser().parse_args(words[1:]) for _, _, words in recorded()]
    starts, outputs = [], []
    for script in scripts:
        args = script.training_script_args
        assert args[args.index("--seed") + 1] == "3"
        starts.append(args[args.index("--model_name_or_path") + 1])
        outputs.append(args[args.index("--output_dir") + 1])
    assert starts == ["runs/mine/mul_tokens-s3/checkpoint-9", *(f"{output}/best" for output in outputs[:-1])]
    assert [script.training_script for script in scripts] == ["training/sft.py"] * 5 + ["training/grpo.py"]


def test_arguments_with_blanks_arrive_whole_and_stages_follow_each_other(slurm, recorded, stages):
    with slurm.start(stages) as process:
        assert process.wait(timeout=60) == 0
    assert [words for _, _, words in recorded()] == [["first"], ["the second"]]
    assert slurm.requeued == []


def test_failure_ends_the_job_with_its_code_and_no_other_try(slurm, recorded, stages):
    with slurm.start(stages, CODE=2) as process:
        assert process.wait(timeout=60) == 2
    assert len(recorded()) == 1
    assert slurm.requeued == []


@pytest.mark.parametrize("code", [75, 1], ids=["program", "launcher"])
def test_time_limit_stops_the_program_and_requeues_the_job(slurm, recorded, stages, code):
    with slurm.start(stages, RUNS_ON="yes", CODE=code) as process:
        wait_for_call(process, recorded)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == 75
    assert len(recorded()) == 1, "a stage began behind one that was stopped"
    assert slurm.requeued == ["7"]


@pytest.mark.parametrize("code", [75, 1], ids=["program", "launcher"])
def test_preempted_step_requeues_the_job(slurm, recorded, stages, code):
    with slurm.start(stages, RUNS_ON="yes", CODE=code) as process:
        wait_for_call(process, recorded)
        step_gets_term(slurm)
        assert process.wait(timeout=60) == 75
    assert slurm.requeued == ["7"]


def test_program_that_finishes_all_the_same_is_finished(slurm, recorded, stages):
    with slurm.start(stages, RUNS_ON="yes", CODE=0) as process:
        wait_for_call(process, recorded)
        step_gets_term(slurm)
        wait_for_call(process, recorded, 2)
        step_gets_term(slurm)
        assert process.wait(timeout=60) == 0
    assert slurm.requeued == []


def test_stage_that_the_time_limit_finds_at_its_end_is_followed_by_a_requeue(slurm, recorded, stages):
    with slurm.start(stages, RUNS_ON="yes", CODE=0) as process:
        wait_for_call(process, recorded)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == 75
    assert len(recorded()) == 1
    assert slurm.requeued == ["7"]


def test_cancelled_job_lets_the_program_save_and_stays_cancelled(slurm, recorded, stages):
    with slurm.start(stages, RUNS_ON="yes", CODE=75) as process:
        wait_for_call(process, recorded)
        process.send_signal(signal.SIGTERM)  # scancel: to the script and the step
        step_gets_term(slurm)
        assert process.wait(timeout=60) == 75
    assert slurm.requeued == []


def test_job_is_requeued_a_limited_number_of_times(slurm, recorded, stages):
    for restarts in (49, 50):
        seen = len(recorded())
        with slurm.start(stages, RUNS_ON="yes", CODE=75, SLURM_RESTART_COUNT=restarts) as process:
            wait_for_call(process, recorded, seen + 1)
            step_gets_term(slurm)
            assert process.wait(timeout=60) == 75
            out = process.stdout.read()
    assert slurm.requeued == ["7"]
    assert "has been requeued 50 times" in out


def test_task_of_an_array_requeues_itself_alone(slurm, recorded, stages):
    with slurm.start(stages, RUNS_ON="yes", CODE=75, SLURM_ARRAY_JOB_ID=7, SLURM_ARRAY_TASK_ID=2) as process:
        wait_for_call(process, recorded)
        process.send_signal(signal.SIGUSR1)
        process.wait(timeout=60)
    assert slurm.requeued == ["7_2"]


@pytest.fixture
def reference(recipe, tmp_path) -> Iterator[Path]:
    run = tmp_path / "reference"
    assert pretrain_here(recipe, run, "--max_steps", 24, "--save_steps", 12, "--eval_steps", 12) == 0
    return run


@pytest.mark.deep
def test_pretraining_that_meets_its_time_limit_ends_as_if_nothing_had_happened(recipe, reference, slurm, tmp_path):
    run = tmp_path / "run"
    arguments = [recipe, "--output_dir", run, "--max_steps", 24, "--save_steps", 12, "--eval_steps", 12]
    inside = allocation("pretrain.sbatch", {"gpus-per-node": "1", "cpus-per-task": "2"})
    inside["PATH"] = f"{slurm.folder / 'bin'}:{program_environment()['PATH']}"
    with slurm.start(FOLDER / "pretrain.sbatch", *arguments, **inside) as process:
        wait_for_step(process, run, 3)
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=200)
    stopped_at = checkpoint_step(list_checkpoints(run)[-1])
    assert process.returncode == 75, out
    assert 3 <= stopped_at < 24
    assert slurm.requeued == ["7"]
    with slurm.start(FOLDER / "pretrain.sbatch", *arguments, **inside, SLURM_RESTART_COUNT=1) as process:
        out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert f"continuing from {run / f'checkpoint-{stopped_at}'}" in out
    assert_same_run(reference, run, 24)
