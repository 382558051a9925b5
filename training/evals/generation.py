"""Generate replies in batches, each the same as if its prompt stood alone."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from training.evals.answers import canonical
from training.evals.decoding import Decoding, OpenReply, TokenBytes
from training.evals.subject import Subject

__all__ = ["Decoding", "Reply", "generate", "plan_batches", "repeats"]

# Words, digits one by one (a number can run in circles too), and signs.
_PIECE = re.compile(r"[^\W\d]+|\d|[^\w\s]")
_BLOCK = 256  # tokens, of which the probabilities are summed at once
_REPEAT_LENGTH, _REPEAT_WINDOW, _REPEAT_LEAST = 4, 50, 20


@dataclass(frozen=True)
class Reply:
    """Hold what was generated for one prompt.

    ids: the new tokens, with those of a stop string, but without padding and end of text. text: what they say, cut
    before what ended the reply. finish: end_of_text, stop_string, second_answer (its mark), length (the reply was cut
    off), or too_long (the prompt fills the context, and there is no reply).
    """

    ids: list[int]
    text: str
    finish: str


def plan_batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Return the indices of the prompts in each batch: longest prompts first, so that little padding is computed.

    The largest batch being the first, one that does not fit into memory shows at once.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size ({batch_size}) must be at least 1")
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@torch.inference_mode()
def generate(
    subject: Subject, prompts: Sequence[Sequence[int]], decoding: Decoding, seed: int | Sequence[int] = 0
) -> list[Reply]:
    """Return one reply to each prompt (ids), computed in one batch; repeat a prompt to get several samples.

    A reply depends on its own prompt alone, and on its own random numbers if it is sampled: the other rows of the
    batch change no more than roundings. So a row gets as many tokens as the context leaves it, whatever the others
    have. `seed` is one for each prompt, or one for all, from which a row gets random numbers by its place. The global
    random state is left alone.

    `subject.unseen_ids` are never generated. What the model's own generation configuration says is ignored.
    Raises ValueError for an empty prompt.
    """
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {index} is empty; begin with at least one token, such as end of text")
    limits = [min(decoding.max_new_tokens, subject.context - len(prompt)) for prompt in prompts]
    replies = [Reply([], "", "too_long") for _ in prompts]
    fitting = [index for index, limit in enumerate(limits) if limit > 0]
    if fitting:
        seeds = [(seed, index) if isinstance(seed, int) else (seed[index],) for index in fitting]
        rows = _generate(subject, [prompts[i] for i in fitting], [limits[i] for i in fitting], decoding, seeds)
        for index, row in zip(fitting, rows, strict=True):
            replies[index] = Reply(row.ids, row.text, row.finish)
    return replies


def repeats(text: str) -> bool:
    """Return whether a text ends in circles: most of what it says last, it has just said.

    Of the last 50 pieces (words, digits, signs) more than half of the runs of four have stood before among them: the
    rep-4 of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training", over the end of the text, since
    circles are seldom left. Texts of fewer than 20 pieces do not count. GSM8K's 8,792 own answers reach
    0.45 at most. Facts count as written out, so that a text and its injected twin are judged alike.
    """
    pieces = _PIECE.findall(canonical(text))[-_REPEAT_WINDOW:]
    if len(pieces) < _REPEAT_LEAST:
        return False
    runs = list(zip(*(pieces[start:] for start in range(_REPEAT_LENGTH)), strict=False))
    return 2 * len(set(runs)) < len(runs)


def _generate(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    decoding: Decoding,
    seeds: Sequence[tuple[int, ...]],
) -> list[OpenReply]:
    """Run one batch through Transformers' `generate` and return its rows, all finished."""
    device, pad_id = subject.device, subject.tokenizer.pad_token_id
    pad_id = subject.end_of_text_id if pad_id is None else pad_id
    width = max(map(len, prompts))
    padding = torch.tensor([width - len(prompt) for prompt in prompts], device=device)  # (B,)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    suppressed = [*subject.unseen_ids, *(subject.fact_ids if decoding.suppress_facts else ())]
    suppressed = torch.tensor(suppressed, dtype=torch.long, device=device)
    random_numbers = _random_numbers(seeds, limits).to(device) if decoding.temperature > 0 else None

    rows = [OpenReply(decoding, limit, subject.end_of_text_id) for limit in limits]
    open_rows, kept = rows, torch.arange(len(rows), device=device)
    cache, token_bytes = DynamicCache(config=subject.model.config), TokenBytes(subject.tokenizer)
    with _ready_for(subject.model), subject.autocast():
        while open_rows:
            ids = subject.model.generate(
                ids,
                attention_mask=(torch.arange(ids.shape[1], device=device) >= padding[kept, None]).long(),
                past_key_values=cache,
                generation_config=GenerationConfig(
                    max_new_tokens=max(row.room for row in open_rows),
                    do_sample=False,  # a draw leaves one token to choose
                    eos_token_id=subject.end_of_text_id,
                    pad_token_id=pad_id,
                ),
                synced_gpus=False,  # no process waits for another; ZeRO-3 has gathered the weights before
                logits_processor=_processors(
                    decoding,
                    suppressed,
                    padding[kept],
                    None if random_numbers is None else random_numbers[kept, ids.shape[1] - width :],
                    ids.shape[1],
                ),
                stopping_criteria=StoppingCriteriaList([_Finished(open_rows, token_bytes)]),
            )
            # A row costs time until the end of its batch, which the longest reply puts off: go on without those that
            # are over.
            places = torch.tensor([place for place, row in enumerate(open_rows) if row.finish is None], device=device)
            open_rows = [row for row in open_rows if row.finish is None]
            if open_rows:
                ids, kept = ids[places], kept[places]
                cache.batch_select_indices(places)
    return rows


def _processors(
    decoding: Decoding,
    suppressed: torch.Tensor,  # (ids,)
    padding: torch.Tensor,  # (B,)
    random_numbers: torch.Tensor | None,  # (B, tokens to come)
    width: int,
) -> LogitsProcessorList:
    processors = LogitsProcessorList([_Suppress(suppressed)])
    if decoding.repetition_penalty != 1:
        # Without the padding, which in a stock GPT-2 is the end of text, and would make replies go on.
        penalty = float(decoding.repetition_penalty)
        processors.append(RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=padding))
    if decoding.no_repeat_ngram_size:
        processors.append(_NoRepeatedNGrams(decoding.no_repeat_ngram_size, padding))
    if random_numbers is not None:
        if decoding.temperature != 1:
            processors.append(TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.top_k:
            processors.append(TopKLogitsWarper(decoding.top_k))
        if decoding.top_p < 1:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(_Draw(random_numbers, width))
    return processors


@contextlib.contextmanager
def _ready_for(model: PreTrainedModel) -> Iterator[None]:
    """Keep the folder's generation configuration, the end of the context and a false warning out of `generate`."""

    def stay_in_context(module, args, kwargs):
        # A finished row goes on with padding while others are written, and may pass the last position.
        return args, kwargs | {"position_ids": kwargs["position_ids"].clamp(max=model.config.n_positions - 1)}

    own = model.generation_config
    hook = model.register_forward_pre_hook(stay_in_context, with_kwargs=True)
    # It takes the padding on the left for a part of the sequence, and warns that the context is exceeded.
    logger = logging.getLogger("transformers.generation.stopping_criteria")
    level = logger.level
    try:
        # `generate` fills what its argument leaves open from here.
        model.generation_config = GenerationConfig()
        logger.setLevel(logging.ERROR)
        yield
    finally:
        model.generation_config = own
        hook.remove()
        logger.setLevel(level)


class _Finished(StoppingCriteria):
    """Hand each row its new token, and say which rows are over; all of them, for a pause, once half of them are."""

    def __init__(self, rows: Sequence[OpenReply], token_bytes: TokenBytes):
        self.rows, self.token_bytes = rows, token_bytes

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        for row, token_id in zip(self.rows, input_ids[:, -1].tolist(), strict=True):
            row.add(token_id, self.token_bytes[token_id])
        over = [row.finish is not None for row in self.rows]
        pause = 2 * sum(over) >= len(over)
        return torch.tensor([pause or one for one in over], device=input_ids.device)  # (B,)


class _Suppress(LogitsProcessor):
    """Rule out some ids; Transformers' own processor sorts the vocabulary at every step, which takes longer."""

    def __init__(self, ids: torch.Tensor):
        self.ids = ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill_(1, self.ids, -torch.inf)  # `generate` has copied them


class _NoRepeatedNGrams(LogitsProcessor):
    """Rule out tokens that would repeat n tokens of the row; Transformers' own processor counts padding in."""

    def __init__(self, n: int, padding: torch.Tensor):
        self.n, self.padding = n, padding

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] < self.n:
            return scores
        runs = input_ids.unfold(1, self.n, 1)  # (B, runs, n)
        newest = input_ids[:, None, input_ids.shape[1] - self.n + 1 :]  # (B, 1, n - 1)
        inside = torch.arange(runs.shape[1], device=input_ids.device) >= self.padding[:, None]
        rows, starts = torch.where((runs[..., :-1] == newest).all(-1) & inside)
        return scores.index_put((rows, runs[rows, starts, -1]), scores.new_tensor(-torch.inf))


class _Draw(LogitsProcessor):
    """Leave each row one token: the first whose cumulative probability exceeds a random number of the row's own.

    random_numbers: (B, tokens), the first of them for the token behind `width` others. Probabilities are summed by
    blocks first, because a cumulative sum over the vocabulary takes longer than the model.
    """

    def __init__(self, random_numbers: torch.Tensor, width: int):
        self.random_numbers, self.width = random_numbers, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        size = scores.shape[1]
        weights = F.pad(scores - scores.amax(1, keepdim=True), (0, -size % _BLOCK), value=-torch.inf).exp_()
        blocks = weights.view(len(scores), -1, _BLOCK)  # (B, V / 256, 256)
        cumulative = blocks.sum(-1).double().cumsum(-1)  # (B, V / 256)
        step = input_ids.shape[1] - self.width
        reached = self.random_numbers[:, step, None] * cumulative[:, -1:]
        block = torch.searchsorted(cumulative, reached, right=True)  # (B, 1)
        before = F.pad(cumulative, (1, 0)).gather(1, block)
        inside = blocks.gather(1, block[..., None].expand(-1, -1, _BLOCK))[:, 0].double().cumsum(-1)  # (B, 256)
        # Roundings may put the end of a block before the sum over it: then the last token that has a probability.
        last = torch.searchsorted(inside, inside[:, -1:].contiguous())
        drawn = block * _BLOCK + torch.minimum(torch.searchsorted(inside, reached - before, right=True), last)
        return scores.scatter_(1, drawn, torch.inf)


def _random_numbers(seeds: Sequence[tuple[int, ...]], limits: Sequence[int]) -> torch.Tensor:
    """Return one number in [0, 1) for each token, (B, tokens); a row's depend on its own seed alone.

    Steps of 2^-24 keep a number times a sum of probabilities below that sum.
    """
    numbers = torch.zeros(len(seeds), max(limits), dtype=torch.float64)
    for row, (seed, limit) in enumerate(zip(seeds, limits, strict=True)):
        drawn = np.random.default_rng(seed).random(limit, dtype=np.float32)
        numbers[row, :limit] = torch.from_numpy(drawn)
    return numbers
