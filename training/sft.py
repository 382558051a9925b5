"""Fine-tune a checkpoint on conversations: one program for every stage, one recipe per stage.

    accelerate launch training/sft.py recipes/sft.yaml --model_name_or_path runs/smoke/baseline-s0/checkpoint-100
    accelerate launch --config_file accelerate_configs/ddp.yaml training/sft.py recipes/gpt2_124m/sft_tulu.yaml
    --model_name_or_path runs/gpt2_124m/mul_tokens-s0/checkpoint-19073

It starts from a pretraining or fine-tuning `checkpoint-N` as it is, and writes the like; the arm comes from that
checkpoint's tokenizer. Writes `output_dir/checkpoint-N/`, `best` (a link to the checkpoint that does best on held-out
rows), `metrics.jsonl`, `run.json` and `rows/report.json`, which says what became of the sources' rows. An interrupted
run continues when the same command is given again; SIGTERM saves at the next step and exits 75, Ctrl-C 130.
"""

from pathlib import Path

from peft import PeftModel
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.logging import disable_progress_bar
from trl import SFTTrainer

from tokenization.tokenization_mul_facts import CHAT_TEMPLATE
from training.core.batch_sizes import accumulation_steps
from training.core.best_checkpoint import BestCheckpointMixin
from training.core.device import check_one_device, initialize_deepspeed_on_cpu, prepare_process, whole_weights
from training.core.fused_head import score_supervised_positions_on_cpu
from training.core.lora import load_adapter, lora_config, merged_model, save_merged
from training.core.processes import do_on_main
from training.core.provenance import sha256_of_weights
from training.core.recipe import resolved, run_program
from training.core.run_folder import name_run_folder, take_run_folder
from training.core.sft_recipe import FREE_KEYS, SftArguments, SftDataArguments, SftModelArguments
from training.core.tracking import Throughput
from training.core.trl_trainer import TrlTrainerMixin
from training.data.sft_rows import open_rows, prepare_rows
from training.data.training_order import StackItems, TrainingOrder
from training.evals.held_out_replies import HeldOutReplies
from training.evals.subject import load_subject
from training.evals.validation import ValidatedTrainerMixin
from training.publishing.on_request import publisher_of


def main(model_args: SftModelArguments, data_args: SftDataArguments, args: SftArguments) -> int:
    prepare_process()
    check_one_device(args.n_gpu)
    disable_progress_bar()  # "Writing model shards" at every checkpoint
    initialize_deepspeed_on_cpu()

    # Model
    with whole_weights():
        subject = load_subject(model_args.model_name_or_path, model_args.model_revision)
    model, tokenizer = subject.model, subject.tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE  # the format of the rows, also where a stock model came with another
    condition = subject.condition or "stock"
    if condition == "digit_numbers":
        raise ValueError(
            f"'{model_args.model_name_or_path}' is of the condition digit_numbers, whose rows have more tokens than "
            "the plain ones by which rows are cut and packed in all arms; pretrain and evaluate this arm only"
        )
    name_run_folder(args, condition)
    args.gradient_accumulation_steps = accumulation_steps(
        args.total_batch_items, args.per_device_train_batch_size, args.world_size
    )
    args.run_name = f"{condition}-s{args.seed}/{Path(args.output_dir).name}"

    # Data
    max_length = subject.context if args.max_length is None else args.max_length
    if not 1 <= max_length <= subject.context:
        raise ValueError(f"max_length is {max_length}, and the model's context {subject.context}; lower max_length")
    folder = Path(args.output_dir) / "rows"
    seed = args.data_seed
    take_run_folder(args)
    do_on_main(lambda: prepare_rows(data_args, tokenizer, folder, max_length, seed), args.distributed_state)
    rows = open_rows(folder)
    order = TrainingOrder(
        rows.train, model.config, args.total_batch_items, args.num_train_epochs, args.max_steps, args.data_seed
    )
    args.max_steps = order.steps
    if rows.held_out is None or args.eval_strategy == "no":
        if data_args.eval_recipe is not None or args.early_stopping_patience is not None:
            raise ValueError(
                "eval_recipe and early_stopping_patience need held-out rows and evaluations: set held_out of a source "
                f"under datasets, such as held_out: 0.02, and eval_strategy: steps (now {args.eval_strategy.value})"
            )
        args.eval_strategy, args.eval_on_start = IntervalStrategy.NO, False
    facts = {
        "recipe": resolved(model_args, data_args, args) | {"max_length": max_length},
        "condition": condition,
        "tokenizer": getattr(tokenizer, "fingerprint", None),
        "parameters": model.num_parameters(),
        "initial_weights_sha256": sha256_of_weights(model),
        "initial_commit": subject.commit,
        "rows_sha256": rows.train.summary["sha256"],
        "held_out_rows_sha256": rows.held_out and rows.held_out.summary["sha256"],
        "items": order.items,
        "work": order.work(order.steps),
    }

    # Training
    trainer = ConversationTrainer(
        model=model,
        args=args,
        processing_class=tokenizer,
        order=order,
        held_out=rows.held_out and HeldOutReplies(rows.held_out, data_args.max_eval_rows),
        peft_config=lora_config(
            model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout, model_args.lora_target_modules
        )
        if model_args.use_peft
        else None,
    )
    if data_args.eval_recipe is not None:
        trainer.measure_also(data_args.eval_recipe, data_args.eval_data_root)
    rows_per_step = order.work(order.steps)["rows"] / order.steps
    description = (
        f"from {model_args.model_name_or_path}, {order.steps:,} steps of {args.total_batch_items:,} items "
        f"({rows_per_step:.0f} rows) = {order.epochs:.2f} epochs of {order.items:,} items"
    )
    trainer.publisher = publisher_of(args)
    return trainer.run(facts, FREE_KEYS, description)


class ConversationTrainer(BestCheckpointMixin, ValidatedTrainerMixin, TrlTrainerMixin, SFTTrainer):
    """TRL's trainer on packed conversations in a fixed order, with selection on held-out rows.

    TRL computes the loss; it is normalised over the supervised tokens of the global batch.
    """

    selected_by = "eval_bits_per_byte"

    def __init__(self, *, order: TrainingOrder, held_out: HeldOutReplies | None, **kwargs):
        tokenizer = kwargs["processing_class"]
        pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        super().__init__(
            train_dataset=order.dataset, eval_dataset=held_out, data_collator=StackItems(pad_id), **kwargs
        )
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        score_supervised_positions_on_cpu(base)
        self.order = order
        if isinstance(self.model, PeftModel) and (self.engine == "DEEPSPEED-ZERO3" or self.is_fsdp_enabled):
            raise ValueError(
                f"use_peft does not work with {self.engine}, where no process has the weights that an adapter is "
                "merged into; launch with accelerate_configs/ddp.yaml or zero2.yaml"
            )
        self.throughput = Throughput(order.work, self.args.world_size)
        self.add_callback(self.throughput)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # The data set is the whole run, so that the Trainer's own epoch would be the share of the run that is over.
        self.state.epoch = self.order.epoch(self.state.global_step)
        super().log(logs, start_time)

    # Checkpoints

    def whole_model(self):
        model = super().whole_model()
        return merged_model(model) if isinstance(model, PeftModel) else model

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel) and self.args.should_save:
            save_merged(model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        unwrapped = self.accelerator.unwrap_model(model or self.model)
        if isinstance(unwrapped, PeftModel):
            load_adapter(unwrapped, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


if __name__ == "__main__":
    run_program(main, [SftModelArguments, SftDataArguments, SftArguments])
