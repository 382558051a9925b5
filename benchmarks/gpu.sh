#!/usr/bin/env bash
# Everything that wants measuring on one GPU, in one command: about twenty minutes, with the JSON under runs/benchmarks/.
#
#     bash benchmarks/gpu.sh hellaswag_val.jsonl gsm8k_test.jsonl
#
# First the tests that need a GPU; then the training step at 124M and a context of 1024 against build-nanogpt's as shipped,
# and compiled, and the others'; ours with each attention kernel, and with the logits of fewer rows at a time; the whole
# validation set of HellaSwag; generation. Variants live side by side: 80 GB hold five of them at this batch size.
set -euo pipefail
hellaswag=$1 gsm8k=$2
cd "$(dirname "$0")/.."
mkdir -p runs/benchmarks
nvidia-smi --query-gpu=name,driver_version,power.limit --format=csv
python -m pytest -m gpu -n 0
step="python benchmarks/train_step.py --device cuda --sequence_length 1024 --batch_size 64 --accumulation 8 --compile"
$step --peers build_nanogpt build_nanogpt_compiled nanogpt_compiled trainer_bf16_compiled \
  --json runs/benchmarks/train_step-cuda.json
$step --peers --levers ours_cudnn ours_flash ours_efficient ours_loss_1024 --json runs/benchmarks/train_step-levers-cuda.json
python benchmarks/evals.py --part hellaswag --hellaswag "$hellaswag" --items 100000 --bf16 --device cuda --rounds 2 \
  --batch_tokens 65536 --peers build_nanogpt --json runs/benchmarks/hellaswag-cuda.json
python benchmarks/evals.py --part generation --gsm8k "$gsm8k" --device cuda --bf16 --json runs/benchmarks/generation-cuda.json
