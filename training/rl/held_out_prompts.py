"""What a policy is measured by between two steps: completions of held-out prompts."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from training.core.processes import agree
from training.core.trainer import TrustworthyTrainerMixin
from training.evals.during_training import forget_other_weights
from training.evals.runner import evaluate
from training.evals.subject import Subject
from training.rl.samples import Samples

GREEDY, DRAWN = "greedy", "drawn"


class HeldOutPromptsMixin(TrustworthyTrainerMixin):
    """A trustworthy trainer that measures a policy on held-out prompts, into `run_dir/dev/checkpoint-N/`.

    held_out: the tasks `greedy`, one likeliest completion of each prompt, and `drawn`, several drawn ones.
    """

    evaluated_by = "eval_pass_at_1"
    held_out: Sequence[Samples]

    @contextlib.contextmanager
    def policy(self) -> Iterator[Subject]:
        """Give the policy, ready to generate on every process."""
        raise NotImplementedError

    def evaluate(self, *args, metric_key_prefix: str = "eval", **kwargs) -> dict[str, float]:
        """Return pass@k and means over drawn completions, and the share of likeliest ones that are right."""
        folder = self.run_dir / "dev" / f"checkpoint-{self.state.global_step}"
        with self.policy() as subject:
            agree(lambda: forget_other_weights(folder, subject), self.accelerator)
            results = evaluate(subject, self.held_out, folder, self.accelerator, {}, say=lambda line: None)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in _figures(results).items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _figures(results: dict[str, Any]) -> dict[str, float]:
    """Return the results that stand for the tasks, by short names."""
    greedy, drawn = results[GREEDY], results[DRAWN]
    passes = {name: result["value"] for name, result in drawn.items() if name.startswith("pass_at_")}
    facts = drawn["fact_use"]
    shares = {
        "accuracy": greedy["pass_at_1"],
        "informative": drawn["informative"],
        "truncated": drawn["truncated"],
        "repeating": drawn["repeating"],
        "fact_tokens": facts["emitted_per_response"],
        "fact_tokens_per_product": facts["emitted_per_eligible"],
    }
    figures = {name: share["value"] for name, share in shares.items()}
    figures |= {"reward": drawn["reward"], "bytes": drawn["mean_bytes"], "tokens": drawn["mean_tokens"]}
    return {name: value for name, value in (passes | figures).items() if value is not None}
