"""Real processes, really killed. ``SEKD_KILLS`` asks for more than the 50 kills of a test run."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from teacher_passes import contents

from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare, run

HERE = Path(__file__).parent
RUN = """
import pickle, sys
from sekd.errors import exit_on_error
from stage1_teacher.generate import run
with exit_on_error():
    run(pickle.load(sys.stdin.buffer))
"""


@pytest.mark.slow
def test_50_kills_at_random_moments_leave_the_artifacts_of_an_uninterrupted_pass(
    config: TeacherConfig, whole: Path, tmp_path: Path
) -> None:
    kills = int(os.environ.get("SEKD_KILLS", "50"))
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_passes.py"), str(tmp_path), str(kills)],
        input=pickle.dumps(config),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    killed, completed = map(int, done.stdout.split()[-2:])
    assert killed >= kills
    assert completed >= 1
    first = replace(config, artifacts=str(tmp_path / "first"))
    assert contents(prepare(first).store.path) == contents(whole)


def start(config: TeacherConfig, before: str = "") -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", before + RUN], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(config))
    process.stdin.close()
    process.stdin = None
    return process


def await_shards(config: TeacherConfig, count: int, process: subprocess.Popen) -> None:
    store = prepare(config).store
    while store.plan.n_shards - len(store.missing()) < count:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("lent")
@pytest.mark.parametrize(("signum", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_signal_ends_the_run_with_a_message_and_the_next_run_completes_it(
    config: TeacherConfig, tmp_path: Path, signum: signal.Signals, workers: int
) -> None:
    config = replace(config, workers=workers)
    process = start(replace(config, shard_size=1))
    await_shards(replace(config, shard_size=1), 2, process)
    process.send_signal(signum)
    _, said = process.communicate()
    assert process.returncode == 128 + signum, said.decode()[-2000:]
    found = re.search(r"stopped by (\w+): (\d+) of 18 shards are whole", " ".join(said.decode().split()))
    assert found, said.decode()[-2000:]
    assert found[1] == signum.name
    assert 2 <= int(found[2]) < 18
    stopped = replace(config, shard_size=1, workers=1)
    assert len(prepare(stopped).missing) == 18 - int(found[2])
    uninterrupted = run(replace(stopped, artifacts=str(tmp_path / "uninterrupted")))
    assert contents(run(stopped).path) == contents(uninterrupted.path)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_hanging_workers_shards_go_to_the_other_and_the_pass_is_whole(
    config: TeacherConfig, whole: Path, fault: signal.Signals
) -> None:
    config = replace(config, workers=2)
    process = start(config, "from sekd.inference import pool; pool.SILENCE_SECONDS = 15.0")
    await_shards(config, 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    struck = max(map(int, workers), key=lambda pid: psutil.Process(pid).cpu_times().user)  # one that has started
    os.kill(struck, fault)
    _, said = process.communicate()
    assert process.returncode == 0, said.decode()[-2000:]
    why = {signal.SIGKILL: "exit status -9", signal.SIGSTOP: "silent for 15 s"}[fault]
    assert re.search(rf"worker-\d \(process {struck} on .*\) is lost \({why}\)", said.decode())
    assert contents(prepare(config).store.path) == contents(whole)
