"""What pretraining, SFT and GRPO share on top of `transformers.Trainer`: the thin layer that makes runs believable."""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import nested_gather

from training.core.checkpoint import (
    STAGING,
    check_process_count,
    newest_checkpoint,
    publish,
    read_seal,
    remove_old_checkpoints,
    seal,
)
from training.core.device import launched_with_deepspeed, launched_with_fsdp
from training.core.interruption import StopOnSignal, leave_signals_to_the_main_process
from training.core.processes import agree
from training.core.tracking import ConsoleLog, MetricsFile, Throughput


class TrustworthyTrainerMixin:
    """Put in front of `Trainer` or one of TRL's trainers: `class X(TrustworthyTrainerMixin, Trainer)`.

    - Parameters and optimiser state stay fp32 under every launcher; `bf16: true` is autocast, under DeepSpeed as well:
      a checkpoint holds the master weights.
    - Checkpoints are written aside, sealed and renamed, and come before the evaluation of the same step.
    - A loss or gradient that is not finite ends the run before it can reach a checkpoint.
    - SIGTERM and SIGINT save at the next step, on all processes together.
    - Log rows carry tokens/s, MFU, memory and time left when `self.throughput` is set.
    """

    throughput: Throughput | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._staging: Path | None = None
        self.resumed_from: dict | None = None
        self.stopper = StopOnSignal()
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        for callback in (self.stopper, MetricsFile(self.run_dir), ConsoleLog(), _LossSinceLastLog(self)):
            self.add_callback(callback)
        # The Trainer writes its own `use_cache` (False) into the config, which would travel into every checkpoint and
        # make generation slow for whoever loads it.
        self.model.config.use_cache = True

    @property
    def run_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def engine(self) -> str:
        """Accelerate's name of the launcher's engine, such as NO, MULTI_GPU, DEEPSPEED or FSDP, with ZeRO's stage."""
        name = self.accelerator.distributed_type.value
        return (
            f"{name}-ZERO{self.accelerator.state.deepspeed_plugin.zero_stage}" if self.is_deepspeed_enabled else name
        )

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        loader.worker_init_fn = functools.partial(leave_signals_to_the_main_process, loader.worker_init_fn)
        return loader

    # Precision

    def _build_accelerator_args(self, **kwargs):
        # Accelerate's own mixed precision would turn every logits tensor into an fp32 copy, and under DeepSpeed it
        # would train bf16 parameters. Autocast happens in compute_loss_context_manager and in DeepSpeed's engine
        # instead.
        return super()._build_accelerator_args(**kwargs) | {"mixed_precision": "no"}

    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if launched_with_fsdp() and not self.is_fsdp_enabled:
            raise ValueError(
                "launched with an FSDP configuration, but this machine has no GPU, and Accelerate would silently "
                "train with DDP; use accelerate_configs/ddp.yaml or a ZeRO configuration here"
            )
        if launched_with_deepspeed():
            # `Accelerator(cpu=True)` under a DeepSpeed launch would silently train with DDP.
            assert self.is_deepspeed_enabled, "launched with DeepSpeed, but Accelerate did not set it up"
            # An empty list keeps the reduction of gradients in fp32, as DDP does it.
            autocast = {"enabled": bool(self.args.bf16), "dtype": "bfloat16", "lower_precision_safe_modules": []}
            config = self.accelerator.state.deepspeed_plugin.deepspeed_config
            # The Trainer has put `bf16: true` into DeepSpeed's own bf16 mode by now, which rounds the parameters.
            config |= {"bf16": {"enabled": False}, "torch_autocast": autocast}

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return the context in which the model computes: bf16 autocast, or nothing."""
        if not self.args.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.args.device.type, dtype=torch.bfloat16)

    def compute_loss_context_manager(self):
        stack = super().compute_loss_context_manager()
        stack.enter_context(self.autocast())
        return stack

    # Stepping

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, *args, **kwargs):
        if self.control.should_log or self.control.should_save:
            self._check_finite(tr_loss, grad_norm)
        evaluate, self.control.should_evaluate = self.control.should_evaluate, False
        super()._maybe_log_save_evaluate(
            tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, *args, **kwargs
        )
        if evaluate:
            self._evaluate(trial, ignore_keys_for_eval)
            self.control.should_evaluate = False

    def _check_finite(self, loss_since_last_log: torch.Tensor, grad_norm: torch.Tensor | float | None) -> None:
        """End the run on all processes when the loss or the gradient is not finite on one."""
        norm = grad_norm.full_tensor() if hasattr(grad_norm, "full_tensor") else grad_norm  # FSDP shards it
        norm = torch.as_tensor(0.0 if norm is None else norm, dtype=torch.float32, device=loss_since_last_log.device)
        values = torch.stack([loss_since_last_log.float(), norm])
        finite = torch.isfinite(values).all().float()
        if self.args.world_size > 1:
            torch.distributed.all_reduce(finite, op=torch.distributed.ReduceOp.MIN)
        if not finite.item():
            step = self.state.global_step
            raise FloatingPointError(
                f"the loss or its gradient is not finite between step {self._globalstep_last_logged} and step {step} "
                f"(loss {values[0].item() / max(step - self._globalstep_last_logged, 1)}, gradient norm "
                f"{values[1].item()}). {self._last_good_checkpoint()} Lower the learning rate or look at the data of "
                "these steps."
            )

    def _last_good_checkpoint(self) -> str:
        if not self.args.should_save:
            return "The main process says which checkpoint is the last good one."
        newest = newest_checkpoint(self.run_dir, warn=print)
        return f"The last good checkpoint is {newest}." if newest else "There is no good checkpoint yet."

    def _evaluate(self, *args, **kwargs):
        with self._paused():
            return super()._evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.throughput is not None and "loss" in logs:
            logs.update(self.throughput.measure(self.state.global_step, self.state.max_steps))
        super().log(logs, start_time)

    @contextlib.contextmanager
    def _paused(self):
        start = time.perf_counter()
        yield
        if self.throughput is not None:
            self.throughput.pause(time.perf_counter() - start)

    # Checkpoints

    def _get_output_dir(self, trial) -> str:
        return str(self._staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model, trial) -> None:
        """Save into a staging folder, seal it, and rename it into the run."""
        name = f"checkpoint-{self.state.global_step}"
        with self._paused():
            try:
                self._staging = self.run_dir / STAGING
                if self.args.should_save:
                    shutil.rmtree(self._staging, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                loss_sum = nested_gather(self._tr_loss, self.args.parallel_mode).mean().item()
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    facts = {
                        "step": self.state.global_step,
                        "num_processes": self.args.world_size,
                        "engine": self.engine,
                        "last_logged_step": self._globalstep_last_logged,
                        "loss_since_last_log": loss_sum,
                    }
                    seal(self._staging / name, facts)
                    publish(self._staging / name, self.run_dir)
            except Exception as error:
                if self.args.should_save:
                    shutil.rmtree(self.run_dir / STAGING, ignore_errors=True)
                raise RuntimeError(
                    f"could not save {self.run_dir / name}: {error}. {self._last_good_checkpoint()} Free space on "
                    "that disk if it is full, and start the same command again."
                ) from error
            finally:
                self._staging = None
            if self.args.should_save:
                shutil.rmtree(self.run_dir / STAGING, ignore_errors=True)
                remove_old_checkpoints(self.run_dir, self.args.save_total_limit)
            self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if state_dict is not None:
            # Gathered weights no longer share memory, and a tied weight would be written twice.
            tied = getattr(self.accelerator.unwrap_model(self.model), "_tied_weights_keys", None) or {}
            state_dict = {name: weight for name, weight in state_dict.items() if name not in tied}
        super()._save(output_dir, state_dict)
        # The Trainer pickles its arguments there; run.json and checkpoint.json say the same and can be opened safely.
        arguments = Path(output_dir or self.args.output_dir) / "training_args.bin"
        if self.args.should_save:
            arguments.unlink(missing_ok=True)

    def _issue_warnings_after_load(self, load_result) -> None:
        # A tied weight stands in a checkpoint once; the Trainer would warn that the other name is missing.
        tied = getattr(self.accelerator.unwrap_model(self.model), "_tied_weights_keys", None) or {}
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result)

    def agree(self, decide: Callable[[], Any]) -> Any:
        """Return what the main process decides, on all processes: only it looks at files that it also changes."""
        return agree(decide, self.accelerator)

    def find_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint of this run, agreed upon by all processes; checks the process count."""
        found = self.agree(lambda: newest_checkpoint(self.run_dir, warn=print))
        if found is not None:
            check_process_count(found, self.args.world_size, self.engine)
            self.resumed_from = read_seal(found)
        return found


class _LossSinceLastLog(TrainerCallback):
    """Give a resumed run the losses of the steps before its checkpoint that no log line has averaged yet."""

    def __init__(self, trainer: TrustworthyTrainerMixin):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer.resumed_from is not None:
            self.trainer._tr_loss += self.trainer.resumed_from["loss_since_last_log"]
            self.trainer._globalstep_last_logged = self.trainer.resumed_from["last_logged_step"]


def share_of_step(total_batch_tokens: int, sequence_length: int, per_device: int, num_processes: int) -> int:
    """Return the number of accumulation steps; raises `ValueError` when the batch sizes do not divide."""
    if per_device < 1 or sequence_length < 1:
        raise ValueError(
            f"per_device_train_batch_size ({per_device}) and n_positions ({sequence_length}) are at least 1"
        )
    per_micro_step = per_device * sequence_length * num_processes
    if total_batch_tokens < 1 or total_batch_tokens % per_micro_step:
        raise ValueError(
            f"total_batch_tokens ({total_batch_tokens:,}) must be a multiple of {per_micro_step:,} = {per_device} "
            f"sequences x {sequence_length:,} tokens x {num_processes} processes; change per_device_train_batch_size "
            "or total_batch_tokens"
        )
    return total_batch_tokens // per_micro_step
