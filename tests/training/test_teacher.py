"""A teacher behind an endpoint of OpenAI's kind, on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.training.small_tinygsm import convert_rows, problem, refused
from training.data import hub
from training.data.tinygsm.conversion import ConversionSettings, Refusal
from training.data.tinygsm.teacher import KEY_VARIABLE, Teacher, TeacherConverter

QUESTION = "Ada fills 6 boxes with 24 pencils each. How many pencils does she need?"
CODE = problem(QUESTION, "pencils = 24 * 6", "result = pencils")["code"]
TRUE = "pencils = 24 * 6 = 144\n#### 144"


class Endpoint:
    """Answers every chat completion with `reply`, after as many failures as are asked for."""

    def __init__(self):
        self.reply, self.failures, self.requests = TRUE, [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.requests.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
                status = endpoint.failures.pop() if endpoint.failures else 200
                message = {"role": "assistant", "content": endpoint.reply}
                answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}], "model": "small"}
                content = json.dumps({"id": "1", "created": 0, "object": "chat.completion", "usage": None, **answer})
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content.encode())))
                self.end_headers()
                self.wfile.write(content.encode())

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint():
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture
def ask(endpoint, monkeypatch):
    monkeypatch.setattr(hub.with_patience, "__defaults__", (lambda line: None, lambda seconds: None))
    return TeacherConverter(ConversionSettings(), Teacher(endpoint.url, "small"))


def test_true_text_becomes_a_row(ask, endpoint):
    row = ask(QUESTION, CODE)
    assert (row.text, row.answer, row.style, row.steps) == (TRUE, "144", "teacher", ["24 * 6 = 144"])
    assert endpoint.requests[0]["path"] == "/v1/chat/completions"
    assert QUESTION in endpoint.requests[0]["messages"][-1]["content"]


@pytest.mark.parametrize(
    "reply, reason",
    [
        ("pencils = 24 * 6 = 142\n#### 144", "false equation"),
        ("pencils = 24 * 6 = 144\n#### 142", "another answer"),
        ("She needs many.\n#### 144", "no equation"),
        ("24 * 6 = 144", "no answer at the end"),
        ("24 * 6 = 144\n#### 144\nI hope this helps!", "no answer at the end"),
        ("", "no answer at the end"),
    ],
)
def test_text_that_is_wrong_is_refused_with_its_reason(ask, endpoint, reply, reason):
    endpoint.reply = reply
    assert ask(QUESTION, CODE) == Refusal("equations", f"teacher: {reason}")


def test_row_that_no_gate_lets_through_is_not_asked_for(ask, endpoint):
    assert isinstance(ask(QUESTION, "def f(): return 24 *"), Refusal)
    assert ask("No question here at all.", CODE).gate == "question"
    assert endpoint.requests == []


def test_overloaded_service_is_asked_again(ask, endpoint):
    endpoint.failures = [503, 429]
    assert ask(QUESTION, CODE).text == TRUE
    assert len(endpoint.requests) == 3


def test_refused_key_ends_the_run_with_what_to_do(ask, endpoint):
    endpoint.failures = [401]
    with pytest.raises(ValueError, match=f"asking small at .* failed with status 401: .*{KEY_VARIABLE}"):
        ask(QUESTION, CODE)


def test_something_else_than_a_chat_completion_is_said(ask, endpoint, monkeypatch):
    monkeypatch.setattr(ask, "_post", lambda *request: {"error": "no such route"})
    with pytest.raises(ValueError, match="gave no chat completion"):
        ask(QUESTION, CODE)


def test_key_comes_from_the_environment_and_stays_there(endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv(KEY_VARIABLE, "secret-of-the-teacher")
    rows = [problem(QUESTION, "pencils = 24 * 6", "result = pencils")]
    manifest, written = convert_rows(tmp_path, rows, teacher_url=endpoint.url, teacher_model="small")
    assert [row["answer"] for row in written] == [TRUE]
    assert endpoint.requests[0]["key"] == "Bearer secret-of-the-teacher"
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"secret-of-the-teacher" not in file.read_bytes()
    assert refused(manifest) == {}


def test_rows_of_a_teacher_keep_their_order(endpoint, tmp_path):
    rows = [
        problem(f"Ada fills 6 boxes with 24 pencils each, box {index}. How many pencils?", "result = 24 * 6")
        for index in range(30)
    ]
    _, written = convert_rows(tmp_path, rows, teacher_url=endpoint.url, teacher_model="small")
    assert [row["source_row"] for row in written] == list(range(30))


@pytest.mark.parametrize(
    "url, model, said", [("localhost:8000", "small", "teacher_url"), ("http://localhost/v1", "", "teacher_model")]
)
def test_bad_settings_are_refused(url, model, said):
    with pytest.raises(ValueError, match=said):
        Teacher(url, model)
