import json
import random
from functools import cache

import pytest
from hypothesis import settings
from transformers import AutoTokenizer
from transformers.utils import logging

from tests.tokenization.fuzzing import fuzzed_text
from tokenization import MulFactTokenizer
from tokenization.conditions import resolve_condition

# A busy machine is no failure.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def _word_problem(rng: random.Random) -> str:
    """Write a problem and its solution as GSM8K does, with calculator notes, money, decimals and thousands."""
    lines, total = [], rng.randint(1, 60)
    for _ in range(rng.randint(1, 5)):
        a, b, c = rng.randint(1, 12), rng.randint(1, 12), rng.choice([2.5, 0.25, 100, 1000, 4])
        lines.append(
            rng.choice(
                [
                    f"She buys {a} boxes of {b}, so {a}*{b}=<<{a}*{b}={a * b}>>{a * b} in all.",
                    f"They pay ${a} x {b} = ${a * b}.",
                    f"In {b} weeks he saves {a} * {c} = <<{a}*{c}={a * c:g}>>{a * c:g} dollars.",
                    f"That leaves {total}-{a}*{b}=<<{total}-{a}*{b}={total - a * b}>>{total - a * b}.",
                    f"The field is {a} × {b} metres, i.e. {a * b} square metres; half is {a}*{b}/2={a * b / 2:g}.",
                    f"{a}/{b}*{c} = {a / b * c:,.2f} and {a}*{b}*2 = {a * b * 2}",
                    f"{a * 1000:,}*{b}={a * b * 1000:,} cents, {a}*{b}% of them lost",
                ]
            )
        )
    return "How many are there?\n" + "\n".join(lines) + f"\n#### {rng.randint(0, 500)}"


@pytest.fixture(scope="session")
def fuzzed_texts() -> list[str]:
    """Give 20,200 texts that mix expressions, near misses, names, special names and odd Unicode."""
    rng = random.Random(20_000)
    short = [fuzzed_text(rng, rng.randint(1, 16)) for _ in range(20_000)]
    return short + [fuzzed_text(rng, rng.randint(60, 400)) for _ in range(200)]


@pytest.fixture(scope="session")
def word_problems() -> list[str]:
    rng = random.Random(7_473)
    return [_word_problem(rng) for _ in range(2_000)]


@pytest.fixture(scope="session")
def unicode_texts() -> list[str]:
    """Give 3,000 texts without expressions from all planes, with runs of blanks, contractions and digits."""
    rng = random.Random(50_257)
    planes = [(0x20, 0x7E), (0x00, 0x2FF), (0x300, 0x36F), (0x600, 0x6FF), (0x2000, 0x206F), (0x3040, 0x9FFF)]
    planes += [(0xE000, 0xFFFF), (0x10000, 0x10FFFF), (0x1F300, 0x1FAFF), (0x41, 0x5A), (0x61, 0x7A)]
    runs = ["  ", "\n\n", " \n", "\t ", "'re", "'S", " 12345", "<|endoftext|>", "\u00a0 ", "\x85", "\u2028", "½²"]

    def piece() -> str:
        return rng.choice(runs) if rng.random() < 0.2 else chr(rng.randint(*rng.choice(planes)))

    return ["".join(piece() for _ in range(rng.randint(0, 40))) for _ in range(3_000)]


def remember(function):
    """Call the function once per condition, however its settings are spelt."""
    remembered = cache(function)

    def call(condition="mul_tokens", injection_mode="weak", operators="*×x", condition_seed=0):
        settings = resolve_condition(condition, injection_mode, operators, condition_seed)
        return remembered(settings.name, settings.injection_mode, settings.operators, settings.seed)

    return call


@pytest.fixture(scope="session")
def build():
    """Give `MulFactTokenizer.build`, remembered; the tests change none of its tokenizers."""
    return remember(MulFactTokenizer.build)


@pytest.fixture(scope="session")
def fingerprint(build):
    return remember(lambda *settings: build(*settings).fingerprint)


@pytest.fixture(scope="session")
def saved(build, tmp_path_factory):
    """Give the folder of a condition's tokenizer; a test that edits a folder copies it first."""

    def save(*settings):
        folder = tmp_path_factory.mktemp(settings[0])
        build(*settings).save_pretrained(folder)
        # As beside a checkpoint: the model's type decides how AutoTokenizer treats the tokenizer's class.
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
        return folder

    return remember(save)


@pytest.fixture(scope="session")
def loaded_by_us(saved):
    return remember(lambda *settings: MulFactTokenizer.from_pretrained(saved(*settings)))


@pytest.fixture(scope="session")
def loaded_by_any_client(saved):
    return remember(lambda *settings: AutoTokenizer.from_pretrained(saved(*settings)))


@pytest.fixture(scope="session", autouse=True)
def quiet_transformers():
    logging.set_verbosity_error()
