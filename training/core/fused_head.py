"""TRL's fused head on a CPU: the same numbers by the model's own head, over the supervised positions only."""

import functools
import types

import torch
import torch.nn.functional as F
from trl.trainer.utils import FusedCausalLMOutput

from modeling import DomainGPT2ForCausalLM

# Positions come in multiples of it: logits of ever another size would leave the heap in pieces, and grow it for hours.
_BLOCK = 256
_ROWS_IN_CACHE = 32  # 6 MB of fp32 at 50,432 tokens; passes over more rows wait for the memory


def score_supervised_positions_on_cpu(
    model: DomainGPT2ForCausalLM,
    temperature: float = 1.0,
    outputs: tuple[str, ...] = ("log_probs", "entropy", "is_top1"),
    entropy_has_gradient: bool = False,
) -> None:
    """Make `model(..., labels=labels, fused_lm_head=True)` quick where TRL's kernels do not run.

    Call it after TRL's `add_fused_lm_head`, whose head is left alone on a GPU. Without Triton that head scores every
    position, masked or not, and passes over the logits many times. Here the positions with a label are projected at
    once. Their logits are (N, V): a CPU's micro-batches are small. temperature and outputs:
    as in TRL's. entropy_has_gradient: for an entropy bonus; as a metric it is cheaper without.
    """
    trl_forward = model.forward

    @functools.wraps(trl_forward)
    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        if not fused_lm_head or self.device.type != "cpu":
            return trl_forward(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]  # (B, T - 1, C)
        labels = labels[:, 1:]
        mask = labels != -100
        count = int(mask.sum())
        projected = F.pad(hidden[mask], (0, 0, 0, -count % _BLOCK))
        logits = self.lm_head(projected, padded=True)  # (N, V)
        logits = logits if temperature == 1 else logits / temperature
        targets = F.pad(labels[mask], (0, -count % _BLOCK))
        log_probs = -F.cross_entropy(logits, targets, reduction="none").float()
        entropy = is_top1 = None
        if "entropy" in outputs:
            with torch.set_grad_enabled(entropy_has_gradient and torch.is_grad_enabled()):
                blocks = logits[:, : self.config.vocab_size].split(_ROWS_IN_CACHE)
                entropy = torch.cat([_entropy(rows) for rows in blocks])
        if "is_top1" in outputs:
            is_top1 = _is_top1(logits.detach(), targets)
        log_probs, entropy, is_top1 = (
            None if x is None else x.new_zeros(mask.shape).masked_scatter(mask, x[:count])
            for x in (log_probs, entropy, is_top1)
        )
        loss = -log_probs.sum() / mask.sum().clamp(min=1)
        return FusedCausalLMOutput(loss=loss, log_probs=log_probs, entropy=entropy, is_top1=is_top1, label_mask=mask)

    model.forward = types.MethodType(forward, model)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row in nats, (N,) fp32."""
    log_p = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    return -(log_p.exp() * log_p).sum(-1)


def _is_top1(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return whether `logits.argmax(-1)` is the target of each row, (N,) bool.

    A maximum is found at a fraction of the cost of its place, which only tells which of equal ones comes first.
    """
    is_top1 = logits.gather(1, targets[:, None])[:, 0] == logits.amax(-1)
    for rows in is_top1.nonzero()[:, 0].split(_ROWS_IN_CACHE):
        is_top1[rows] = logits[rows].float().argmax(-1) == targets[rows]
    return is_top1
