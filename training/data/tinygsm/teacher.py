"""Let a language model write the worked text instead, as the original experiment did, through the same gates.

The endpoint speaks OpenAI's chat completions, as vLLM, llama.cpp, TGI and the commercial services do. Programs are
still run here: what a teacher writes leaves only if every equation in it is true and it ends in the program's result.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import requests

from training.data import hub
from training.data.tinygsm.conversion import ConversionSettings, Converter, Refusal, Row, row_of
from training.data.tinygsm.quantities import Quantity
from training.evals.answers import read_answer
from training.evals.equations import find_equations

KEY_VARIABLE = "TEACHER_API_KEY"
MAX_TOKENS = 512
SECONDS_PER_REPLY = 120.0
_ADVICE = f"correct teacher_url (which usually ends in /v1), teacher_model, or the key in {KEY_VARIABLE}"
SYSTEM = (
    "You turn a Python solution of a word problem into worked text. Write each calculation on a line of its own as "
    "`what it is = a + b = c`, with one operation per equation and every number in digits. End with a line that is "
    "`#### ` and the final number alone. Write nothing else."
)
_EXAMPLE = (
    "A box holds 24 pencils. How many pencils are in 6 boxes, and 15 more?",
    "def simple_math_problem() -> int:\n    pencils_in_boxes = 24 * 6\n    result = pencils_in_boxes + 15\n"
    "    return result",
    "pencils in boxes = 24 * 6 = 144\npencils in all = 144 + 15 = 159\n#### 159",
)


@dataclass(frozen=True)
class Teacher:
    """Which model writes the text. url: the endpoint, such as `http://localhost:8000/v1`. concurrency: requests at a
    time, of each worker. The key, if it wants one, is `TEACHER_API_KEY` of the environment."""

    url: str
    model: str
    concurrency: int = 16
    temperature: float = 0.0

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"teacher_url is '{self.url}'; give the endpoint, such as http://localhost:8000/v1")
        if not self.model:
            raise ValueError("teacher_model is empty; name the model that the endpoint serves")
        if self.concurrency < 1:
            raise ValueError(f"teacher_concurrency is {self.concurrency}; it is a count above zero")


class TeacherConverter(Converter):
    """Asks a teacher for the text of each row; the gates before it are those of `Converter`, and are tried first."""

    def __init__(self, settings: ConversionSettings, teacher: Teacher):
        super().__init__(settings)
        self.teacher = teacher
        key = os.environ.get(KEY_VARIABLE)
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def convert_all(self, rows: Iterable[tuple[str, str]]) -> Iterator[Row | Refusal]:
        with ThreadPoolExecutor(self.teacher.concurrency) as pool:
            yield from pool.map(lambda row: self(*row), rows)

    def write(self, question: str, code: str, program, result: Quantity) -> Row | Refusal:
        text = self._ask(question, code)
        refusal = _untrue(text, result)
        if refusal:
            return Refusal("equations", f"teacher: {refusal}")
        answer = text.rpartition("####")[2].strip()
        return row_of(question, text, answer, "teacher", [one.text for one in find_equations(text)])

    def _ask(self, question: str, code: str) -> str:
        """Return what the teacher writes; waits and asks again while the network or the service is overloaded."""
        example_question, example_code, example_text = _EXAMPLE
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{example_question}\n\n{example_code}"},
            {"role": "assistant", "content": example_text},
            {"role": "user", "content": f"{question}\n\n{code}"},
        ]
        request = {
            "model": self.teacher.model,
            "messages": messages,
            "max_tokens": MAX_TOKENS,
            "temperature": self.teacher.temperature,
            "seed": self.settings.seed,
        }
        what = f"asking {self.teacher.model} at {self.teacher.url}"
        reply = hub.with_patience(lambda: self._post(request, what), what)
        try:
            return (reply["choices"][0]["message"]["content"] or "").strip()
        except (LookupError, TypeError) as error:
            raise ValueError(f"{what} gave no chat completion: {str(reply)[:200]}; {_ADVICE}") from error

    def _post(self, request: dict[str, Any], what: str) -> Any:
        """Return what the endpoint answers; raises `ConnectionError` where another try may help."""
        address = f"{self.teacher.url.rstrip('/')}/chat/completions"
        try:
            response = requests.post(address, json=request, headers=self.headers, timeout=SECONDS_PER_REPLY)
        except requests.RequestException as error:
            raise ConnectionError(str(error)) from error
        if response.status_code in hub.RETRIED_STATUS:
            raise ConnectionError(f"status {response.status_code}")
        if not response.ok:
            raise ValueError(f"{what} failed with status {response.status_code}: {response.text[:200]}; {_ADVICE}")
        try:
            return response.json()
        except ValueError as error:
            raise ValueError(f"{what} gave no JSON: {response.text[:200]}; {_ADVICE}") from error


def _untrue(text: str, result: Quantity) -> str:
    """Return what is wrong with a teacher's text, empty if nothing is."""
    answer = read_answer(text).strict
    if answer is None or "####" not in text.rpartition("\n")[2]:
        return "no answer at the end"
    if Fraction(str(answer)) != result.exact:
        return "another answer"
    equations = find_equations(text)
    if not equations:
        return "no equation"
    return "" if all(one.is_true for one in equations) else "false equation"
