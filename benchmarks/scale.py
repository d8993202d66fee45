"""Hours and bytes of a pass and a student on 1 to 64 GPUs: a simulation on the project's own pool of workers.

The pool that hands out shards is the real one; its workers are simulated, with a clock of their own. Every figure
assumes ``RATE`` images a second of one GPU, which is arithmetic (docs/real_models.md) until a GPU has shown it.
"""

import contextlib
import heapq
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from sekd.inference.pool import Job, Message, Pool
from sekd.stop import Stop

RATE, STUDENT_RATE = 33.0, 14.0  # images a second of one H100 with a 7B model: teacher, student
SHARD, BYTES = 512, 6 * (116 + 3584 * 2)  # images; bytes an image of six levels with one bfloat16 layer
LOAD, RESTART = 180.0, 300.0  # seconds until an engine is ready; until a lost node is back
SPREAD, SLOW, SLOW_SHARE = 0.05, 0.5, 0.02  # of the nodes' speeds; a straggler's speed; stragglers among the nodes
HOURS_TO_LOSS = 200.0  # mean hours of a GPU until its node is lost
SIZES = {"train_mini (500,000)": 500_000, "train (2,686,843)": 2_686_843}
GPUS = (1, 4, 8, 64)


@dataclass
class SimulatedNodes:
    """A pool's backend of nodes that differ in speed, are lost at random and come back; ``clock`` is in seconds."""

    seed: int
    first: int = 0  # of all the cluster's nodes, the number of the first one here, and the step to the next
    step: int = 1
    clock: float = 0.0
    busy: float = 0.0  # seconds of work that counted
    room: str = ""
    _events: list[tuple[float, int, Message]] = field(default_factory=list)
    _nodes: dict[str, tuple[float, float]] = field(default_factory=dict)  # speed, time of loss
    _count: int = 0
    _started: int = 0

    def start(self, name: str) -> None:
        # A node is the same one in every simulation of this seed.
        chance = random.Random(f"{self.seed} {self.first + self.step * self._started}")
        self._started += 1
        ready = self.clock + LOAD + (RESTART if self.clock else 0.0)
        slow = SLOW if chance.random() < SLOW_SHARE else 1.0
        lost = ready + chance.expovariate(1 / (3600 * HOURS_TO_LOSS))
        self._nodes[name] = (slow * max(0.1, chance.gauss(1.0, SPREAD)), lost)
        self._at(ready, (name, "started", "simulated"))
        self._at(ready, (name, "idle", None))

    def send(self, name: str, job: Job) -> None:
        speed, lost = self._nodes[name]
        seconds = SHARD / (RATE * speed)
        if self.clock + seconds > lost:
            self._at(lost, (name, "lost", "the node failed"))
            return
        self.busy += seconds
        self._at(self.clock + seconds, (name, "done", (job, None)))
        self._at(self.clock + seconds, (name, "idle", None))

    def receive(self, timeout: float) -> list[Message]:
        self.clock, _, message = heapq.heappop(self._events)
        return [message]

    def kill(self, name: str) -> None: ...
    def shutdown(self, busy: Sequence[str]) -> None: ...

    def _at(self, time: float, message: Message) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, message))


class _Counter:
    """A listener that counts requeued shards."""

    requeues = 0

    def progress(self, job: Job, news: object) -> None: ...
    def done(self, job: Job, result: object) -> None: ...
    def requeued(self, job: Job) -> None:
        self.requeues += 1


def simulate(images: int, gpus: int, *, seed: int, first: int = 0, step: int = 1) -> tuple[float, float, int]:
    """Hours of a pass with one queue, share of the GPUs' time at work, and shards that were asked again."""
    nodes, counter = SimulatedNodes(seed, first, step), _Counter()
    shards = -(-images // SHARD)
    with contextlib.redirect_stderr(io.StringIO()):
        Pool(range(shards), counter, size=min(gpus, shards), stop=Stop(), unit="shard").run(nodes)
    return nodes.clock / 3600, nodes.busy / (gpus * nodes.clock), counter.requeues


def simulate_array(images: int, gpus: int, *, seed: int) -> float:
    """Hours of a job array: part i of n takes every n-th shard alone, and its slowest part is the pass."""
    shards = -(-images // SHARD)
    parts = [len(range(part, shards, gpus)) * SHARD for part in range(gpus)]
    return max(simulate(part, 1, seed=seed, first=number, step=gpus)[0] for number, part in enumerate(parts) if part)


def show_scale(*, seeds: int = 10) -> None:
    """Print a table: the mean of ``seeds`` simulated passes, and arithmetic for the student and the disk."""
    print("| images | GPUs | pass, ideal | one queue | at work | asked again | job array | student epoch | store |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, images in SIZES.items():
        for gpus in GPUS:
            passes = [simulate(images, gpus, seed=seed) for seed in range(seeds)]
            hours, work, again = (sum(each) / seeds for each in zip(*passes, strict=True))
            array = sum(simulate_array(images, gpus, seed=seed) for seed in range(seeds)) / seeds
            print(
                f"| {name} | {gpus} | {images / RATE / gpus / 3600:.2f} h | {hours:.2f} h | {work:.0%} | {again:.1f} | "
                f"{array:.2f} h | {images / STUDENT_RATE / gpus / 3600:.1f} h | {images * BYTES / 1e9:.0f} GB |"
            )
