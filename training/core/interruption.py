"""Stop at the next step when asked to: SIGTERM and SIGINT save a checkpoint first, on all processes together."""

import signal
import threading
import time
from collections.abc import Callable

import torch
from transformers import TrainerCallback

from training.core.console import EXIT_CODES

SAME_CTRL_C_SECONDS = 1.0


class StopOnSignal(TrainerCallback):
    """Turn SIGTERM or SIGINT into a checkpoint at the next step and an orderly end.

    It listens inside `with stopper:`. `signal` is None until one came and the first of them afterwards; `exit_code` is
    0 or the code of that signal. Asking again changes nothing, because launchers and schedulers do so by themselves,
    but a second Ctrl-C by a person ends the run at once.
    """

    def __init__(self):
        self.signal: int | None = None
        self._asked_at = 0.0
        self._previous: dict[int, object] = {}
        self._group: torch.distributed.ProcessGroup | None = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._asked_at = number, now
        # One Ctrl-C reaches a process twice under torchrun: from the terminal, and passed on by the launcher.
        elif number == signal.SIGINT and now - self._asked_at > SAME_CTRL_C_SECONDS:
            raise KeyboardInterrupt

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else EXIT_CODES[self.signal]

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # One process alone must not leave the others waiting in a collective operation. Over gloo, because a flag
            # on the GPU would make every step wait for the device.
            self._group = self._group or torch.distributed.new_group(backend="gloo")
            flag = torch.tensor([self.signal or 0])
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX, group=self._group)
            self.signal = int(flag.item()) or None
        if self.signal is not None:
            control.should_save = True
            control.should_training_stop = True
        return control


def leave_signals_to_the_main_process(initialize: Callable[[int], None] | None, worker: int) -> None:
    """Start a loader's worker that ignores SIGTERM and SIGINT.

    Launchers and schedulers signal every process of a job; a worker that died of it would take the main process along
    before it has saved. Workers end with the main process anyway.
    """
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
    if initialize is not None:
        initialize(worker)
