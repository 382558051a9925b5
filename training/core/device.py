"""The device under a run: threads, allocator, process group, peak arithmetic."""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import sys
from collections.abc import Iterator

import torch

from training.core.console import processor_name

# Dense bf16 tensor-core peaks in FLOP/s, from the vendors' data sheets (without sparsity). Longer names come first,
# because a device is looked up by substring.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "H800": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}

ATTENTION_BACKENDS = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}


def peak_flops() -> float | None:
    """Return the device's dense bf16 peak in FLOP/s, or None where it is not known (every CPU)."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def device_name() -> str:
    """Return a name of the device for people: the GPU's, or the processor's with the number of threads in use."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def peak_memory_gib() -> float:
    """Return the peak memory of this process so far, in GiB: allocated on the GPU, or resident on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def prepare_process() -> None:
    """Set up this process before the first large tensor: threads, allocator, and the end of an accelerate launcher."""
    set_cpu_threads()
    if not torch.cuda.is_available():
        tune_allocator()
        # DeepSpeed finds that out as well, with a warning at each import.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _stop_with_launcher()


def check_one_device(n_gpu: int) -> None:
    """Raise `ValueError` where the Trainer would split batches among several GPUs of one process."""
    if n_gpu > 1:
        raise ValueError(
            f"one process sees {n_gpu} GPUs and would train on all of them with other batches; launch with "
            "accelerate_configs/ddp.yaml, or set CUDA_VISIBLE_DEVICES=0"
        )


def set_cpu_threads() -> int:
    """Share the cores among the processes of this machine, and return the number of threads of this one.

    `accelerate launch` and torchrun set OMP_NUM_THREADS=1, which wastes all other cores on a CPU machine. Another
    value than 1 is somebody's choice (`accelerate launch --num_cpu_threads_per_process N`) and stays.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "1")
    if chosen != "1":
        return torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    return threads


def tune_allocator() -> bool:
    """Make glibc keep freed memory, and return whether it does.

    By default it maps every large tensor afresh and returns it to the kernel when it is freed, so that each step pays
    page faults for its logits and gradients. With other C libraries nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    libc = ctypes.CDLL("libc.so.6")
    return bool(libc.mallopt(m_mmap_threshold, largest)) and bool(libc.mallopt(m_trim_threshold, largest))


def attention_by(backend: str | None) -> contextlib.AbstractContextManager:
    """Return the context in which `scaled_dot_product_attention` prefers one kernel of `ATTENTION_BACKENDS`.

    Where that kernel does not do (a mask, a dtype, another device), the others follow in PyTorch's order. With None,
    PyTorch chooses.
    """
    if backend is None:
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    preferred = SDPBackend.__members__[ATTENTION_BACKENDS[backend]]
    order = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION]
    return sdpa_kernel([preferred, *(other for other in order if other != preferred)], set_priority=True)


def initialize_deepspeed_on_cpu() -> None:
    """Give DeepSpeed a gloo process group when it runs without a GPU; with one, or without DeepSpeed, do nothing.

    DeepSpeed would pick a backend by itself only at `deepspeed.initialize`, too late for models that `from_pretrained`
    partitions under ZeRO-3. Call it after the training arguments have set up the process group.
    """
    if launched_with_deepspeed() and not torch.cuda.is_available():
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo")


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Let `from_pretrained` give each process all weights under ZeRO-3 as well.

    Otherwise it partitions them while it loads, whatever `zero3_init_flag` says, and nobody can hash or count what a
    run starts from. The engine partitions them when training begins.
    """
    from transformers.integrations import deepspeed

    hidden = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = hidden


def launched_with_deepspeed() -> bool:
    """Return whether `accelerate launch` was given a DeepSpeed configuration."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"


def launched_with_fsdp() -> bool:
    """Return whether `accelerate launch` was given an FSDP configuration."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"


def _stop_with_launcher() -> None:
    """Ask Linux for a SIGTERM when a single-process `accelerate launch` dies.

    That launcher does not pass SIGTERM on: it would die alone and leave this process training. torchrun passes it on,
    and a program started by `python` must outlive its shell under nohup, so both are left alone.
    """
    single_accelerate_launch = "ACCELERATE_MIXED_PRECISION" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ
    if single_accelerate_launch and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
