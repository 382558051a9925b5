"""The program that talks to a model: evaluation's replies, what is said around them, and how it is ended."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import PROJECT, program_environment
from tests.loopback_hub import LoopbackHub
from tests.training.tiny_subjects import CONTEXT, pieces, subject_of, tape, tokenizer_of
from tokenization import render
from tokenization.conditions import CONDITIONS
from tokenization.mul_facts import END_OF_TEXT_ID, FACT_BY_NAME
from training import chat
from training.chat import main, parse
from training.core.model_card import write_model_card
from training.data.conversations import encode_conversation
from training.evals.decoding import Decoding
from training.evals.dialogue import Dialogue, was_fine_tuned
from training.evals.generation import generate
from training.evals.reply_measures import seed_of
from training.evals.session import CUT_OFF, HELP, answer, hold_session
from training.evals.subject import load_subject

QUESTION = "What is 6*9, or 9 × 6 + 12?"
FACT = FACT_BY_NAME["<MUL_6_9_54>"].id
GREEDY, SAMPLED = {"max_new_tokens": 16}, {"max_new_tokens": 16, "temperature": 0.9, "top_p": 0.95, "top_k": 50}
ARMS = [*CONDITIONS, "stock"]
FINE_TUNED, PRETRAINED = (
    '{"recipe": {"model_name_or_path": "some/start"}}',
    '{"recipe": {"condition": "mul_tokens"}}',
)
PROMPT = 6  # tokens of the question `9` with its format; one more if it is a fact


@pytest.fixture(scope="module")
def subjects():
    """A model of every condition, and a stock GPT-2."""
    return {name: subject_of(name) for name in ARMS}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, subjects):
    """A fine-tuned run of each of them, with a checkpoint."""
    folder = tmp_path_factory.mktemp("chat")
    for name, subject in subjects.items():
        subject.model.save_pretrained(folder / name / "checkpoint-1")
        subject.tokenizer.save_pretrained(folder / name / "checkpoint-1")
        (folder / name / "run.json").write_text(FINE_TUNED)
    return {name: folder / name / "checkpoint-1" for name in ARMS}


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Run the program in this process, and return its exit code and what it wrote to output and error."""
    capsys.readouterr()
    code = main(**vars(parse([str(argument) for argument in arguments])))
    return code, *capsys.readouterr()


def options(settings) -> list[str]:
    return [str(part) for key, value in settings.items() for part in (f"--{key}", value)]


def dialogue_of(subject, **keys) -> tuple[Dialogue, list[str]]:
    notes = []
    return Dialogue(subject, keys.pop("decoding", Decoding(max_new_tokens=8)), notes.append, **keys), notes


@pytest.fixture
def typed(monkeypatch):
    """Type lines at the prompt of a session; the input ends behind them."""

    def type_lines(*lines):
        waiting = list(lines)

        def read(prompt):
            if not waiting:
                raise EOFError
            return waiting.pop(0)

        monkeypatch.setattr("builtins.input", read)

    return type_lines


@pytest.mark.parametrize("name", ARMS)
def test_greedy_reply_is_that_of_evaluation(checkpoints, subjects, capsys, name):
    subject = subjects[name]
    (reply,) = generate(subject, [subject.encode(subject.prompt(QUESTION))], Decoding(**GREEDY))
    code, out, error = run(capsys, checkpoints[name], "--question", QUESTION, *options(GREEDY))
    assert (code, out) == (0, render(reply.text).removeprefix(" ").removesuffix("\n") + "\n")
    assert f"condition {name if name != 'stock' else 'none (a stock GPT-2)'}, fine-tuned" in error


def test_sampled_reply_is_that_of_the_first_item_of_an_evaluation(checkpoints, subjects, capsys):
    subject = subjects["mul_tokens"]
    prompt = subject.encode(subject.prompt(QUESTION))
    (reply,) = generate(subject, [prompt], Decoding(**SAMPLED), [seed_of(5, 0, 0)])
    asked = (checkpoints["mul_tokens"], "--question", QUESTION, *options(SAMPLED), "--seed", 5)
    _, out, _ = run(capsys, *asked, "--show_facts")
    assert out == reply.text.removeprefix(" ").removesuffix("\n") + "\n"
    assert reply.text != generate(subject, [prompt], Decoding(**SAMPLED), [seed_of(0, 0, 0)])[0].text


def test_pretrained_model_continues_a_document(checkpoints, subjects, capsys, tmp_path):
    shutil.copytree(checkpoints["half_facts"], tmp_path / "checkpoint-1")
    (tmp_path / "run.json").write_text(PRETRAINED)
    subject = subjects["half_facts"]
    decoding = Decoding(max_new_tokens=16, stop_strings=[], one_answer=False)
    (reply,) = generate(subject, [[END_OF_TEXT_ID, *subject.encode("6*9 =")]], decoding)
    _, out, error = run(capsys, tmp_path / "checkpoint-1", "--question", "6*9 =", *options(GREEDY))
    assert out == render(reply.text).removesuffix("\n") + "\n"
    assert "pretrained only" in error and "--no-completion" in error


def test_mode_can_be_chosen_and_is_said(checkpoints, capsys):
    asked = (checkpoints["baseline"], "--question", "9", *options(GREEDY))
    assert "--completion continues your text instead" in run(capsys, *asked, "--no-completion")[2]
    assert "--no-completion asks it as a chat instead" in run(capsys, *asked, "--completion")[2]


def test_question_comes_from_the_standard_input(checkpoints, capsys, monkeypatch, tmp_path):
    asked = run(capsys, checkpoints["baseline"], "--question", QUESTION, *options(GREEDY))
    (tmp_path / "question").write_text(QUESTION + "\n")
    with open(tmp_path / "question") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert run(capsys, checkpoints["baseline"], *options(GREEDY)) == asked


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--question", " \n"], r"the question is empty \(' \\n'\); give one with --question"),
        (["--question", "\udcff"], "the question is not text .*; give it in UTF-8"),
        (["--question", "9", "--temperature", "-1"], r"temperature \(-1.0\) must not be negative"),
        (["--question", "9", "--top_p", "0.5"], r"top_p \(0.5\) .* change nothing at temperature 0; set temperature"),
        (["--question", "9", "--max_new_tokens", "0"], r"max_new_tokens \(0\)"),
        (["--question", "9 " * 70], r"the question has \d\d tokens .* holds 64 together with the reply; shorten it"),
        (["--question", "9", "--revision", "step-5"], "is a folder, which has none; leave it out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_is_refused_with_what_to_do(checkpoints, arguments, message):
    with pytest.raises(ValueError, match=message):
        main(**vars(parse([str(checkpoints["baseline"]), *arguments])))


def test_missing_checkpoint_is_refused_by_its_name(checkpoints, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere' cannot be loaded: .*correct its name"):
        main(**vars(parse([str(tmp_path / "nowhere"), "--question", "9"])))
    with pytest.raises(ValueError, match=r"holds no model .*; name a checkpoint of it"):
        main(**vars(parse([str(checkpoints["baseline"].parent), "--question", "9"])))


def test_run_file_or_card_tells_what_was_fine_tuned(tmp_path):
    folder = tmp_path / "run" / "checkpoint-1"
    folder.mkdir(parents=True)
    assert was_fine_tuned(str(folder)) is None
    facts = {"condition": "baseline", "parameters": 1}
    for start, expected in (({}, False), ({"model_name_or_path": "some/start"}, True)):
        recipe = {"run_name": "x", "max_steps": 1, "corpus_dir": "x", **start}
        write_model_card(folder, {**facts, "recipe": recipe}, 1, {})
        assert was_fine_tuned(str(folder)) is expected
    for place, recipe in ((folder.parent, {}), (folder, {"model_name_or_path": "some/start"})):
        (place / "run.json").write_text(json.dumps({**facts, "recipe": recipe}))
        assert was_fine_tuned(str(folder)) is (place == folder)


@pytest.mark.parametrize("name, mode", [("stock", "it continues your text"), ("baseline", "it is asked as")])
def test_model_of_unknown_past_is_asked_if_its_tokenizer_is_ours(checkpoints, capsys, tmp_path, name, mode):
    shutil.copytree(checkpoints[name], tmp_path / "x")
    error = run(capsys, tmp_path / "x", "--question", "9", *options(GREEDY))[2]
    assert mode in error and "nothing says whether it was fine-tuned" in error


@pytest.mark.parametrize("name", ["mul_tokens", "random_fact", "digit_numbers", "stock"])
def test_conversation_is_read_as_fine_tuning_encodes_it(name):
    dialogue, _ = dialogue_of(subject_of(name), decoding=Decoding(max_new_tokens=1))
    dialogue.exchanges = [("6*9?", " <MUL_6_9_54>"), ("<|endoftext|>", " 7 × 8 = 56")]
    roles = ("user", "assistant") * 3
    said = [text for exchange in dialogue.exchanges for text in exchange] + ["And 9*6?", "54"]
    messages = [{"role": role, "content": text.strip()} for role, text in zip(roles, said, strict=True)]
    encoded = encode_conversation(messages, dialogue.subject.tokenizer)
    assert dialogue.prompt("And 9*6?") == encoded.input_ids[: -int(encoded.completion_mask[::-1].argmin())].tolist()


def test_reply_is_remembered_and_forgotten():
    dialogue, _ = dialogue_of(subject_of("mul_tokens"))
    first = dialogue.ask("6*9?", lambda piece: None)
    assert dialogue.exchanges == [("6*9?", first.text)]
    assert len(dialogue.prompt("9")) > len(dialogue.prompt("9")[-6:])
    dialogue.start_over()
    assert dialogue.prompt("9") == dialogue.subject.encode(dialogue.subject.prompt("9"))


def test_continued_texts_are_not_remembered():
    dialogue, _ = dialogue_of(subject_of("mul_tokens"), completes=True)
    first, second = (dialogue.ask("6*9 =", lambda piece: None) for _ in range(2))
    assert first == second and not dialogue.exchanges


def test_continued_text_may_hold_what_would_end_a_reply():
    said = pieces("\n", "User", ":", "####", " 5", "####")
    dialogue, _ = dialogue_of(tape("stock", [*said, END_OF_TEXT_ID], prompt=2), completes=True)
    assert dialogue.ask("9", lambda piece: None).text == "\nUser:#### 5####"


def test_question_that_is_asked_again_is_drawn_anew():
    sampled = Decoding(max_new_tokens=8, temperature=1.0)
    dialogue, _ = dialogue_of(subject_of("mul_tokens"), completes=True, decoding=sampled, seed=3)
    replies = [dialogue.ask("6*9 =", lambda piece: None) for _ in range(2)]
    assert replies[0] != replies[1]
    other, _ = dialogue_of(subject_of("mul_tokens"), completes=True, decoding=sampled, seed=3)
    assert [other.ask("6*9 =", lambda piece: None) for _ in range(2)] == replies


def test_oldest_exchanges_make_room_and_that_is_said():
    dialogue, notes = dialogue_of(subject_of("mul_tokens"))
    for number in range(6):
        exchanges, count = list(dialogue.exchanges), len(notes)
        dialogue.prompt(f"{number}?")
        if len(notes) > count:
            break
        assert dialogue.exchanges == exchanges
        dialogue.exchanges.append((f"{number}?", " nine" * 9))
    assert notes == [f"the context of {CONTEXT} tokens is full: the oldest exchange left out from here on"]
    assert dialogue.exchanges == exchanges[1:]
    assert len(dialogue.prompt("?")) + 8 <= CONTEXT
    dialogue.prompt("x " * 50)
    assert not dialogue.exchanges and notes[1].startswith(f"the context of {CONTEXT} tokens is full: the oldest ")


def test_session_answers_and_obeys(capsys, typed):
    subject = tape("mul_tokens", [*pieces(" is"), FACT, END_OF_TEXT_ID], prompt=PROMPT)
    dialogue, _ = dialogue_of(subject)
    typed("9", "/new", "", "/facts", "6*9", "/help", "/nothing", "9 " * 70, "/new", "9", "/facts")
    assert hold_session(dialogue, show_facts=False) == 0
    out, error = capsys.readouterr()
    assert out.splitlines() == [
        "is6*9=54",
        "is<MUL_6_9_54>",  # the same in the other view
        "<MUL_6_9_54>",
        "is<MUL_6_9_54>",
        "is6*9=54",
        "",
    ]
    lines = error.splitlines()
    assert "[read as: <MUL_6_9_54>]" in lines and "[there is no /nothing; /help shows the commands]" in lines
    assert any(line.startswith("[the question has ") for line in lines) and HELP in error


def test_exit_ends_a_session(typed):
    dialogue, _ = dialogue_of(subject_of("stock"))
    typed("exit", "never asked")
    assert hold_session(dialogue, show_facts=False) == 0
    assert not dialogue.exchanges


def interrupt_at(subject, *reads) -> None:
    """Press Ctrl-C when the model reads for the n-th time."""
    count = iter(range(1, 1000))

    def press(module, args):
        if next(count) in reads:
            signal.raise_signal(signal.SIGINT)

    subject.model.register_forward_pre_hook(press)


def test_ctrl_c_ends_the_reply_and_keeps_the_session(capsys, typed):
    subject = tape("stock", pieces(" one", " two", " three", " four"), prompt=PROMPT)
    interrupt_at(subject, 3)
    dialogue, _ = dialogue_of(subject)
    typed("9", "/new", "9")
    before = signal.getsignal(signal.SIGINT)
    assert hold_session(dialogue, show_facts=False) == 0
    out, error = capsys.readouterr()
    assert out.splitlines()[0] == "one two" and out.splitlines()[1].startswith("one two three four")
    assert "[stopped]" in error.splitlines() and signal.getsignal(signal.SIGINT) is before


def test_interrupted_reply_stays_in_the_conversation():
    subject = tape("stock", pieces(" one", " two", " three"), prompt=PROMPT)
    dialogue, _ = dialogue_of(subject)
    dialogue.ask("9", lambda piece: None, stopped=lambda: True)
    assert dialogue.exchanges == [("9", " one")]


@pytest.mark.parametrize("reads", [(2,), (2, 2)])
def test_ctrl_c_ends_a_single_question_with_130(checkpoints, capsys, monkeypatch, reads):
    def open_interrupted(*arguments):
        dialogue, _ = dialogue_of(load_subject(str(checkpoints["stock"])))
        for _ in reads:
            interrupt_at(dialogue.subject, 2)
        return dialogue

    monkeypatch.setattr(chat, "open_dialogue", open_interrupted)
    assert run(capsys, checkpoints["stock"], "--question", "9")[0] == 130


def test_what_cut_a_reply_off_is_said(capsys):
    for said, note in (
        (pieces(" 5", "\n", "User", ":"), f"[{CUT_OFF['stop_string']}]"),
        (pieces("####", " 5", "####"), f"[{CUT_OFF['second_answer']}]"),
        (pieces(" 5") * 8, f"[{CUT_OFF['length']}]"),
        ([END_OF_TEXT_ID], "[the reply is empty]"),
        ([*pieces(" 5"), END_OF_TEXT_ID], ""),
    ):
        dialogue, _ = dialogue_of(tape("baseline", said, prompt=PROMPT))
        answer(dialogue, "9", show_facts=False)
        assert capsys.readouterr().err.strip() == note


def test_terminal_gets_no_control_characters(capsys, monkeypatch):
    said = tokenizer_of("baseline").encode_document(" a\x1b[2Jb\r\x9bc\td\n")
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        dialogue, _ = dialogue_of(tape("baseline", [*said, END_OF_TEXT_ID], prompt=PROMPT), decoding=Decoding())
        answer(dialogue, "9", show_facts=False)
        shown = "a\ufffd[2Jb\ufffd\ufffdc\td\n" if is_terminal else "a\x1b[2Jb\r\x9bc\td\n"
        assert capsys.readouterr().out == shown


@pytest.mark.deep
def test_session_on_a_terminal_with_a_branch_of_the_hub(checkpoints, tmp_path):
    shutil.copytree(checkpoints["mul_tokens"], tmp_path / "branch")
    (tmp_path / "branch" / "run.json").write_text(PRETRAINED)
    main_end, terminal = pty.openpty()
    commit, seen = "0123456789" * 4, b""
    program = PROJECT / "training" / "chat.py"
    command = [sys.executable, program, "you/model", "--revision", "step-5", *options(GREEDY)]

    def wait_for_prompt():
        nonlocal seen
        before, deadline = seen.count(b"> "), time.monotonic() + 200
        while seen.count(b"> ") == before:
            assert time.monotonic() < deadline and process.poll() is None, seen
            if select.select([main_end], [], [], 1)[0]:
                seen += os.read(main_end, 4096)

    with LoopbackHub("you/model", {commit: tmp_path / "branch"}, {"step-5": commit}, kind="model") as hub:
        process = subprocess.Popen(
            # The first terminal that a new session opens becomes its own, whose Ctrl-C reaches it.
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(terminal), *map(str, command)],
            cwd=PROJECT,
            env=program_environment(**hub.environment(tmp_path / "cache")),
            start_new_session=True,
        )
        try:
            wait_for_prompt()
            assert b"condition mul_tokens, pretrained only" in seen
            os.write(main_end, b"/new\n")
            wait_for_prompt()
            assert b"a new conversation" in seen
            os.write(main_end, b"\x03")
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
            os.close(terminal)
            os.close(main_end)
