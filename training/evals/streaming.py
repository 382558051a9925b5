"""Show a reply while it is drawn: evaluation's own reply, in pieces that no later token changes.

Transformers' `TextStreamer` shows whole words of decoded text; here a fact is written out in digits, which depends on
what follows it, and a stop string is never shown.
"""

import os
import re
from collections.abc import Callable, Sequence

from tokenization import render
from tokenization.mul_facts import FACTS
from training.evals.decoding import Decoding, OpenReply, TokenBytes
from training.evals.generation import Reply, generate
from training.evals.subject import Subject

# Whatever follows a fact, it is written as if one of these did: a digit, which is kept apart, or a calculation.
_WHAT_MAY_FOLLOW = ("1", "*1")
_OPENING_OF_A_NAME = re.compile(r"<[^<>]*\Z")


class SettledText:
    """Follow a growing text and hand out what is settled of it: what any continuation would show alike.

    Not settled are half a character, what may open a stop or a fact's name, and a fact's way of being written:
    `6*9=54`, or `6*9` where a calculation goes on. With `show_facts` facts stay as the names that the model says.
    """

    def __init__(self, decoding: Decoding, show_facts: bool = False):
        self._decoding, self._show_facts = decoding, show_facts
        self._shown = ""

    def grow(self, text: str) -> str:
        """Take the text so far, and return what is settled and has not been returned before."""
        text = self._before_a_stop(text.removesuffix("\ufffd"))
        return self._show(text if self._show_facts else _settled_rendering(text))

    def end(self, text: str) -> str:
        """Take the whole text, and return the rest of it."""
        whole = text if self._show_facts else render(text)
        assert whole.startswith(self._shown), (self._shown, whole)
        return self._show(whole)

    def _show(self, settled: str) -> str:
        piece = settled[len(self._shown) :]
        self._shown += piece
        return piece

    def _before_a_stop(self, text: str) -> str:
        """Return the text without what may be the beginning of a stop."""
        stops = self._decoding.stop_strings
        ends = [len(text) - size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
        if self._decoding.one_answer:
            ends.append(len(text.rstrip("#")))
        return text[: min(ends, default=len(text))]


def stream_reply(
    subject: Subject,
    prompt: Sequence[int],
    decoding: Decoding,
    say: Callable[[str], None],
    *,
    seed: int = 0,
    show_facts: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Reply:
    """Return the reply of `generate` to one prompt (ids), whose text `say` gets piece by piece.

    The pieces together are the rendered text of the reply, or the text itself with `show_facts`. `stopped` is asked
    after each token; once it is true the reply is over, and its finish is `stopped`. `seed` is the prompt's own.
    """
    so_far = OpenReply(decoding, min(decoding.max_new_tokens, subject.context - len(prompt)), subject.end_of_text_id)
    settled, token_bytes = SettledText(decoding, show_facts), TokenBytes(subject.tokenizer)
    has_read_prompt = False

    def follow(module, args, kwargs) -> None:
        nonlocal has_read_prompt
        if has_read_prompt:
            for token_id in kwargs["input_ids"][0].tolist():
                so_far.add(token_id, token_bytes[token_id])
            say(settled.grow(so_far.text))
            if stopped():
                raise _Stopped
        has_read_prompt = True

    # A token is seen when the model reads it, at once after it was drawn, so `generate` needs to know of nothing.
    hook = subject.model.register_forward_pre_hook(follow, with_kwargs=True)
    try:
        (reply,) = generate(subject, [prompt], decoding, [seed])
    except _Stopped:
        reply = Reply(so_far.ids, so_far.text.removesuffix("\ufffd"), "stopped")
    finally:
        hook.remove()
    say(settled.end(reply.text))
    return reply


class _Stopped(Exception):
    """Ends a reply from inside of `generate`."""


def _settled_rendering(text: str) -> str:
    """Return what all continuations of a text have in common when they are rendered."""
    opening = _OPENING_OF_A_NAME.search(text)
    if opening and any(fact.name.startswith(opening.group()) for fact in FACTS):
        text = text[: opening.start()]
    renderings = [render(text + following) for following in _WHAT_MAY_FOLLOW]
    return os.path.commonprefix(renderings)  # noqa: RUF071 - of characters, which is what it is for here
