"""What programs tell people and schedulers; light to import, for programs that need no PyTorch."""

import contextlib
import os
import platform
import signal
import sys
from collections.abc import Iterator

# os.EX_TEMPFAIL: "try again later", which schedulers can tell from a failure; 130 is what shells report for Ctrl-C.
EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


@contextlib.contextmanager
def stopping_in_words() -> Iterator[None]:
    """Say, when a program is stopped, that it can go on: SIGTERM ends it with its code, Ctrl-C only ends the block."""

    def say():
        print("stopped; what is finished is kept, give the same command again to go on", file=sys.stderr)

    def leave(number: int, _frame) -> None:
        say()
        raise SystemExit(EXIT_CODES[number])

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        say()
    finally:
        signal.signal(signal.SIGTERM, previous)


def format_duration(seconds: float) -> str:
    """Return seconds as `1h02m`, `3m04s` or `5s`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def processor_name() -> str:
    """Return the processor's model for people."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    return model
