"""The gate before reinforcement learning: a start that is almost never right learns from chance."""

from collections.abc import Callable

from training.core.grpo_recipe import GrpoDataArguments
from training.core.processes import Processes
from training.evals.subject import Subject
from training.rl.episodes import Episodes, describe


def check_signal(
    episodes: Episodes,
    subject: Subject,
    processes: Processes,
    args: GrpoDataArguments,
    say: Callable[[str], None] = print,
) -> None:
    """Sample the first pool with the model that a run starts from, and raise `ValueError` for too little signal.

    Every process calls it. With `ignore_gate` the run goes on, and says so.
    """
    results = episodes.measure(0, subject, processes, say)
    k = results["samples"]
    limits = {"pass_at_1": args.min_pass_at_1, f"pass_at_{k}": args.min_pass_at_k}
    missed = [name for name, least in limits.items() if results[name]["value"] < least]
    if not missed:
        return
    reason = (
        f"the start has too little signal for reinforcement learning: {describe(results)}; at least pass@1 "
        f"{args.min_pass_at_1:g} and pass@{k} {args.min_pass_at_k:g} are wanted (min_pass_at_1, min_pass_at_k)"
    )
    if not args.ignore_gate:
        raise ValueError(
            f"{reason}; fine-tune longer, take easier prompts, or set ignore_gate: true to train all the same"
        )
    if processes.process_index == 0:
        say(f"ignore_gate: {reason}")
