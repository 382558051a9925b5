"""Checkpoint folders as other engines read them: same ids, injection included, same logits, same greedy replies.

What Transformers 5 makes of a model and of a tokenizer alone, and what lm-eval makes of likelihoods, stands in
modeling/test_interoperability.py, tokenization/test_clean_process.py and training/test_lm_eval.py.
`docs/other_engines.md` says what came out, and how to give each engine an environment. ENGINE_CHECKPOINTS, folders
with a colon between, puts trained checkpoints of the arms in the place of the models made here.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import __version__ as transformers_version
from transformers import pipeline

from tests.other_engines import (
    CONDITIONS,
    LLAMA_CPP,
    MESSAGES,
    NEW_TOKENS,
    PROMPTS,
    QUESTION,
    TRANSFORMERS,
    VLLM,
    Checkpoint,
    ask,
    engine_environment,
    interpreter_of,
    make_checkpoint,
    post,
    report,
    server_of_transformers,
    texts_to_encode,
)
from tokenization import MulFactTokenizer

FACT = 50342  # 6 * 9


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Checkpoint]:
    """A tiny model of each arm that says words and facts."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for condition in CONDITIONS:
        make_checkpoint(folder / condition, condition)
    return {condition: Checkpoint.load(folder / condition) for condition in CONDITIONS}


@pytest.fixture(scope="module")
def checkpoints(request) -> dict[str, Checkpoint]:
    """The checkpoints that the user names, or the tiny ones."""
    named = os.environ.get("ENGINE_CHECKPOINTS")
    if not named:
        return request.getfixturevalue("made")
    loaded = [Checkpoint.load(Path(folder)) for folder in named.split(os.pathsep)]
    return {checkpoint.tokenizer.condition: checkpoint for checkpoint in loaded}


@pytest.fixture(params=CONDITIONS)
def condition(request) -> str:
    return request.param


@pytest.fixture
def checkpoint(checkpoints, condition) -> Checkpoint:
    return checkpoints[condition]


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())


def test_the_arms_differ_in_these_prompts_and_replies(made):
    baseline, mul_tokens = made["baseline"], made["mul_tokens"]
    assert FACT not in baseline.chat_ids() and FACT in mul_tokens.chat_ids()
    replies = [checkpoint.text_behind(checkpoint.chat_ids()) for checkpoint in (baseline, mul_tokens)]
    assert ["<MUL_" in reply for reply in replies] == [False, True]
    assert all(len(set(checkpoint.continuation(checkpoint.chat_ids()))) > 5 for checkpoint in (baseline, mul_tokens))


def test_no_choice_of_these_replies_is_close(made):
    """An engine's arithmetic may differ by some thousandths, and its greedy tokens still have to be ours."""
    for checkpoint in made.values():
        for ids in [checkpoint.chat_ids(), *checkpoint.tokenizer(PROMPTS).input_ids]:
            logits = checkpoint.logits([*ids, *checkpoint.continuation(ids)])[len(ids) - 1 : -1]
            second, first = np.sort(logits, axis=-1)[:, -2:].T
            assert (first - second).min() > 0.015


# Pipelines of Transformers


@pytest.fixture(scope="module")
def generators(checkpoints) -> dict:
    folders = {condition: str(checkpoints[condition].folder) for condition in CONDITIONS}
    return {name: pipeline("text-generation", model=folder, device="cpu") for name, folder in folders.items()}


def test_pipeline_continues_texts_as_we_do(generators, checkpoint, condition):
    outputs = generators[condition](PROMPTS, max_new_tokens=NEW_TOKENS, do_sample=False, return_full_text=False)
    texts = [output[0]["generated_text"] for output in outputs]
    assert texts == [checkpoint.text_behind(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    report("pipeline", condition, version=transformers_version, replies_equal=len(texts))


def test_pipeline_answers_a_conversation_as_we_do(generators, checkpoint, condition):
    output = generators[condition](MESSAGES, max_new_tokens=NEW_TOKENS, do_sample=False)
    reply = output[0]["generated_text"][-1]
    assert reply == {"role": "assistant", "content": checkpoint.text_behind(checkpoint.chat_ids())}
    report("pipeline, conversation", condition, version=transformers_version, reply=reply["content"])


# Transformers 4


@pytest.fixture(scope="module")
def transformers_4(checkpoints, tmp_path_factory) -> tuple[dict, Path]:
    """What Transformers 4 says of both arms, and the folder of its logits."""
    if "TRANSFORMERS_4_PYTHON" not in os.environ:
        pytest.skip("name a Python interpreter with Transformers 4 in TRANSFORMERS_4_PYTHON")
    python = interpreter_of("TRANSFORMERS_4_PYTHON", "transformers", "torch")
    folder = tmp_path_factory.mktemp("transformers4")
    request = {
        "folders": {condition: str(checkpoints[condition].folder) for condition in CONDITIONS},
        "texts": texts_to_encode(),
        "prompts": PROMPTS,
        "messages": MESSAGES,
        "new_tokens": NEW_TOKENS,
    }
    return ask(python, TRANSFORMERS, request, folder), folder


def test_transformers_4_is_what_was_asked(transformers_4):
    answers, _ = transformers_4
    assert answers["version"].startswith("4.")
    assert answers["project"] == []
    assert {answers[condition]["class"] for condition in CONDITIONS} == {
        "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel"
    }


def test_transformers_4_gives_our_ids(transformers_4, checkpoint, condition):
    answers, _ = transformers_4
    texts = texts_to_encode()
    assert answers[condition]["ids"] == checkpoint.tokenizer(texts).input_ids
    assert answers[condition]["chat"] == checkpoint.chat_ids()
    report("transformers", condition, version=answers["version"], texts_with_equal_ids=len(texts))


def test_transformers_4_gives_our_logits(transformers_4, checkpoint, condition):
    answers, folder = transformers_4
    theirs = np.load(folder / f"{condition}.npz")
    ours = [checkpoint.logits(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    differences = [difference(each, theirs[f"{condition}{at}"]) for at, each in enumerate(ours)]
    report("transformers", condition, version=answers["version"], largest_logit_difference=max(differences))
    assert max(differences) < 1e-4


def test_transformers_4_generates_our_tokens(transformers_4, checkpoint, condition):
    answers, _ = transformers_4
    ours = [checkpoint.continuation(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert answers[condition]["replies"] == ours
    report("transformers", condition, version=answers["version"], greedy_tokens_equal=sum(map(len, ours)))


# The server and the chat of Transformers


@pytest.fixture(scope="module", params=CONDITIONS)
def served(request, made, tmp_path_factory):
    """A tiny checkpoint, the address where Transformers serves it, and an interpreter that can chat with it."""
    python = interpreter_of("TRANSFORMERS_SERVE_PYTHON", "fastapi", "uvicorn", "openai", "rich")
    checkpoint = made[request.param]
    with server_of_transformers(python, checkpoint.folder, tmp_path_factory.mktemp("server")) as address:
        yield checkpoint, address, python


@pytest.mark.deep
def test_server_of_transformers_answers_as_we_do(served):
    checkpoint, address, _ = served
    request = {"model": str(checkpoint.folder), "messages": MESSAGES, "max_tokens": NEW_TOKENS, "temperature": 0}
    answer = post(f"{address}/v1/chat/completions", request)
    assert answer["choices"][0]["message"]["content"] == checkpoint.text_behind(checkpoint.chat_ids())
    assert answer["usage"]["prompt_tokens"] == len(checkpoint.chat_ids())
    report("transformers serve", checkpoint.tokenizer.condition, prompt_tokens=answer["usage"]["prompt_tokens"])


@pytest.mark.deep
def test_chat_of_transformers_shows_our_reply(served, tmp_path):
    checkpoint, address, python = served
    command = ["-m", "transformers.cli.transformers", "chat", str(checkpoint.folder), address]
    done = subprocess.run(
        [python, "-I", *command, f"max_new_tokens={NEW_TOKENS}", "do_sample=False", "--user", "me"],
        # The reply is cut off, so it asks whether to go on.
        input=f"{QUESTION}\nn\n!exit\n",
        # Offline, huggingface_hub's client refuses an address of this machine too.
        env=engine_environment(HF_HUB_OFFLINE="0", COLUMNS="1000"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    reply = checkpoint.text_behind(checkpoint.chat_ids()).strip()
    assert [line.strip() for line in done.stdout.splitlines()].count(reply) == 1, done.stdout
    report("transformers chat", checkpoint.tokenizer.condition, version=transformers_version, reply=reply)


# lm-eval


@pytest.mark.slow
@pytest.mark.deep
def test_lm_eval_generates_our_replies(checkpoint, condition):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    from lm_eval import __version__ as version
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=str(checkpoint.folder), device="cpu", dtype="float32", batch_size=2)
    options = {"until": ["\n\n\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False}
    requests = [Instance("generate_until", {}, (prompt, options), at) for at, prompt in enumerate(PROMPTS)]
    ours = [checkpoint.text_behind(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert harness.generate_until(requests) == ours
    report("lm-eval", condition, version=version, replies_equal=len(ours))


# llama.cpp


@pytest.fixture(scope="module")
def converter() -> tuple[str, str]:
    """An interpreter with llama.cpp's Python binding, and the converter of its source."""
    python = interpreter_of("LLAMA_CPP_PYTHON", "llama_cpp", "torch", "transformers")
    path = os.environ.get("LLAMA_CPP_CONVERTER", "")
    if not Path(path).is_file():
        pytest.skip("name llama.cpp's convert_hf_to_gguf.py in LLAMA_CPP_CONVERTER")
    return python, path


def convert(converter: tuple[str, str], folder: Path, file: Path) -> subprocess.CompletedProcess:
    command = [*converter, str(folder), "--outtype", "f32", "--outfile", str(file)]
    environment = engine_environment(HF_HUB_OFFLINE="1")
    return subprocess.run(command, env=environment, cwd=file.parent, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=CONDITIONS)
def llama_cpp(request, checkpoints, converter, tmp_path_factory) -> tuple[Checkpoint, dict, np.lib.npyio.NpzFile]:
    """A checkpoint, and what llama.cpp says of it and of texts that were rewritten for it, with its logits."""
    checkpoint = checkpoints[request.param]
    folder = tmp_path_factory.mktemp("gguf")
    converted = convert(converter, checkpoint.folder, folder / "model.gguf")
    assert converted.returncode == 0, converted.stderr[-6000:]
    rewrite = checkpoint.tokenizer.settings.inject
    texts = texts_to_encode(special_names=False)
    question = {
        "file": str(folder / "model.gguf"),
        "context": checkpoint.model.config.n_positions,
        "texts": texts,
        "rewritten": [rewrite(text) for text in texts],
        "prompts": [checkpoint.tokenizer(prompt).input_ids for prompt in PROMPTS],
        "messages": [{"role": "user", "content": rewrite(QUESTION)}],
        "new_tokens": NEW_TOKENS,
    }
    answer = ask(converter[0], LLAMA_CPP, question, folder)
    return checkpoint, answer, np.load(folder / "logits.npz")


@pytest.mark.deep
def test_llama_cpp_gives_our_ids_to_rewritten_text(llama_cpp):
    checkpoint, answer, _ = llama_cpp
    texts = texts_to_encode(special_names=False)
    assert answer["rewritten"] == checkpoint.tokenizer(texts).input_ids
    report(
        "llama-cpp-python",
        checkpoint.tokenizer.condition,
        version=answer["version"],
        texts_with_equal_ids_if_rewritten_first=len(texts),
    )


@pytest.mark.deep
def test_llama_cpp_injects_nothing_itself(llama_cpp):
    checkpoint, answer, _ = llama_cpp
    texts = texts_to_encode(special_names=False)
    plain = MulFactTokenizer.build("baseline")(texts).input_ids
    # The name of a fact is one token of that arm's vocabulary wherever it stands.
    unnamed = [at for at, text in enumerate(texts) if "<MUL_" not in text]
    assert [answer["ids"][at] for at in unnamed] == [plain[at] for at in unnamed]
    injecting = sum(answer["ids"][at] != answer["rewritten"][at] for at in unnamed)
    assert (injecting > 100) == (checkpoint.tokenizer.condition == "mul_tokens")
    report(
        "llama-cpp-python",
        checkpoint.tokenizer.condition,
        version=answer["version"],
        texts=len(unnamed),
        texts_whose_facts_it_misses=injecting,
    )


@pytest.mark.deep
def test_llama_cpp_gives_our_logits(llama_cpp):
    checkpoint, answer, theirs = llama_cpp
    ours = [checkpoint.logits(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    differences = [difference(each, theirs[str(at)]) for at, each in enumerate(ours)]
    # Its GELU is a table of half precision.
    assert max(differences) < 1e-3 * max(np.abs(each).max() for each in ours)
    report(
        "llama-cpp-python",
        checkpoint.tokenizer.condition,
        version=answer["version"],
        largest_logit_difference=max(differences),
        largest_logit=float(max(np.abs(each).max() for each in ours)),
    )


@pytest.mark.deep
def test_llama_cpp_generates_our_tokens(llama_cpp):
    checkpoint, answer, _ = llama_cpp
    ours = [checkpoint.continuation(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert answer["replies"] == ours
    report(
        "llama-cpp-python",
        checkpoint.tokenizer.condition,
        version=answer["version"],
        greedy_tokens_equal=sum(map(len, ours)),
    )


@pytest.mark.deep
def test_llama_cpp_answers_a_rewritten_conversation_as_we_do(llama_cpp):
    checkpoint, answer, _ = llama_cpp
    assert answer["chat_tokens"] == len(checkpoint.chat_ids())
    assert answer["chat"] == checkpoint.text_behind(checkpoint.chat_ids())


@pytest.mark.deep
def test_converter_of_llama_cpp_refuses_digits_that_are_tokens_of_their_own(converter, made, tmp_path):
    MulFactTokenizer.build("digit_numbers").save_pretrained(tmp_path)
    made["baseline"].model.config.save_pretrained(tmp_path)
    done = convert(converter, tmp_path, tmp_path / "model.gguf")
    assert done.returncode != 0
    assert "BPE pre-tokenizer was not recognized" in done.stderr


# vLLM


@pytest.fixture(scope="module", params=CONDITIONS)
def vllm(request, checkpoints, tmp_path_factory) -> tuple[Checkpoint, dict]:
    """A checkpoint, and what vLLM says of it on a GPU."""
    python = interpreter_of("VLLM_PYTHON", "vllm")
    checkpoint = checkpoints[request.param]
    question = {
        "folder": str(checkpoint.folder),
        "context": checkpoint.model.config.n_positions,
        "prompts": PROMPTS,
        "messages": MESSAGES,
        "new_tokens": NEW_TOKENS,
    }
    # The engine in the process that asks; no sampler that would have to be compiled first.
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return checkpoint, ask(python, VLLM, question, tmp_path_factory.mktemp("vllm"), **settings)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@pytest.mark.deep
@on_a_gpu
def test_vllm_gives_our_ids(vllm):
    checkpoint, answer = vllm
    assert [prompt["ids"] for prompt in answer["prompts"]] == checkpoint.tokenizer(PROMPTS).input_ids
    assert answer["chat_ids"] == checkpoint.chat_ids()
    report("vllm", checkpoint.tokenizer.condition, version=answer["version"], prompts_with_equal_ids=len(PROMPTS))


@pytest.mark.gpu
@pytest.mark.deep
@on_a_gpu
def test_vllm_gives_our_log_probabilities_to_what_it_says(vllm):
    checkpoint, answer = vllm
    differences = []
    for prompt in answer["prompts"]:
        logits = torch.from_numpy(checkpoint.logits([*prompt["ids"], *prompt["reply"]]))
        ours = logits.log_softmax(-1)[len(prompt["ids"]) - 1 : -1]  # (reply, V)
        chosen = ours[torch.arange(len(prompt["reply"])), torch.tensor(prompt["reply"])]
        differences.append(difference(chosen.numpy(), np.array(prompt["logprobs"])))
    report(
        "vllm",
        checkpoint.tokenizer.condition,
        version=answer["version"],
        largest_log_probability_difference=max(differences),
    )
    assert max(differences) < 1e-2


@pytest.mark.gpu
@pytest.mark.deep
@on_a_gpu
def test_vllm_generates_our_tokens(vllm):
    checkpoint, answer = vllm
    eos = checkpoint.tokenizer.eos_token_id
    replies = [[token for token in prompt["reply"] if token != eos] for prompt in answer["prompts"]]
    assert replies == [checkpoint.continuation(checkpoint.tokenizer(prompt).input_ids) for prompt in PROMPTS]
    assert answer["chat_text"] == checkpoint.text_behind(checkpoint.chat_ids())
    report("vllm", checkpoint.tokenizer.condition, version=answer["version"], greedy_tokens_equal=len(replies))
