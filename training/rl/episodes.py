"""Which prompts are trained on when: a pool for each episode, measured with the policy of that moment, and of its
prompts those that can teach something."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenization import render
from training.core.files import write_text
from training.core.processes import Processes, agree
from training.data.packing import shuffled
from training.evals.decoding import Decoding
from training.evals.during_training import forget_other_weights
from training.evals.reply_measures import seed_of
from training.evals.rewards import Rewards
from training.evals.runner import evaluate
from training.evals.subject import Subject
from training.rl.prompts import Prompt, PromptSource, pool_of
from training.rl.samples import Samples

REJECTION_SAMPLES = "rejection_samples.jsonl"
_POOL = "pool"


class Episodes:
    """The pools of a run, below `folder`: each is sampled once, row by row into a file, and read from there later.

    Episode 0 is sampled with the model that the run starts from, the others with the policy at their first step, so
    their completions are the same however often the run was interrupted. `prompts_per_episode` are taken from the
    prompts that some and not all completions answer right (or, if `filter_prompts` is off, from all that are in use),
    each of them once before any a second time.
    """

    def __init__(
        self,
        train: Sequence[Prompt],
        sources: Sequence[PromptSource],
        rewards: Rewards,
        decoding: Decoding,
        folder: Path,
        *,
        pool_prompts: int,
        prompts_per_episode: int,
        filter_prompts: bool,
        batch_size: int,
        seed: int,
    ):
        self.train, self.sources, self.rewards, self.decoding = train, sources, rewards, decoding
        self.folder, self.pool_prompts, self.prompts_per_episode = folder, pool_prompts, prompts_per_episode
        self.filter_prompts, self.batch_size, self.seed = filter_prompts, batch_size, seed
        self._open: tuple[int, list[Prompt]] | None = None

    def pool(self, number: int) -> list[Prompt]:
        """Return the prompts of a pool; raises `ValueError` where no source is in use."""
        return pool_of(self.train, self.sources, number, self.pool_prompts, self.seed)

    def measure(
        self, number: int, subject: Subject, processes: Processes, say: Callable[[str], None]
    ) -> dict[str, Any]:
        """Sample a pool with a policy, unless that is done, and return its results; every process calls it."""
        folder, task = self._folder(number), self._task(number)
        if number:
            agree(lambda: forget_other_weights(folder, subject), processes)
        results = evaluate(subject, [task], folder, processes, {}, say=lambda line: None)[task.name]
        agree(lambda: self._write_rejection_samples(number), processes)
        if processes.process_index == 0:
            say(f"episode {number}: {describe(results)}; {self.prompts_per_episode:,} groups to train on")
        return results

    def open(self, number: int) -> list[Prompt]:
        """Return the prompts of an episode in the order of their use; its pool is measured, or need not be.

        A later pool without any such prompt is used whole.

        Raises `FileNotFoundError` when the samples of a running episode are gone, and `ValueError` when no prompt of
        the first pool has both right and wrong answers.
        """
        if self._open is None or self._open[0] != number:
            self._open = number, self._choose(number)
        return self._open[1]

    def _choose(self, number: int) -> list[Prompt]:
        if self.filter_prompts:
            prompts = self._informative(number)
        else:
            prompts = pool_of(self.train, self.sources, number, len(self.train), self.seed)
        passes = -(-self.prompts_per_episode // len(prompts))
        order = np.concatenate([shuffled(len(prompts), self.seed, each) for each in range(passes)])
        return [prompts[place] for place in order[: self.prompts_per_episode].tolist()]

    def _informative(self, number: int) -> list[Prompt]:
        pool, samples = self.pool(number), self.decoding.samples
        right = [sum(reply["right"] for reply in row["replies"]) for row in self._rows(number)]
        chosen = [prompt for prompt, count in zip(pool, right, strict=True) if 0 < count < samples]
        if not chosen and number == 0:
            raise ValueError(
                f"no prompt of the first pool has right and wrong answers among its {samples} samples: of "
                f"{len(pool):,} prompts {sum(count == 0 for count in right):,} are never answered right and "
                f"{sum(count > 0 for count in right):,} always; take prompts of another difficulty, raise "
                "pool_samples, or set filter_prompts: false"
            )
        return chosen or pool  # later on there may be nothing left to learn, which is no reason to lose the run

    def _task(self, number: int) -> Samples:
        pool = self.pool(number)
        return Samples(_POOL, pool, self.rewards, self.decoding, self.batch_size, seed_of(self.seed, 1, number))

    def _folder(self, number: int) -> Path:
        return self.folder / f"episode-{number}"

    def _rows(self, number: int) -> list[dict[str, Any]]:
        file = self._folder(number) / f"{_POOL}.jsonl"
        if not file.is_file():
            raise FileNotFoundError(
                f"'{file}' is gone, from which the prompts of the running episode were chosen; put it back, or begin "
                "again in another output_dir"
            )
        return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]

    def _write_rejection_samples(self, number: int) -> None:
        """Write the right completions of the first pool as rows for fine-tuning, each text of a prompt once."""
        if number:
            return
        lines = []
        for row in self._rows(number):
            # Facts as text: the tokenizer that reads the rows puts its own in their place.
            right = dict.fromkeys(render(reply["text"]).strip() for reply in row["replies"] if reply["right"])
            for text in right:
                messages = [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": text}]
                lines.append(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
        write_text(self.folder.parent / REJECTION_SAMPLES, "".join(lines))


def describe(results: dict[str, Any]) -> str:
    """Return the results of a pool in words."""
    k = results["samples"]
    return (
        f"pass@1 {results['pass_at_1']['value']:.3f}, pass@{k} {results[f'pass_at_{k}']['value']:.3f} on "
        f"{results['n']:,} prompts, {results['informative']['value']:.1%} of them with right and wrong answers"
    )
