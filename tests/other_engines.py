"""Checkpoint folders for other engines, what this project makes of them, and ways to ask an engine in a process that
knows nothing of this project.

An engine that cannot share our environment is named by an environment variable that holds its Python interpreter.
"""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.tokenization.fuzzing import SPECIAL_NAMES, fuzzed_text
from tokenization import MulFactTokenizer
from training.pretrain import generation_config

CONDITIONS = ("baseline", "mul_tokens")
NEW_TOKENS = 16
QUESTION = "What is 6*9? And 7 × 8 = 56, or 16*9?"
MESSAGES = [{"role": "user", "content": QUESTION}]
# Every door of the injection, and what only looks like it. An expression ends no prompt, or its reply would begin
# inside a number.
PROMPTS = [
    f"User: {QUESTION}\nAssistant:",
    "She buys 4 boxes of 6, so she has 4*6=24 apples. Then",
    "<MUL_6_9_54> and <MUL_9_6_54> and 6*9=55 and 2*3*4 and 0.2*5 cm",
    "日本 é 3x3\n\n  it's",
]
# Words of one token that no Markdown changes: what a model of the tests says, beside facts.
WORDS = " apples boxes cats dogs each four friends gold hours into just kept left many nine only quite red seven"


def make_checkpoint(folder: Path, condition: str) -> None:
    """Save a model with the real vocabulary, whose replies are words and facts that depend on all before them."""
    tokenizer = MulFactTokenizer.build(condition)
    torch.manual_seed(12)  # no close choices: the test of these checkpoints says how close
    # A head of 64: what the attention kernels of every engine take.
    config = DomainGPT2Config(n_positions=128, n_embd=64, n_layer=2, n_head=1)
    model = DomainGPT2ForCausalLM(config).eval()
    said = [*tokenizer.encode_document(WORDS), *tokenizer.fact_ids]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        # What lies in this direction is all that they have in common: it lifts them above the other 50,000 and decides
        # nothing between them.
        direction = torch.nn.functional.normalize(torch.randn(config.n_embd), dim=0)
        rows = model.transformer.wte.weight[said]
        model.transformer.wte.weight[said] = rows + torch.outer(4 - rows @ direction, direction)
        model.transformer.ln_f.bias += 8 * direction
        # Where a token stands counts as much as what it is, or a tied model repeats itself.
        model.transformer.wpe.weight *= 5
    model.generation_config = generation_config(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts_to_encode(special_names: bool = True) -> list[str]:
    """Return prompts and fuzzed texts.

    special_names: also texts that name a special token, before which `tokenizer.json` ends an expression and
    `inject` does not.
    """
    rng = random.Random(457)
    texts = [*PROMPTS, *(fuzzed_text(rng, rng.randint(1, 16)) for _ in range(2_000)), fuzzed_text(rng, 400)]
    return [text for text in texts if special_names or not any(name in text for name in SPECIAL_NAMES)]


@dataclass(frozen=True)
class Checkpoint:
    """A folder, and what this project makes of it."""

    folder: Path
    model: DomainGPT2ForCausalLM
    tokenizer: MulFactTokenizer

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint":
        model = DomainGPT2ForCausalLM.from_pretrained(folder).eval()
        return cls(folder, model, MulFactTokenizer.from_pretrained(folder))

    def chat_ids(self) -> list[int]:
        return self.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True).input_ids

    @torch.no_grad()
    def logits(self, ids: list[int]) -> np.ndarray:  # (T, V)
        return self.model(torch.tensor([ids])).logits[0].numpy()

    def continuation(self, ids: list[int]) -> list[int]:
        """Return the most likely tokens behind these, without a final end of text."""
        prompt = torch.tensor([ids])
        made = self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        said = made[0, len(ids) :].tolist()
        return said[:-1] if said[-1] == self.tokenizer.eos_token_id else said

    def text_behind(self, ids: list[int]) -> str:
        return self.tokenizer.decode(self.continuation(ids), skip_special_tokens=True)


def interpreter_of(variable: str, *modules: str) -> str:
    """Return the interpreter that the variable names, or else this one, if it has the modules; skip the test if none
    has."""
    python = os.environ.get(variable, sys.executable)
    search = f"import importlib.util as u, sys; sys.exit(' '.join(m for m in {modules!r} if not u.find_spec(m)))"
    missing = subprocess.run([python, "-I", "-c", search], capture_output=True, text=True, check=False).stderr.strip()
    if missing:
        pytest.skip(f"{missing} not installed here; name a Python interpreter that has them in {variable}")
    return python


def engine_environment(**extra: str) -> dict[str, str]:
    """The environment of a process that must not find this project."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | extra


def ask(python: str, script: str, request: dict, folder: Path, **environment: str) -> dict:
    """Run a script that reads the request as JSON, and return the JSON on the last line that it prints."""
    done = subprocess.run(
        [python, "-I", "-c", script],  # -I ignores the working folder too
        input=json.dumps(request),
        env=engine_environment(HF_HUB_OFFLINE="1", **environment),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


def report(engine: str, condition: str, **found: object) -> None:
    """Print what was found, to be read with `pytest -rP`."""
    print(json.dumps({"engine": engine, "condition": condition, **found}))


TRANSFORMERS = """
import importlib.util, json, sys
import numpy, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

request = json.load(sys.stdin)
answers = {
    "version": transformers.__version__,
    "project": [name for name in ("modeling", "tokenization", "training") if importlib.util.find_spec(name)],
}
for condition, folder in request["folders"].items():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = tokenizer(request["prompts"]).input_ids
    chat = tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, return_dict=True)
    options = dict(max_new_tokens=request["new_tokens"], do_sample=False)
    replies = []
    for ids in prompts:
        prompt = torch.tensor([ids])
        reply = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, len(ids):].tolist()
        replies.append(reply[:-1] if reply[-1] == tokenizer.eos_token_id else reply)
    with torch.no_grad():
        logits = {f"{condition}{at}": model(torch.tensor([ids])).logits[0].numpy() for at, ids in enumerate(prompts)}
    numpy.savez(f"{condition}.npz", **logits)
    answers[condition] = {
        "class": type(model).__module__ + "." + type(model).__name__,
        "ids": tokenizer(request["texts"]).input_ids,
        "chat": chat["input_ids"],
        "replies": replies,
    }
print(json.dumps(answers))
"""

LLAMA_CPP = """
import json, sys
import llama_cpp, numpy

request = json.load(sys.stdin)
float32 = 0  # llama.cpp's own default keeps keys and values in half precision
model = llama_cpp.Llama(
    request["file"], n_ctx=request["context"], logits_all=True, n_threads=1, verbose=False,
    type_k=float32, type_v=float32,
)
encode = lambda text: model.tokenize(text.encode(), add_bos=False, special=True)
logits, replies = {}, []
for at, ids in enumerate(request["prompts"]):
    model.reset()
    model.eval(ids)
    logits[str(at)] = model.scores[: len(ids)].copy()
    model.reset()
    reply = []
    for token in model.generate(ids, temp=0.0):
        if token == model.token_eos() or len(reply) == request["new_tokens"]:
            break
        reply.append(token)
    replies.append(reply)
numpy.savez("logits.npz", **logits)
chat = model.create_chat_completion(request["messages"], max_tokens=request["new_tokens"], temperature=0.0)
print(json.dumps({
    "version": llama_cpp.__version__,
    "ids": [encode(text) for text in request["texts"]],
    "rewritten": [encode(text) for text in request["rewritten"]],
    "replies": replies,
    "chat": chat["choices"][0]["message"]["content"],
    "chat_tokens": chat["usage"]["prompt_tokens"],
}))
"""

VLLM = """
import json, sys
import vllm

request = json.load(sys.stdin)
model = vllm.LLM(
    model=request["folder"], dtype="float32", max_model_len=request["context"], gpu_memory_utilization=0.3,
    enforce_eager=True, seed=0,
)
options = vllm.SamplingParams(temperature=0.0, max_tokens=request["new_tokens"], logprobs=0)
answers = []
for output in model.generate(request["prompts"], options):
    reply = output.outputs[0]
    tokens = list(reply.token_ids)
    answers.append({
        "ids": list(output.prompt_token_ids),
        "reply": tokens,
        "logprobs": [at[token].logprob for at, token in zip(reply.logprobs, tokens)],
    })
chat = model.chat(request["messages"], options)[0]
print(json.dumps({
    "version": vllm.__version__,
    "prompts": answers,
    "chat_ids": list(chat.prompt_token_ids),
    "chat_text": chat.outputs[0].text,
}))
"""


@contextlib.contextmanager
def server_of_transformers(python: str, folder: Path, working_folder: Path) -> Iterator[str]:
    """Serve a checkpoint by `transformers serve` for as long as the context is open, and give the server's address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu", "--port", str(port)]
    log = working_folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, "-I", *command],
            env=engine_environment(HF_HUB_OFFLINE="1"),
            cwd=working_folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    address = f"http://localhost:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-6000:]
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{address}/health"):
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()


def post(address: str, content: dict) -> dict:
    body = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(body) as answer:
        return json.load(answer)
