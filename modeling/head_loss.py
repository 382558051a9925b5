"""The head and its cross-entropy in one piece: the loss of many rows without their logits in fp32."""

import torch
import torch.nn.functional as F

IGNORED = -100
_SOFTMAX_ROWS = 64  # 13 MB of fp32 logits at 50,432 tokens, of which a processor's cache holds a good part


class HeadLoss(torch.autograd.Function):
    """Divide the summed cross-entropy of `hidden_states @ weight.T` by a number, with the gradients found on the way.

    Takes hidden_states (N, C), weight (V, C), labels (N,) with -100 at rows that do not count, the number, how many
    rows of logits are held at a time, and a multiple that V is rounded up to in the matrix products. Returns nats, ()
    fp32.

    A row's softmax is all that its gradient needs, so both are made while its logits are at hand. Logits stay in the
    dtype of the matrix product, and fp32 is used for a few rows at a time. The numbers are those of the plain loss in
    the same precision, but for the order in which the parts of a sum over rows are added.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, labels, divisor, rows, multiple):
        device = hidden_states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            vocabulary, width = weight.shape
            padded = weight.new_empty((-(-vocabulary // multiple) * multiple, width), dtype=dtype)
            padded[:vocabulary] = weight
            padded[vocabulary:] = 0
            hidden = hidden_states.to(dtype)
            hidden_gradient = torch.empty_like(hidden)
            weight_gradient = None
            total = torch.zeros((), dtype=torch.float32, device=weight.device)
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                logits = hidden[part] @ padded.T  # (rows, V rounded up)
                total += _replace_by_gradient(logits[:, :vocabulary], labels[part], divisor)
                logits[:, vocabulary:] = 0  # tokens that are not there have no gradient
                torch.mm(logits, padded, out=hidden_gradient[part])
                product = (logits.T @ hidden[part])[:vocabulary]
                weight_gradient = (
                    product.to(weight.dtype) if weight_gradient is None else weight_gradient.add_(product)
                )
        ctx.save_for_backward(hidden_gradient.to(hidden_states.dtype), weight_gradient)
        return total / divisor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        gradients = ctx.saved_tensors
        # A look at the value costs nothing on a CPU, and a product by 1 a pass over the whole weight.
        if gradient.device.type != "cpu" or gradient != 1:
            gradients = [found * gradient for found in gradients]
        return *gradients, None, None, None, None


def _replace_by_gradient(logits: torch.Tensor, labels: torch.Tensor, divisor: torch.Tensor | float) -> torch.Tensor:
    """Return the summed cross-entropy of logits (N, V), and put the gradient of its share in their place."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for block, targets in zip(logits.split(_SOFTMAX_ROWS), labels.split(_SOFTMAX_ROWS), strict=True):
        counted = (targets != IGNORED)[:, None].float()
        places = targets.clamp(min=0)[:, None]
        log_probabilities = F.log_softmax(block, dim=-1, dtype=torch.float32)
        total -= (log_probabilities.gather(1, places) * counted).sum()
        gradient = log_probabilities.exp_().scatter_add_(1, places, -counted)
        torch.mul(gradient, counted / divisor, out=block)
    return total
