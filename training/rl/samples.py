"""Completions drawn for prompts, scored by the rewards: what the gate, the pools and the held-out prompts have in
common."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any, ClassVar

from training.analysis.intervals import clustered_proportion, mean
from training.data.rows import rows_sha256
from training.evals.completions import Completion
from training.evals.decoding import Decoding
from training.evals.generation import Reply, generate, plan_batches
from training.evals.reply_measures import measure_reply, seed_of, summarize_measures
from training.evals.rewards import CRITERIA, Rewards
from training.evals.sampling import pass_at_k
from training.evals.subject import Subject
from training.evals.task import Row, Task
from training.rl.prompts import Prompt

# Functions that score the same completion share what they read from it.
completion_of = lru_cache(maxsize=8192)(Completion)


def free_decoding(max_new_tokens: int, temperature: float, samples: int, top_p: float, top_k: int) -> Decoding:
    """Return how completions are drawn in training: only end of text or the limit ends one, because what a stop string
    cut off would be no decision of the policy."""
    return Decoding(
        max_new_tokens=max_new_tokens,
        stop_strings=[],
        one_answer=False,
        samples=samples,
        temperature=temperature,
        top_p=top_p if temperature else 1.0,
        top_k=top_k if temperature else 0,
    )


class Samples(Task):
    """Several completions of each prompt; a right one is what the rewards' criterion says.

    Random numbers are a function of seed, prompt and sample alone, so both arms draw with the same ones.
    """

    headline: ClassVar = ("pass_at_1",)

    def __init__(
        self,
        name: str,
        prompts: Sequence[Prompt],
        rewards: Rewards,
        decoding: Decoding,
        batch_size: int,
        seed: int,
    ):
        super().__init__(name)
        self.prompts, self.rewards, self.decoding = prompts, rewards, decoding
        self.batch_size, self.seed = batch_size, seed
        self.data_sha256 = rows_sha256([asdict(prompt) for prompt in prompts])
        self.criterion = next(name for name in CRITERIA if rewards.weights.get(name))

    def settings(self) -> dict[str, Any]:
        return {
            "decoding": self.decoding.to_json(),
            "rewards": dict(self.rewards.weights),
            "prompts": len(self.prompts),
            "seed": self.seed,
        }

    def batches(self, subject: Subject) -> list[list[int]]:
        per_batch = max(1, self.batch_size // self.decoding.samples)
        return plan_batches([prompt_ids(subject, prompt.question) for prompt in self.prompts], per_batch)

    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        samples = self.decoding.samples
        requests = [(index, sample) for index in batch for sample in range(samples)]
        prompts = [prompt_ids(subject, self.prompts[index].question) for index, _ in requests]
        seeds = [seed_of(self.seed, *request) for request in requests]
        replies = decode(subject, prompts, self.decoding, seeds, self.batch_size)
        return [
            self._row(index, replies[place * samples : (place + 1) * samples]) for place, index in enumerate(batch)
        ]

    def _row(self, index: int, replies: Sequence[Reply]) -> Row:
        prompt = self.prompts[index]
        row = {"index": index, "question": prompt.question, "gold": prompt.gold, "where": prompt.where}
        return row | {"replies": [self._scored(prompt, reply) for reply in replies]}

    def _scored(self, prompt: Prompt, reply: Reply) -> dict[str, Any]:
        completion = completion_of(reply.text, reply.finish == "end_of_text", prompt.question, prompt.gold)
        values = self.rewards(completion)
        return {
            "text": reply.text,
            "right": values[self.criterion] == 1,
            "reward": self.rewards.weigh(values),
            "values": values,
            **measure_reply(prompt.question, reply),
        }

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        n = self.decoding.samples
        replies = [reply for row in rows for reply in row["replies"]]
        right = [sum(reply["right"] for reply in row["replies"]) for row in rows]

        def share(test) -> dict[str, Any]:
            return clustered_proportion([sum(map(test, row["replies"])) for row in rows], [n] * len(rows))

        ks = sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n})
        return {
            "n": len(rows),
            "samples": n,
            **{f"pass_at_{k}": mean([pass_at_k(n, count, k) for count in right]) for k in ks},
            "informative": mean([float(0 < count < n) for count in right]),
            "reward": mean([reply["reward"] for reply in replies])["value"],
            "rewards": {
                name: mean([reply["values"][name] for reply in replies])["value"] for name in self.rewards.weights
            },
            **summarize_measures(replies, share),
        }


def prompt_ids(subject: Subject, question: str) -> list[int]:
    """Return the ids before a completion, those of a training example of fine-tuning up to `Assistant:`."""
    return subject.encode(subject.prompt(question))


def decode(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    seeds: Sequence[int],
    batch_size: int,
) -> list[Reply]:
    """Return one reply to each prompt in its order, decoded in batches of prompts of similar lengths."""
    replies: dict[int, Reply] = {}
    for batch in plan_batches(prompts, batch_size):
        drawn = generate(subject, [prompts[i] for i in batch], decoding, [seeds[i] for i in batch])
        replies |= zip(batch, drawn, strict=True)
    return [replies[index] for index in range(len(prompts))]
