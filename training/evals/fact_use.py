"""Measure how replies use the facts: where one is due, whether it fits there, and whether its product is used.

A product is eligible where a one-digit multiplication stands, written out or as a token. All counts but those of
tokens are thus the same for a reply and its injected twin, and can be compared between the arms.
"""

import re
from collections.abc import Sequence
from typing import Any

from tokenization import inject
from tokenization.mul_facts import FACT_BY_NAME, NAME_PATTERN, NAME_PREFIX, MulFact
from training.analysis.intervals import clustered_proportion, mean, proportion
from training.evals.answers import BLANK, CURRENCY, Number, canonical, read_answer, read_numbers, reply

PROPERTIES = ("right_in_context", "gratuitous", "repeated")
_OF_TOKENS = {"eligible": "emitted", **{name: f"emitted_{name}" for name in PROPERTIES}}
COUNTS = ("written_out", "from_question", *_OF_TOKENS, *_OF_TOKENS.values())

# "Three friends" in a question are the 3 of its solution.
_NUMBER_WORDS = {word: number for number, word in enumerate("one two three four five six seven eight nine".split(), 1)}
_NUMBER_WORDS |= dict.fromkeys("twice double doubles doubled pair couple".split(), 2)
_NUMBER_WORDS |= dict.fromkeys("thrice triple triples tripled".split(), 3)
_WORD = re.compile("[a-z]+")
# A noncharacter inside the names that a response brings along; no text can forge it.
_TAG = "\ufdd0"
_NO_TAG = "\ufdd1"
_NAME_OPENS = f"{NAME_PREFIX[0]}{_TAG}?{NAME_PREFIX[1:]}"
_TAGGED_NAME = re.compile(f"{_NAME_OPENS}[0-9_]+>")
_SIGN = "[-+*/^×÷−–x]"
_GOES_ON = re.compile(rf"\)?{BLANK}{{0,3}}{_SIGN}{BLANK}{{0,3}}(?:{CURRENCY}|\(){{0,3}}(?:\.?\d|{_NAME_OPENS})")
_GOES_BEFORE = re.compile(rf"[\d)%>]{BLANK}{{0,3}}{_SIGN}{BLANK}{{0,3}}(?:{CURRENCY}|\(){{0,3}}\Z")


def fact_use(question: str, response: str) -> dict[str, int]:
    """Count the facts in one response, as far as generation would let it go; the keys are `COUNTS`.

    eligible: products of two one-digit numbers, of which `emitted` are tokens and the others `written_out`.
    right_in_context: each factor is a number of the question, in digits or in words, or stands earlier in the
    response, where a fact contributes its product. gratuitous: the product is not used: later it is neither a number
    nor a factor, no larger calculation goes on with it, and it is not the final answer. repeated: an equal fact stands
    before it. `emitted_…` counts the same among the tokens. A fact that the question holds, such as the 2x4 of
    carpenters, counts as `from_question` and as nothing else.
    """
    response = reply(response).replace(_TAG, _NO_TAG)
    in_question = set(NAME_PATTERN.findall(inject(question)))
    # The tag tells tokens from multiplications in digits, and leaves what stands beside a name as it was.
    text = inject(NAME_PATTERN.sub(lambda name: NAME_PREFIX[0] + _TAG + name[0][1:], response))
    spans = [match for match in _TAGGED_NAME.finditer(text) if match[0].replace(_TAG, "") in FACT_BY_NAME]
    facts = [FACT_BY_NAME[match[0].replace(_TAG, "")] for match in spans]
    edges = [0, *(edge for match in spans for edge in match.span()), len(text)]
    around = [_numbers(text[start:end]) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    is_used = _products_used_later(facts, around)

    answer = read_answer(response)
    earlier, repeatable = _numbers(canonical(question)), set()
    counts = dict.fromkeys(COUNTS, 0)
    for index, (fact, match) in enumerate(zip(facts, spans, strict=True)):
        earlier |= around[index]
        if fact.name in in_question:
            counts["from_question"] += 1
        else:
            # Without a mark the answer is the last number; any fact could end the reply, so only the last one may.
            is_answer = fact.product == (answer.flexible if index == len(facts) - 1 else answer.strict)
            is_factor = _GOES_ON.match(text, match.end()) or _GOES_BEFORE.search(
                text, max(0, match.start() - 16), match.start()
            )
            found = ["eligible"]
            found += ["right_in_context"] if {fact.a, fact.b} <= earlier else []
            found += [] if is_used[index] or is_answer or is_factor else ["gratuitous"]
            found += ["repeated"] if fact in repeatable else []
            for name in found:
                counts[name] += 1
                if _TAG in match[0]:
                    counts[_OF_TOKENS[name]] += 1
            repeatable.add(fact)
        earlier.add(fact.product)
    counts["written_out"] = counts["eligible"] - counts["emitted"]
    return counts


def summarize_fact_use(rows: Sequence[dict[str, int]]) -> dict[str, Any]:
    """Return the totals of `fact_use` over responses, means per response, and shares with their intervals.

    `right_in_context`, `gratuitous` and `repeated` are shares of the eligible products, `emitted_…` of the tokens; a
    share of nothing is None. Their intervals know that the products of one response hang together.
    """
    total = {name: sum(row[name] for row in rows) for name in COUNTS}

    def share(part: str, whole: str) -> dict[str, Any]:
        return clustered_proportion([row[part] for row in rows], [row[whole] for row in rows])

    return {
        "responses": len(rows),
        "counts": total,
        "eligible_per_response": mean([row["eligible"] for row in rows]),
        "emitted_per_response": mean([row["emitted"] for row in rows]),
        "responses_with_tokens": proportion(sum(row["emitted"] > 0 for row in rows), len(rows)),
        "emitted_per_eligible": share("emitted", "eligible"),
        **{name: share(name, "eligible") for name in PROPERTIES},
        **{f"emitted_{name}": share(f"emitted_{name}", "emitted") for name in PROPERTIES},
    }


def _products_used_later(facts: list[MulFact], around: list[set[Number]]) -> list[bool]:
    """Tell for each fact whether its product is a number behind it or a factor of a later fact.

    `around` holds the numbers before the first fact, between the facts, and behind the last.
    """
    used, later = [], set()
    for fact, numbers in zip(reversed(facts), reversed(around), strict=False):
        later |= numbers
        used.append(fact.product in later)
        later |= {fact.a, fact.b}
    return used[::-1]


def _numbers(text: str) -> set[Number]:
    """Return the numbers of a text without their signs, in digits and in words, those of a fraction one by one."""
    numbers = {abs(number) for number in read_numbers(text.replace("/", " / ")) if number is not None}
    return numbers | {_NUMBER_WORDS[word] for word in _WORD.findall(text.lower()) if word in _NUMBER_WORDS}
