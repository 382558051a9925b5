"""Word problems with one number as the answer: GSM8K, SVAMP, ASDiv, MultiArith and the synthetic ones, read alike.

The arms get the same questions, decoding and reading; prompts are injected like any text, or left in digits with
`inject_prompts` False.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, ClassVar

from tokenization import inject, render
from training.analysis.intervals import clustered_proportion, mean, proportion
from training.data.rows import fields_of
from training.evals.answers import Number, gold_number, read_answer, same_number, same_result
from training.evals.equations import classify, find_equations
from training.evals.generation import Decoding, Reply, generate, plan_batches
from training.evals.interpreter import extract_program, run_program
from training.evals.reply_measures import counts, measure_reply, seed_of, summarize_measures
from training.evals.sampling import majority_at_k, pass_at_k
from training.evals.subject import Subject
from training.evals.task import Row, Task

MODES = ("worked", "answer_only", "program")
CATEGORIES = ("right", "wrong_arithmetic", "right_arithmetic_wrong_answer", "no_arithmetic", "no_answer")
PROGRAM_CATEGORIES = ("right", "wrong_program", "no_answer")


class WordProblems(Task):
    """Questions answered by generation.

    mode: `worked` reads the number behind `####`; `answer_only` opens the answer with `####`, so that the number must
    come at once; `program` runs the answer, a Python function, in the safe interpreter. `train` are training rows,
    only for the floor of the best constant answer; without them it is that of the items themselves, which nobody could
    have known before. skip_unreadable: leave out and count the rows whose answer is not
    one number; otherwise they are an error.

    The length limit counts tokens, and a fact is one, so a text and its injected twin are not cut off at the same
    place: `truncated` belongs beside every accuracy.
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
        skip_unreadable: bool = False,
    ):
        super().__init__(name)
        given = len(rows)
        if mode not in MODES:
            raise ValueError(f"task '{name}': mode is '{mode}'; choose {', '.join(MODES)}")
        rows, self.gold = _with_gold(rows, answer, f"task '{name}', row", skip_unreadable)
        self.left_out = given - len(rows)
        self.questions = [fields_of(row, question, f"task '{name}', row {i}") for i, row in enumerate(rows)]
        _, self.train_gold = _with_gold(train, answer, f"task '{name}', train row", skip_unreadable)
        if mode == "answer_only":
            # The prompt holds the first mark, so any that the reply writes is the second.
            decoding = replace(decoding, stop_strings=[*decoding.stop_strings, "####"])
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
            replies += generate(subject, prompts, self.decoding, [seed_of(self.seed, *request) for request in part])
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
        opening = "####" if self.mode == "answer_only" else ""
        text = opening + reply.text
        read = {"text": reply.text} | measure_reply(question, reply, opening)
        if self.mode == "program":
            return read | _run(reply.text, gold)
        answer = read_answer(text)
        right = same_number(answer.strict, gold)
        found = Counter(f"{'true' if one.is_true else 'false'} {one.kind}" for one in find_equations(text))
        return read | {
            "strict": answer.strict,
            "flexible": answer.flexible,
            "strict_right": right,
            "flexible_right": same_number(answer.flexible, gold),
            "category": classify(text, right, answer.strict is not None),
            "equations": dict(sorted(found.items())),
        }

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        replies = [reply for row in rows for reply in row["replies"]]

        def share(test) -> dict[str, Any]:
            if self.decoding.samples == 1:
                return proportion(sum(map(test, replies)), len(replies))
            return clustered_proportion(
                [sum(map(test, row["replies"])) for row in rows], [len(row["replies"]) for row in rows]
            )

        categories = PROGRAM_CATEGORIES if self.mode == "program" else CATEGORIES
        results = {
            "n": len(rows),
            "left_out": self.left_out,
            "samples": self.decoding.samples,
            "strict_accuracy": share(lambda reply: reply["strict_right"]),
            "flexible_accuracy": share(lambda reply: reply["flexible_right"]),
            "no_answer": share(lambda reply: reply["strict"] is None),
            "no_number": share(lambda reply: reply["flexible"] is None),
            "too_long": sum(row["replies"][0]["finish"] == "too_long" for row in rows),
            **summarize_measures(replies, share),
            "categories": {name: share(lambda reply, name=name: reply["category"] == name) for name in categories},
            "equations": _equations(replies),
            "floors": self._floors(rows),
        }
        floor = max(result["value"] for result in results["floors"].values())
        for name in self.headline:
            results[name]["floor"] = floor
        if self.mode == "program":
            results["programs"] = counts(reply["program"] for reply in replies)
            results["reasons"] = counts(reply["reason"] for reply in replies if reply["reason"])
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
        """What can be had without any reasoning: the last number of the question, and one answer to all, the commonest
        of the training rows or, without them, of the items in hindsight."""
        last = sum(same_number(read_answer(row["question"]).flexible, row["gold"]) for row in rows)
        floors: dict[str, Any] = {"last_number_of_question": proportion(last, len(rows))}
        name = "best_constant_of_train" if self.train_gold else "best_constant_in_hindsight"
        answers = self.train_gold or [row["gold"] for row in rows]
        for constant, _ in Counter(answers).most_common(1):
            hits = sum(same_number(constant, row["gold"]) for row in rows)
            floors[name] = {"constant": constant, **proportion(hits, len(rows))}
        return floors


def _run(reply: str, gold: Number) -> dict[str, Any]:
    # A fact in a program is its product: its name is no Python, and an equation neither.
    verdict = run_program(extract_program(render(inject(reply), "value")))
    right = verdict.status == "ok" and same_result(verdict.value, gold)
    number = float(verdict.value) if isinstance(verdict.value, Fraction) else verdict.value
    return {
        "strict": number,
        "flexible": number,
        "strict_right": right,
        "flexible_right": right,
        "category": "right" if right else "no_answer" if number is None else "wrong_program",
        "equations": {},
        "program": verdict.status,
        "reason": verdict.reason,
    }


def _with_gold(
    rows: Sequence[dict[str, Any]], template: str, where: str, skip_unreadable: bool
) -> tuple[list[dict[str, Any]], list[Number]]:
    """Return the rows whose answer is one number, and these numbers; another row is an error unless skipped."""
    kept, gold = [], []
    for index, row in enumerate(rows):
        text = fields_of(row, template, f"{where} {index}")
        try:
            gold.append(gold_number(text))
        except ValueError as error:
            if skip_unreadable:
                continue
            raise ValueError(
                f"{where} {index}: {error}, or set skip_unreadable: true to leave out all such"
            ) from error
        kept.append(row)
    return kept, gold


def _equations(replies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the share of true equations, over all and by kind; those of one reply hang together."""
    kinds = sorted({name.split()[1] for reply in replies for name in reply["equations"]})

    def count(reply: dict[str, Any], kind: str, verdicts: Sequence[str]) -> int:
        named = [f"{verdict} {one}" for verdict in verdicts for one in (kinds if kind == "all" else [kind])]
        return sum(reply["equations"].get(name, 0) for name in named)

    return {
        kind: clustered_proportion(
            [count(reply, kind, ["true"]) for reply in replies],
            [count(reply, kind, ["true", "false"]) for reply in replies],
        )
        for kind in ["all", *kinds]
    }
