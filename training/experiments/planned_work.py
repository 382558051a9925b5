"""How much the runs of an experiment compute, read from their recipes as the programs read them, before any starts."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments
from transformers.utils import logging

from modeling import DomainGPT2Config
from tokenization.mul_facts import VOCABULARY_SIZE
from training.core.grpo_recipe import GrpoArguments, GrpoDataArguments, GrpoModelArguments, RewardArguments
from training.core.pretrain_recipe import DataArguments, ModelArguments, PretrainArguments
from training.core.recipe import parse_recipe
from training.core.sft_recipe import SftArguments, SftDataArguments, SftModelArguments
from training.data.sft_sources import SftSource
from training.evals.eval_recipe import EvalArguments
from training.evals.probes import ORIGINAL_DECODING, Probes
from training.experiments.recipe import ExperimentArguments, Stage
from training.experiments.steps import Step, all_steps
from training.rl.prompts import open_sources

# GSM8K's questions have 57 GPT-2 tokens on average, and the roles around them some more.
PROMPT_TOKENS = 64
# A candidate answer of a probe is scored with three endings, of up to four tokens each.
_TOKENS_OF_CANDIDATE = 12
_GROUPS = {
    "pretrain": (ModelArguments, DataArguments, PretrainArguments),
    "sft": (SftModelArguments, SftDataArguments, SftArguments),
    "grpo": (GrpoModelArguments, GrpoDataArguments, RewardArguments, GrpoArguments),
    "eval": (EvalArguments,),
}


@dataclass(frozen=True)
class Work:
    """A part of what one run does in a stage.

    tokens, flops: None where the recipes do not say, for the reason in `unknown`. bound: what makes them an upper
    bound, empty where they are none.
    """

    stage: str
    part: str
    tokens: int | None
    flops: int | None
    bound: str = ""
    unknown: str = ""


def planned_work(args: ExperimentArguments) -> list[Work]:
    """Return what one run of every stage and evaluation computes, the same for each arm and seed.

    FLOPs are those of training by `flops_per_token`, a third of it where there is no backward pass.
    """
    steps = [step for step in all_steps(args) if step.program != "prepare_data"]
    of_one_run = {(step.run.name, step.results and step.results.name): step for step in reversed(steps)}
    parsed = {key: _parse(step) for key, step in of_one_run.items()}
    model = parsed[args.stages[0].name, None][0]
    config = DomainGPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=model.n_positions,
        n_embd=model.n_embd,
        n_layer=model.n_layer,
        n_head=model.n_head,
    )
    work = []
    for stage in args.stages:
        groups = parsed[stage.name, None]
        work += {"pretrain": _pretraining, "sft": _fine_tuning, "grpo": _grpo}[stage.program](stage, groups, config)
        for evaluation in args.evals:
            if stage.name in evaluation.stages:
                checkpoints = _checkpoints(groups[-1]) if evaluation.every_checkpoint else 1
                (recipe,) = parsed[stage.name, evaluation.name]
                work += _evaluation(stage, recipe, checkpoints, config)
    return work


def _parse(step: Step) -> tuple:
    """Parse what a step's program will parse; the checkpoint that it starts from does not exist yet."""
    start = ["--model_name_or_path", str(step.start)] if step.program in ("sft", "grpo") else []
    with _without_advice():
        return parse_recipe(_GROUPS[step.program], [step.recipe, *step.arguments, *start])


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep Transformers from advising on this machine, where nothing of the plan needs to run."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _pretraining(stage: Stage, groups: tuple, config: DomainGPT2Config) -> list[Work]:
    args: PretrainArguments = groups[-1]
    tokens = args.max_steps * args.total_batch_tokens
    return [Work(stage.name, "training", tokens, tokens * config.flops_per_token(config.n_positions))]


def _fine_tuning(stage: Stage, groups: tuple, config: DomainGPT2Config) -> list[Work]:
    args: SftArguments = groups[-1]
    # Attention as over whole items: conversations that are packed together do not see each other, and need less.
    length = min(args.max_length or config.n_positions, config.n_positions)
    per_token = config.flops_per_token(length)
    if args.max_steps > 0:
        tokens = args.max_steps * args.total_batch_items * length
        return [Work(stage.name, "training", tokens, tokens * per_token, "items taken as full")]
    if stage.planned_tokens is not None:
        tokens, bound = stage.planned_tokens, "" if args.early_stopping_patience is None else "without an early end"
        return [Work(stage.name, "training, as planned", tokens, tokens * per_token, bound)]
    return [Work(stage.name, "training", None, None, unknown="not known from the recipe: set planned_tokens")]


def _grpo(stage: Stage, groups: tuple, config: DomainGPT2Config) -> list[Work]:
    data: GrpoDataArguments = groups[1]
    args: GrpoArguments = groups[-1]
    length = min(PROMPT_TOKENS + args.max_completion_length, config.n_positions)
    forward = config.flops_per_token(length) // 3
    bound = f"completions at their limit, behind prompts of some {PROMPT_TOKENS} tokens"

    def part(name: str, sequences: int, flops_per_token: int) -> Work:
        tokens = sequences * length
        return Work(stage.name, name, tokens, tokens * flops_per_token, bound)

    drawn = -(-args.max_steps // args.steps_per_generation_batch) * args.generation_batch_size
    work = [
        part("drawing", drawn, forward),
        part("training", args.max_steps * args.total_batch_items, 3 * forward),
    ]
    if args.beta > 0:
        work.append(part("reference", drawn, forward))
    if args.steps_per_generation_batch > 1:
        work.append(part("policy that drew", drawn, forward))
    # The first pool is sampled for the gate, and the others only to choose prompts.
    pools = -(-args.max_steps // data.episode_steps) if data.filter_prompts else 1
    work.append(part("pools", pools * data.pool_prompts * data.pool_samples, forward))
    if args.eval_strategy != "no" and any(source.rows.held_out for source in open_sources(data)):
        evaluations = -(-args.max_steps // int(args.eval_steps)) + args.eval_on_start
        samples = 1 + args.num_generations_eval  # the likeliest completion, and drawn ones
        work.append(part("held-out prompts", evaluations * data.max_dev_prompts * samples, forward))
    return work


def _evaluation(stage: Stage, args: EvalArguments, checkpoints: int | None, config: DomainGPT2Config) -> list[Work]:
    part = f"eval {args.name}"
    if checkpoints is None:
        unknown = "not counted: how many checkpoints the stage keeps does not follow from its recipe"
        return [Work(stage.name, part, None, None, unknown=unknown)]
    counted, uncounted = 0, []
    for entry in args.entries():
        tokens = _tokens_of_task(args, entry, config.n_positions)
        if tokens is None:
            uncounted.append(entry["name"])
        else:
            counted += tokens * checkpoints
    work = []
    if counted:
        forward = config.flops_per_token(config.n_positions) // 3
        work.append(Work(stage.name, part, counted, counted * forward, "replies at their limit"))
    if uncounted:
        work.append(Work(stage.name, part, None, None, unknown=f"not counted: {', '.join(uncounted)}"))
    return work


def _tokens_of_task(args: EvalArguments, entry: dict[str, Any], context: int) -> int | None:
    """Return the tokens of a task that draws replies, None for others and where the recipe does not say how many."""
    if entry["task"] == "probes":
        decoding = args.decoding_of({"max_new_tokens": 16, **entry})
        task = Probes(entry["name"], tuple(entry["sets"]) if "sets" in entry else None, decoding=decoding)
        new_tokens = decoding.max_new_tokens + ORIGINAL_DECODING.max_new_tokens
        return sum(
            2 * PROMPT_TOKENS + new_tokens + len(probe.candidates) * _TOKENS_OF_CANDIDATE for probe in task.probes
        )
    if entry["task"] == "word_problems":
        items = entry.get("limit") or entry.get("documents")
        if entry.get("mode") == "answer_only":
            entry = {"max_new_tokens": 16, **entry}
    elif entry["task"] == "replies":
        sources = [SftSource.from_recipe(source) for source in entry.get("datasets", [])]
        sizes = [source.sample or source.limit or source.documents or None for source in sources]
        items = None if None in sizes else sum(sizes)
    else:
        return None
    decoding = args.decoding_of(entry)
    length = min(PROMPT_TOKENS + decoding.max_new_tokens, context)
    return None if items is None else items * decoding.samples * length


def _checkpoints(args: TrainingArguments) -> int | None:
    """Return how many checkpoints a run keeps, None where its steps do not follow from the recipe."""
    if args.max_steps <= 0:
        return args.save_total_limit
    saved = -(-args.max_steps // int(args.save_steps))
    return min(saved, args.save_total_limit or saved)
