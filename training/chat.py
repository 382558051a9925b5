"""Talk to a model: one question, or a session.

    python training/chat.py runs/smoke/baseline-s0/sft/best
    python training/chat.py runs/smoke/baseline-s0/sft/best --question "What is 6*9?"
    echo "6 * 9 =" | python training/chat.py runs/smoke/baseline-s0/checkpoint-100
    python training/chat.py you/mul-tokens-s0 --revision step-5000 --temperature 0.7 --top_p 0.9

Takes any GPT-2 checkpoint, a folder or a repository on the Hub, ours or a stock one. A fine-tuned model is asked in
the format of its training, a pretrained one continues the text; `--no-completion` and `--completion` decide otherwise.
Replies are those of evaluation, greedy unless `--temperature` is set. They go to standard output while they are
drawn, with facts in digits, or as the model says them (`--show_facts`); all else goes to standard error. Ctrl-C ends a
reply; a second one, or one at the prompt, ends the program with 130.
"""

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from training.core.console import EXIT_CODES
from training.core.recipe import is_about_input
from training.evals.decoding import Decoding
from training.evals.session import answer, check_question, hold_session, note

if TYPE_CHECKING:
    from training.evals.dialogue import Dialogue


def main(
    checkpoint: str,
    revision: str | None = None,
    question: str | None = None,
    completion: bool | None = None,
    show_facts: bool = False,
    bf16: bool = False,
    seed: int = 0,
    **settings: float,
) -> int:
    decoding = Decoding(**settings)
    is_session = question is None and sys.stdin.isatty()
    try:
        if not is_session:
            question = check_question(read_input() if question is None else question)
        note(f"loading {checkpoint}{f' at {revision}' if revision else ''}")
        dialogue = open_dialogue(checkpoint, revision, completion, bf16, seed, decoding)
        if is_session:
            return hold_session(dialogue, show_facts)
        return EXIT_CODES[signal.SIGINT] if answer(dialogue, question, show_facts).finish == "stopped" else 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_CODES[signal.SIGINT]


def open_dialogue(
    checkpoint: str, revision: str | None, completion: bool | None, bf16: bool, seed: int, decoding: Decoding
) -> "Dialogue":
    """Load the model, and say what it is and whether it is asked or continues texts."""
    # They take seconds, so that mistakes in the arguments and a sign of life come first.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from training.core.device import device_name, prepare_process
    from training.evals.dialogue import Dialogue, was_fine_tuned
    from training.evals.subject import load_subject

    prepare_process()
    disable_progress_bar()
    subject = load_subject(checkpoint, revision, bf16, "cuda" if torch.cuda.is_available() else "cpu")
    fine_tuned = was_fine_tuned(checkpoint, subject.commit or revision)
    if fine_tuned is None:
        past = "nothing says whether it was fine-tuned"
        completes = subject.condition is None
    else:
        past, completes = "fine-tuned" if fine_tuned else "pretrained only", not fine_tuned
    completes = completes if completion is None else completion
    note(f"condition {subject.condition or 'none (a stock GPT-2)'}, {past}; {device_name()}")
    if completes:
        note("it continues your text; --no-completion asks it as a chat instead")
    else:
        note("it is asked as `User: … Assistant:`; --completion continues your text instead")
    return Dialogue(subject, decoding, note, seed=seed, completes=completes)


def read_input() -> str:
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"the standard input is not text ({error}); give the question in UTF-8") from error


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Talk to a model: one question, or a session.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", help="folder of a checkpoint, or repository on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub, such as step-5000")
    parser.add_argument("--question", help="one question; else the standard input, or a session on a terminal")
    parser.add_argument(
        "--completion", action=argparse.BooleanOptionalAction, help="continue the text, instead of a chat, or not"
    )
    parser.add_argument("--show_facts", action="store_true", help="show facts as the model says them, not in digits")
    parser.add_argument("--max_new_tokens", type=int, help="most tokens of a reply, 256 unless set")
    parser.add_argument("--temperature", type=float, help="above 0, replies are sampled")
    parser.add_argument("--top_p", type=float, help="sample from the likeliest tokens of this probability together")
    parser.add_argument("--top_k", type=int, help="sample from so many of the likeliest tokens")
    parser.add_argument("--repetition_penalty", type=float, help="above 1, what was said becomes less likely")
    parser.add_argument("--seed", type=int, help="of sampling, 0 unless set")
    parser.add_argument("--bf16", action="store_true", help="compute under bf16 autocast")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(**vars(parse())))
    except (ValueError, FileNotFoundError) as error:
        if not is_about_input(error):
            raise
        print(f"chat.py: error: {error}", file=sys.stderr)
        sys.exit(2)
