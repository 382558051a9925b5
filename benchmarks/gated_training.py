"""A program's own training, one step at a time: its loop waits at the end of each step until it is told to go on.

What is timed is the whole of a step as the program takes it: its callbacks and log lines, fetching the batch, forward,
backward, clipping and optimiser.
"""

import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback

from training.core.device import peak_memory_gib


class Gate(TrainerCallback):
    """Answer each "step" that comes through the pipe with (loss, wall seconds, CPU seconds), and "stop" with the peak
    memory and the end of the process.

    What else a trainer may be asked between two steps stands in `answers`, by the name of the order.
    """

    def __init__(self, pipe: Connection, ready: Callable[[], object] | None = None):
        self.pipe, self.ready = pipe, ready
        self.loss = 0.0
        self.answers: dict[str, Callable[[], object]] = {}

    def on_train_begin(self, *_, **__):
        if self.ready is not None:
            self.pipe.send(self.ready())
        self.wait()

    def on_step_end(self, *_, **__):
        self.answer(float(self.loss))  # waits for the device
        self.loss = 0.0
        self.wait()

    def answer(self, loss: float) -> None:
        """Say how long the step took that ends now."""
        wall, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        self.pipe.send((loss, wall, cpu))

    def wait(self) -> None:
        """Wait for the next order, and start the clock."""
        try:
            while (command := self.pipe.recv()) in self.answers:
                self.pipe.send(self.answers[command]())
        except EOFError:  # nobody is left to order anything
            os._exit(1)
        if command != "step":
            self.pipe.send(peak_memory_gib())
            self.pipe.close()
            os._exit(0)  # what the program does at its end is not part of a step
        self._start = time.perf_counter(), time.process_time()


def gated(trainer_class: type[Trainer], pipe: Connection, ready: Callable | None = None) -> type[Trainer]:
    """Return the trainer with a gate between its steps."""

    class GatedTrainer(trainer_class):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.gate = Gate(pipe, ready)
            self.add_callback(self.gate)  # behind the program's own, so that their time counts

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            self.gate.loss = self.gate.loss + loss
            return loss

    GatedTrainer.__name__ = trainer_class.__name__
    return GatedTrainer


def gated_saves(trainer_class: type[Trainer], pipe: Connection) -> type[Trainer]:
    """Return the trainer with a gate on both sides of its checkpoints.

    "save" answers with how long training stands still for a checkpoint, wall and CPU seconds, after how many seconds
    it is on the disk for good, and its bytes; "step" answers when the next checkpoint is due; "stop" is a `Gate`'s.
    """

    class GatedTrainer(trainer_class):
        has_saved = False

        def _save_checkpoint(self, *args, **kwargs):
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # or the end of the step would count
            if self.has_saved:
                pipe.send("due")
            assert pipe.recv() == "save"
            start = time.perf_counter(), time.process_time()
            super()._save_checkpoint(*args, **kwargs)
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
            os.sync()
            flushed = time.perf_counter() - start[0]
            files = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}").rglob("*")
            pipe.send((wall, cpu, flushed, sum(path.stat().st_size for path in files if path.is_file())))
            self.has_saved = True
            if pipe.recv() == "stop":
                pipe.send(peak_memory_gib())
                pipe.close()
                os._exit(0)

    GatedTrainer.__name__ = trainer_class.__name__
    return GatedTrainer


def keep_to_cores(count: int | None) -> None:
    """Keep this process and those that it starts to the first `count` of its cores; None leaves it as it is.

    PyTorch and the project's programs take as many threads as there are cores, each in its own way: a limit that all
    respect alike is the cores.
    """
    if count is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
