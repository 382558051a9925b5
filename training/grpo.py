"""Train a fine-tuned checkpoint by reinforcement learning on verified answers: GRPO, through TRL.

    accelerate launch training/grpo.py recipes/small/grpo.yaml
    --model_name_or_path runs/small/baseline-s0/sft_multiplications_3/best
    accelerate launch --config_file accelerate_configs/ddp.yaml training/grpo.py recipes/gpt2_124m/grpo.yaml
    --model_name_or_path runs/gpt2_124m/mul_tokens-s0/sft_gsm8k/best

It starts from a fine-tuning `checkpoint-N` or `best` as it is, and writes the like; the arm comes from its tokenizer.
First it samples a pool of prompts, and refuses a start that answers too few of them. Writes
`output_dir/checkpoint-N/`, `best` (a link to the checkpoint with the best pass@1 on held-out prompts),
`metrics.jsonl`, `run.json`, `prompts/` and `pool/` (what was asked and answered, episode by episode), `dev/`
(held-out prompts, checkpoint by checkpoint), `completions/` (tables of completions that were trained on), and
`rejection_samples.jsonl`, the right completions of the first pool as rows for training/sft.py: the baseline to beat.
An interrupted run continues when the same command is given again; SIGTERM saves at the next step and exits 75, Ctrl-C
130.
"""

from pathlib import Path

from transformers.trainer_utils import IntervalStrategy
from transformers.utils.logging import disable_progress_bar

from tokenization.tokenization_mul_facts import CHAT_TEMPLATE
from training.core.batch_sizes import accumulation_steps
from training.core.device import (
    check_one_device,
    initialize_deepspeed_on_cpu,
    launched_with_fsdp,
    prepare_process,
    whole_weights,
)
from training.core.grpo_recipe import GrpoArguments, GrpoDataArguments, GrpoModelArguments, RewardArguments
from training.core.processes import do_on_main
from training.core.provenance import sha256_of_weights
from training.core.recipe import resolved, run_program
from training.core.run_folder import name_run_folder, take_run_folder
from training.evals.reply_measures import seed_of
from training.evals.rewards import Rewards, RewardSettings, maximum_of_wrong, minimum_of_right
from training.evals.subject import load_subject
from training.publishing.on_request import publisher_of
from training.rl.episodes import Episodes
from training.rl.gate import check_signal
from training.rl.held_out_prompts import DRAWN, GREEDY
from training.rl.policy_trainer import PolicyTrainer
from training.rl.prompts import open_prompts, open_sources, prepare_prompts
from training.rl.samples import Samples, free_decoding

# The same draws at every step and for all seeds, and none of a run's own.
_HELD_OUT_SEED = seed_of(0, 2)


def main(
    model_args: GrpoModelArguments, data_args: GrpoDataArguments, reward_args: RewardArguments, args: GrpoArguments
) -> int:
    prepare_process()
    check_one_device(args.n_gpu)
    disable_progress_bar()  # "Writing model shards" at every checkpoint
    initialize_deepspeed_on_cpu()
    if launched_with_fsdp():
        raise ValueError(
            "GRPO does not run under FSDP, where no process has the weights to draw completions with; launch with "
            "accelerate_configs/ddp.yaml or a ZeRO configuration"
        )
    rewards = Rewards(
        reward_args.rewards,
        RewardSettings(reward_args.soft_limit_bytes, reward_args.hard_limit_bytes),
        reward_args.symmetric,
    )

    # Model
    with whole_weights():
        subject = load_subject(model_args.model_name_or_path, model_args.model_revision, args.bf16, args.device)
    model, tokenizer = subject.model, subject.tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE  # the format of the prompts, also where a stock model came with another
    condition = subject.condition or "stock"
    name_run_folder(args, condition)
    args.gradient_accumulation_steps = accumulation_steps(
        args.total_batch_items, args.per_device_train_batch_size, args.world_size
    )
    args.run_name = f"{condition}-s{args.seed}/{Path(args.output_dir).name}"

    # Data
    longest = subject.context - args.max_completion_length
    if longest < 1:
        raise ValueError(
            f"max_completion_length is {args.max_completion_length}, which leaves no room for a prompt in a context "
            f"of {subject.context}; lower it"
        )
    if data_args.episode_steps % args.steps_per_generation_batch:
        raise ValueError(
            f"episode_steps ({data_args.episode_steps}) must be a multiple of {args.steps_per_generation_batch}, the "
            "steps that train on one generation batch; change it"
        )
    folder = Path(args.output_dir)
    take_run_folder(args)
    do_on_main(
        lambda: prepare_prompts(data_args, folder / "prompts", longest, args.data_seed, subject.prompt),
        args.distributed_state,
    )
    prompts = open_prompts(folder / "prompts")
    if not prompts.dev or args.eval_strategy == "no":
        if args.early_stopping_patience is not None:
            raise ValueError(
                "early_stopping_patience needs held-out prompts and evaluations: set held_out of a source under "
                f"prompts, such as held_out: 200, and eval_strategy: steps (now {args.eval_strategy.value})"
            )
        args.eval_strategy, args.eval_on_start = IntervalStrategy.NO, False
    decoding = {"max_new_tokens": args.max_completion_length, "top_p": args.top_p, "top_k": args.top_k}
    draws = data_args.episode_steps // args.steps_per_generation_batch
    episodes = Episodes(
        prompts.train,
        open_sources(data_args),
        rewards,
        free_decoding(**decoding, temperature=args.temperature, samples=data_args.pool_samples),
        folder / "pool",
        pool_prompts=data_args.pool_prompts,
        prompts_per_episode=draws * args.generation_batch_size // args.num_generations,
        filter_prompts=data_args.filter_prompts,
        batch_size=args.decode_batch_size,
        seed=args.data_seed,
    )
    for number in range(-(-args.max_steps // data_args.episode_steps)):
        episodes.pool(number)  # an episode without prompts is an error now, and not after days
    drawn = {GREEDY: (0.0, 1), DRAWN: (args.temperature, args.num_generations_eval)}
    held_out = [
        Samples(
            name,
            prompts.dev,
            rewards,
            free_decoding(**decoding, temperature=temperature, samples=samples),
            args.decode_batch_size,
            _HELD_OUT_SEED,
        )
        for name, (temperature, samples) in drawn.items()
    ]
    facts = {
        "recipe": resolved(model_args, data_args, reward_args, args),
        "condition": condition,
        "tokenizer": getattr(tokenizer, "fingerprint", None),
        "parameters": model.num_parameters(),
        "initial_weights_sha256": sha256_of_weights(model),
        "initial_commit": subject.commit,
        "prompts_sha256": prompts.sha256,
        "maximum_of_wrong": maximum_of_wrong(rewards.weights),
        "minimum_of_right": minimum_of_right(rewards.weights),
    }

    # Training
    check_signal(episodes, subject, args.distributed_state, data_args)
    trainer = PolicyTrainer(
        subject=subject,
        args=args,
        episodes=episodes,
        episode_steps=data_args.episode_steps,
        held_out=held_out,
        rewards=rewards,
    )
    description = (
        f"from {model_args.model_name_or_path}, {args.max_steps:,} steps of {args.total_batch_items:,} completions in "
        f"groups of {args.num_generations}, {args.loss_type} with beta {args.beta:g}; a wrong answer earns at most "
        f"{facts['maximum_of_wrong']:g}, a right one at least {facts['minimum_of_right']:g}"
    )
    trainer.publisher = publisher_of(args)
    return trainer.run(facts, args.free_keys, description)


if __name__ == "__main__":
    run_program(main, [GrpoModelArguments, GrpoDataArguments, RewardArguments, GrpoArguments])
