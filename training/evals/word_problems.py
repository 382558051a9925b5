"""Word problems with one number as the answer: GSM8K, SVAMP, ASDiv, MultiArith and the synthetic ones, read alike.

The arms get the same questions, decoding and reading; prompts are injected like any text, or left in digits with
`inject_prompts` False.
"""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar

from training.analysis.intervals import mean, proportion
from training.data.rows import fields_of
from training.evals.answers import Number, canonical, gold_number, read_answer, same_number
from training.evals.equations import classify, find_equations
from training.evals.fact_use import fact_use, summarize_fact_use
from training.evals.generation import Decoding, Reply, generate, plan_batches, repeats
from training.evals.sampling import majority_at_k, pass_at_k
from training.evals.subject import Subject
from training.evals.task import Row, Task

MODES = ("worked", "answer_only", "program")
CATEGORIES = ("right", "wrong_arithmetic", "right_arithmetic_wrong_answer", "no_arithmetic", "no_answer")


class WordProblems(Task):
    """Questions answered by generation.

    mode: `worked` reads the number behind `####`; `answer_only` opens the answer with `####`, so that the number must
    come at once; `program` runs the answer, a Python function, in the safe interpreter. `train` are training rows,
    only for the floor of the best constant answer.
    """

    headline: ClassVar = ("strict_accuracy", "flexible_accuracy")

    def __init__(
        self,
        name: str,
        rows: Sequence[dict[str, Any]],
        *,
        question: str = "{question}",
        answer: str = "{answer}",
        mode: str = "worked",
        train: Sequence[dict[str, Any]] = (),
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        batch_size: int = 32,
        inject_prompts: bool = True,
        seed: int = 0,
    ):
        super().__init__(name)
        if mode not in MODES:
            raise ValueError(f"task '{name}': mode is '{mode}'; choose {', '.join(MODES)}")
        self.questions = [fields_of(row, question, f"task '{name}', row {i}") for i, row in enumerate(rows)]
        self.gold = [_gold(row, answer, f"task '{name}', row {i}") for i, row in enumerate(rows)]
        self.train_gold = [_gold(row, answer, f"task '{name}', train row {i}") for i, row in enumerate(train)]
        self.grade = _program_grader() if mode == "program" else None
        self.mode, self.decoding, self.batch_size = mode, decoding, batch_size
        self.inject_prompts, self.seed = inject_prompts, seed

    def settings(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "decoding": self.decoding.to_json(),
            "inject_prompts": self.inject_prompts,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def batches(self, subject: Subject) -> list[list[int]]:
        per_batch = max(1, self.batch_size // self.decoding.samples)
        return plan_batches([self._prompt(subject, index) for index in range(len(self.questions))], per_batch)

    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        requests = [(index, sample) for index in batch for sample in range(self.decoding.samples)]
        replies: list[Reply] = []
        for start in range(0, len(requests), self.batch_size):
            part = requests[start : start + self.batch_size]
            prompts = [self._prompt(subject, index) for index, _ in part]
            # Random numbers of its own for every reply, so that it does not depend on what else is in the batch.
            replies += generate(subject, prompts, self.decoding, [_seed(self.seed, *request) for request in part])
        samples = self.decoding.samples
        return [
            self._row(index, replies[place * samples : (place + 1) * samples]) for place, index in enumerate(batch)
        ]

    def _prompt(self, subject: Subject, index: int) -> list[int]:
        opening = " ####" if self.mode == "answer_only" else ""
        return subject.encode(subject.prompt(self.questions[index]) + opening, inject=self.inject_prompts)

    def _row(self, index: int, replies: Sequence[Reply]) -> Row:
        question, gold = self.questions[index], self.gold[index]
        return {
            "index": index,
            "question": question,
            "gold": gold,
            "replies": [self._read(question, gold, reply) for reply in replies],
        }

    def _read(self, question: str, gold: Number, reply: Reply) -> dict[str, Any]:
        text = f"####{reply.text}" if self.mode == "answer_only" else reply.text
        read: dict[str, Any] = {"text": reply.text, "tokens": len(reply.ids), "finish": reply.finish}
        if self.grade is not None:
            verdict = self.grade(reply.text)
            value = verdict.value if verdict.status == "ok" else None
            strict = flexible = value if isinstance(value, (int, float)) else None
            read |= {"program": verdict.status, "reason": verdict.reason}
        else:
            answer = read_answer(text)
            strict, flexible = answer.strict, answer.flexible
        right = same_number(strict, gold)
        equations = Counter(
            f"{'true' if equation.is_true else 'false'} {equation.kind}" for equation in find_equations(text)
        )
        return read | {
            "bytes": len(canonical(reply.text).encode("utf-8", "replace")),
            "strict": strict,
            "flexible": flexible,
            "strict_right": right,
            "flexible_right": same_number(flexible, gold),
            "category": classify(text, right, strict is not None),
            "repeats": repeats(reply.text),
            "equations": dict(sorted(equations.items())),
            "facts": fact_use(question, reply.text),
        }

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        replies = [reply for row in rows for reply in row["replies"]]

        def share(test) -> dict[str, Any]:
            if self.decoding.samples == 1:
                return proportion(sum(map(test, replies)), len(replies))
            return mean(
                [float(test(reply)) for reply in replies], [row["index"] for row in rows for _ in row["replies"]]
            )

        results = {
            "n": len(rows),
            "samples": self.decoding.samples,
            "strict_accuracy": share(lambda reply: reply["strict_right"]),
            "flexible_accuracy": share(lambda reply: reply["flexible_right"]),
            "no_answer": share(lambda reply: reply["strict"] is None),
            "no_number": share(lambda reply: reply["flexible"] is None),
            "truncated": share(lambda reply: reply["finish"] == "length"),
            "too_long": sum(row["replies"][0]["finish"] == "too_long" for row in rows),
            "repeating": share(lambda reply: reply["repeats"]),
            "finish": _counts(reply["finish"] for reply in replies),
            "mean_tokens": mean([reply["tokens"] for reply in replies])["value"],
            "mean_bytes": mean([reply["bytes"] for reply in replies])["value"],
            "categories": {name: share(lambda reply, name=name: reply["category"] == name) for name in CATEGORIES},
            "equations": _equations(replies),
            "fact_use": summarize_fact_use([reply["facts"] for reply in replies]),
            "floors": self._floors(rows),
        }
        floor = max(result["value"] for result in results["floors"].values())
        for name in self.headline:
            results[name]["floor"] = floor
        if self.grade is not None:
            results["programs"] = _counts(reply["program"] for reply in replies)
        if self.decoding.samples > 1:
            results |= self._over_samples(rows)
        return results

    def _over_samples(self, rows: list[Row]) -> dict[str, Any]:
        n = self.decoding.samples
        ks = [2**power for power in range(n.bit_length()) if 2**power <= n]
        if n not in ks:
            ks.append(n)

        def right(row: Row) -> int:
            return sum(reply["strict_right"] for reply in row["replies"])

        def answers(row: Row) -> list[Number | None]:
            return [reply["strict"] for reply in row["replies"]]

        return {
            "pass_at": {str(k): mean([pass_at_k(n, right(row), k) for row in rows]) for k in ks},
            "majority_at": {str(k): mean([majority_at_k(answers(row), row["gold"], k) for row in rows]) for k in ks},
        }

    def _floors(self, rows: list[Row]) -> dict[str, Any]:
        """What can be had without any reasoning: the commonest answer of the training rows, and the last number of
        the question."""
        last = sum(same_number(read_answer(row["question"]).flexible, row["gold"]) for row in rows)
        floors: dict[str, Any] = {"last_number_of_question": proportion(last, len(rows))}
        if self.train_gold:
            constant, _ = Counter(self.train_gold).most_common(1)[0]
            hits = sum(same_number(constant, row["gold"]) for row in rows)
            floors["best_constant_of_train"] = {"constant": constant, **proportion(hits, len(rows))}
        return floors


def _seed(seed: int, index: int, sample: int) -> int:
    return int.from_bytes(sha256(f"{seed}/{index}/{sample}".encode()).digest()[:8], "big")


def _gold(row: dict[str, Any], template: str, where: str) -> Number:
    text = fields_of(row, template, where)
    try:
        return gold_number(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _equations(replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of true equations, over all and by kind; an item's equations hang together."""
    kinds = sorted({name.split()[1] for reply in replies for name in reply["equations"]})
    result = {}
    for kind in ["all", *kinds]:
        true, all_of_kind = 0, 0
        for reply in replies:
            for name, count in reply["equations"].items():
                if kind in ("all", name.split()[1]):
                    all_of_kind += count
                    true += count if name.startswith("true") else 0
        result[kind] = proportion(true, all_of_kind)
    return result


def _counts(values) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _program_grader():
    try:
        from training.evals.interpreter import run_program
    except ModuleNotFoundError as error:
        raise ValueError(
            "mode program runs answers in the safe interpreter, training/evals/interpreter.py, which is not there"
        ) from error
    return run_program
