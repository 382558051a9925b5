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
    BEST,
    DAMAGED,
    STAGING,
    check_process_count,
    checkpoint_step,
    list_checkpoints,
    newest_checkpoint,
    publish,
    read_seal,
    remove_old_checkpoints,
    seal,
)
from training.core.device import device_name, launched_with_deepspeed, launched_with_fsdp
from training.core.interruption import StopOnSignal, leave_signals_to_the_main_process
from training.core.model_card import write_model_card
from training.core.processes import agree, do_on_main
from training.core.provenance import check_same_run, write_run_file
from training.core.publisher import Publisher
from training.core.run_folder import take_run_folder
from training.core.tracking import METRICS_FILE, ConsoleLog, MetricsFile, Throughput, read_metrics


class NothingLeft(Exception):
    """An evaluation that was made up for at a start says that the run was over already."""


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
    publisher: Publisher | None = None
    evaluated_by = "eval_loss"  # a key that every row of an evaluation in metrics.jsonl has

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._staging: Path | None = None
        self.resumed_from: dict | None = None
        self.facts: dict[str, Any] | None = None
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

    def _send_telemetry(self) -> None:
        """TRL would tell the Hub which trainer, device and launcher are in use; a run tells nobody unasked."""

    # Running

    def run(self, facts: dict[str, Any], free_keys: frozenset[str], description: str) -> int:
        """Train from the newest checkpoint, or from the start, to the end, and return the program's exit code.

        facts: what `run.json` says of the run, with its `recipe`; a run resumes with equal ones only, apart from
        `free_keys` of the recipe. description: the line for people at the start.
        """
        self.facts = facts
        take_run_folder(self.args)
        checkpoint, args = self.find_checkpoint(), self.args
        if checkpoint is not None or any(self.run_dir.glob(f"{DAMAGED}*")):
            check_same_run(self.run_dir, facts, free_keys)
        if checkpoint is not None:
            step = checkpoint_step(checkpoint)
            args.eval_on_start = self.agree(lambda: self._evaluation_is_missing(step))
            if self.is_over(step) and not args.eval_on_start:
                self.say(f"finished before: {self._result(checkpoint)}")
                return 0
        if args.process_index == 0:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            write_run_file(self.run_dir, facts, device_name())
        if self.publisher is not None:
            do_on_main(lambda: self.publisher.begin(self.run_dir), self.accelerator)
        self.say(
            f"{args.run_name}: {description}; {args.world_size} process(es), engine {self.engine}, "
            f"{'bf16 autocast' if args.bf16 else 'fp32'}, {torch.get_num_threads()} CPU threads; {args.output_dir}; "
            + (f"continuing from {checkpoint}" if checkpoint else "starting at step 0")
        )
        with self.stopper, contextlib.suppress(NothingLeft):
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        is_over = self.is_over(self.state.global_step)
        newest = list_checkpoints(self.run_dir)[-1:]
        where = self._result(newest[0]) if newest else "no checkpoint was saved"
        self.say(f"{'finished' if is_over else 'stopped'}: {where}")
        # Last of all: the other processes must not wait for a network.
        if self.publisher is not None and args.process_index == 0:
            self.publisher.finish(in_a_hurry=self.stopper.signal is not None)
        return 0 if is_over else self.stopper.exit_code

    def is_over(self, step: int) -> bool:
        """Return whether there is nothing to train behind this step; all processes call it."""
        return step >= self.args.max_steps

    def say(self, line: str) -> None:
        """Print a line on the main process."""
        if self.args.process_index == 0:
            print(line, flush=True)

    def _result(self, newest: Path) -> str:
        best = self.run_dir / BEST
        return f"{newest}, best {best.resolve().name}" if best.is_symlink() else str(newest)

    def _evaluation_is_missing(self, step: int) -> bool:
        """Return whether the run died between the checkpoint of a step and the evaluation that was due at it."""
        args = self.args
        due = args.eval_strategy == "steps" and (step % args.eval_steps == 0 or step >= args.max_steps)
        rows = read_metrics(self.run_dir / METRICS_FILE) if due else []
        return due and not any(row["step"] == step and self.evaluated_by in row for row in rows)

    @property
    def model_to_measure(self) -> torch.nn.Module:
        """The model to evaluate with: a sharded one computes only inside its engine, while the plain module avoids
        compiling for every width."""
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return self.model_wrapped
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    def whole_model(self) -> torch.nn.Module:
        """Return the model as a checkpoint holds it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

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
        logs.pop("train_loss", None)  # its average would be over the steps since the last start
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
                        "work": self.throughput.work(self.state.global_step) if self.throughput is not None else {},
                        **self.facts_for_seal(),
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
            if self.publisher is not None and self.args.process_index == 0:
                self.publisher.add(self.run_dir / name)
            if self.args.should_save:
                shutil.rmtree(self.run_dir / STAGING, ignore_errors=True)
                remove_old_checkpoints(self.run_dir, self.args.save_total_limit)
            self.accelerator.wait_for_everyone()

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Transformers would make a repository here and push the run's folder into it, optimiser included."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The publisher takes sealed checkpoints."""

    def facts_for_seal(self) -> dict[str, Any]:
        """Return what else a resumed run has to know that Transformers does not save."""
        return {}

    def take_up(self, sealed: dict[str, Any]) -> None:
        """Go on from what the seal of the checkpoint says."""
        self._tr_loss += sealed["loss_since_last_log"]
        self._globalstep_last_logged = sealed["last_logged_step"]

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
            if self.facts is not None and self.throughput is not None:
                step = self.state.global_step
                write_model_card(arguments.parent, self.facts, step, self.throughput.work(step))

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
            self.trainer.take_up(self.trainer.resumed_from)
