"""Arithmetic probes: is the answer to a short question right, and how likely is it among plausible ones?

Each question stands in a conversation whose reply is opened with "The answer is". Two measurements follow:

- *Exact answer*: the first number of the greedy reply. A fact counts as its product, so a reply that only repeats
  `6 * 9` is right; that is why `exact_in_digits` stands beside it, which takes no number from a fact, in either arm.
  `exact_final` is the number after `####`, and the first number only where there is none. It is the one that treats
  all arms alike: a model that was taught to end with `####` writes its fact tokens as steps, and the others would
  read such a step as the answer of one arm (`mul_tokens`), as noise of another (a random fact), and pass it over in
  a third (`<MUL>` names no number).
- *Likelihood*: which of the candidate answers the model finds likeliest. A number counts as stated when it is
  followed by a full stop, a new line or the end of the text: alone, ` 12` would include ` 123`, and one of these ends
  alone would measure how a model likes to end its sentences. The probabilities of the three strings are added up.
  `likelihood` is over digits. `likelihood_any_form` also adds up the same strings with each fact of that product in
  place of the digits, where the tokenizer has facts; in the baseline the two are equal.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from tokenization import inject, render
from tokenization.mul_facts import FACTS
from training.analysis.intervals import clustered_proportion, mean, proportion
from training.data.rows import rows_sha256
from training.data.synthetic_probes import ORIGINAL_SETS, PROBE_SEED, PROBE_SETS, Pair, Probe, probe_set
from training.evals import likelihood
from training.evals.answers import (
    Number,
    final_number,
    first_number,
    first_number_in_digits,
    read_numbers,
    same_number,
)
from training.evals.generation import Decoding, Reply, generate, plan_batches
from training.evals.likelihood import Choices
from training.evals.subject import Subject
from training.evals.task import Row, Task

OPENING = " The answer is"
# What each share has to beat.
_ANSWERS = ("best_constant", "last_number_of_question")
_CHOICES = (*_ANSWERS, "guess_among_candidates", "best_place_among_candidates")
FLOORS = {
    "exact": (*_ANSWERS, "question_again"),
    "exact_final": (*_ANSWERS, "question_again"),
    "exact_in_digits": (*_ANSWERS, "question_again_in_digits"),
    "likelihood": _CHOICES,
    "likelihood_any_form": _CHOICES,
}
# Only a tokenizer with facts has another form, and only it can answer by one without writing digits.
NOT_COMPARABLE = ("answered_by_fact", "likelihood_any_form")
HEADLINE_SETS = ("facts", "two_digit_carry", "subtraction")
SHARES = ("exact", "exact_final", "exact_in_digits", "answered_by_fact", "likelihood", "likelihood_any_form")
# The original's way, for its own sets: 32 new tokens, and nothing but the end of the text ends a reply.
ORIGINAL_DECODING = Decoding(max_new_tokens=32, stop_strings=[], one_answer=False)


class Probes(Task):
    """The probe sets of `training.data.synthetic_probes`.

    sets: names of `PROBE_SETS`, all by default. held_out_facts: pairs of digits whose probes are reported apart.
    inject_prompts: False leaves the facts of a question in digits. Raises `ValueError` for an unknown or repeated set
    and for decoding that draws at random.

    The summary has, for each set and each value of its tags, the shares of right answers, where `likelihood` is the
    share of probes whose answer is likelier than every other candidate, with intervals that know which probes ask the
    same; the mean rank, NLL in nats and probability among the candidates, over the
    probes that fit into the context; and the floors. `original_accuracy` is the original implementation's reading of
    its own sets.
    """

    def __init__(
        self,
        name: str,
        sets: Sequence[str] | None = None,
        *,
        held_out_facts: Collection[Pair] = (),
        inject_prompts: bool = True,
        decoding: Decoding = Decoding(max_new_tokens=16),  # noqa: B008 - frozen
        batch_size: int = 32,
        batch_tokens: int = 4096,
    ):
        super().__init__(name)
        if decoding.temperature > 0:
            raise ValueError(
                f"task '{name}': probes are answered greedily, once, but temperature is {decoding.temperature} and "
                f"samples is {decoding.samples}; give this task `temperature: 0` and `samples: 1`"
            )
        self.sets = tuple(PROBE_SETS if sets is None else sets)
        if len(set(self.sets)) < len(self.sets):
            raise ValueError(f"task '{name}': a probe set is named twice ({', '.join(self.sets)}); name each once")
        self.probes = [probe for one in self.sets for probe in probe_set(one, PROBE_SEED, held_out_facts)]
        shown = [one for one in HEADLINE_SETS if one in self.sets] or self.sets[: len(HEADLINE_SETS)]
        self.headline = tuple(f"sets.{one}.{share}" for one in shown for share in ("exact", "likelihood"))
        self.inject_prompts, self.decoding = inject_prompts, decoding
        self.batch_size, self.batch_tokens = batch_size, batch_tokens

    def settings(self) -> dict[str, Any]:
        return {
            "sets": list(self.sets),
            "probes_sha256": rows_sha256([dataclasses.asdict(probe) for probe in self.probes]),
            "inject_prompts": self.inject_prompts,
            "decoding": self.decoding.to_json(),
            "original_decoding": ORIGINAL_DECODING.to_json(),
            "batch_size": self.batch_size,
            "batch_tokens": self.batch_tokens,
        }

    def batches(self, subject: Subject) -> list[list[int]]:
        return plan_batches([self._context(subject, probe) for probe in self.probes], self.batch_size)

    def run(self, subject: Subject, batch: Sequence[int]) -> list[Row]:
        probes = [self.probes[index] for index in batch]
        numbers = sorted({number for probe in probes for number in probe.candidates})
        forms = {number: number_forms(subject, number) for number in numbers}
        requests = [
            Choices(
                self._context(subject, probe), [ids for n in probe.candidates for form in forms[n] for ids in form]
            )
            for probe in probes
        ]
        fitting = [place for place, request in enumerate(requests) if _fits(subject, request)]
        contexts = [requests[place].context for place in fitting]
        replies = dict(zip(fitting, generate(subject, contexts, self.decoding), strict=True))
        nats: dict[int, list[float]] = {}
        for part in likelihood.plan_batches([requests[place] for place in fitting], self.batch_tokens):
            places = [fitting[position] for position in part]
            nats |= zip(places, likelihood.score(subject, [requests[place] for place in places]), strict=True)
        of_original = [place for place in fitting if probes[place].set in ORIGINAL_SETS]
        decoding = dataclasses.replace(ORIGINAL_DECODING, suppress_facts=self.decoding.suppress_facts)
        contexts = [requests[place].context for place in of_original]
        originals = dict(zip(of_original, generate(subject, contexts, decoding), strict=True))
        return [
            {"index": index}
            | _asked(probe)
            | _replied(probe, replies.get(place, Reply([], "", "too_long")))
            | _compared(probe, forms, nats.get(place))
            | _replied_to_the_original(probe, originals.get(place, Reply([], "", "too_long")))
            for place, (index, probe) in enumerate(zip(batch, probes, strict=True))
        ]

    def _context(self, subject: Subject, probe: Probe) -> list[int]:
        return subject.encode(subject.prompt(probe.prompt) + OPENING, inject=self.inject_prompts)

    def summarize(self, rows: list[Row]) -> dict[str, Any]:
        sets = {name: [row for row in rows if row["set"] == name] for name in self.sets}
        as_original = [row["original"]["right"] for row in rows if "original" in row]
        results = {"n": len(rows), "too_long": sum(row["finish"] == "too_long" for row in rows)}
        if as_original:
            results["original_accuracy"] = proportion(sum(as_original), len(as_original))
        return results | {"sets": {name: _results(of_set) | {"by": _by_tag(of_set)} for name, of_set in sets.items()}}


def number_forms(subject: Subject, number: int) -> list[list[list[int]]]:
    """Return the ways to state a number after the opening, as ids: first in digits, then by each fact of that product
    that the tokenizer has; a form is a list of strings that differ in the end of the number."""
    facts = [fact.name for fact in FACTS if fact.product == number and fact.name in subject.named_facts]
    ends = [subject.encode("."), subject.encode("\n"), [subject.end_of_text_id]]
    return [[subject.encode(f" {written}") + end for end in ends] for written in (str(number), *facts)]


def _fits(subject: Subject, request: Choices) -> bool:
    return len(request.context) + max(map(len, request.continuations)) <= subject.context


def _asked(probe: Probe) -> Row:
    return {
        "set": probe.set,
        "prompt": probe.prompt,
        "answer": probe.answer,
        "candidates": len(probe.candidates),
        "place": probe.candidates.index(probe.answer),  # in ascending order
        "cluster": probe.cluster,
        "tags": probe.tags,
    }


def _replied(probe: Probe, answer: Reply) -> Row:
    number, in_digits = first_number(answer.text), first_number_in_digits(answer.text)
    final = final_number(answer.text)
    return {
        "reply": answer.text,
        "tokens": len(answer.ids),
        "finish": answer.finish,
        "read": number,
        "read_final": final,
        "read_in_digits": in_digits,
        "exact": same_number(number, probe.answer),
        "exact_final": same_number(final, probe.answer),
        "exact_in_digits": same_number(in_digits, probe.answer),
        "answered_by_fact": number is not None and in_digits is None,
    }


def _replied_to_the_original(probe: Probe, answer: Reply) -> Row:
    if probe.set not in ORIGINAL_SETS:
        return {}
    number = _read_as_the_original(answer.text)
    return {"original": {"reply": answer.text, "read": number, "right": same_number(number, probe.answer)}}


def _read_as_the_original(text: str) -> Number | None:
    """Return the number behind the first `####`, or else behind the first "the answer is", or else the last one."""
    text = render(inject(text), "value")
    marked = re.search(r"####\s*(-?[0-9][0-9.,]*)", text) or re.search(r"[Tt]he answer is\s*(-?[0-9][0-9.]*)", text)
    numbers = read_numbers(marked[1]) if marked else read_numbers(text)
    return numbers[-1] if numbers else None


def _compared(probe: Probe, forms: dict[int, list[list[list[int]]]], nats: Sequence[float] | None) -> Row:
    """Compare the candidates by the NLL of the strings that state them, given in the order of the request."""
    if nats is None:
        nothing = {"right": False, "rank": None, "nll": None, "probability": None, "likeliest": None}
        return {"likelihood": nothing, "likelihood_any_form": nothing}
    remaining = iter(nats)
    in_digits, in_any_form = [], []
    for number in probe.candidates:
        by_form = [[next(remaining) for _ in form] for form in forms[number]]
        in_digits.append(_of_any(by_form[0]))
        in_any_form.append(_of_any([one for form in by_form for one in form]))
    return {"likelihood": _ranked(probe, in_digits), "likelihood_any_form": _ranked(probe, in_any_form)}


def _of_any(nats: Sequence[float]) -> float:
    """Return the NLL of one of several strings, whichever: the negative logarithm of the summed probabilities."""
    least = min(nats)
    return least - math.log(math.fsum(math.exp(least - one) for one in nats))


def _ranked(probe: Probe, nats: Sequence[float]) -> Row:
    own = nats[probe.candidates.index(probe.answer)]
    # A tie counts against the answer, or a model that finds all alike would always be right.
    rank = sum(not own < other for other in nats)
    return {
        "right": rank == 1,
        "rank": rank,
        "nll": own,
        "probability": math.exp(_of_any(nats) - own),
        "likeliest": probe.candidates[min(range(len(nats)), key=nats.__getitem__)],
    }


def _results(rows: Sequence[Row]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for share in SHARES:
        right: dict[str, list[bool]] = {}
        for row in rows:
            right.setdefault(row["cluster"], []).append(_is_right(row, share))
        if len(right) < len(rows):
            results[share] = clustered_proportion(
                [sum(of_one) for of_one in right.values()], list(map(len, right.values()))
            )
        else:
            results[share] = proportion(sum(map(sum, right.values())), len(rows))
    for form in ("likelihood", "likelihood_any_form"):
        scored = [row for row in rows if row[form]["rank"] is not None]
        results[f"{form}_details"] = {
            key: mean([row[form][key] for row in scored], [row["cluster"] for row in scored])
            for key in ("rank", "nll", "probability")
        }
    if rows and "original" in rows[0]:
        results["original_accuracy"] = proportion(sum(row["original"]["right"] for row in rows), len(rows))
    floors = _floors(rows)
    for share, names in FLOORS.items() if floors else ():
        results[share]["floor"] = max(floors[name]["value"] for name in names)
    return results | {"floors": floors}


def _is_right(row: Row, share: str) -> bool:
    return row[share]["right"] if isinstance(row[share], dict) else row[share]


def _floors(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what is right without arithmetic: one answer to all questions, a question's last number in digits, the
    question said again, whose facts are read as their products, a guess among the candidates, and always the candidate
    of one place in their order."""
    if not rows:
        return {}
    n, answers = len(rows), [row["answer"] for row in rows]
    ((constant, constant_right),) = Counter(answers).most_common(1)
    ((place, place_right),) = Counter(row["place"] for row in rows).most_common(1)
    digits = [re.findall("[0-9]+", row["prompt"]) for row in rows]
    last_right = sum(
        bool(of_row) and int(of_row[-1]) == answer for of_row, answer in zip(digits, answers, strict=True)
    )
    said_again = [(first_number(row["prompt"]), row["answer"]) for row in rows]
    in_digits = [(first_number_in_digits(row["prompt"]), row["answer"]) for row in rows]
    return {
        "best_constant": {"constant": constant, **proportion(constant_right, n)},
        "last_number_of_question": proportion(last_right, n),
        "question_again": proportion(sum(same_number(*pair) for pair in said_again), n),
        "question_again_in_digits": proportion(sum(same_number(*pair) for pair in in_digits), n),
        "best_place_among_candidates": {"place": place, **proportion(place_right, n)},
        "guess_among_candidates": {"value": math.fsum(1 / row["candidates"] for row in rows) / n, "n": n},
    }


def _by_tag(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return the results for each value of the tags that differ within a set."""
    by_tag: dict[str, dict[str, Any]] = {}
    for tag in dict.fromkeys(tag for row in rows for tag in row["tags"]):
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(str(row["tags"].get(tag)).lower(), []).append(row)
        if len(groups) > 1:
            by_tag[tag] = {value: _results(of_value) for value, of_value in groups.items()}
    return by_tag
