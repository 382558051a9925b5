"""What rewards see of a completion, and how they read it: the same for both arms."""

import re
from dataclasses import dataclass
from functools import cached_property

from tokenization import inject, render
from training.evals.answers import Number, canonical, reply

# Words, numbers and signs; one that never ends is cut, so that it can repeat itself.
_WORD = re.compile(r"[^\W\d_]{1,20}|\d{1,9}|[^\w\s]|_")


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt.

    text: decoded, with facts by their names and without end of text. ended: whether end of text ended it, not a length
    limit. question: what was asked, without the frame of the prompt. gold: the right answer.
    """

    text: str
    ended: bool
    question: str
    gold: Number

    @cached_property
    def reading(self) -> str:
        """The text with every fact written out as an equation.

        Twice, because writing out the fact of `5*<MUL_2_3_6>` makes another one, 5*2.
        """
        return canonical(canonical(self.text))

    @cached_property
    def program(self) -> str:
        """The text with every fact as its product, since an equation is no expression of Python."""
        return render(inject(self.text), "value")

    @cached_property
    def is_finished(self) -> bool:
        """Whether it ended by itself, and before it took the user's turn or gave a second answer."""
        return self.ended and reply(self.reading) == self.reading

    @cached_property
    def bytes(self) -> int:
        """The length of the reading in UTF-8."""
        return len(self.reading.encode("utf-8", "replace"))

    @cached_property
    def words(self) -> list[str]:
        """The words, numbers and signs of the reading."""
        return _WORD.findall(self.reading)
