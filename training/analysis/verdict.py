"""Test the declared endpoints of an experiment, and say in words what came out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from training.analysis.endpoint_items import EndpointItems, Floor, PairedItems
from training.analysis.experiment_results import Endpoint, Experiment
from training.analysis.paired import Comparison, compare, holm
from training.analysis.report_words import Scale, counted, with_p

SMOKE = "This is a smoke result: it shows that everything runs, and says nothing about the question."


@dataclass(frozen=True)
class EndpointTest:
    """One endpoint in one comparison.

    role: `primary` and `secondary` are these endpoints in the primary comparison, `control` is either in another
    comparison, `exploratory` is the rest. family: how many tests were declared of a role that is adjusted, secondary
    and control, 1 for the others. adjusted_p: by Holm among them. result: None where no seed has both arms. floor: the
    highest of the endpoint's.
    """

    endpoint: Endpoint
    baseline: str
    treatment: str
    role: str
    scale: Scale
    items: PairedItems | None = None
    result: Comparison | None = None
    family: int = 1
    adjusted_p: float | None = None
    floor: Floor | None = None

    @property
    def deciding_p(self) -> float | None:
        """The p value that decides: adjusted where the role asks for it."""
        if self.result is None:
            return None
        return self.adjusted_p if self.role in ("secondary", "control") else self.result.p_value

    @property
    def detectable(self) -> float | None:
        """The difference that is found with 80 % power; in a family at alpha / m, Bonferroni's bound on Holm."""
        return None if self.result is None else self.result.detectable_at(self.result.alpha / self.family)

    def is_found(self, alpha: float) -> bool:
        return self.deciding_p is not None and self.deciding_p < alpha

    @property
    def is_better(self) -> bool:
        """Whether the treatment is on the better side, by however little."""
        assert self.result is not None
        return (self.result.difference > 0) == self.endpoint.higher_is_better

    @property
    def side(self) -> str:
        """The treatment's side of the baseline in a word, for a difference that was found."""
        return "better" if self.is_better else "worse"


def measure_endpoints(experiment: Experiment, items: EndpointItems, replications: int = 10_000) -> list[EndpointTest]:
    """Test every endpoint in every comparison, the primary test first; p values are adjusted within their role."""
    tests = []
    for place, (baseline, treatment) in enumerate(experiment.comparisons):
        for endpoint in experiment.endpoints:
            role = endpoint.role if place == 0 or endpoint.role == "exploratory" else "control"
            test = EndpointTest(
                endpoint, baseline, treatment, role, items.scale(endpoint), items.pair(endpoint, baseline, treatment)
            )
            if test.items is not None:
                result = compare(
                    test.items.baseline,
                    test.items.treatment,
                    clusters=test.items.clusters,
                    margin=endpoint.margin,
                    alpha=experiment.alpha,
                    higher_is_better=endpoint.higher_is_better,
                    replications=replications,
                )
                test = replace(test, result=result, floor=items.floor(endpoint))
            tests.append(test)
    for role in ("secondary", "control"):
        # All that were declared: a family that lost the tests without results would ask less of the others.
        family = {
            str(place): None if test.result is None else test.result.p_value
            for place, test in enumerate(tests)
            if test.role == role
        }
        for place, adjusted in holm(family).items():
            tested = family[place] is not None
            tests[int(place)] = replace(tests[int(place)], family=len(family), adjusted_p=adjusted if tested else None)
    return tests


def verdict(experiment: Experiment, tests: Sequence[EndpointTest]) -> str:
    """Return the paragraph on the primary endpoint: what was measured, how sure it is, and whether it passes."""
    words = _primary_in_words(experiment, tests[0])
    if experiment.is_smoke:
        return f"{SMOKE} What it would have said: {words}"
    return words


def _primary_in_words(experiment: Experiment, test: EndpointTest) -> str:
    result, scale, alpha = test.result, test.scale, experiment.alpha
    if result is None:
        return (
            f"There is no verdict: no seed has the primary endpoint, “{test.endpoint.name}”, in both "
            f"`{test.treatment}` and `{test.baseline}`."
        )
    levels = (
        f"“{test.endpoint.name}” was {scale.level(result.treatment_mean)} with `{test.treatment}` and "
        f"{scale.level(result.baseline_mean)} with `{test.baseline}`, a difference of "
        f"{scale.change(result.difference)}"
    )
    size = f"{counted(result.seeds, 'seed')}, {counted(result.items, 'item')}"
    if result.clusters < result.items:
        size += f" in {counted(result.clusters, 'cluster')}"
    if result.seeds < len(experiment.seeds):
        size += f"; {len(experiment.seeds) - result.seeds} of {len(experiment.seeds)} declared seeds missing"
    if result.seeds < 2:
        return (
            f"There is no verdict: {levels} ({size}), but with one seed nothing tells a difference between the arms "
            "from one between seeds."
        )
    if result.p_value is None:
        return f"There is no verdict: {levels} ({size}). {result.note}"
    evidence = (
        f"{levels} ({_confidence(experiment)} interval {scale.interval(result.interval)}; paired t over {size}; "
        f"{with_p(result.p_value)})"
    )
    if not test.is_found(alpha):
        return (
            f"No difference was found: {evidence}. {null_in_words(test)} The primary endpoint does not pass at the "
            f"declared level of {alpha:g}."
        )
    if test.is_better:
        return (
            f"`{test.treatment}` did better than `{test.baseline}`: {evidence}. The primary endpoint passes at the "
            f"declared level of {alpha:g}."
        )
    return (
        f"`{test.treatment}` did worse than `{test.baseline}`: {evidence}. The difference is there, but it points "
        "against the hypothesis: the primary endpoint does not pass."
    )


def null_in_words(test: EndpointTest) -> str:
    """Return what a null does and does not rule out."""
    result, scale = test.result, test.scale
    assert result is not None
    parts = []
    if test.detectable is not None:
        level = f" (at the level of {result.alpha:g} / {test.family})" if test.family > 1 else ""
        parts.append(
            f"A difference below {scale.size(test.detectable)} would have been seen with less than 80 % power{level}."
        )
    if result.equivalence is None:
        parts.append("No margin was declared, so equivalence was not tested.")
    else:
        margin = scale.size(result.equivalence["margin"])
        p = with_p(result.equivalence["p_value"])
        if result.equivalence["equivalent"]:
            parts.append(f"The arms are equivalent within ±{margin} (two one-sided t tests, {p}).")
        else:
            parts.append(
                f"Equivalence within ±{margin} was not shown either (two one-sided t tests, {p}), so a difference of "
                "that size is not ruled out."
            )
    return " ".join(parts)


def beside_the_verdict(experiment: Experiment, tests: Sequence[EndpointTest]) -> list[str]:
    """Return what has to be known together with the verdict: the floor, secondary endpoints, and controls."""
    sentences, first = [], tests[0]
    if first.result is not None and first.floor is not None and first.endpoint.higher_is_better:
        floor = first.scale.level(first.floor.value)
        floor += f" ({first.floor.source_words[0]})" if first.floor.sources[0] != "unnamed" else ""
        if max(first.result.baseline_mean, first.result.treatment_mean) <= first.floor.value:
            sentences.append(
                f"Neither arm is above the floor of {floor}, which takes no arithmetic: a difference, or its absence, "
                "says little down there."
            )
        else:
            sentences.append(f"The floor, which takes no arithmetic, is {floor}.")
    secondary = [test for test in tests if test.role == "secondary"]
    if secondary:
        sentences.append(f"Secondary endpoints: {_found_among(experiment, secondary)}.")
    for pair in experiment.comparisons[1:]:
        of_pair = [test for test in tests if (test.baseline, test.treatment) == pair and test.role == "control"]
        primary = of_pair[0]
        opening = f"Control, `{pair[1]}` against `{pair[0]}`: on the primary endpoint"
        if primary.result is None or primary.deciding_p is None:
            sentences.append(f"{opening} there is no test.")
            continue
        found = primary.is_found(experiment.alpha)
        outcome = f"`{pair[1]}` did {primary.side}, a difference of" if found else "no difference was found:"
        rest = f"; secondary endpoints: {_found_among(experiment, of_pair[1:])}" if of_pair[1:] else ""
        sentences.append(
            f"{opening}, {outcome} {primary.scale.change(primary.result.difference)} "
            f"({_confidence(experiment)} interval {primary.scale.interval(primary.result.interval)}, adjusted "
            f"{with_p(primary.adjusted_p)}){rest}."
        )
    return sentences


def _found_among(experiment: Experiment, tests: Sequence[EndpointTest]) -> str:
    """Return how many tests found a difference, and which."""
    found = [test for test in tests if test.is_found(experiment.alpha)]
    untested = sum(test.deciding_p is None for test in tests)
    words = f"{len(found) or 'none'} of {len(tests)} differ{'s' if len(found) <= 1 else ''} after Holm's adjustment"
    if found:
        named = [
            f"{test.endpoint.name} {test.side}, {test.scale.change(test.result.difference)}, {with_p(test.adjusted_p)}"
            for test in found
        ]
        words += f" ({'; '.join(named)})"
    return words + (f", {untested} could not be tested" if untested else "")


def _confidence(experiment: Experiment) -> str:
    return f"{100 * (1 - experiment.alpha):g} %"
