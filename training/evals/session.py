"""What a person sees of a dialogue: the prompt, its commands, replies while they are drawn, and Ctrl-C.

Replies go to standard output, remarks to standard error. Light to import, so that a program can speak before it loads.
"""

import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tokenization import render
from training.core.recipe import is_about_input

if TYPE_CHECKING:
    from training.evals.dialogue import Dialogue
    from training.evals.generation import Reply

HELP = """\
/new     start over: what was said is forgotten
/facts   show facts as the model says them, such as <MUL_6_9_54>, or in digits again, also in the last reply
/help    show this
exit     end, as Ctrl-D does; Ctrl-C ends a reply"""
CUT_OFF = {
    "length": "cut off at its greatest length, by --max_new_tokens or the context",
    "stop_string": "cut off where it would speak as the user",
    "second_answer": "cut off before a second answer",
    "stopped": "stopped",
}
# A model can say any byte, and a terminal would obey its control characters.
CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def hold_session(dialogue: "Dialogue", show_facts: bool) -> int:
    """Answer line by line until the person ends it, and return the exit code."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` a history and an editor

    note("/help shows the commands; exit or Ctrl-D ends")
    last_reply = ""
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return 0
        match line.strip():
            case "":
                pass
            case "exit" | "/exit":
                return 0
            case "/new":
                dialogue.start_over()
                note("a new conversation")
            case "/facts":
                show_facts = not show_facts
                note(f"facts are shown {'as the model says them' if show_facts else 'in digits'}")
                if render(last_reply) != last_reply:
                    write((last_reply if show_facts else render(last_reply)).strip() + "\n")
            case "/help":
                print(HELP, file=sys.stderr)
            case unknown if re.fullmatch(r"/\w+", unknown):
                note(f"there is no {unknown}; /help shows the commands")
            case _:
                try:
                    last_reply = answer(dialogue, check_question(line), show_facts).text
                except ValueError as error:
                    if not is_about_input(error):
                        raise
                    note(str(error))


def answer(dialogue: "Dialogue", question: str, show_facts: bool) -> "Reply":
    """Write the reply to a question while it is drawn, and say what ended it if that was not the model."""
    if show_facts and (read := dialogue.read_as(question)) != question:
        note(f"read as: {read}")
    said = ""

    def say(piece: str) -> None:
        nonlocal said
        # The blank behind `Assistant:` belongs to the format; a continuation's own is shown.
        write(piece if said or dialogue.completes else piece.removeprefix(" "))
        said += piece

    with first_interrupt() as pressed:
        reply = dialogue.ask(question, say, show_facts=show_facts, stopped=pressed.is_set)
    if not said.strip():
        note("the reply is empty")
    elif not said.endswith("\n"):
        say("\n")
    if reply.finish in CUT_OFF:
        note(CUT_OFF[reply.finish])
    return reply


def write(text: str) -> None:
    sys.stdout.write(text.translate(CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


@contextlib.contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """Set an event at the first Ctrl-C, instead of breaking off wherever the program is; the second one does that."""
    pressed = threading.Event()

    def press(number: int, frame) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    previous = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def check_question(question: str) -> str:
    """Return a question that can be encoded; raises `ValueError` for any other."""
    if not question.strip():
        raise ValueError(f"the question is empty ({question!r}); give one with --question, or on the standard input")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"the question is not text ({error}); give it in UTF-8") from error
    return question


def note(line: str) -> None:
    """Tell the person something that no model said."""
    print(f"[{line}]", file=sys.stderr, flush=True)
