"""Pretrain one arm of the experiment.

    accelerate launch training/pretrain.py recipes/baseline.yaml
    accelerate launch --config_file accelerate_configs/zero1.yaml training/pretrain.py
    recipes/gpt2_124m/mul_tokens.yaml --seed 2

Writes `output_dir/checkpoint-N/` (a `from_pretrained` folder that also resumes), `metrics.jsonl` and `run.json`. An
interrupted run continues when the same command is given again; SIGTERM saves at the next step and exits 75, Ctrl-C
130.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import GenerationConfig, Trainer
from transformers.utils.logging import disable_progress_bar

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from tokenization.mul_facts import VOCABULARY_SIZE
from training.core.checkpoint import DAMAGED, checkpoint_step, list_checkpoints
from training.core.device import device_name, initialize_deepspeed_on_cpu, prepare_process
from training.core.pretrain_recipe import FREE_KEYS, DataArguments, ModelArguments, PretrainArguments
from training.core.provenance import check_same_run, sha256_of_weights, write_run_file
from training.core.recipe import parse_recipe, resolved, run_program
from training.core.tracking import METRICS_FILE, Throughput, read_metrics
from training.core.trainer import TrustworthyTrainerMixin, share_of_step
from training.data.corpus import prepare_corpus
from training.data.corpus_recipe import CorpusArguments, PreparationArguments
from training.data.packing import PackedDocuments, document_order_sha256
from training.data.shards import MANIFEST, Corpus
from training.evals.bits_per_byte import FixedDocuments, measure_bits_per_byte

if TYPE_CHECKING:
    from training.evals.during_training import EvalsDuringTraining


def main(model_args: ModelArguments, data_args: DataArguments, args: PretrainArguments) -> int:
    prepare_process()
    if args.n_gpu > 1:
        raise ValueError(
            f"one process sees {args.n_gpu} GPUs and would train on all of them with other batches; launch with "
            "accelerate_configs/ddp.yaml, or set CUDA_VISIBLE_DEVICES=0"
        )
    disable_progress_bar()  # "Writing model shards" at every checkpoint
    initialize_deepspeed_on_cpu()
    args.output_dir = args.output_dir.replace("{condition}", model_args.condition).replace("{seed}", str(args.seed))
    if Path(args.output_dir).is_file():
        raise ValueError(f"output_dir '{args.output_dir}' is a file; name a folder")
    args.run_name = f"{model_args.condition}-s{args.seed}"
    args.gradient_accumulation_steps = share_of_step(
        args.total_batch_tokens, model_args.n_positions, args.per_device_train_batch_size, args.world_size
    )

    # Data
    tokenizer = MulFactTokenizer.build(model_args.condition, model_args.injection_mode, model_args.operators)
    tokenizer.model_max_length = model_args.n_positions
    with args.main_process_first(local=False, desc="preparing the corpus"):
        corpus = Corpus(corpus_folder(model_args.condition, data_args, prepare=args.process_index == 0), tokenizer)
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
        from training.evals.during_training import EvalsDuringTraining  # what it needs takes a second to import

        trainer.measure_also(EvalsDuringTraining(data_args.eval_recipe, data_args.eval_data_root, trainer.run_dir))
    checkpoint = trainer.find_checkpoint()
    if checkpoint is not None or any(trainer.run_dir.glob(f"{DAMAGED}*")):
        check_same_run(trainer.run_dir, facts, FREE_KEYS)
    if checkpoint is not None:
        step = checkpoint_step(checkpoint)
        args.eval_on_start = trainer.agree(lambda: evaluation_is_missing(trainer.run_dir, step, args))
        if step >= args.max_steps and not args.eval_on_start:
            print_on_main(args, f"finished before: {checkpoint}")
            return 0
    if args.process_index == 0:
        trainer.run_dir.mkdir(parents=True, exist_ok=True)
        write_run_file(trainer.run_dir, facts, device_name())
    print_on_main(args, describe_start(args, model, train_dataset, checkpoint, trainer.engine))
    with trainer.stopper:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    finished = trainer.state.global_step >= args.max_steps
    newest = list_checkpoints(trainer.run_dir)[-1:]
    where = newest[0] if newest else "no checkpoint was saved"
    print_on_main(args, f"{'finished' if finished else 'stopped'}: {where}")
    return 0 if finished else trainer.stopper.exit_code


class PretrainTrainer(TrustworthyTrainerMixin, Trainer):
    """The Trainer of pretraining: packed windows without padding, and validation in bits per byte."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, data_collator=stack_windows, **kwargs)
        flops = self.model.config.flops_per_token(self.model.config.n_positions)
        self.throughput = Throughput(self.args.total_batch_tokens, flops, self.args.world_size)
        self.add_callback(self.throughput)
        self.evals = None

    def measure_also(self, evals: "EvalsDuringTraining") -> None:
        """Add evaluations to every validation; raises `ValueError` where no process has the whole weights."""
        if self.engine == "DEEPSPEED-ZERO3" or self.is_fsdp_enabled:
            raise ValueError(
                f"eval_recipe does not work with {self.engine}, where no process has all weights; evaluate the "
                "checkpoints with training/eval.py --every_checkpoint"
            )
        self.evals = evals

    def _get_num_items_in_batch(self, batch_samples, device):
        # Every window is full, so the tokens of the global batch are known; counting them would wait for the device.
        return self.args.total_batch_tokens

    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, {**inputs, "use_cache": False}, *args, **kwargs)

    def evaluate(self, *args, metric_key_prefix: str = "eval", **kwargs) -> dict[str, float]:
        """Measure bits per byte on the fixed validation documents, over all processes."""
        # A sharded model computes only inside its engine; otherwise the plain module avoids compiling for every width.
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        measured = measure_bits_per_byte(
            self.model_wrapped if sharded else self.accelerator.unwrap_model(self.model, keep_torch_compile=False),
            self.eval_dataset,
            batch_size=self.args.per_device_eval_batch_size,
            device=self.args.device,
            process_index=self.args.process_index,
            num_processes=self.args.world_size,
            autocast=self.autocast,
        )
        if self.evals is not None:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            measured |= self.evals.measure(model, self.processing_class, self.state.global_step, self.accelerator)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


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


def evaluation_is_missing(run_dir: Path, step: int, args: PretrainArguments) -> bool:
    """Return whether the run died between the checkpoint of a step and the evaluation that was due at it."""
    rows = read_metrics(run_dir / METRICS_FILE)
    due = args.eval_strategy == "steps" and step % args.eval_steps == 0
    return due and not any(row["step"] == step and "eval_loss" in row for row in rows)


def print_on_main(args: PretrainArguments, line: str) -> None:
    if args.process_index == 0:
        print(line, flush=True)


def describe_start(args, model, train_dataset, checkpoint: Path | None, engine: str) -> str:
    return (
        f"{args.run_name}: {model.num_parameters():,} parameters, {args.max_steps:,} steps of "
        f"{args.total_batch_tokens:,} tokens = {train_dataset.epochs:.2f} epochs of {train_dataset.epoch_tokens:,} "
        f"tokens; {args.world_size} process(es), engine {engine}, {'bf16 autocast' if args.bf16 else 'fp32'}, "
        f"{torch.get_num_threads()} CPU threads; {args.output_dir}; "
        + (f"continuing from {checkpoint}" if checkpoint else "starting at step 0")
    )


if __name__ == "__main__":
    run_program(main, [ModelArguments, DataArguments, PretrainArguments])
