"""Run the steps of an experiment, as many at the same time as devices allow, and stop and go on without loss."""

import ctypes
import datetime
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from training.core.console import EXIT_CODES, processor_name
from training.core.interruption import SAME_CTRL_C_SECONDS
from training.experiments.ledger import Ledger
from training.experiments.recipe import ExperimentArguments
from training.experiments.steps import PROGRAMS, Step

_POLL_SECONDS = 0.2
_LINES_OF_A_FAILURE = 12
_CONFIGS = PROGRAMS.parent / "accelerate_configs"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Slot:
    """The devices of one step at a time: numbers of GPUs, or of a CPU's cores."""

    devices: tuple[int, ...]
    is_gpu: bool

    @property
    def description(self) -> str:
        kind = "GPU" if self.is_gpu else "core"
        return f"{kind}{'s' if len(self.devices) > 1 else ''} {', '.join(map(str, self.devices))}"

    def launcher(self, config: str | None) -> list[str]:
        """Return the beginning of a command that runs a program on these devices."""
        several = self.is_gpu and len(self.devices) > 1
        default = "ddp.yaml" if several else "single_gpu.yaml" if self.is_gpu else "cpu.yaml"
        config = config or str(_CONFIGS / default)
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
        if not self.is_gpu:
            # The launcher would count the cores of the machine, and not those of this step.
            command += ["--num_cpu_threads_per_process", str(len(self.devices))]
        if several:
            # A free port: another step on this machine has its own processes that find each other.
            command += ["--num_processes", str(len(self.devices)), "--main_process_port", "0"]
        return command

    def environment(self) -> dict[str, str]:
        if not self.is_gpu:
            return dict(os.environ)
        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # of a scheduler, which counts in its own way
        names = given.split(",") if given else [str(number) for number in range(max(self.devices) + 1)]
        return {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(names[device] for device in self.devices)}

    def prepare(self) -> None:
        """Bind the process to its cores, and end it in its own way when this one dies: runs in the child."""
        if not self.is_gpu and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.devices)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def find_slots(args: ExperimentArguments, gpus: int) -> list[Slot]:
    """Share the machine's devices among steps; raises `ValueError` where not even one step has room."""
    if gpus:
        devices = list(range(gpus))
    else:
        devices = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))
    size = args.devices_per_step
    if size > len(devices):
        raise ValueError(
            f"devices_per_step is {size}, but this machine has {len(devices)} {'GPUs' if gpus else 'cores'}; lower it"
        )
    slots = [Slot(tuple(devices[i : i + size]), bool(gpus)) for i in range(0, len(devices) - size + 1, size)]
    return slots[: args.max_parallel]


@dataclass
class _Running:
    step: Step
    slot: Slot
    process: subprocess.Popen
    command: list[str]
    began: datetime.datetime
    clock: float
    log: Path


class Runner:
    """Runs steps on slots, and writes every end into the ledger.

    It listens to SIGTERM and SIGINT inside `with runner:`: the programs save, end, and `exit_code` is 75 or 130. A
    second Ctrl-C ends them at once.
    """

    def __init__(self, args: ExperimentArguments, ledger: Ledger, slots: Sequence[Slot], say: Callable[[str], None]):
        self.args, self.ledger, self.slots, self.say = args, ledger, slots, say
        self.folder = Path(args.output_dir)
        self.signal: int | None = None
        self.failed: list[str] = []
        self._asked_at = 0.0
        self._passed_on = False
        self._running: list[_Running] = []
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Runner":
        self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # a program whose launcher has died becomes a child of this process
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        _prctl(_PR_SET_CHILD_SUBREAPER, 0)
        for each in self._running:  # only an error of our own leaves any
            _signal_group(each.process, signal.SIGTERM)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.signal] if self.signal is not None else int(bool(self.failed))

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps that are not finished, each behind those that it needs.

        A step that fails keeps those behind it from running, and no others; `failed` names it.
        """
        waiting = [step for step in steps if not self.is_finished(step)]
        known = {step.name for step in steps}
        done = known - {step.name for step in waiting}
        total, ended = len(steps), len(steps) - len(waiting)
        if ended:
            self.say(f"{ended} of {total} steps are finished")
        free = list(self.slots)
        while waiting or self._running:
            if self.signal is None:
                for step in list(waiting):
                    lost = [need for need in step.needs if need in self.failed]
                    if lost:
                        waiting.remove(step)
                        self.failed.append(step.name)
                        self.say(f"not run: {step.name}, because {lost[0]} failed")
                    elif free and all(need in done or need not in known for need in step.needs):
                        waiting.remove(step)
                        self._start(step, free.pop(0), f"{total - len(waiting)}/{total}")
            elif not self._running:
                return
            else:
                self._pass_signal_on()
            time.sleep(_POLL_SECONDS)
            for each in [each for each in self._running if _has_ended(each.process)]:
                self._running.remove(each)
                free = [slot for slot in self.slots if slot in free or slot == each.slot]
                if self._finish(each):
                    done.add(each.step.name)

    def is_finished(self, step: Step) -> bool:
        return self.ledger.has_finished(step.name, step.fingerprint) and step.has_results()

    def _start(self, step: Step, slot: Slot, place: str) -> None:
        log = self.folder / "logs" / f"{step.name.replace('/', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = step.command(slot.launcher(self.args.accelerate_config))
        with open(log, "ab") as output:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            # A session of its own: Ctrl-C reaches this program alone, which passes it on once.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=slot.environment(),
                start_new_session=True,
                preexec_fn=slot.prepare,
            )
        now = datetime.datetime.now(datetime.UTC)
        self._running.append(_Running(step, slot, process, command, now, time.monotonic(), log))
        self.say(f"[{place}] {step.name} on {slot.description}, {log}")

    def _finish(self, each: _Running) -> bool:
        """Write an end into the ledger, and return whether it is the one that was wanted."""
        code, seconds = each.process.returncode, time.monotonic() - each.clock
        finished = code == 0 and each.step.has_results()
        status = "finished" if finished else "interrupted" if self.signal is not None else "failed"
        device = each.slot.description if each.slot.is_gpu else f"{processor_name()}, {each.slot.description}"
        self.ledger.add(
            {
                "step": each.step.name,
                "program": each.step.program,
                "status": status,
                "command": _for_people(each.command),
                "began": each.began.isoformat(timespec="seconds"),
                "seconds": round(seconds, 1),
                "returncode": code,
                "attempt": self.ledger.attempts(each.step.name) + 1,
                "device": device,
                "fingerprint": each.step.fingerprint,
            }
        )
        self.say(f"{status}: {each.step.name} after {_duration(seconds)}")
        if status == "failed":
            self.failed.append(each.step.name)
            lines = each.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_OF_A_FAILURE:]
            self.say("\n".join([f"exit status {code}; the end of {each.log}:", *(f"    {line}" for line in lines)]))
        return finished

    def _pass_signal_on(self) -> None:
        if not self._passed_on:
            self._passed_on = True
            self.say(f"stopping: {len(self._running)} programs save and end; the same command goes on from there")
            for each in self._running:
                _signal_group(each.process, signal.SIGTERM)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._asked_at = number, now
        elif number == signal.SIGINT and now - self._asked_at > SAME_CTRL_C_SECONDS:
            for each in self._running:
                _signal_group(each.process, signal.SIGKILL)


def _has_ended(process: subprocess.Popen) -> bool:
    """Return whether a command has ended; after a signal, on Linux, whether all that it had started has.

    `accelerate launch` of one process dies of SIGTERM at once, when its program has yet to save.
    """
    if process.poll() is None:
        return False
    if process.returncode >= 0:
        return True
    try:
        while os.waitpid(-process.pid, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


def _signal_group(process: subprocess.Popen, number: int) -> None:
    if not _has_ended(process):
        os.killpg(process.pid, number)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _for_people(command: list[str]) -> list[str]:
    """Return a command as one would type it in a clone of the project, without this machine's paths."""
    root = PROGRAMS.parent
    typed = {sys.executable: "python"}
    words = [typed.get(word, word) for word in command]
    words = [str(Path(word).relative_to(root)) if Path(word).is_relative_to(root) else word for word in words]
    if words[:3] == ["python", "-m", "accelerate.commands.launch"]:
        words[:3] = ["accelerate", "launch"]
    return words


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
