"""kill -9 at any moment, then the same command: the same final hashes as an uninterrupted run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PIPELINE = str(Path(__file__).with_name("pipeline.py"))


def run(*arguments: object, prefix: tuple[str, ...] = (), env: dict[str, str] | None = None):
    command = [*prefix, sys.executable, PIPELINE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **(env or {})})


def test_random_kills_end_in_the_same_hashes(tmp_path):
    done = run(tmp_path, "--kills", 7, 12, env={"PAUSE": "0.004"})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12


@pytest.mark.parametrize(("start", "stride"), [(2, 5), pytest.param(1, 1, marks=pytest.mark.slow)])
def test_kills_before_file_operations_end_in_the_same_hashes(tmp_path, start, stride):
    done = run(tmp_path, "--calls", start, stride)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 70 // stride


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(("call", "nth"), [("fsync", 3), ("/rename", 6), ("write", 12)])
def test_kills_at_system_calls_end_in_the_same_hashes(tmp_path, call, nth):
    probe = subprocess.run(["strace", "-f", "true"], capture_output=True)
    if probe.returncode:
        pytest.skip("strace may not trace here")
    reference = run(tmp_path / "reference")
    inject = f"inject={call}:signal=SIGKILL:when={nth}"
    killed = run(tmp_path / "run", prefix=("strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject))
    assert killed.returncode == -signal.SIGKILL
    resumed = run(tmp_path / "run")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout) == json.loads(reference.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(tmp_path, number):
    command = [sys.executable, PIPELINE, str(tmp_path / "run")]
    env = {**os.environ, "PAUSE": "1.5"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    events = tmp_path / "run" / "events.jsonl"
    while process.poll() is None:
        if events.exists() and '"key": "shard"' in events.read_text():
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert "L3-RUN-004" in stderr
    assert "give the same command" in stderr
    assert '"stage_interrupted"' in events.read_text()
    assert not list((tmp_path / "run" / "artifacts").glob("*.tmp-*"))
    assert (tmp_path / "run" / "artifacts" / "curate" / "manifest.json").exists()
    assert json.loads(run(tmp_path / "run").stdout) == json.loads(run(tmp_path / "reference").stdout)


def test_a_second_process_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    first = subprocess.Popen([sys.executable, PIPELINE, str(tmp_path)], env={**os.environ, "PAUSE": "5"})
    try:
        while first.poll() is None:
            if (tmp_path / "events.jsonl").exists():
                break
            time.sleep(0.05)
        second = run(tmp_path)
        assert second.returncode == 1
        assert "L3-RUN-001" in second.stderr
        assert f"pid {first.pid}" in second.stderr
    finally:
        first.kill()
        first.wait()
    assert run(tmp_path).returncode == 0


def test_a_full_disk_is_said_and_leaves_nothing_half_made(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: the write fails in the kernel with EFBIG."""
    script = (
        "import resource, signal, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import pipeline\n"
        "from pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "@pipeline.stage(output='tokenizer')\n"
        "def tokenizer(corpus: pipeline.CorpusArtifact, *, out):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))\n"
        "    (out.path / 'big.bin').write_bytes(bytes(1 << 20))\n"
        "pipeline.STAGES[1] = tokenizer\n"
        "pipeline.run(Path(sys.argv[2]), pipeline.Options())\n"
    )
    command = [sys.executable, "-c", script, str(Path(PIPELINE).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "L3-RUN-003" in done.stderr
    assert "ulimit -f" in done.stderr, "the disk has room"
    assert [path.name for path in (tmp_path / "artifacts").iterdir() if "tokenizer" in path.name] == []
    assert run(tmp_path).returncode == 0
