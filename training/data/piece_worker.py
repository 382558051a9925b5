"""A worker process of corpus preparation: takes piece numbers from its standard input, answers in JSON lines.

Started by `WorkerPool` as `python -m training.data.piece_worker OUTPUT_DIR ENCODER CONDITION …`. It reads the plan
from `OUTPUT_DIR` and writes its pieces there; documents never pass through the process that started it.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main(output_dir: str, encoder: str, *conditions: str) -> None:
    if sys.platform == "linux":
        # The parent may be killed at any moment, and its next run must not meet us in the same files.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which ends its workers
    # Answers get the original standard output; whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(kind: str, **content) -> None:
        answers.write(json.dumps({"kind": kind, **content}) + "\n")
        answers.flush()

    try:
        # Imported here, so that a failure reaches the parent in words.
        from training.core.recipe import is_about_input
        from training.data.pieces import PieceMaker
        from training.data.plan import Plan

        plan = Plan.load(Path(output_dir))
        maker = PieceMaker(plan, list(conditions), encoder)
        for line in sys.stdin:
            source, index = map(int, line.split())
            piece = plan.piece(source, index)
            assert piece is not None
            maker.make(
                piece, lambda advance: say("advance", **asdict(advance)), report=lambda text: say("note", text=text)
            )
            say("done")
    except BrokenPipeError:
        pass  # the parent is gone
    except Exception as error:
        if isinstance(error, (ValueError, FileNotFoundError)) and is_about_input(error):
            say("error", text=str(error), not_found=isinstance(error, FileNotFoundError))
        else:
            say("crash", text=traceback.format_exc())


if __name__ == "__main__":
    main(*sys.argv[1:])
