"""Slurm's commands as scripts that put jobs into a folder, and a cluster that runs them: later, elsewhere, and in the
order that their dependencies allow."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import PROJECT

COMMANDS = {
    # Any option may come first; the last argument is the script, which sbatch copies before it returns.
    "sbatch": """
        cd {spool}
        number=$(ls | wc -l)
        printf '%s\\n' "$@" > $number.arguments
        cat "${{!#}}" > $number.script
        echo "Submitted batch job $number"
    """,
    "squeue": "cat {spool}/../queued",
    "scontrol": """
        if [[ $1 == requeue ]]; then echo "$2" >> {spool}/../requeued; else echo localhost; fi
    """,
    # One task on each node, in a group of processes of its own.
    "srun": """
        while [[ $1 == -* ]]; do
            if [[ $1 == -n ]]; then shift; fi
            shift
        done
        if [[ -n $SLURM_STEP_GPUS ]]; then export CUDA_VISIBLE_DEVICES=$SLURM_STEP_GPUS; fi
        tasks=()
        : > {spool}/../step
        for ((node = 0; node < ${{SLURM_NNODES:-1}}; node++)); do
            SLURM_NODEID=$node setsid bash -c 'echo $$ >> {spool}/../step; exec "$@"' bash "$@" &
            tasks+=($!)
        done
        highest=0
        for task in "${{tasks[@]}}"; do
            wait "$task"
            code=$?
            if ((code > highest)); then highest=$code; fi
        done
        exit "$highest"
    """,
    # --signal=TERM goes to all processes of the step, and not to the job's script.
    "scancel": 'for task in $(cat {spool}/../step); do kill -TERM -- "-$task"; done',
}


@dataclass
class Job:
    number: str
    options: dict[str, str]
    script: Path

    @property
    def indices(self) -> range:
        return range(int(re.match(r"0-(\d+)", self.options["array"]).group(1)) + 1)


@dataclass
class FakeSlurm:
    """A folder of submitted jobs, and a way to run them."""

    folder: Path
    ended: dict[str, bool] = field(default_factory=dict)

    @classmethod
    def install(cls, folder: Path) -> "FakeSlurm":
        (folder / "bin").mkdir()
        (folder / "spool").mkdir()
        (folder / "queued").touch()
        for name, body in COMMANDS.items():
            script = folder / "bin" / name
            script.write_text("#!/bin/bash\n" + body.format(spool=folder / "spool"), encoding="utf-8")
            script.chmod(0o755)
        return cls(folder)

    @property
    def path(self) -> str:
        """A PATH with Slurm on it, and without the folder of the interpreter."""
        rest = [part for part in os.environ["PATH"].split(os.pathsep) if part != os.path.dirname(sys.executable)]
        return os.pathsep.join([str(self.folder / "bin"), *rest])

    @property
    def requeued(self) -> list[str]:
        file = self.folder / "requeued"
        return file.read_text(encoding="utf-8").split() if file.exists() else []

    def start(self, script: Path, *arguments: object, **environment: object) -> subprocess.Popen:
        """Start a job's script on its own, as job 7, where it was submitted: in the root of the project."""
        inside = {"SLURM_JOB_ID": 7, "SLURM_NODELIST": "localhost", **environment}
        return subprocess.Popen(
            ["bash", script, *map(str, arguments)],
            env={**os.environ, "PATH": self.path} | {key: str(value) for key, value in inside.items()},
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def jobs(self) -> list[Job]:
        found = []
        for file in sorted((self.folder / "spool").glob("*.script")):
            lines = re.findall(r"^#SBATCH --(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            given = file.with_suffix(".arguments").read_text(encoding="utf-8").splitlines()[:-1]
            options = [line.partition("=") for line in [*lines, *(option.removeprefix("--") for option in given)]]
            found.append(Job(file.stem, {key: value for key, _, value in options}, file))
        return found

    def named(self, end: str) -> list[Job]:
        """The jobs of a name, without those that only add up statistics."""
        return [
            job
            for job in self.jobs
            if job.options["job-name"].endswith(end) and "launch_pickled_pipeline" in job.script.read_text()
        ]

    def run(self, lost: tuple[int, ...] = ()) -> None:
        """Run what waits, the newest first unless it depends on another; tasks `lost` end without having run."""
        waiting = [job for job in reversed(self.jobs) if job.number not in self.ended]
        while waiting:
            job = next(job for job in waiting if self._may_start(job))
            waiting.remove(job)
            if self.ended.get(job.options.get("dependency", "").partition(":")[2], True):
                succeeded = [index not in lost and self._run_task(job, index) for index in job.indices]
                self.ended[job.number] = all(succeeded)
            else:
                assert job.options["kill-on-invalid-dep"] == "yes"
                self.ended[job.number] = False

    def _may_start(self, job: Job) -> bool:
        kind, _, number = job.options.get("dependency", "").partition(":")
        assert kind in ("", "afterok")
        return not number or number in self.ended

    def _run_task(self, job: Job, index: int) -> bool:
        exported = (
            dict(part.split("=") for part in job.options["export"].split(",")[1:]) if "export" in job.options else {}
        )
        log = job.options["output"].replace("%A", job.number).replace("%a", str(index))
        inside = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_JOB_ID": job.number, "SLURM_NODELIST": "localhost"}
        with open(log, "w", encoding="utf-8") as output:
            done = subprocess.run(
                ["bash", job.script],
                env={**os.environ, "PATH": self.path, **exported, **inside},
                cwd=PROJECT,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=120,
            )
        return done.returncode == 0
