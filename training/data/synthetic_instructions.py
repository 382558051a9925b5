"""Synthetic instructions in the shape of Tulu 3: small tasks with right answers, in one or several turns.

They stand in where `allenai/tulu-3-sft-mixture` cannot be had, and show that a model learns to follow turns and to
stop; they are no measure of what real instructions teach. Each row says that its source is synthetic.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from training.data.instruction_tasks import TASKS, Exchange
from training.data.synthetic import NAMES, Pair, SyntheticDocuments

PLAIN_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a patient teacher.",
    "You help with small everyday tasks.",
    "You are a careful assistant who checks every answer.",
)


@dataclass(frozen=True)
class SyntheticInstructions:
    """The rows number `first` to `documents`: `id`, `messages` (role and content) and `source`, as Tulu 3 has them.

    A row is a function of (seed, index) and of `held_out_facts`, pairs of digits that never meet as factors. Raises
    `ValueError` for pairs that do not exist, or when every fact is held out.
    """

    documents: int
    seed: int = 0
    held_out_facts: tuple[Pair, ...] = ()
    first: int = 0

    def __post_init__(self):
        _ = self._facts

    def __iter__(self) -> Iterator[dict[str, Any]]:
        facts = self._facts
        for index in range(self.first, self.documents):
            # A string seed is hashed by SHA-512, the same in every Python release.
            draw = random.Random(f"instructions/{self.seed}/{index}")
            yield {
                "id": f"synthetic_instructions_{self.seed}_{index}",
                "messages": _conversation(draw, facts),
                "source": "synthetic",
            }

    @property
    def _facts(self) -> list[Pair]:
        return SyntheticDocuments("drills", 0, held_out_facts=self.held_out_facts).facts


def _conversation(draw: random.Random, facts: list[Pair]) -> list[dict[str, str]]:
    """Return one or two tasks, each with some of its follow-ups, and half of the time a system message before them."""
    exchanges: list[Exchange] = []
    for task in draw.sample(TASKS, 2 if draw.random() < 0.15 else 1):
        whole = task(draw, facts)
        exchanges += whole[: draw.choice((1, 1, 1, 2, len(whole)))]
    system, reply = _style(draw)
    messages = [{"role": "system", "content": system}] if system else []
    for question, result, sentence in exchanges:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply(result, sentence)})
    return messages


def _style(draw: random.Random) -> tuple[str, Callable[[str, str], str]]:
    """Return a system message, or none, and how its assistant replies."""
    style = draw.random()
    if style < 0.5:
        return "", lambda result, sentence: sentence
    if style < 0.7:
        return draw.choice(PLAIN_SYSTEMS), lambda result, sentence: sentence
    if style < 0.8:
        return "Reply with the result and nothing else.", lambda result, sentence: result
    if style < 0.9:
        name = draw.choice(NAMES)
        return f"Begin every reply with the name of the user, {name}.", lambda result, sentence: f"{name}: {sentence}"
    return "Write the word Done on a line of its own at the end of every reply.", (
        lambda result, sentence: f"{sentence}\nDone"
    )
