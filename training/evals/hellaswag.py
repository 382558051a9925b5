"""HellaSwag (Zellers et al. 2019, arXiv:1905.07830): which of four endings does the model find most likely?

In the completion style of build-nanogpt, where the stock GPT-2 124M has an acc_norm of 0.2955: the context as it is, a
blank and the ending, encoded apart. lm-evaluation-harness writes the texts differently, and its numbers cannot be put
beside these.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from training.analysis.intervals import mean, proportion
from training.evals.likelihood import Choices, plan_batches, score
from training.evals.subject import Subject
from training.evals.task import Row, Task

ENDINGS = 4
# What an ending's nats are divided by, by rule: nothing, its tokens, its bytes.
RULES = ("acc", "acc_norm", "acc_norm_bytes")


class HellaSwag(Task):
    """Choose the ending with the least loss, by three rules.

    acc: the least sum over its tokens. acc_norm: the least mean over its tokens, which depends on how the tokenizer
    cuts them. acc_norm_bytes: the least sum per UTF-8 byte of the ending, which does not.

    An item longer than the model's context loses the left of its own, and is counted. One whose endings do not even
    fit behind a single token counts as wrong.
    """

    headline: ClassVar = ("acc_norm", "acc_norm_bytes")

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]], *, batch_tokens: int = 4096):
        """Take rows with `ctx`, four `endings` and a `label` (0 to 3, or that digit as text).

        Raises `ValueError` that names the row and the field for one that is missing or malformed.
        """
        super().__init__(name)
        self.batch_tokens = batch_tokens
        self._items = [_read_item(f"{name}: row {number}", row) for number, row in enumerate(rows)]
        self._encoded: tuple[PreTrainedTokenizerBase, list[Choices]] | None = None

    def batches(self, subject: Subject) -> list[list[int]]:
        requests = [self._request(subject, index) for index in range(len(self._items))]
        fitting = [index for index, (request, _) in enumerate(requests) if request is not None]
        batches = plan_batches([requests[index][0] for index in fitting], self.batch_tokens)
        too_long = [index for index, (request, _) in enumerate(requests) if request is None]
        return [[fitting[place] for place in batch] for batch in batches] + ([too_long] if too_long else [])

    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        requests = [self._request(subject, index) for index in batch]
        scores = iter(score(subject, [request for request, _ in requests if request is not None]))
        return [
            self._row(subject, index, None if request is None else next(scores), cut)
            for index, (request, cut) in zip(batch, requests, strict=True)
        ]

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        scored = [row for row in rows if not row["too_long"]]
        right = [row["nats"][row["label"]] / row["bytes"][row["label"]] for row in scored]
        return {
            "n": len(rows),
            **{
                rule: proportion(sum(row["correct"][rule] for row in rows), len(rows)) | {"floor": 1 / ENDINGS}
                for rule in RULES
            },
            "nats_per_byte_of_right_ending": mean(right),
            "context_cut": sum(row["context_cut"] > 0 for row in rows),
            "too_long": len(rows) - len(scored),
        }

    def settings(self) -> dict[str, Any]:
        return {"style": "completion", "batch_tokens": self.batch_tokens}

    def _request(self, subject: Subject, index: int) -> tuple[Choices | None, int]:
        """Return what is scored of an item, None where its endings do not fit, and how many tokens were cut off."""
        whole = self._encode(subject)[index]
        room = subject.context - max(map(len, whole.continuations))
        if room < 1:
            return None, 0
        context = whole.context[-room:]
        return Choices(context, whole.continuations), len(whole.context) - len(context)

    def _encode(self, subject: Subject) -> list[Choices]:
        """Return all items in the subject's tokens, uncut; they are kept until a subject has another tokenizer."""
        if self._encoded is None or self._encoded[0] is not subject.tokenizer:
            requests = [
                Choices(subject.encode(item["ctx"]), [subject.encode(" " + ending) for ending in item["endings"]])
                for item in self._items
            ]
            self._encoded = (subject.tokenizer, requests)
        return self._encoded[1]

    def _row(self, subject: Subject, index: int, nats: list[float] | None, cut: int) -> Row:
        item = self._items[index]
        tokens = [len(continuation) for continuation in self._encode(subject)[index].continuations]
        # Of an empty ending the blank before it is left.
        sizes = [len(ending.encode()) or 1 for ending in item["endings"]]
        predictions = dict.fromkeys(RULES) if nats is None else choose(nats, tokens, sizes)
        return {
            "index": index,
            **item,
            "predictions": predictions,
            "correct": {rule: prediction == item["label"] for rule, prediction in predictions.items()},
            "nats": nats,
            "tokens": tokens,
            "bytes": sizes,
            "context_cut": cut,
            "too_long": nats is None,
        }


def choose(nats: Sequence[float], tokens: Sequence[int], sizes: Sequence[int]) -> dict[str, int]:
    """Return, by each of `RULES`, the choice with the least loss, the first of equal ones.

    nats: the summed loss of every choice; tokens and sizes: its length in tokens and in bytes.
    """
    chosen = {}
    for rule, counts in zip(RULES, ([1] * len(nats), tokens, sizes), strict=True):
        losses = [loss / count for loss, count in zip(nats, counts, strict=True)]
        chosen[rule] = losses.index(min(losses))
    return chosen


def _read_item(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row that count, checked; `ind` and `activity_label` are taken along where they are."""
    for field in ("ctx", "endings", "label"):
        if row.get(field) is None:
            raise ValueError(f"{where} has no '{field}'; HellaSwag rows have ctx, endings and label")
    if not isinstance(row["ctx"], str) or not row["ctx"]:
        raise ValueError(f"{where}: 'ctx' is {row['ctx']!r}; it is the text that the endings go on from")
    endings = row["endings"]
    if (
        isinstance(endings, str)
        or not isinstance(endings, Sequence)
        or len(endings) != ENDINGS
        or not all(isinstance(ending, str) for ending in endings)
    ):
        raise ValueError(f"{where}: 'endings' is {endings!r:.200}; it is a list of {ENDINGS} texts")
    if str(row["label"]) not in map(str, range(ENDINGS)):
        raise ValueError(
            f"{where}: 'label' is {row['label']!r}; it is the number of the right ending, 0 to {ENDINGS - 1} (the "
            "test split has none: use the validation split)"
        )
    try:
        "".join([row["ctx"], *endings]).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds half of a surrogate pair ({error.reason}); repair its texts") from error
    known = {field: row[field] for field in ("ind", "activity_label") if field in row}
    return {**known, "ctx": row["ctx"], "endings": list(endings), "label": int(row["label"])}
