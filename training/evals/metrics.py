"""The project's measures as `evaluate.Metric` classes, for texts and likelihoods that come from elsewhere.

    from training.evals.metrics import MathAnswers
    MathAnswers().compute(predictions=["6 * 9 = 54\\n#### 54"], references=["54"])["strict_accuracy"]["value"]  # 1.0

They are made directly, so nothing is downloaded, and give what the tasks give. Over several processes each makes the
metric with `num_process`, its `process_id`, one `experiment_id` and one `cache_dir` that all of them see, adds its own
items (or empty lists), and calls `compute`; the first process returns the results over all items, the others None.
"""

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, List, Value

from training.analysis.intervals import mean, proportion
from training.evals.answers import gold_number, read_answer, same_number
from training.evals.fact_use import fact_use, summarize_fact_use
from training.evals.hellaswag import RULES, choose
from training.evals.sampling import majority_at_k, pass_at_k

_REFERENCES = "references: the right answer of each, a number as text, or a text with `#### number`, as in GSM8K."
_PROPORTION = 'Each result is `{"value", "low", "high", "n"}`, with a 95 % interval over the items.'


class MathAnswers(evaluate.Metric):
    """Measure the accuracy of replies that end in a number.

    The configuration `MathAnswers("finish")` has a third column, `finish`, that says how each reply ended, and reports
    the share that ended by `length` as truncated.
    """

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": Value("string"), "references": Value("string")}
        if self.config_name == "finish":
            columns["finish"] = Value("string")
        elif self.config_name != "default":
            raise ValueError(f"there is no configuration '{self.config_name}'; leave it out, or choose 'finish'")
        return _describe(
            "The share of right answers, read from the answer mark only (strict) or from anywhere (flexible).",
            f"predictions: replies as text. {_REFERENCES} Results: strict_accuracy, flexible_accuracy, no_answer (no "
            f"number after the mark) and no_number (none at all); truncated. {_PROPORTION}",
            columns,
        )

    def _compute(
        self, predictions: list[str], references: list[str], finish: list[str] | None = None
    ) -> dict[str, Any]:
        answers = [read_answer(text) for text in predictions]
        gold = _gold_numbers(references)
        n = len(answers)

        def accuracy(read: list) -> dict[str, Any]:
            return proportion(sum(map(same_number, read, gold)), n)

        strict, flexible = [answer.strict for answer in answers], [answer.flexible for answer in answers]
        results = {
            "strict_accuracy": accuracy(strict),
            "flexible_accuracy": accuracy(flexible),
            "no_answer": proportion(strict.count(None), n),
            "no_number": proportion(flexible.count(None), n),
        }
        return results if finish is None else results | {"truncated": proportion(finish.count("length"), n)}


class PassAtK(evaluate.Metric):
    """Estimate how often at least one of k sampled replies is right, without bias, from n >= k replies each."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(
            "The probability that one of k replies is right, strictly read: the unbiased estimator, averaged.",
            f"predictions: a list of replies for each question. {_REFERENCES} k: one number or several, 1 by default. "
            f"Results: pass_at, by k as text. {_PROPORTION}",
            {"predictions": List(Value("string")), "references": Value("string")},
        )

    def _compute(
        self, predictions: list[list[str]], references: list[str], k: int | Sequence[int] = 1
    ) -> dict[str, Any]:
        right = [
            [same_number(read_answer(text).strict, gold) for text in texts]
            for texts, gold in zip(predictions, _gold_numbers(references), strict=True)
        ]
        return {
            "pass_at": {str(each): mean([pass_at_k(len(one), sum(one), each) for one in right]) for each in _ks(k)}
        }


class MajorityAtK(evaluate.Metric):
    """Measure how often the most frequent answer of k sampled replies is right."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(
            "The share of groups of k replies whose most frequent answer, strictly read, is right.",
            f"predictions: a list of replies for each question. {_REFERENCES} k: one number or several; by default "
            f"all replies of each question, called `all`. Results: majority_at, by k as text. {_PROPORTION}",
            {"predictions": List(Value("string")), "references": Value("string")},
        )

    def _compute(
        self, predictions: list[list[str]], references: list[str], k: int | Sequence[int] | None = None
    ) -> dict[str, Any]:
        answers = [[read_answer(text).strict for text in texts] for texts in predictions]
        gold = _gold_numbers(references)

        def majority(k: int | None) -> dict[str, Any]:
            return mean([majority_at_k(a, g, k or len(a)) for a, g in zip(answers, gold, strict=True)])

        return {"majority_at": {str(each or "all"): majority(each) for each in ([None] if k is None else _ks(k))}}


class FactUse(evaluate.Metric):
    """Count the multiplication facts that replies use, as tokens or written out, and how they use them."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(
            "The use of multiplication facts in replies.",
            "predictions: replies as text, fact tokens by their names. references: the questions.",
            {"predictions": Value("string"), "references": Value("string")},
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return summarize_fact_use(
            [fact_use(question, reply) for question, reply in zip(references, predictions, strict=True)]
        )


class MultipleChoice(evaluate.Metric):
    """Choose by likelihood: by the sum over a choice's tokens, by their mean, and by the sum per byte."""

    def _info(self) -> evaluate.MetricInfo:
        return _describe(
            "The share of items whose right choice has the least loss.",
            "predictions: for each item a mapping of `nats` (the summed loss of every choice), `tokens` and `bytes` "
            "(its length in each). references: the number of the right choice, from 0 on. "
            f"Results: acc, acc_norm (per token) and acc_norm_bytes. {_PROPORTION}",
            {
                "predictions": {
                    "nats": List(Value("float64")),
                    "tokens": List(Value("int64")),
                    "bytes": List(Value("int64")),
                },
                "references": Value("int64"),
            },
        )

    def _compute(self, predictions: list[dict[str, list]], references: list[int]) -> dict[str, Any]:
        for index, (item, label) in enumerate(zip(predictions, references, strict=True)):
            sizes = {name: len(values) for name, values in item.items()}
            if len(set(sizes.values())) > 1 or not 0 <= label < sizes["nats"] or 0 in item["tokens"] + item["bytes"]:
                raise ValueError(
                    f"item {index} is {item} with the label {label}; give nats, tokens and bytes of every choice, "
                    "none of which is empty, and the number of the right one, from 0 on"
                )
        chosen = [choose(item["nats"], item["tokens"], item["bytes"]) for item in predictions]
        return {
            rule: proportion(
                sum(choices[rule] == label for choices, label in zip(chosen, references, strict=True)), len(chosen)
            )
            for rule in RULES
        }


def _describe(description: str, inputs: str, columns: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description=inputs, features=Features(columns)
    )


def _gold_numbers(references: Sequence[str]) -> list[int | float]:
    """Read the right answers; raises `ValueError` that names the one without a number."""
    numbers = []
    for index, text in enumerate(references):
        try:
            numbers.append(gold_number(text))
        except ValueError as error:
            raise ValueError(f"reference {index}: {error}") from error
    return numbers


def _ks(k: int | Sequence[int]) -> list[int]:
    return [k] if isinstance(k, int) else list(k)
