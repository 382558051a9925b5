"""The layers of the model: attention, feed-forward, their block, and the head."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from modeling.configuration_domain_gpt2 import DomainGPT2Config
from modeling.head_loss import HeadLoss

HEAD_MULTIPLE = 128


class ResidualProjection(Conv1D):
    """A projection that writes into the residual stream: its initial weights shrink with depth."""


class TokenHead(nn.Linear):
    """Project hidden states to one logit per token of the vocabulary."""

    def forward(self, hidden_states: torch.Tensor, padded: bool = False, loss_of: tuple | None = None) -> torch.Tensor:
        """Return logits (..., V), or with `padded` (..., V rounded up to 128) whose extra columns are -inf.

        50,349 is odd, so the rows of unpadded half-precision logits are not aligned, which GPU kernels need to run at
        full speed. Columns at -inf have probability 0 and gradient 0: a loss over them is the loss over V.

        loss_of: labels (...), divisor and rows; return `HeadLoss` of them instead, from here and not from the model so
        that engines that shard the weight have it whole.
        """
        if loss_of is not None:
            labels, divisor, rows = loss_of
            flat = hidden_states.reshape(-1, hidden_states.shape[-1])
            return HeadLoss.apply(flat, self.weight, labels.reshape(-1), divisor, rows, HEAD_MULTIPLE)
        extra = -self.weight.shape[0] % HEAD_MULTIPLE
        if not padded or extra == 0:
            return super().forward(hidden_states)
        weight = F.pad(self.weight, (0, 0, 0, extra))
        bias = F.pad(self.weight.new_zeros(self.weight.shape[0]), (0, extra), value=-math.inf)
        return F.linear(hidden_states, weight, bias)


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with the scores written out; heads come in as (B, H, T, D), go out as (B, T, H, D) with their weights."""
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1).to(value.dtype)  # (B, H, T, S)
    return (weights @ value).transpose(1, 2), weights


class DomainGPT2Attention(nn.Module):
    def __init__(self, config: DomainGPT2Config, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.n_embd // config.n_head
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = ResidualProjection(config.n_embd, config.n_embd)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (B, T, C)
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = self.c_attn(hidden_states).split(self.config.n_embd, dim=-1)
        query, key, value = (projection.view(heads).transpose(1, 2) for projection in projections)  # (B, H, T, D)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        output, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.c_proj(output.reshape(hidden_states.shape)), weights


class DomainGPT2MLP(nn.Module):
    def __init__(self, config: DomainGPT2Config):
        super().__init__()
        inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
        self.c_fc = Conv1D(inner, config.n_embd)
        self.c_proj = ResidualProjection(config.n_embd, inner)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.c_proj(F.gelu(self.c_fc(hidden_states), approximate="tanh"))


class DomainGPT2Block(GradientCheckpointingLayer):
    def __init__(self, config: DomainGPT2Config, layer_idx: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = DomainGPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = DomainGPT2MLP(config)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        hidden_states = hidden_states + self.attn(self.ln_1(hidden_states), **kwargs)[0]
        return hidden_states + self.mlp(self.ln_2(hidden_states))
