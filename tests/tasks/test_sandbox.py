"""The sandbox: an answer that tries to escape neither passes nor disturbs the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama3.tasks import sandbox_worker
from llama3.tasks.sandbox import Limits, Program, Script, isolation, run_programs, run_scripts

GOOD = "def f(x):\n    return x + 1"
LIMITS = Limits(cpu_seconds=0.3, wall_seconds=3.0)
CALLS = ((1,), (2,))

needs_seccomp = pytest.mark.skipif(isolation() != "seccomp", reason="no system-call filter on this system")

ESCAPES = {
    "os._exit": "import os\ndef f(x): os._exit(0)",
    "sys.exit": "import sys\ndef f(x): sys.exit(0)",
    "endless loop": "def f(x):\n    while True: pass",
    "endless loop that catches everything": (
        "def f(x):\n  while True:\n    try:\n      while True: pass\n    except BaseException: pass"
    ),
    "one huge allocation": "def f(x): return len(bytearray(10 ** 12))",
    "many allocations": "def f(x):\n    a = []\n    while True: a.append(bytearray(10 ** 7))",
    "endless recursion": "def f(x): return f(x)",
    "huge reply": "def f(x): return 'y' * 10 ** 6",
    "printing a pass": "def f(x):\n    print('{\"values\": [2, 3]}')\n    return 0",
    "equal to everything": "class E(int):\n    __eq__ = lambda s, o: True\ndef f(x): return E(1)",
    "patched json": "import json\njson.dumps = lambda *a: 'true'\ndef f(x): return object()",
    "closing the pipe": "import os\nos.close(3)\ndef f(x): return x + 1",
    "crash": "import os\ndef f(x): os.abort()",
    "not Python": "def f(x) return x",
    "nothing": "",
    "not a function": "f = 3",
}
SYSTEM_CALLS = {
    "killing the parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    return x + 1",
    "writing a file": "def f(x):\n    open('made', 'w').write('x')\n    return x + 1",
    "reading a file": "def f(x):\n    open('/etc/passwd').read()\n    return x + 1",
    "reading the parent's memory": "import os\ndef f(x): return open(f'/proc/{os.getppid()}/mem', 'rb').read()",
    "deleting a file": "import os\ndef f(x):\n    os.unlink('TARGET')\n    return x + 1",
    "a socket": "import _socket\ndef f(x):\n    _socket.socket()\n    return x + 1",
    "a process": "import os\ndef f(x):\n    os.fork()\n    return x + 1",
    "a thread": "import _thread\ndef f(x):\n    _thread.start_new_thread(print, ())\n    return x + 1",
    "sleeping": "import time\ndef f(x):\n    time.sleep(60)\n    return x + 1",
    "waiting for a lock": "import _thread\ndef f(x):\n    l = _thread.allocate_lock(); l.acquire(); l.acquire()",
    "taking the timer away": (
        "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0)\nsignal.signal(signal.SIGPROF, signal.SIG_IGN)\n" + GOOD
    ),
}


def outcomes_around(code: str) -> list:
    """Values of a good program, of `code`, and of a good program again, all in one worker."""
    return [o.values for o in run_programs([Program(c, "f", CALLS) for c in (GOOD, code, GOOD)], LIMITS, workers=1)]


@pytest.mark.parametrize("name", ESCAPES)
def test_escapes_neither_pass_nor_break_the_others(name):
    before, values, after = outcomes_around(ESCAPES[name])
    assert values != [2, 3]
    assert before == after == [2, 3]


@needs_seccomp
@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_system_calls_are_refused(name, tmp_path):
    target = tmp_path / "keep"
    target.touch()
    before, values, after = outcomes_around(SYSTEM_CALLS[name].replace("TARGET", str(target)))
    assert values is None
    assert before == after == [2, 3]
    assert target.exists()


def test_the_environment_is_empty(monkeypatch):
    monkeypatch.setenv("LLAMA3_SECRET", "visible")
    code = "import os\ndef f(x): return 'LLAMA3_SECRET' in os.environ or 'PATH' in os.environ"
    assert outcomes_around(code)[1] == [False, False]


def test_common_modules_can_be_imported():
    code = "import math, re\nfrom collections import Counter\ndef f(x): return Counter([math.floor(x + 0.5)])[x]"
    assert outcomes_around(code)[1] == [1, 1]


def test_many_programs_keep_their_order_and_share_no_state():
    code = "import math\nmath.n = getattr(math, 'n', 0) + {}\ndef f(): return math.n"
    programs = [Program(code.format(i), "f", ((),)) for i in range(300)]
    assert [o.values for o in run_programs(programs)] == [[i] for i in range(300)]


def test_no_programs():
    assert run_programs([]) == []


def test_a_dead_worker_is_replaced(monkeypatch, tmp_path):
    """Where system calls cannot be filtered a program can kill its worker: it fails and the others go on."""
    source = Path(sandbox_worker.__file__).read_text()
    unfiltered = source.replace('if sys.platform != "linux" or machine not in ALLOWED:', "if True:")
    assert unfiltered != source
    (tmp_path / "sandbox_worker.py").write_text(unfiltered)
    monkeypatch.setattr("llama3.tasks.sandbox._WORKER", tmp_path / "sandbox_worker.py")
    assert isolation() == "limits"
    before, values, after = outcomes_around("import os\ndef f(x): os.kill(os.getppid(), 9)")
    assert values is None
    assert before == after == [2, 3]


# Whole scripts --------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "says": (
        Script("import sys\nprint(sys.stdin.read().upper())\nprint('oh', file=sys.stderr)", "hi"),
        "HI\n",
        "oh",
        0,
    ),
    "reads": (
        Script("import csv\nprint([row['b'] for row in csv.DictReader(open('t.csv'))])", files={"t.csv": "a,b\n1,2\n"}),
        "['2']\n",
        "",
        0,
    ),
    "fails": (Script("x = 1\nprint(x / 0)"), "", 'File "main.py", line 2, in <module>', 1),
    "leaves": (Script("import sys\nsys.exit('enough')"), "", "enough", 1),
    "is none": (Script("def f(:"), "", "SyntaxError", 1),
    "looks elsewhere": (Script("open('/etc/passwd')"), "", "FileNotFoundError", 1),
    "writes": (Script("open('t', 'w')", files={"t": ""}), "", "PermissionError", 1),
    "never ends": (Script("while True:\n    print('garbage' * 100)"), "", "did not come to its end", -1),
    "kills itself": (Script("import os\nos._exit(0)"), "", "did not come to its end", -1),
    "half a character": (Script("print('\\ud800')"), "?\n", "", 0),
}


@pytest.fixture(scope="module")
def ran():
    found = run_scripts([script for script, *_ in SCRIPTS.values()], Limits(cpu_seconds=0.3, wall_seconds=20))
    return dict(zip(SCRIPTS, found, strict=True))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_told_of(ran, name):
    _, said, errors, status = SCRIPTS[name]
    assert (ran[name].stdout, ran[name].status) == (said, status)
    assert errors in ran[name].stderr
    assert "sandbox_worker" not in ran[name].stderr, "no line of ours, which would name this machine"


def test_equal_scripts_say_the_same():
    """Whatever Python leaves open: the order of sets, random numbers, addresses."""
    script = Script("import random\nprint({'a', 'b', 'c', 'd'}, random.random(), object())")
    one, other = (run_scripts([script])[0] for _ in range(2))
    assert one == other
    assert "object at 0x..." in one.stdout


def test_much_output_is_cut():
    (one,) = run_scripts([Script("import sys\nprint('é' * 100000)\nprint('x' * 100000 + 'end', file=sys.stderr)")])
    assert (len(one.stdout), len(one.stderr), one.status) == (4000, 4000, 0)
