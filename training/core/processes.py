"""What the processes of one launch have to settle among themselves."""

import sys
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


def do_on_main(work: Callable[[], Any], processes: Processes) -> None:
    """Do something in the main process while the others wait.

    What it raises is raised there alone; the others leave with status 2, so that the one error stands last.
    """
    errors: list[Exception] = []

    def attempt() -> bool:
        try:
            work()
        except Exception as error:
            errors.append(error)
        return not errors

    if not agree(attempt, processes):
        if errors:
            raise errors[0]
        sys.exit(2)
