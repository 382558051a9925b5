"""Positions of the tokens in a batch: where rows begin, how far they may go, and which documents they mark."""

from collections.abc import Callable

import torch
from transformers import Cache
from transformers.masking_utils import find_packed_sequence_indices, packed_sequence_mask_function


def default_positions(
    inputs_embeds: torch.Tensor, attention_mask: torch.Tensor | None, past_length: int | torch.Tensor
) -> torch.Tensor:
    """Return positions (1, T) or (B, T) that count from each row's first token that is not padding.

    Rows that do not begin with padding get 0, 1, 2, ... even where padding follows, as in GPT-2. Rows that do get what
    `generate` gives them: padding stays at 0, and the first token has position 0.
    """
    length, device = inputs_embeds.shape[1], inputs_embeds.device
    positions = torch.arange(length, device=device).unsqueeze(0) + past_length
    if attention_mask is not None and attention_mask.ndim == 2:
        first_token = (attention_mask != 0).to(device=device, dtype=torch.int).argmax(dim=-1, keepdim=True)  # (B, 1)
        positions = (positions - first_token).clamp(min=0)
    return positions


def check_length(length: int, past_length: int | torch.Tensor, n_positions: int) -> None:
    """Raise ValueError if a batch whose positions run on from `past_length` is longer than the model reaches.

    Only shapes are looked at; the length of a static cache is a value on the device, and is left alone.
    """
    if isinstance(past_length, int) and past_length + length > n_positions:
        raise ValueError(
            f"the sequence has {past_length + length} tokens, and the model has n_positions={n_positions}; shorten or "
            "split it (packed documents may be longer in sum: pass position_ids that restart at each document)"
        )


def check_position_ids(position_ids: torch.Tensor, past_length: int | torch.Tensor, n_positions: int) -> None:
    """Raise ValueError if a position is not below `n_positions`.

    Reading values from a GPU waits for it, so there they are read only if the batch is longer than `n_positions`, as
    packed rows and padded rows may rightly be. Compiled code never reads them.
    """
    total_length = position_ids.shape[-1] + (past_length if isinstance(past_length, int) else 0)
    if torch.compiler.is_compiling() or (position_ids.device.type != "cpu" and total_length <= n_positions):
        return
    highest = int(position_ids.max())
    if highest >= n_positions:
        raise ValueError(
            f"position_ids reach {highest}, and the model has n_positions={n_positions}; shorten the sequence or the "
            "number of new tokens"
        )


def same_document(
    position_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    batch_size: int,
) -> Callable | None:
    """Return a mask function that is true within documents, for a packed batch that comes with a padding mask.

    `create_causal_mask` finds packed documents by itself, but only where there is no padding mask; an all-ones mask
    from a data collator would quietly let the documents of a row see each other. None where there is nothing to add.
    """
    if position_ids is None or past_key_values is not None or attention_mask is None or attention_mask.ndim != 2:
        return None
    documents = find_packed_sequence_indices(position_ids.expand(batch_size, -1))  # (B, T), or None: one per row
    return None if documents is None else packed_sequence_mask_function(documents)
