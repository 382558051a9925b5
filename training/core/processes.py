"""What the processes of one launch have to settle among themselves."""

from collections.abc import Callable
from typing import Any, Protocol

from accelerate.utils import broadcast_object_list


class Processes(Protocol):
    """What is needed of `accelerate.PartialState` or of a Trainer's accelerator."""

    process_index: int
    num_processes: int

    def wait_for_everyone(self) -> None: ...


def agree(decide: Callable[[], Any], processes: Processes) -> Any:
    """Return what the main process decides, on all processes: only it looks at files that it also changes."""
    decision = [decide() if processes.process_index == 0 else None]
    if processes.num_processes > 1:
        broadcast_object_list(decision)
    return decision[0]
