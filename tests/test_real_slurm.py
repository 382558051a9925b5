"""The job files under a real Slurm: a cluster of two nodes on this machine, made for the tests."""

import getpass
import json
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.conftest import CORPUS, PROJECT, RECIPE, assert_same_run, pretrain_here, program_environment, rows_with
from tests.programs import NO_GPU, run_to_the_end
from tests.test_recipes import blocks
from tests.test_two_nodes import command
from training.core.checkpoint import checkpoint_step, list_checkpoints

MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.deep,
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"there is no Slurm here: {', '.join(MISSING)} not found"),
    pytest.mark.skipif(not NO_GPU, reason="compares bits, and the cluster's GPUs are none"),
]

JOBS = "recipes/slurm"
STEPS = 60
SCIENCE = ("--max_steps", STEPS, "--eval_steps", 30, "--save_steps", 30, "--save_total_limit", 9)
# Jobs of the partition `urgent` take the nodes from those of `gpu`, which have a grace time. A GPU is /dev/null.
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n[0-1] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first_port},{second_port}] CPUs=2 Gres=gpu:1
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=300
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


@dataclass
class Cluster:
    """A running Slurm, and the environment in which its commands speak to it."""

    environment: dict[str, str]

    def run(self, *words: object, folder: Path = PROJECT, **environment: str) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def submit(self, *words: object, folder: Path = PROJECT, **environment: str) -> str:
        return self.run("sbatch", "--parsable", *words, folder=folder, **environment).strip()

    def facts(self, job: str) -> dict[str, str]:
        words = self.run("scontrol", "show", "job", job).split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def wait(self, job: str, state: str, restarts: int = 0) -> None:
        self.until(
            lambda: self.facts(job)["JobState"] == state and int(self.facts(job)["Restarts"]) >= restarts,
            f"job {job} to be {state} after {restarts} restarts",
            job,
        )

    def release(self, job: str) -> None:
        """Start a requeued job now; Slurm would hold it for two minutes."""
        time.sleep(2)  # a node refuses a job whose credential is of the second in which the last one was revoked
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def until(self, is_so: Callable[[], bool], what: str, job: str) -> None:
        deadline = time.monotonic() + 300
        while not is_so():
            facts = self.facts(job)
            assert time.monotonic() < deadline and facts["JobState"] != "FAILED", f"waited for {what}: {facts}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir()
    listeners = [socket.socket() for _ in range(3)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    controller_port, first_port, second_port = (listener.getsockname()[1] for listener in listeners)
    for listener in listeners:
        listener.close()
    text = CONFIGURATION.format(
        host=platform.node(),
        user=getpass.getuser(),
        folder=folder,
        controller_port=controller_port,
        first_port=first_port,
        second_port=second_port,
    )
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n", encoding="utf-8")
    environment = program_environment(SLURM_CONF=str(folder / "slurm.conf"), OMP_NUM_THREADS="2")
    daemons = []
    try:
        for name, words in {"slurmctld": [], "n0": ["-N", "n0"], "n1": ["-N", "n1"]}.items():
            program = "slurmctld" if name == "slurmctld" else "slurmd"
            with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
                daemon = subprocess.Popen([program, "-D", *words], env=environment, stdout=log, stderr=log)
            daemons.append(daemon)
        made = Cluster(environment)
        deadline = time.monotonic() + 60
        while True:
            seen = subprocess.run(
                ["sinfo", "-hNo", "%T"], env=environment, capture_output=True, text=True, check=False
            )
            if seen.stdout.split() == ["idle"] * 4:  # two nodes in two partitions
                break
            logs = "\n".join(log.read_text(encoding="utf-8")[-1500:] for log in sorted(folder.glob("*.log")))
            if any(daemon.poll() is not None for daemon in daemons) and "auth/none" in logs:
                pytest.skip("this Slurm has no auth/none, and would need munge")
            assert time.monotonic() < deadline and all(daemon.poll() is None for daemon in daemons), logs
            time.sleep(0.2)
        yield made
        made.run("scancel", f"--user={getpass.getuser()}")
        while made.run("squeue", "-h") and time.monotonic() < deadline + 600:
            time.sleep(0.2)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(timeout=60)


def wait_for_steps(cluster: Cluster, job: str, run: Path, step: int) -> None:
    metrics = run / "metrics.jsonl"
    cluster.until(
        lambda: metrics.is_file() and any(at >= step for at in rows_with(run, "loss")), f"step {step} of {run}", job
    )


def test_two_nodes_preempted_and_requeued_end_as_one_machine(cluster, recipe, tmp_path):
    one, two, log = tmp_path / "one", tmp_path / "two", tmp_path / "log"
    run_to_the_end([*command(recipe, one, "ddp"), *map(str, SCIENCE)])
    options = ("--cpus-per-task=1", "--gpus-per-node=1", f"--output={log}")
    job = cluster.submit(*options, f"{JOBS}/pretrain_nodes.sbatch", recipe, "--output_dir", two, *SCIENCE)

    # A job that comes first takes both nodes. The programs save within the grace time, and the job asks for a requeue.
    wait_for_steps(cluster, job, two, 3)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    cluster.wait(job, "PENDING", restarts=1)
    cluster.wait(urgent, "COMPLETED")
    preempted_at = checkpoint_step(list_checkpoints(two)[-1])
    assert 3 <= preempted_at < STEPS
    assert f"job {job} was interrupted and goes back into the queue" in log.read_text()

    # Without a grace time: Slurm puts the job back itself, and gives the programs what KillWait says.
    cluster.release(job)
    wait_for_steps(cluster, job, two, preempted_at + 3)
    cluster.run("scontrol", "requeue", job)
    cluster.wait(job, "PENDING", restarts=2)
    requeued_at = checkpoint_step(list_checkpoints(two)[-1])
    assert preempted_at < requeued_at < STEPS

    cluster.release(job)
    cluster.wait(job, "COMPLETED")
    text = log.read_text()
    for step in (preempted_at, requeued_at):
        assert f"continuing from {two / f'checkpoint-{step}'}" in text
    assert "2 process(es)" in text
    assert_same_run(one, two, STEPS)


def test_one_node_told_to_stop_goes_on_to_the_same_end(cluster, recipe, tmp_path):
    one, run, log = tmp_path / "one", tmp_path / "run", tmp_path / "log"
    assert pretrain_here(recipe, one, *SCIENCE) == 0
    options = ("--cpus-per-task=2", "--gpus-per-node=1", f"--output={log}")
    job = cluster.submit(*options, f"{JOBS}/pretrain.sbatch", recipe, "--output_dir", run, *SCIENCE)
    wait_for_steps(cluster, job, run, 3)
    cluster.run("scancel", "--signal=TERM", job)
    cluster.wait(job, "PENDING", restarts=1)
    stopped_at = checkpoint_step(list_checkpoints(run)[-1])
    assert 3 <= stopped_at < STEPS
    cluster.release(job)
    cluster.wait(job, "COMPLETED")
    assert f"continuing from {run / f'checkpoint-{stopped_at}'}" in log.read_text()
    assert_same_run(one, run, STEPS)


@pytest.fixture
def experiment(tmp_path) -> Path:
    """Two arms that are pretrained for some steps and measured."""
    items = {"synthetic": "word_problems", "documents": 20, "seed": 1_000_000}
    evaluation = {"name": "check", "tasks": [{"task": "text_loss", **items}]}
    corpus = CORPUS | {"decontaminate": [items]}
    pretrain = {key: value for key, value in RECIPE.items() if key != "condition"}
    science = {"max_steps": STEPS, "eval_steps": 30, "save_steps": 30, "save_total_limit": 9}
    for name, keys in {"corpus": corpus, "pretrain": pretrain, "check": evaluation}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(keys), encoding="utf-8")
    measured = {"stage": "pretrain", "eval": "check", "task": "text_loss"}
    keys = {
        "name": "tiny",
        "scale": "smoke",
        "seeds": [0],
        "arms": {"baseline": {}, "mul_tokens": {}},
        "comparisons": [["baseline", "mul_tokens"]],
        "corpus": str(tmp_path / "corpus.yaml"),
        "stages": [
            {"name": "pretrain", "program": "pretrain", "recipe": str(tmp_path / "pretrain.yaml"), "set": science}
        ],
        "evals": [{"recipe": str(tmp_path / "check.yaml"), "stages": ["pretrain"]}],
        "primary": {"name": "text", "value": "nats", "per": "bytes", "higher_is_better": False, **measured},
        "plan_device": "cpu",
    }
    recipe = tmp_path / "experiment.yaml"
    recipe.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return recipe


def test_experiment_whose_runs_are_preempted_and_requeued_ends_as_one_that_was_left_alone(
    cluster, experiment, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    command = ("python", "training/experiment.py", experiment)
    run_to_the_end([sys.executable, *map(str, command[1:]), "--output_dir", str(one)])

    said = cluster.run(*command, "--output_dir", two, "--slurm", "--slurm_options", "time=00:30:00")
    submitted = cluster.run(*shlex.split(said.splitlines()[-1]))
    corpora, runs, report = re.findall(r"\d+", submitted)
    # Both tasks save within the grace time, and go back into the queue by themselves.
    tasks = {f"{runs}_0": two / "baseline-s0/pretrain", f"{runs}_1": two / "mul_tokens-s0/pretrain"}
    cluster.wait(corpora, "COMPLETED")
    for task, run in tasks.items():
        wait_for_steps(cluster, task, run, 3)
    urgent = cluster.submit("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "true")
    for task, run in tasks.items():
        cluster.wait(task, "PENDING", restarts=1)
        stopped_at = checkpoint_step(list_checkpoints(run)[-1])
        assert 3 <= stopped_at < STEPS and stopped_at % 30, "the program has not saved"
    cluster.wait(urgent, "COMPLETED")
    for task in tasks:
        cluster.release(task)
    cluster.wait(report, "COMPLETED")

    for run in tasks.values():
        assert_same_run(one / run.relative_to(two), run, STEPS)
        results = [
            folder / run.relative_to(two) / f"evals/check/checkpoint-{STEPS}/text_loss.jsonl" for folder in (one, two)
        ]
        assert results[0].read_bytes() == results[1].read_bytes()
    ledger = [json.loads(line) for line in (two / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [(row["status"], row["attempt"]) for row in ledger if row["step"] == "mul_tokens-s0/pretrain"]
    assert ends == [("interrupted", 1), ("finished", 2)]
    assert (two / "report").is_dir()


def test_documented_commands_do_what_the_page_says(cluster, tmp_path):
    (tmp_path / "recipes").symlink_to(PROJECT / "recipes")
    header = (PROJECT / JOBS / "pretrain.sbatch").read_text(encoding="utf-8").partition("source ")[0]
    own = tmp_path / "own.sbatch"
    own.write_text(f"{header}source {JOBS}/run_until_done.sh\nrun_until_done sleep 600\n", encoding="utf-8")
    options = ("--cpus-per-task=1", "--gpus-per-node=1", "--time=00:30:00")
    job = cluster.submit(*options, own, folder=tmp_path)
    (block,) = (text for text in blocks(PROJECT / JOBS / "README.md", "bash") if text.startswith("squeue"))
    cluster.wait(job, "RUNNING")
    cluster.until(lambda: f"{job}.0" in cluster.run("squeue", "-hs", "-o", "%i"), "the step", job)
    afterwards = {
        "scancel --signal=TERM": ("PENDING", 1),
        "scontrol update": ("RUNNING", 1),
        "scontrol requeue": ("PENDING", 2),
        "scancel JOB": ("CANCELLED", 2),
    }
    for line in block.splitlines():
        words = shlex.split(line, comments=True)
        out = cluster.run(
            *(word.replace("JOB", job) if "JobId" not in word else f"JobId={job}" for word in words), folder=tmp_path
        )
        assert words[0] != "squeue" or job in out
        state = next((state for begin, state in afterwards.items() if line.startswith(begin)), None)
        if state is not None:
            cluster.wait(job, *state)
            time.sleep(2)  # as in release
