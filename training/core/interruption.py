"""Stop at the next step when asked to: SIGTERM and SIGINT save a checkpoint first, on all processes together."""

import signal
import threading

import torch
from transformers import TrainerCallback

# os.EX_TEMPFAIL: "try again later", which schedulers can tell from a failure; 130 is what shells report for Ctrl-C.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class StopOnSignal(TrainerCallback):
    """Turn the first SIGTERM or SIGINT into a checkpoint at the next step and an orderly end; a second one ends at
    once.

    It listens inside `with stopper:`. `signal` is None until one came; `exit_code` is 0 then, else the code of the
    signal.
    """

    def __init__(self):
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._previous = {number: signal.signal(number, self._note) for number in EXIT_CODES}
        return self

    def __exit__(self, *exception):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        self.signal = number
        # Whoever asks again does not want to wait for the step.
        signal.signal(number, signal.SIG_DFL)

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else EXIT_CODES[self.signal]

    def on_step_end(self, args, state, control, **kwargs):
        if args.world_size > 1:
            # One process alone must not leave the others waiting in a collective operation.
            flag = torch.tensor([self.signal or 0], device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            self.signal = int(flag.item()) or None
        if self.signal is not None:
            control.should_save = True
            control.should_log = True
            control.should_training_stop = True
        return control
