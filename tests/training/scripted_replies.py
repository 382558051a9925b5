"""Replies that are given instead of generated, so that tests know how many of them are right."""

from collections import Counter

from training.evals.generation import Reply
from training.rl.prompts import Prompt, PromptSource


class Alone:
    """The only process of a launch."""

    process_index, num_processes = 0, 1

    def wait_for_everyone(self):
        pass


class Script:
    """Stands for `generate`: each prompt gets its texts one after the other, and then from the first again.

    texts: by question; where a text ends with `…` it was cut off. seeds: those that each question was drawn with.
    """

    def __init__(self, texts):
        self.texts, self.seeds, self.batches, self._said = texts, {}, [], Counter()

    def __call__(self, subject, prompts, decoding, seeds):
        self.batches.append(len(prompts))
        return [self._reply(subject, ids, seed) for ids, seed in zip(prompts, seeds, strict=True)]

    def _reply(self, subject, ids, seed):
        question = subject.decode(ids).removeprefix("User: ").removesuffix("\nAssistant:")
        text = self.texts[question][self._said[question] % len(self.texts[question])]
        self._said[question] += 1
        self.seeds.setdefault(question, []).append(seed)
        said = text.removesuffix("…")
        return Reply(subject.encode(said), said, "end_of_text" if said == text else "length")


def prompts_with_passes(passes, samples):
    """Return prompts `0?`, `1?` … and a script in which so many of the samples of each are right."""
    prompts = [Prompt(f"{number}?", number, f"row {number}", 0) for number in range(len(passes))]
    texts = {
        f"{number}?": [f"#### {number}"] * right + [f"#### {number + 1000}"] * (samples - right)
        for number, right in enumerate(passes)
    }
    return prompts, Script(texts)


def source_of_prompts(**keys):
    """Return a source of prompts whose rows are never read."""
    return PromptSource.from_recipe({"path": "rows.jsonl", **keys}, ".")
