"""The pool with real processes, whose workers hold no engine and have the faults that a test names."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sekd.errors import SekdError, Stopped
from sekd.inference import pool
from sekd.inference.config import EngineConfig
from sekd.inference.pool import Jobs, Message, Pool, run_jobs
from sekd.stop import Stop

Fault = Callable[[Path], None]
STEPS = 3


class Listener:
    """Counts the news of every job, and keeps the results."""

    def __init__(self) -> None:
        self.news: Counter[int] = Counter()
        self.results: dict[int, Any] = {}
        self.requeues: list[int] = []

    def progress(self, job: int, news: int) -> None:
        self.news[job] += news

    def done(self, job: int, result: Any) -> None:
        assert job not in self.results
        self.results[job] = result

    def requeued(self, job: int) -> None:
        self.requeues.append(job)
        del self.news[job]


class FaultyWorker:
    """Does a job in three steps. The job's fault comes after the second, every time."""

    def __init__(self, folder: Path, faults: dict[int, Fault]) -> None:
        self._folder, self._faults = folder, faults
        self._faults.get(-1, lambda _: None)(folder)

    def work(self, jobs: Jobs, *, progress: Callable[[int, int], None], done: Callable[[int, Any], None]) -> None:
        for job in jobs:
            for step in range(STEPS):
                if step == STEPS - 1 and job in self._faults:
                    self._faults[job](self._folder)
                progress(job, 1)
            done(job, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def close(self) -> None: ...


def once(fault: Fault, folder: Path) -> None:
    """The fault comes the first time alone."""
    with suppress(FileExistsError):
        (folder / "once").touch(exist_ok=False)
        fault(folder)


def die(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def die_or_meet(folder: Path) -> None:
    """One dies; the others wait until two that have different GPUs are here."""
    once(die, folder)
    (folder / os.environ["CUDA_VISIBLE_DEVICES"]).touch()
    while len(list(folder.glob("GPU-*"))) < 2:
        time.sleep(0.01)


def refuse(folder: Path) -> None:
    raise SekdError("the data changed")


def crash(folder: Path) -> None:
    raise RuntimeError("out of memory")


def wait_for_ever(folder: Path) -> None:
    time.sleep(3600)


def write_to_the_end(folder: Path) -> None:
    (folder / "writing").touch()
    time.sleep(0.5)
    (folder / "written").touch()


def do(
    jobs: int,
    folder: Path,
    faults: dict[int, Fault],
    *,
    workers: int = 2,
    device: str = "cpu",
    listener: Listener | None = None,
) -> Listener:
    listener = listener or Listener()
    engine = EngineConfig(device=device)
    opener = partial(FaultyWorker, folder, faults)
    with Stop() as stop:
        run_jobs(range(jobs), opener, listener, engine=engine, workers=workers, stop=stop, unit="shard")
    return listener


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once_and_its_news_are_heard(tmp_path: Path, workers: int) -> None:
    found = do(5, tmp_path, {}, workers=workers)
    assert sorted(found.results) == list(range(5))
    assert found.news == dict.fromkeys(range(5), STEPS)


@pytest.mark.parametrize(("fault", "why"), [(die, "exit status -9"), (hang, "silent for 2 s")])
def test_the_job_of_a_worker_that_dies_or_hangs_is_done_by_another_and_counted_once(
    tmp_path: Path, fault: Fault, why: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(pool, "SILENCE_SECONDS", 2.0)
    found = do(5, tmp_path, {1: partial(once, fault)})
    assert found.requeues == [1]
    assert sorted(found.results) == list(range(5))
    assert found.news == dict.fromkeys(range(5), STEPS)
    assert f"is lost ({why}): shards [1] go to another worker" in capfd.readouterr().err


def test_a_job_that_kills_every_worker_is_given_up_and_named_after_the_others_are_done(tmp_path: Path) -> None:
    listener = Listener()
    with pytest.raises(SekdError, match=r"shards \[1\] were given up"):
        do(5, tmp_path, {1: die}, listener=listener)
    assert sorted(listener.results) == [0, 2, 3, 4]
    assert listener.requeues == [1, 1, 1]


def test_workers_that_all_die_at_their_start_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "REPLACEMENTS", 1)
    with pytest.raises(SekdError, match="4 workers were started and lost"):
        do(5, tmp_path, {-1: die})


@pytest.mark.parametrize("job", [-1, 1])
@pytest.mark.parametrize(
    ("fault", "message"),
    [(refuse, r"^worker-\d: the data changed$"), (crash, r"^worker-\d: RuntimeError: out of memory; what was written")],
)
def test_an_error_of_a_worker_ends_the_run_in_its_own_words(
    tmp_path: Path, job: int, fault: Fault, message: str
) -> None:
    with pytest.raises(SekdError, match=message):
        do(5, tmp_path, {job: fault})


def test_workers_that_are_never_ready_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START_SECONDS", 2.0)
    with pytest.raises(SekdError, match="no worker was ready within 2 s"):
        do(5, tmp_path, {-1: wait_for_ever})


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_workers_finish_what_they_write_and_ends_them(tmp_path: Path, signum: signal.Signals) -> None:
    class Impatient(Listener):
        def progress(self, job: int, news: int) -> None:
            super().progress(job, news)
            if (tmp_path / "writing").exists():
                os.kill(os.getpid(), signum)

    with pytest.raises(Stopped, match=signum.name):
        do(100, tmp_path, dict.fromkeys(range(100), write_to_the_end), listener=Impatient())
    assert (tmp_path / "written").exists()


def test_each_worker_has_its_own_gpus_and_a_new_one_those_of_the_lost_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr(pool, "SILENCE_SECONDS", 20.0)
    found = do(2, tmp_path, dict.fromkeys((0, 1), die_or_meet), device="cuda")
    assert len(found.requeues) == 1
    assert set(found.results.values()) == {"GPU-a", "GPU-b"}


@pytest.mark.parametrize(
    ("jobs", "fault", "visible", "said"),
    [
        (5, die, "GPU-a", "need 2 GPUs, but CUDA_VISIBLE_DEVICES='GPU-a' names 1"),
        (1, crash, "", "need 1 GPUs, but CUDA_VISIBLE_DEVICES='' names 0"),
    ],
    ids=["a process for each worker", "one worker, in this process"],
)
def test_a_pool_without_enough_gpus_is_refused_before_a_worker_starts(
    jobs: int, fault: Any, visible: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(SekdError, match=said):
        do(jobs, tmp_path, {-1: fault}, device="cuda")


class RandomBackend:
    """Workers that are lost at random moments; the others are always idle again when a job is done."""

    def __init__(self, rng: Any) -> None:
        self._rng, self._messages = rng, list[Message]()

    def start(self, name: str) -> None:
        self._messages.append((name, "idle", None))

    def send(self, name: str, job: Any) -> None:
        self._messages += [
            (name, "progress", (job, 1)),
            (name, "idle", None),
        ]  # the next begins before this one is done
        lost = (name, "lost", "at random")
        self._messages.append(self._rng.choice([(name, "done", (job, None))] * 2 + [lost]))

    def receive(self, timeout: float) -> list[Message]:
        count = self._rng.randint(0, len(self._messages))
        heard, self._messages = self._messages[:count], self._messages[count:]
        return heard

    def kill(self, name: str) -> None: ...
    def shutdown(self, busy: Any) -> None: ...

    room = ""


class AheadBackend:
    """Workers take a second job before the first is done; job 1 ends the worker that has it."""

    def __init__(self) -> None:
        self._jobs: dict[str, list[int]] = {}
        self._messages: list[Message] = []

    def start(self, name: str) -> None:
        self._jobs[name] = []
        self._messages.append((name, "idle", None))

    def send(self, name: str, job: Any) -> None:
        self._jobs[name].append(job)
        if len(self._jobs[name]) < 2:
            self._messages.append((name, "idle", None))

    def receive(self, timeout: float) -> list[Message]:
        if not self._messages:
            self._messages = [message for name in list(self._jobs) for message in self._work(name)]
        heard, self._messages = self._messages, []
        return heard

    def _work(self, name: str) -> list[Message]:
        jobs = self._jobs[name]
        if 1 in jobs:
            del self._jobs[name]
            return [(name, "lost", "by job 1")]
        self._jobs[name] = []
        return [*((name, "done", (job, None)) for job in jobs), *[(name, "idle", None)] * (len(jobs) > 1)]

    def kill(self, name: str) -> None: ...
    def shutdown(self, busy: Any) -> None: ...

    room = ""


def test_a_job_that_ends_its_workers_takes_no_other_with_it() -> None:
    listener = Listener()
    with pytest.raises(SekdError, match=r"shards \[1\] were given up"):
        Pool(range(6), listener, size=2, stop=Stop(), unit="shard").run(AheadBackend())
    assert sorted(listener.results) == [0, 2, 3, 4, 5]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_job_is_done_once_whoever_is_lost(
    monkeypatch: pytest.MonkeyPatch, count: int, size: int, rng: Any
) -> None:
    monkeypatch.setattr(pool, "ATTEMPTS", 1000)
    monkeypatch.setattr(pool, "REPLACEMENTS", 1000)
    listener = Listener()
    Pool(range(count), listener, size=size, stop=Stop(), unit="job").run(RandomBackend(rng))
    assert sorted(listener.results) == list(range(count))
    assert listener.news == dict.fromkeys(range(count), 1)
