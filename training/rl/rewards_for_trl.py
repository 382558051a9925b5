"""The rewards of a recipe as TRL calls them, on texts that TRL has decoded itself."""

from collections.abc import Callable

from tokenization.mul_facts import END_OF_TEXT_ID
from training.evals.completions import Completion
from training.evals.fact_use import fact_use
from training.evals.generation import repeats
from training.evals.rewards import Rewards
from training.rl.samples import completion_of


def reward_functions(rewards: Rewards) -> list["RewardFunction"]:
    """Return one function of TRL's kind for each reward, by its name; the first also logs what else is watched."""
    functions = [RewardFunction(name, function) for name, function in rewards.functions.items()]
    functions[0].logs_measures = True
    return functions


class RewardFunction:
    """A reward as TRL calls it: with lists, of which each place is one completion.

    completions: texts as decoded, without end of text. completion_ids: their ids, by whose last one a completion is
    ended. question, gold: columns of the prompts.
    """

    def __init__(self, name: str, function: Callable[[Completion], float]):
        self.__name__ = name
        self.function, self.logs_measures = function, False

    def __call__(
        self,
        completions: list[str],
        completion_ids: list[list[int]],
        question: list[str],
        gold: list[int | float],
        log_metric: Callable[[str, float], None] | None = None,
        **kwargs,
    ) -> list[float]:
        ended = [bool(ids) and ids[-1] == END_OF_TEXT_ID for ids in completion_ids]
        each = [completion_of(*row) for row in zip(completions, ended, question, gold, strict=True)]
        if self.logs_measures and log_metric is not None:
            for name, value in _measures(each).items():
                log_metric(name, value)
        return [self.function(completion) for completion in each]


def _measures(completions: list[Completion]) -> dict[str, float]:
    """Return means over completions, of what tells whether a policy loses itself."""
    facts = [fact_use(each.question, each.text) for each in completions]
    total = {name: sum(use[name] for use in facts) for name in ("eligible", "emitted")}
    size = len(completions)
    return {
        "repeating": sum(repeats(each.text) for each in completions) / size,
        "completions/mean_bytes": sum(each.bytes for each in completions) / size,
        "products": total["eligible"] / size,
        "fact_tokens": total["emitted"] / size,
    }
