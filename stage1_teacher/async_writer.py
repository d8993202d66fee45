"""Writes shards while the engine asks the next: one thread, at most one shard waiting, no error lost."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class AsyncWriter:
    """Runs jobs in order in a thread. At most one waits while one runs, so memory holds two shards at most."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._jobs: list[Future] = []

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; raises what an earlier one raised."""
        self._wait(keep=1)
        self._jobs.append(self._pool.submit(job))

    def _wait(self, *, keep: int) -> None:
        while len(self._jobs) > keep:
            self._jobs.pop(0).result()

    def __enter__(self) -> "AsyncWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Finish what was queued: a shard that is complete is written even when the run stops."""
        try:
            self._wait(keep=0)
        except Exception:
            if kind is None:
                raise
        finally:
            self._pool.shutdown()
