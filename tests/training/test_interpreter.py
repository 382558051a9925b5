import ast
import gc
import inspect
import math
import random
import re
import sys
import threading
import time
from fractions import Fraction

import pytest

from tests.training.hostile_programs import BUDGET, ERROR, HARMLESS, HOSTILE, REFUSED, body, returns
from training.evals import (
    interpreter,
    program_check,
    program_expressions,
    program_functions,
    program_scan,
    program_values,
    program_walk,
)
from training.evals.interpreter import STATUSES, Verdict, extract_program, run_program
from training.evals.program_check import check_program
from training.evals.program_functions import MAX_ITEMS, OverBudget, Refused
from training.evals.program_values import MAX_CELLS, MAX_STEPS
from training.evals.program_walk import Interpreter

EVERY_PROGRAM = REFUSED | BUDGET | ERROR | {name: source for name, (source, _) in HARMLESS.items()}

# What a random program is made of: the first of each kind end it, the others go on.
RULES = {
    "number": """a|b|c|3|0|0.5|-1|True|12|math.pi|Fraction(1, 3)|1e308|10**40|(<number> + <number>)
        (<number> - <number>)|(<number> * <number>)
        (<number> / <number>)|(<number> // <number>)|(<number> % <number>)|(<number> ** <number>)
        (-<number>)|(<number> if <test> else <number>)|(<number> and <number>)|sum(<list>)|max(<list>)|len(<list>)
        round(<number>, <number>)|int(<number>)|float(<text>)|math.floor(<number>)|math.comb(<number>, <number>)
        math.lcm(<number>, <number>)|math.factorial(<number>)|pow(<number>, <number>)|<list>[<number>]|d[<number>]
        d.get(<number>, <number>)|<list>.index(<number>)|<list>.append(<number>)|next((<number> <each>), <number>)
        sum(<number> <each>)|min(<number>, <number>)|math.prod(<list>)|divmod(<number>, <number>)[0]
        math.sqrt(<number>)
        sum(i * j for i, j in zip(<list>, <list>))|sum(i for i, j in enumerate(<list>))|abs(<number>)|d|None|word""",
    "test": """(a < b)|(<number> < <number>)|(<number> == <number> != <number>)|(not <number>)|(<number> in <list>)
        (<number> not in d)|any(<number> <each>)|all(<list>)|(<text> in <text>)|(<number> is None)""",
    "text": """'12'|word|str(<number>)|f"{a:.2f}"|f"{<name>} and {b:>5}"|(<text> + <text>)|(<text> * <number>)""",
    "list": """box|log|[1, 2, 3]|[<number>, <number>]|(<list> + <list>)|(<list> * <number>)|sorted(<list>)|list(<list>)
        <list>[<number>:<number>]|[<number> <each>]|range(<number>)|list(d.items())|list(reversed(<list>))|d.values()
        tuple(<list>)|[<list>]|d""",
    "each": """for i in box|for i in <list>|for a in <list> if <test>|for i in <list> for j in <list>
        for i, j in d.items()""",
    "name": "a|b|c|i|box",
    "line": """pass|<name> = <number>|box = <list>|box = log|log += <list>|a, b = <number>, <number>|a, b = <list>
        <name> += <number>|<name> *= <number>|box[<number>] = <number>|box[0], box[1] = box|d[<number>] = <number>
        d[<number>] += <number>|box.append(<number>)|log.extend(<list>)|print(<number>, <text>)|import math|break
        assert <test>, <text>|from math import floor|word = <text>|if <test>:<block>else:<block>
        for i in <list>:<block>
        for a in box:<block>|while <test>:<block>|for i, j in enumerate(<list>):<block>|return <number>|continue""",
}
CHOICES = {kind: re.split(r"\||\n\s*", rules) for kind, rules in RULES.items()}
CHARACTERS = [
    *"()[]{}\"'\\\n\t #:;,.=+-*/%<>!@~0129eEjfFbBrRuUtN_aé\f\r\0",
    *'f" """ ** // := if for in lambda \\N{ 0x'.split(" "),
]
FEW = 2


def expand(kind: str, chance: random.Random, depth: int) -> str:
    if kind == "block":
        lines = "\n".join(expand("line", chance, depth) for _ in range(chance.randint(1, 2)))
        return "\n    " + lines.replace("\n", "\n    ") + "\n"
    choice = chance.choice(CHOICES[kind] if depth > 0 else CHOICES[kind][:FEW])
    return re.sub("<([a-z]+)>", lambda hole: expand(hole[1], chance, depth - 1), choice)


def random_program(chance: random.Random) -> str:
    start = [
        "a = 5",
        "b = 0.1",
        "c = i = j = 2",
        "box = [1, 2, 3]",
        "log = [0.5, 7]",
        "d = {1: 2, 2: 5}",
        "word = 'ab'",
    ]
    lines = "\n".join(expand("line", chance, 4) for _ in range(chance.randint(1, 6)))
    returned = expand("number", chance, chance.randint(0, 3))
    before = "import math\nfrom fractions import Fraction\n"
    return body(*start, *lines.replace("\n\n", "\n").split("\n"), f"return {returned}", before=before)


def mutated(source: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(source) + 1)
        end = start + chance.choice([0, 0, 1, 1, 3, 20])
        source = source[:start] + chance.choice([*CHARACTERS, source[end : end + 20]]) + source[end:]
    return source


def assert_is_verdict(verdict: Verdict) -> None:
    assert verdict.status in STATUSES and "internal" not in verdict.reason
    if verdict.status == "ok":
        assert type(verdict.value) in (int, float, Fraction) and math.isfinite(verdict.value) and not verdict.reason
    else:
        assert verdict.value is None and verdict.reason


@pytest.mark.parametrize(
    ("source", "status"), [(s, status) for status, programs in HOSTILE.items() for s in programs.values()],
    ids=[name for programs in HOSTILE.values() for name in programs],
)  # fmt: skip
def test_hostile_program_is_stopped(source, status):
    verdict = run_program(source)
    assert verdict.status == status
    assert_is_verdict(verdict)


@pytest.mark.parametrize(("source", "value"), HARMLESS.values(), ids=HARMLESS)
def test_harmless_program_gives_what_python_gives(source, value):
    verdict = run_program(source)
    assert verdict == Verdict("ok", value) and type(verdict.value) is type(value)


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_get_a_verdict(seed):
    chance = random.Random(seed)
    verdicts = [run_program(random_program(chance)) for _ in range(1_000)]
    for verdict in verdicts:
        assert_is_verdict(verdict)
    assert sum(verdict.status == "ok" for verdict in verdicts) > 100
    assert len({verdict.reason for verdict in verdicts}) > 10


@pytest.mark.parametrize("seed", range(4))
def test_mutated_programs_get_a_verdict(seed):
    chance = random.Random(seed)
    sources = [source for source, _ in HARMLESS.values()]
    for _ in range(1_000):
        assert_is_verdict(run_program(mutated(chance.choice(sources), chance)))


@pytest.mark.parametrize(
    "source", [None, 5, 1.5, b"def f(): return 1", ["def f(): return 1"], object, type("S", (str,), {})("x")]
)
def test_what_is_no_text_is_refused(source):
    assert run_program(source) == Verdict("refused", reason="no text")


def test_verdict_is_the_same_every_time():
    for source in EVERY_PROGRAM.values():
        assert run_program(source) == run_program(source)


@pytest.mark.parametrize("name", BUDGET)
def test_steps_and_cells_end_at_their_bounds(name):
    walker = Interpreter(check_program(BUDGET[name]), max_seconds=math.inf)
    with pytest.raises(OverBudget):
        walker.run()
    assert walker.steps <= MAX_STEPS + MAX_ITEMS + program_check.MAX_DEPTH
    assert walker.cells <= MAX_CELLS + MAX_ITEMS


@pytest.mark.parametrize("name", [*BUDGET, *ERROR])
def test_operations_never_exceed_the_steps(name):
    class Counting(Interpreter):
        operations = 0

        def compare(self, kind, left, right):
            self.operations += 1
            return super().compare(kind, left, right)

        def binary(self, kind, left, right):
            self.operations += 1
            return super().binary(kind, left, right)

        def call(self, name, function, values, keywords):
            self.operations += 1 + sum(len(value) for value in values if isinstance(value, (list, tuple, str)))
            return super().call(name, function, values, keywords)

    walker = Counting(check_program(ERROR.get(name) or BUDGET[name]), max_seconds=math.inf)
    try:
        walker.run()
    except (Refused, OverBudget, ArithmeticError, LookupError, NameError, TypeError, ValueError, AssertionError):
        assert walker.operations <= walker.steps
    else:
        assert walker.operations <= walker.steps < MAX_STEPS


def test_clock_stops_what_the_steps_do_not(monkeypatch):
    ticks = iter([0.0, 0.1, 0.3, 0.5])
    monkeypatch.setattr(program_values.time, "thread_time", lambda: next(ticks))
    assert run_program(BUDGET["while_true_counts"]) == Verdict("budget", reason="time")


@pytest.mark.parametrize("left", [12, 16, 20, 30, 40, 80, 160, 320])
def test_end_of_the_stack_gives_a_verdict(left):
    def deeper(levels, source):
        return run_program(source) if levels <= 0 else deeper(levels - 1, source)

    levels = sys.getrecursionlimit() - len(inspect.stack(0)) - left
    for source in EVERY_PROGRAM.values():
        assert_is_verdict(deeper(levels, source))


def test_interruption_by_the_user_passes_through(monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Interpreter, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_program(body("return 1"))


def test_end_of_memory_gives_a_verdict(monkeypatch):
    def exhausted(self):
        raise MemoryError

    monkeypatch.setattr(Interpreter, "run", exhausted)
    assert run_program(body("return 1")).status == "budget"


def test_threads_do_not_disturb_each_other():
    expected = {name: run_program(source) for name, source in EVERY_PROGRAM.items()}
    seen: list[dict[str, Verdict]] = []

    def work():
        seen.append({name: run_program(source) for name, source in EVERY_PROGRAM.items()})

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [expected] * 4


def test_threads_that_change_while_a_tree_is_built_do_not_disturb_each_other():
    """Callbacks of the garbage collector, which profilers and test tools install, let another thread run there."""

    def let_others_run(phase, facts):
        time.sleep(0)

    source = "def f():\n    return 1" + ";1" * 300 + "\n"
    seen: list[Verdict] = []
    threads = [threading.Thread(target=lambda: seen.extend(run_program(source) for _ in range(5))) for _ in range(4)]
    threshold = gc.get_threshold()
    gc.callbacks.append(let_others_run)
    gc.set_threshold(20)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(let_others_run)
    assert seen == [run_program(source)] * 20


@pytest.mark.filterwarnings("error")
def test_no_program_causes_a_warning():
    for source in EVERY_PROGRAM.values():
        run_program(source)


def test_program_cannot_change_the_constants_of_the_interpreter():
    tables = (program_functions.BUILTINS, program_functions.MODULE_FUNCTIONS, program_functions.CONSTANTS)
    before = [dict(table) for table in tables]
    for source in EVERY_PROGRAM.values():
        run_program(source)
    assert [dict(table) for table in tables] == before


SAFE_MODULES = [
    interpreter,
    program_check,
    program_expressions,
    program_functions,
    program_scan,
    program_values,
    program_walk,
]


@pytest.mark.parametrize("module", SAFE_MODULES)
def test_source_runs_no_text_and_imports_nothing_dangerous(module):
    tree = ast.parse(inspect.getsource(module))
    forbidden = {"exec", "eval", "compile", "__import__", "open", "globals", "locals", "vars", "setattr", "sympify"}
    imported = set()
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.Name) and node.id in forbidden)
        if isinstance(node, ast.Attribute) and node.attr in forbidden:
            assert isinstance(node.value, ast.Name) and node.value.id == "re"
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    own = {name for name in imported if name.startswith("training.evals.")}
    safe = "ast collections.abc dataclasses fractions itertools math operator re threading time typing".split()
    assert own <= {each.__name__ for each in SAFE_MODULES} and imported - own <= set(safe)


def test_result_that_no_reader_could_compare_is_an_error():
    reasons = {
        run_program(source).reason for source in (returns("True"), returns("'5'"), returns("1e400"), body("pass"))
    }
    assert reasons == {"result: bool", "result: str", "result: not finite", "result: NoneType"}


def test_whole_number_tells_that_it_is_whole_on_every_release():
    assert run_program(body("x = 6", "return 1 if x.is_integer() else 2")).value == 1


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("def f():\n    return 1\n", "def f():\n    return 1\n"),
        ("Here it is:\n```python\ndef f():\n    return 1\n```\nIt returns 1.", "def f():\n    return 1\n"),
        ("```\r\ndef f():\r\n    return 1\r\n```\r\n", "def f():\r\n    return 1\r\n"),
        ("```python\ndef f():\n    return 1", "def f():\n    return 1"),
        ("```py\nfirst\n```\n```py\nsecond\n```", "first\n"),
        ("```\n```", ""),
        ("from the shop she takes 5.\nfrom math import pi\ndef f():", "from math import pi\ndef f():"),
        ("He imports 5.\nimport math\ndef f():", "import math\ndef f():"),
        ("#### 54", "#### 54"),
        ("", ""),
    ],
)
def test_program_of_a_reply_is_found(text, program):
    assert extract_program(text) == program
