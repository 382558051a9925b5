"""What this machine can do at most, measured: matrix products, memory traffic, and the floor they set under a step."""

import time
from dataclasses import dataclass

import torch

from modeling import DomainGPT2Config

# Fused AdamW reads and writes parameter and both moments, and reads the gradient: 7 x 4 bytes.
_ADAMW_BYTES_PER_PARAMETER = 28


@dataclass(frozen=True)
class Limits:
    """The best of several tries: FLOP/s of a matrix product in bf16 and fp32, and bytes/s of `y += x`."""

    bf16: float
    fp32: float
    memory: float

    def floor_seconds(self, config: DomainGPT2Config, tokens: int, sequence_length: int, dtype: str) -> float:
        """Return the seconds below which no step can come: its matrix products at full speed, and AdamW's traffic."""
        products = tokens * config.flops_per_token(sequence_length) / getattr(self, dtype)
        return products + parameters(config) * _ADAMW_BYTES_PER_PARAMETER / self.memory


def parameters(config: DomainGPT2Config) -> int:
    """Return the number of parameters, with the tied head once."""
    width, inner = config.n_embd, config.n_inner or 4 * config.n_embd
    block = 4 * width * width + 2 * width * inner + 4 * width + (4 * width + inner + width)
    return (config.vocab_size + config.n_positions) * width + config.n_layer * block + 2 * width


def measure_limits(device: str, tries: int = 12) -> Limits:
    """Measure them, with the threads that PyTorch takes here."""
    size = 2048 if device == "cpu" else 8192
    speeds = {}
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        speeds[dtype] = 2 * size**3 / _best(lambda a=a, b=b: a @ b, device, tries)
    x, y = (torch.ones(64 * 2**20, device=device) for _ in range(2))
    memory = 3 * x.numel() * x.element_size() / _best(lambda: y.add_(x), device, tries)
    return Limits(bf16=speeds[torch.bfloat16], fp32=speeds[torch.float32], memory=memory)


def _best(action, device: str, tries: int) -> float:
    seconds = []
    for _ in range(tries + 2):
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[2:])
