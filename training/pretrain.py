"""Pretrain one arm of the experiment.

    accelerate launch training/pretrain.py recipes/baseline.yaml
    accelerate launch --config_file accelerate_configs/zero1.yaml training/pretrain.py
    recipes/gpt2_124m/mul_tokens.yaml --seed 2

Writes `output_dir/checkpoint-N/` (a `from_pretrained` folder that also resumes), `metrics.jsonl` and `run.json`. An
interrupted run continues when the same command is given again; SIGTERM saves at the next step and exits 75, Ctrl-C
130.
"""

from pathlib import Path

import torch
from transformers import GenerationConfig, Trainer
from transformers.utils.logging import disable_progress_bar

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from tokenization.mul_facts import VOCABULARY_SIZE
from training.core.batch_sizes import share_of_step
from training.core.device import attention_by, check_one_device, initialize_deepspeed_on_cpu, prepare_process
from training.core.pretrain_recipe import FREE_KEYS, DataArguments, ModelArguments, PretrainArguments
from training.core.processes import do_on_main
from training.core.provenance import sha256_of_weights
from training.core.recipe import parse_recipe, resolved, run_program
from training.core.run_folder import name_run_folder
from training.core.tracking import Throughput
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.packing import PackedDocuments, document_order_sha256
from training.data.shards import MANIFEST, Corpus
from training.evals.bits_per_byte import FixedDocuments
from training.evals.validation import ValidatedTrainerMixin
from training.publishing.on_request import publisher_of


def main(model_args: ModelArguments, data_args: DataArguments, args: PretrainArguments) -> int:
    prepare_process()
    check_one_device(args.n_gpu)
    disable_progress_bar()  # "Writing model shards" at every checkpoint
    initialize_deepspeed_on_cpu()
    name_run_folder(args, model_args.condition)
    args.run_name = f"{model_args.condition}-s{args.seed}"
    args.gradient_accumulation_steps = share_of_step(
        args.total_batch_tokens, model_args.n_positions, args.per_device_train_batch_size, args.world_size
    )

    # Data
    tokenizer = MulFactTokenizer.build(
        model_args.condition, model_args.injection_mode, model_args.operators, model_args.condition_seed
    )
    tokenizer.model_max_length = model_args.n_positions
    do_on_main(lambda: corpus_folder(model_args.condition, data_args, prepare=True), args.distributed_state)
    corpus = Corpus(corpus_folder(model_args.condition, data_args, prepare=False), tokenizer)
    windows = args.max_steps * args.total_batch_tokens // model_args.n_positions
    train_dataset = PackedDocuments(corpus.train, model_args.n_positions, windows, args.data_seed)
    if data_args.max_epochs is not None and train_dataset.epochs > data_args.max_epochs:
        raise ValueError(
            f"max_steps x total_batch_tokens = {args.max_steps * args.total_batch_tokens:,} tokens would read the "
            f"{train_dataset.epoch_tokens:,} training tokens {train_dataset.epochs:.3f} times, above max_epochs "
            f"{data_args.max_epochs}; prepare more data, or raise max_epochs"
        )
    validation = FixedDocuments(corpus.validation, data_args.eval_documents, model_args.n_positions)

    # Model
    torch.manual_seed(args.init_seed)
    model = DomainGPT2ForCausalLM(model_config(model_args))
    model.generation_config = generation_config(tokenizer)
    facts = {
        "recipe": resolved(model_args, data_args, args),
        "condition": model_args.condition,
        "tokenizer": tokenizer.fingerprint,
        "tokenised_facts": sorted(tokenizer.named_facts),
        "parameters": model.num_parameters(),
        "initial_weights_sha256": sha256_of_weights(model),
        "document_order_sha256": document_order_sha256(
            corpus.manifest["documents_sha256"], len(corpus.train), args.data_seed
        ),
        "training_documents": len(corpus.train),
        "unique_tokens": train_dataset.epoch_tokens,
        "processed_tokens": args.max_steps * args.total_batch_tokens,
    }

    # Training
    trainer = PretrainTrainer(
        model=model, args=args, processing_class=tokenizer, train_dataset=train_dataset, eval_dataset=validation
    )
    if data_args.eval_recipe is not None:
        trainer.measure_also(data_args.eval_recipe, data_args.eval_data_root)
    description = (
        f"{model.num_parameters():,} parameters, {args.max_steps:,} steps of {args.total_batch_tokens:,} tokens = "
        f"{train_dataset.epochs:.2f} epochs of {train_dataset.epoch_tokens:,} tokens"
    )
    trainer.publisher = publisher_of(args)
    return trainer.run(facts, FREE_KEYS, description)


class PretrainTrainer(ValidatedTrainerMixin, Trainer):
    """The Trainer of pretraining: packed windows without padding, and validation in bits per byte."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, data_collator=stack_windows, **kwargs)
        flops = self.model.config.flops_per_token(self.model.config.n_positions)
        tokens = self.args.total_batch_tokens
        self.throughput = Throughput(
            lambda step: {"tokens": step * tokens, "flops": step * tokens * flops}, self.args.world_size
        )
        self.add_callback(self.throughput)

    def _get_num_items_in_batch(self, batch_samples, device):
        # Every window is full, so the tokens of the global batch are known; counting them would wait for the device.
        return self.args.total_batch_tokens

    def compute_loss_context_manager(self):
        stack = super().compute_loss_context_manager()
        stack.enter_context(attention_by(self.args.attention_backend))
        return stack

    def compute_loss(self, model, inputs, *args, **kwargs):
        inputs = {**inputs, "use_cache": False, "loss_rows": self.args.loss_rows or None}
        return super().compute_loss(model, inputs, *args, **kwargs)


def corpus_folder(condition: str, data_args: DataArguments, prepare: bool) -> Path:
    """Return the folder of the condition's corpus, after preparing it if there is a recipe and it is not there yet."""
    if data_args.corpus_recipe is not None:
        overrides = ["--output_dir", data_args.corpus_dir] if data_args.corpus_dir else []
        groups = [CorpusArguments, PreparationArguments]
        corpus_args, preparation = parse_recipe(groups, [data_args.corpus_recipe, *overrides])
        if prepare:
            # Also when it is there: a recipe that was changed since must not train on the old corpus in silence.
            prepare_corpus(corpus_args, workers=preparation.workers or 1, encoder=preparation.encoder)
        return Path(corpus_args.output_dir) / condition
    folder = Path(str(data_args.corpus_dir))
    return folder if (folder / MANIFEST).is_file() else folder / condition


def model_config(model_args: ModelArguments) -> DomainGPT2Config:
    return DomainGPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=model_args.n_positions,
        n_embd=model_args.n_embd,
        n_layer=model_args.n_layer,
        n_head=model_args.n_head,
    )


def generation_config(tokenizer: MulFactTokenizer) -> GenerationConfig:
    """Return a generation config that never samples an id the condition cannot have seen in training."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=tokenizer.unseen_ids,
    )


def stack_windows(windows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.stack([window[key] for window in windows]) for key in windows[0]}


if __name__ == "__main__":
    run_program(main, [ModelArguments, DataArguments, PretrainArguments])
