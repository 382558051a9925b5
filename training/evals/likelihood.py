"""Likelihoods of continuations, with the context that they share computed once.

A request becomes one row: its context, then its continuations one after the other, each without its last token, which
is predicted but never read. A tree mask shows a continuation the context and itself, and its positions go on from the
end of the context, so that the model computes what it would compute for each continuation alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from training.evals.subject import Subject

# Logits and log-probabilities of the positions that go through the head at once, in fp32. More of them save no time.
HEAD_BYTES = 100 * 2**20
HEAD_BYTES_ON_GPU = 2**30  # where each call costs more than memory does
_CONTEXT, _PADDING = 0, -1  # segments of a row; its continuations are 1, 2, …


@dataclass(frozen=True)
class Choices:
    """A context and the continuations to be scored behind it, as ids; none of them may be empty."""

    context: list[int]
    continuations: list[list[int]]

    @property
    def row_length(self) -> int:
        """The tokens that the model reads."""
        return len(self.context) + sum(len(continuation) - 1 for continuation in self.continuations)


def plan_batches(requests: Sequence[Choices], batch_tokens: int) -> list[list[int]]:
    """Return batches of indices, longest rows first, that hold at most `batch_tokens` with their padding.

    A request that is longer by itself makes a batch of its own.
    """
    lengths = [request.row_length for request in requests]
    batches: list[list[int]] = []
    for index in sorted(range(len(requests)), key=lambda index: -lengths[index]):
        if not batches or lengths[batches[-1][0]] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


@torch.no_grad()
def score(subject: Subject, requests: Sequence[Choices]) -> list[list[float]]:
    """Return the summed negative log-likelihood in nats of each continuation, per request.

    All requests are one batch, padded to the longest row: bring together what `plan_batches` does. Log-softmax is
    computed in fp32, and tokens are summed in double precision. Raises `ValueError` for an empty context or
    continuation, and where a context and a continuation are longer than the model's context.
    """
    for index, request in enumerate(requests):
        _check(index, request, subject.context)
    if not requests:
        return []
    length = max(request.row_length for request in requests)
    rows = [_lay_out(request, length) for request in requests]
    tokens, positions, segments = torch.tensor(rows).unbind(1)  # each (B, T)
    with subject.autocast():
        hidden_states = subject.model.transformer(
            input_ids=tokens.to(subject.device),
            attention_mask=_tree_mask(segments.to(subject.device)),
            position_ids=positions.to(subject.device),
            use_cache=False,
        ).last_hidden_state  # (B, T, C)
        # The last position of the context predicts the first token of every continuation, and from there on each
        # position the next token of its own.
        predicting = [
            states[len(request.context) - 1 : request.row_length]
            for states, request in zip(hidden_states, requests, strict=True)
        ]
        token_nats = _token_nats(subject, torch.cat(predicting), *_targets(requests))
    if not torch.isfinite(token_nats).all():
        raise ValueError(f"the model '{subject.name}' gives losses that are not finite; its training has diverged")
    nats = iter(token_nats.tolist())
    return [[math.fsum(islice(nats, len(tokens))) for tokens in request.continuations] for request in requests]


def _check(index: int, request: Choices, context: int) -> None:
    if not request.context:
        raise ValueError(
            f"request {index} has an empty context, so that nothing predicts the first token; put the end-of-text "
            "token there, as before a document"
        )
    if not request.continuations or not all(request.continuations):
        raise ValueError(f"request {index} has an empty continuation or none, so there is nothing to score; drop it")
    longest = max(map(len, request.continuations))
    if len(request.context) + longest > context:
        raise ValueError(
            f"request {index} has {len(request.context):,} tokens of context and up to {longest:,} of a continuation, "
            f"but the model's context is {context:,}; cut the context on its left"
        )


def _lay_out(request: Choices, length: int) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens, positions and segments of a row, padded to a length."""
    tokens, positions = list(request.context), list(range(len(request.context)))
    segments = [_CONTEXT] * len(request.context)
    for segment, continuation in enumerate(request.continuations, 1):
        read = continuation[:-1]
        tokens += read
        positions += range(len(request.context), len(request.context) + len(read))
        segments += [segment] * len(read)
    padding = length - len(tokens)
    return tokens + [0] * padding, positions + [0] * padding, segments + [_PADDING] * padding


def _tree_mask(segments: torch.Tensor) -> torch.Tensor:
    """Return what is added to the attention scores, (B, 1, T, T): 0 where a position sees another, else -inf.

    A position sees the context and its own segment, up to itself. Padding sees itself too: a row of nothing but -inf
    would become NaN. Added numbers, because not every implementation of attention takes booleans.
    """
    seen = (segments[:, None, :] == _CONTEXT) | (segments[:, None, :] == segments[:, :, None])
    mask = torch.zeros(seen.shape, device=segments.device).masked_fill_(~seen.tril_(), -math.inf)
    return mask.unsqueeze(1)


def _targets(requests: Sequence[Choices]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each token to be scored, which of the predicting positions predicts it, and its id."""
    predictors: list[int] = []
    targets: list[int] = []
    position = 0
    for request in requests:
        end_of_context = position
        for continuation in request.continuations:
            predictors += [end_of_context, *range(position + 1, position + len(continuation))]
            targets += continuation
            position += len(continuation) - 1
        position += 1
    return torch.tensor(predictors), torch.tensor(targets)


def _token_nats(
    subject: Subject, hidden_states: torch.Tensor, predictors: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return the negative log-likelihood of each target (N,) from the hidden states of the predicting positions."""
    nats = torch.empty(len(targets), device=hidden_states.device)
    head_bytes = HEAD_BYTES if hidden_states.device.type == "cpu" else HEAD_BYTES_ON_GPU
    size = max(1, head_bytes // (2 * 4 * subject.model.config.vocab_size))
    for start in range(0, len(hidden_states), size):
        logits = subject.model.lm_head(hidden_states[start : start + size])  # (P, V)
        log_probabilities = logits.float().log_softmax(-1)
        chosen = ((predictors >= start) & (predictors < start + size)).nonzero().squeeze(1)
        nats[chosen] = -log_probabilities[predictors[chosen] - start, targets[chosen]]
    return nats
