"""An experiment as jobs of a Slurm cluster: its corpora, then an array with a task for each arm and seed, its report.

Every job gives the command that wrote them for a part of the experiment, so what one does, another takes up.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.core.device import PEAK_FLOPS
from training.core.files import write_text
from training.experiments.recipe import ExperimentArguments
from training.experiments.steps import PROGRAMS

# The time between asking the program to save and the job's end; a step of GRPO takes longest to come to its end.
_SECONDS_TO_SAVE = 300
_LIBRARY = PROGRAMS.parent / "recipes" / "slurm" / "run_until_done.sh"

# The lines before the program are the step's: shell arrays do not come along, and cores and CUDA_VISIBLE_DEVICES are
# its own.
_BODY = """\
cd {folder}
export PATH={interpreters}:"$PATH"
source {library}
part() {{
{prepare}\
    {command}
}}
run_until_done part
"""

_SUBMIT = """\
#!/bin/bash
# Submits the jobs of {name}, each behind those that it needs.
set -euo pipefail
cd {folder}
corpus=$(sbatch --parsable {corpus})
corpus=${{corpus%%;*}}  # where there are several clusters, the name of this one follows
runs=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:$corpus" {runs})
runs=${{runs%%;*}}
report=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:$corpus,afterany:$runs" {report})
echo "submitted: corpora $corpus, runs $runs, report ${{report%%;*}}"
"""


def write_jobs(args: ExperimentArguments, argv: Sequence[str]) -> str:
    """Write `output_dir/slurm/{corpus,runs,report}.sbatch` and `submit.sh`, and return how to submit them.

    argv: the command line, with the program first; each job repeats it from the folder where it was given. A task of
    the runs has devices_per_step GPUs, or as many cores where plan_device names no GPU; max_parallel limits how many
    run at the same time. slurm_options are for all jobs, `--time=24:00:00` or `time=24:00:00`.

    Raises `ValueError` for what a job's script cannot hold, and with only_corpus or only_report.
    """
    for key in ("only_corpus", "only_report"):
        if getattr(args, key):
            raise ValueError(f"{key} is true, but the jobs do all of the experiment; leave it out with --slurm")
    if found := re.search(r"[^\w@+=:,./-]", args.output_dir):
        raise ValueError(
            f"output_dir '{args.output_dir}' has {found.group()!r} in it, which does not come through a job's options "
            "unharmed; choose a path without it"
        )
    for line in (args.slurm_partition or "", *args.slurm_options):
        if "\n" in line:
            raise ValueError(f"{line!r} of the options for Slurm has more than one line; list each by itself")
    here, folder = Path.cwd(), Path(args.output_dir) / "slurm"
    logs = Path(args.output_dir) / "logs"
    for each in (folder, logs):  # Slurm itself makes no folder for its logs
        each.mkdir(parents=True, exist_ok=True)
    jobs = _jobs(args, logs)
    for job in jobs:
        body = _BODY.format(
            folder=shlex.quote(str(here)),
            interpreters=shlex.quote(str(Path(sys.executable).parent)),
            library=shlex.quote(str(_LIBRARY)),
            prepare="".join(f"    {line}\n" for line in job.prepare),
            # The last of several values of an option counts.
            command=f"{shlex.join([sys.executable, *argv])} --slurm false {job.arguments}",
        )
        write_text(folder / f"{job.name}.sbatch", _header(args, job) + body)
    paths = {job.name: shlex.quote(str(folder / f"{job.name}.sbatch")) for job in jobs}
    submit = folder / "submit.sh"
    write_text(submit, _SUBMIT.format(name=_job_name(args), folder=shlex.quote(str(here)), **paths))
    devices = f"{args.devices_per_step} {'GPUs' if _has_gpus(args) else 'cores'}"
    return (
        f"wrote {folder}/corpus.sbatch (corpora), runs.sbatch ({len(_runs(args))} runs, {devices} each) and "
        f"report.sbatch; to submit them, where jobs are submitted:\nbash {shlex.quote(str(submit))}"
    )


@dataclass(frozen=True)
class _Job:
    """options: for Slurm. prepare: lines before the program. arguments: in the shell's words, what part it does."""

    name: str
    options: list[str]
    prepare: list[str]
    arguments: str


def _jobs(args: ExperimentArguments, logs: Path) -> list[_Job]:
    runs, at_once = _runs(args), f"%{args.max_parallel}" if args.max_parallel else ""
    devices = f"{'gres=gpu:' if _has_gpus(args) else 'cpus-per-task='}{args.devices_per_step}"
    no_gpus = "export CUDA_VISIBLE_DEVICES="
    return [
        _Job(
            "corpus",
            [f"output={logs}/slurm-%j.log"],
            # A step is bound to devices_per_step cores: all that the job has.
            [no_gpus, "cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)"],
            '--only_corpus true --devices_per_step "$cores"',
        ),
        _Job(
            "runs",
            [f"array=0-{len(runs) - 1}{at_once}", f"output={logs}/slurm-%A_%a.log", devices],
            [f"arms=({shlex.join(arm for arm, _ in runs)})", f"seeds=({' '.join(str(seed) for _, seed in runs)})"],
            '--report false --only_arms "${arms[$SLURM_ARRAY_TASK_ID]}" --only_seeds "${seeds[$SLURM_ARRAY_TASK_ID]}"',
        ),
        _Job(
            "report",
            [f"output={logs}/slurm-%j.log"],
            [no_gpus],
            "--only_report true --report true --devices_per_step 1",
        ),
    ]


def _runs(args: ExperimentArguments) -> list[tuple[str, int]]:
    """Return arm and seed of every run, one seed after the other."""
    arms = args.only_arms or [arm.name for arm in args.arms]
    return [(arm, seed) for seed in args.only_seeds or args.seeds for arm in arms]


def _has_gpus(args: ExperimentArguments) -> bool:
    return any(part in args.plan_device for part in PEAK_FLOPS)


def _job_name(args: ExperimentArguments) -> str:
    return re.sub(r"[^\w.+-]", "-", args.name)


def _header(args: ExperimentArguments, job: _Job) -> str:
    lines = [
        f"job-name={_job_name(args)}-{job.name}",
        *job.options,
        "nodes=1",
        "ntasks=1",
        "open-mode=append",  # a job that is requeued goes on with its log
        "requeue",
        f"signal=B:USR1@{_SECONDS_TO_SAVE}",  # to the shell, which passes it on
        *([f"partition={args.slurm_partition}"] if args.slurm_partition else []),
        *args.slurm_options,  # last, for they beat those above
    ]
    return "".join(
        ["#!/bin/bash\n", *(f"#SBATCH {line if line.startswith('-') else f'--{line}'}\n" for line in lines), "\n"]
    )
