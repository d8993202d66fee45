"""Which worker asks which shard: each takes the next one, and what a lost worker had goes to the others."""

from collections import deque
from collections.abc import Iterable

SILENCE_SECONDS = 1800.0  # without one image answered, a worker that has a shard is lost
START_SECONDS = 3600.0  # for a worker to load its engine, and on a cluster to find room


class ShardQueue:
    """Bookkeeping alone; knows neither processes nor clusters.

    A shard stays with its worker until it is written. A shard that was in the hands of ``patience`` lost workers is
    given out no more: it may be what kills them.
    """

    def __init__(self, shards: Iterable[int], *, patience: int = 3) -> None:
        self._waiting = deque(shards)
        self._held: dict[str, list[int]] = {}
        self._losses: dict[int, int] = {}
        self._patience = patience

    @property
    def open(self) -> bool:
        """Whether a shard is neither written nor given up."""
        return bool(self._waiting) or any(self._held.values())

    @property
    def given_up(self) -> list[int]:
        """Shards that went down with too many workers."""
        return sorted(shard for shard, losses in self._losses.items() if losses >= self._patience)

    def next_for(self, worker: str) -> int | None:
        """A shard for a worker, None where there is none to hand out at the moment."""
        if not self._waiting:
            return None
        shard = self._waiting.popleft()
        self._held.setdefault(worker, []).append(shard)
        return shard

    def written(self, worker: str, shard: int) -> None:
        """The shard is on disk."""
        self._held[worker].remove(shard)

    def lost(self, worker: str) -> list[int]:
        """The worker is gone: its shards wait for another. Returns those that were in its hands."""
        dropped = self._held.pop(worker, [])
        for shard in dropped:
            self._losses[shard] = self._losses.get(shard, 0) + 1
            if self._losses[shard] < self._patience:
                self._waiting.appendleft(shard)
        return dropped
