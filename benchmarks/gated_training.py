"""A program's own training, one step at a time: its loop waits at the end of each step until it is told to go on.

What is timed is the whole of a step as the program takes it: its callbacks and log lines, fetching the batch, forward,
backward, clipping and optimiser.
"""

import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from transformers import Trainer, TrainerCallback

from training.core.device import peak_memory_gib


class Gate(TrainerCallback):
    """Answer each "step" that comes through the pipe with (loss, wall seconds, CPU seconds), and "stop" with the peak
    memory and the end of the process."""

    def __init__(self, pipe: Connection, ready: Callable[[], object] | None = None):
        self.pipe, self.ready = pipe, ready
        self.loss = 0.0

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
            command = self.pipe.recv()
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


def keep_to_cores(count: int | None) -> None:
    """Keep this process and those that it starts to the first `count` of its cores; None leaves it as it is.

    PyTorch and the project's programs take as many threads as there are cores, each in its own way: a limit that all
    respect alike is the cores.
    """
    if count is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
