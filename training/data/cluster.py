"""Corpus preparation as a datatrove pipeline: on the cores of this machine, or as jobs on a Slurm cluster.

One block prepares pieces, each task every n-th of them, and `prepare_corpus` alone chooses documents and writes the
manifests. The records of finished pieces say what is left to do; at each launch datatrove's markers of completed tasks
are set by them, so that a task runs again exactly when one of its pieces is missing. Scripts, logs and statistics are
in `<output_dir>/datatrove/`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.core.files import alone_in, write_json
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.pieces import PieceMaker
from training.data.plan import Piece, Plan
from training.data.records import read_record
from training.data.worker_pool import ONE_THREAD

try:
    import multiprocess
    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from datatrove.utils.logging import logger
except ImportError as error:
    raise ValueError(
        f"the executors datatrove and slurm need datatrove, which cannot be imported ({error}); "
        "pip install 'mul-fact-tokens[cluster]', or choose executor here"
    ) from error

# English prose has about 4.7 bytes per GPT-2 token; a source that has more than this is continued by the finish.
MOST_BYTES_PER_TOKEN = 6.0
MOST_TASKS = 1000  # Slurm's usual limit for one array of jobs is 1001
MOST_CPUS_OF_FINISH = 16


class PreparePieces(PipelineStep):
    """Prepare every `world_size`-th piece of the plan in `output_dir` that is not finished for all `conditions`."""

    type = "CORPUS"
    name = "pieces"

    def __init__(self, output_dir: str, conditions: list[str], encoder: str):
        super().__init__()
        self.output_dir, self.conditions, self.encoder = output_dir, conditions, encoder

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator:
        """Pass `data` through, prepare the task's pieces, and add nothing; the work is done as this is consumed."""
        yield from data or ()
        plan = Plan.load(Path(self.output_dir))
        maker = None
        for piece in pieces_ahead(plan)[rank::world_size]:
            if read_record(plan.folder, piece, self.conditions) is not None:
                continue
            maker = maker or PieceMaker(plan, self.conditions, self.encoder)
            with self.track_time("piece"):
                record = maker.make(piece, report=logger.info)
            train = record["splits"]["train"]
            self.stat_update("documents", value=record["documents_read"], unit="piece")
            for key in ("bytes", "plain_tokens"):
                self.stat_update(f"train_{key}", value=train[key], unit="piece")
            logger.info(f"piece {piece.name}: {train['plain_tokens']:,} tokens of training text")


class FinishCorpus(PipelineStep):
    """Prepare what the pieces' tasks have left, choose the documents and write the manifests of the corpus.

    recipe: the keys of `CorpusArguments`. Raises what `prepare_corpus` raises.
    """

    type = "CORPUS"
    name = "finish"

    def __init__(self, recipe: dict[str, Any], workers: int, encoder: str):
        super().__init__()
        self.recipe, self.workers, self.encoder = recipe, workers, encoder

    def run(self, data=None, rank: int = 0, world_size: int = 1) -> Iterator:
        """Pass `data` through, finish the corpus, and add nothing; the work is done as this is consumed."""
        from training.data.corpus import prepare_corpus  # it brings PyTorch along, which no other task needs

        yield from data or ()
        with self.track_time("corpus"):
            prepare_corpus(CorpusArguments(**self.recipe), logger.info, self.workers, self.encoder)


def pieces_ahead(plan: Plan) -> list[Piece]:
    """Return the pieces that the target surely needs, source by source; all of them without a target.

    How much text a source holds is known beforehand, its tokens are not: the bound of `MOST_BYTES_PER_TOKEN` gives
    some pieces too many. Fillers of a dose are left out, for how many are needed depends on all other documents.
    """
    args = plan.args
    indices = [index for index, source in enumerate(plan.sources) if not args.is_filler(source)]
    weights = sum(plan.sources[index].weight or 0 for index in indices)
    train_bytes = None
    if args.target_tokens is not None:
        train_bytes = args.target_tokens * MOST_BYTES_PER_TOKEN / (1 - args.validation_fraction)
    ahead, held = [], 0
    for index in indices:
        source, needed = plan.sources[index], train_bytes
        if source.weight is not None and needed is not None:
            needed, held = needed * source.weight / weights, 0
        for piece in plan.pieces(index):
            if needed is not None and held >= needed:
                break
            ahead.append(piece)
            held += piece.span.bytes * source.epochs
    return ahead


def launch(args: CorpusArguments, preparation: PreparationArguments) -> bool:
    """Prepare the missing pieces of a corpus through datatrove, and return whether `prepare_corpus` is to finish it
    here.

    Executor `datatrove` waits for the pieces; when a worker is killed, datatrove waits for ever, which our own pool
    (executor `here`) does not. Executor `slurm` submits the pieces' tasks, and a job that finishes the corpus after
    them, and returns False; given again it submits what failed, or says that the jobs are still on the cluster.
    Raises `ValueError` for what is wrong with the input, and where there is no Slurm or it refuses the jobs.
    """
    from training.data.corpus import check_disk, missing_conditions  # PyTorch, see above

    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    on_slurm = preparation.executor == "slurm"
    if on_slurm:
        _check_slurm(_logs(output_dir))
        if _is_on_cluster(output_dir):  # asked before the lock, too, for the finishing job holds that to its end
            return False
    with alone_in(output_dir):
        if on_slurm and _is_on_cluster(output_dir):
            return False
        missing = missing_conditions(args)
        if not missing:
            return True
        plan = Plan.make(args)
        check_disk(plan, missing)
        pieces = pieces_ahead(plan)
        tasks = min(len(pieces), MOST_TASKS)
        left = _mark_completed_tasks(plan, pieces, missing, tasks)
        step = PreparePieces(args.output_dir, missing, preparation.encoder)
        if on_slurm:
            _submit(args, preparation, step, tasks)
        elif left:
            _run_here(output_dir, step, tasks, min(preparation.processes, left))
    return not on_slurm


def _logs(output_dir: Path) -> Path:
    # Not in the folder of unfinished pieces: that one is removed by the finish, while Slurm still writes logs.
    return (output_dir / "datatrove").resolve()


def _mark_completed_tasks(plan: Plan, pieces: list[Piece], conditions: list[str], tasks: int) -> int:
    """Let datatrove's markers say what the records say, and return how many tasks have something left to do.

    A marker of an earlier run may stand for other conditions, another number of tasks, or records since deleted.
    """
    markers = _logs(plan.output_dir) / "pieces" / "completions"
    markers.mkdir(parents=True, exist_ok=True)
    finished = [read_record(plan.folder, piece, conditions) is not None for piece in pieces]
    left = 0
    for rank in range(tasks):
        marker = markers / f"{rank:05d}"
        if all(finished[rank::tasks]):
            marker.touch()
        else:
            marker.unlink(missing_ok=True)
            left += 1
    return left


def _run_here(output_dir: Path, step: PreparePieces, tasks: int, workers: int) -> None:
    executor = LocalPipelineExecutor(
        [step], tasks=tasks, workers=workers, logging_dir=str(_logs(output_dir) / "pieces"), skip_completed=True
    )
    with _clean_processes():
        try:
            executor.run()
        except (ValueError, FileNotFoundError) as error:
            # From here, as from our own workers: the input is at fault.
            raise (FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError)(str(error)) from error


@contextmanager
def _clean_processes() -> Iterator[None]:
    """Let processes start with one thread each, and with nothing of this one."""
    before = {key: os.environ.get(key) for key in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    # datatrove forks a server from this process; should we be killed, it would live on and keep the folder's lock.
    method = multiprocess.get_start_method(allow_none=True)
    multiprocess.set_start_method("forkserver", force=True)
    # Each worker would import the program again, and PyTorch with it: 300 MB and seconds for nothing.
    program = vars(sys.modules["__main__"])
    file = program.pop("__file__", None)
    try:
        yield
    finally:
        program |= {} if file is None else {"__file__": file}
        multiprocess.set_start_method(method, force=True)
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _submit(args: CorpusArguments, preparation: PreparationArguments, step: PreparePieces, tasks: int) -> None:
    output_dir, logs = Path(args.output_dir), _logs(Path(args.output_dir))
    common = {
        "partition": preparation.slurm_partition,
        "time": preparation.slurm_time,
        "mem_per_cpu_gb": preparation.slurm_memory_gb,
        "qos": None,  # the user's own
        "env_command": _environment_command(),
        # Without it, what waits for a task that failed would wait for ever.
        "sbatch_args": {"kill-on-invalid-dep": "yes"},
        "requeue": True,
    }
    name = logs.parent.name
    pieces = SlurmPipelineExecutor(
        [step],
        tasks=tasks,
        workers=preparation.workers or -1,
        job_name=f"{name}-pieces",
        logging_dir=str(logs / "pieces"),
        **common,
    )
    cpus = min(preparation.processes, MOST_CPUS_OF_FINISH)
    finish = SlurmPipelineExecutor(
        [FinishCorpus(args.to_json(), cpus, preparation.encoder)],
        tasks=1,
        cpus_per_task=cpus,
        srun_args={"cpus-per-task": cpus},  # since Slurm 22.05 srun does not read it from the job
        job_name=f"{name}-finish",
        logging_dir=str(logs / "finish"),
        depends=pieces,
        skip_completed=False,  # a corpus that was deleted is finished again
        **common,
    )
    try:
        finish.launch_job()  # and before it `pieces`, if a task has something left to do
    except subprocess.CalledProcessError as error:
        raise ValueError(
            f"sbatch refused a job with status {error.returncode}, its own words are above; check slurm_partition "
            f"('{preparation.slurm_partition}'), slurm_time and slurm_memory_gb, then give the same command again"
        ) from error
    finally:
        jobs = {"pieces": pieces.job_id, "finish": finish.job_id}
        jobs = {part: job for part, job in jobs.items() if job not in (None, -1)}
        write_json(_jobs_file(output_dir), jobs)
    print(f"{output_dir}: submitted {_describe(jobs)}; the last one writes the manifests")
    print(f"logs: {logs}/pieces/slurm_logs and {logs}/finish/slurm_logs; after a failure give the same command again")


def _check_slurm(logs: Path) -> None:
    if shutil.which("sbatch") is None:
        raise ValueError("executor slurm needs sbatch, which is not on PATH; run this where jobs are submitted")
    scripts = Path(sys.executable).parent
    if not (scripts / "launch_pickled_pipeline").is_file():
        raise ValueError(
            f"datatrove's launch_pickled_pipeline is not in '{scripts}', where the jobs look for it; install "
            "datatrove into the environment of the interpreter that runs this program"
        )
    if found := re.search(r"[^\w@+=:,./-]", str(logs)):
        raise ValueError(
            f"output_dir '{logs.parent}' has {found.group()!r} in it, which does not come through datatrove's job "
            "scripts unharmed; choose a path without it"
        )


def _environment_command() -> str:
    """Return the line that lets a job use the interpreter that runs now, activated or not, with one thread."""
    variables = " ".join(f"{key}={value}" for key, value in ONE_THREAD.items())
    return f'export {variables} PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'


def _is_on_cluster(output_dir: Path) -> bool:
    """Return whether jobs that were submitted for this folder wait or run, and say so.

    Two sets of tasks on one folder would do the work twice, and one would remove files under the other's hands.
    """
    if not _jobs_file(output_dir).is_file():
        return False
    command = ["squeue", "--noheader", "--format=%F", f"--user={os.getuid()}"]
    try:
        queue = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    except subprocess.CalledProcessError as error:
        raise ValueError(f"squeue failed ({error.stderr.strip()}); try again when Slurm answers") from error
    submitted = json.loads(_jobs_file(output_dir).read_text(encoding="utf-8"))
    jobs = {part: job for part, job in submitted.items() if job in queue}
    if jobs:
        ids = " ".join(jobs.values())
        print(f"{output_dir}: still on the cluster: {_describe(jobs)}; wait for them, or scancel {ids}")
    return bool(jobs)


def _jobs_file(output_dir: Path) -> Path:
    return _logs(output_dir) / "jobs.json"


def _describe(jobs: dict[str, str]) -> str:
    return ", ".join(f"job {job} ({part})" for part, job in jobs.items())
