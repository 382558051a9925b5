"""What a run says while it trains: one log line, a progress bar, `metrics.jsonl`, speed and model FLOPs
utilisation."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm
from transformers import TrainerCallback

from training.core.console import format_duration
from training.core.device import peak_flops, peak_memory_gib
from training.core.files import write_text

METRICS_FILE = "metrics.jsonl"


class Throughput(TrainerCallback):
    """Measure tokens per second over the steps between two log lines, without evaluations and checkpoints.

    work: what has been done after a step of the run, with `tokens` and `flops`, and whatever else there is to count.
    Reading a loss for the log waits for the device, so that the clock is right at log lines and only there.
    """

    def __init__(self, work: Callable[[int], dict[str, int]], num_devices: int):
        self.work, self.num_devices = work, num_devices
        self._mark: tuple[float, int] | None = None
        self._paused = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._mark, self._paused = (time.perf_counter(), state.global_step), 0.0

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent on steps."""
        self._paused += seconds

    def measure(self, step: int, max_steps: int) -> dict[str, float | None]:
        """Return the figures since the last call: tokens/s, MFU (None on a device without a known peak), GiB,
        seconds left; and the work since the start of the run."""
        assert self._mark is not None
        now, (then, since) = time.perf_counter(), self._mark
        seconds = now - then - self._paused
        self._mark, self._paused = (now, step), 0.0
        before, after, peak = self.work(since), self.work(step), peak_flops()
        flops_per_second = (after["flops"] - before["flops"]) / seconds
        return {
            "tokens_per_second": (after["tokens"] - before["tokens"]) / seconds,
            "mfu": flops_per_second / (peak * self.num_devices) if peak else None,
            "peak_memory_gib": peak_memory_gib(),
            "seconds_left": seconds / max(step - since, 1) * (max_steps - step),
            **after,
        }


class MetricsFile(TrainerCallback):
    """Append every logged row to `metrics.jsonl`, on the main process.

    A resumed run first drops the rows behind its checkpoint: each step stands there once, however often it was
    computed.
    """

    def __init__(self, run_dir: Path):
        self.path = run_dir / METRICS_FILE

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            rows = read_metrics(self.path) if state.global_step > 0 else []
            rows = [row for row in rows if row["step"] <= state.global_step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def read_metrics(path: Path) -> list[dict]:
    """Return the rows of a `metrics.jsonl`; a last line that a killed process left unfinished does not count."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


class ConsoleLog(TrainerCallback):
    """Print one line per log, and on a terminal a progress bar below them."""

    def __init__(self):
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and sys.stderr.isatty() and not args.disable_tqdm:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            line = format_log_line(logs, state.global_step, state.max_steps)
            if line:
                tqdm.write(line)
                sys.stdout.flush()

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()


def format_log_line(logs: dict, step: int, max_steps: int) -> str:
    """Return a logged row as a line for people, or an empty string for rows that hold neither a loss nor an
    evaluation."""
    parts = [f"step {step:>{len(str(max_steps))}}/{max_steps}"]
    if "loss" in logs:
        parts += [f"loss {logs['loss']:.4f}", f"lr {logs['learning_rate']:.2e}"]
        if "grad_norm" in logs:
            parts.append(f"grad norm {logs['grad_norm']:.3f}")
        if "mean_token_accuracy" in logs:
            parts.append(f"tokens right {logs['mean_token_accuracy']:.1%}")
        if "reward" in logs:
            parts += [f"reward {logs['reward']:.3f}", f"without variance {logs['frac_reward_zero_std']:.0%}"]
        parts += [f"KL {logs['kl']:.4f}"] if logs.get("kl") is not None else []
        if "tokens_per_second" in logs:
            parts += [
                f"{logs['tokens_per_second']:,.0f} tokens/s",
                f"MFU {logs['mfu']:.1%}" if logs["mfu"] is not None else "MFU n/a",
                f"{logs['peak_memory_gib']:.1f} GiB",
                f"{format_duration(logs['seconds_left'])} left",
            ]
    elif "eval_loss" in logs:
        parts += [f"validation loss {logs['eval_loss']:.4f}", f"{logs['eval_bits_per_byte']:.4f} bits per byte"]
        if logs.get("eval_bits_per_byte_without_facts") is not None:
            parts.append(f"{logs['eval_bits_per_byte_without_facts']:.4f} on documents without facts")
    elif "eval_pass_at_1" in logs:
        parts += [f"held out: right {logs['eval_accuracy']:.1%}", f"reward {logs['eval_reward']:.3f}"]
        passes = [name for name in logs if name.startswith("eval_pass_at_")]
        parts += [f"pass@{name.rpartition('_')[2]} {logs[name]:.3f}" for name in passes]
    else:
        return ""
    return " | ".join(parts)
