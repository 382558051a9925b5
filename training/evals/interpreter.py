"""Run programs that nobody trusts: a small part of Python, walked through as a syntax tree, with a budget for all.

Nothing is ever handed to `exec`, `eval` or `compile`. A program can reach only numbers, texts, lists, tuples and
dicts that it made itself, and the functions of `program_functions`; it has no way to a file, a module, a frame or an
object of the host. The converter of data sets, the grader and the rewards share this one module.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from training.evals.program_check import check_program
from training.evals.program_functions import NUMBERS, OverBudget, Refused
from training.evals.program_walk import Interpreter

STATUSES = ("ok", "refused", "budget", "error")

_FENCE = re.compile(r"```[A-Za-z0-9]*[^\S\n]*\n(.*?)(?:^```|\Z)", re.DOTALL | re.MULTILINE)
_BEGINNING = re.compile(r"^(?:def[ \t]+\w+[ \t]*\(|import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    status: `ok`; `refused`, where it is not in the allowed part of Python (or is no Python); `budget`, where it asks
    for too much; `error`, where it fails as it would in Python, or gives back something else than a finite number.
    value: an int, float or Fraction if ok, else None. reason: a few words to count by, empty if ok.
    """

    status: str
    value: int | float | Fraction | None = None
    reason: str = ""


def run_program(source: str) -> Verdict:
    """Run a program of one function without arguments, and return what it returns; never raises, whatever the string.

    It uses the processor for a fifth of a second at most. The clock is that of the thread, not of the wall: a program
    cannot wait, so on a free core they agree, and a busy machine changes no verdict.

    >>> run_program("def f():\\n    boxes = 6\\n    return boxes * 9")
    Verdict(status='ok', value=54, reason='')
    """
    try:
        value = Interpreter(check_program(source)).run()
    except RecursionError:
        return _TOO_DEEP
    except Exception as error:
        return Verdict(*_classified(error))
    if type(value) not in NUMBERS:
        return Verdict("error", reason=f"result: {type(value).__name__}")
    if type(value) is float and not math.isfinite(value):
        return Verdict("error", reason="result: not finite")
    return Verdict("ok", value)


def extract_program(text: str) -> str:
    """Return the program in a reply: what stands in its first fence, or all from the first `import`, `from` or `def`.

    A sentence that begins with such a word is none of these, and a reply without any comes back as it is.
    """
    fence = _FENCE.search(text)
    if fence:
        return fence[1]
    first = _BEGINNING.search(text)
    return text[first.start() :] if first else text


def _classified(error: Exception) -> tuple[str, None, str]:
    """Return status, value and reason of what ended a program; the words never depend on the release of Python."""
    if isinstance(error, Refused):
        return "refused", None, str(error)
    if isinstance(error, OverBudget):
        return "budget", None, str(error)
    if isinstance(error, MemoryError):
        return "budget", None, "memory"
    for kind in (ZeroDivisionError, OverflowError, ArithmeticError, KeyError, LookupError, NameError):
        if isinstance(error, kind):
            return "error", None, kind.__name__
    if isinstance(error, (TypeError, ValueError, AssertionError)):
        return "error", None, type(error).__name__
    return "error", None, f"internal: {type(error).__name__}"


_TOO_DEEP = Verdict("budget", reason="nesting")  # made beforehand: at the end of the stack nothing can be called
