"""Time the arms of a comparison in alternating rounds; ratios of their times."""

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Comparison:
    """Seconds of every arm in every round, for one unit of work."""

    title: str
    seconds: Mapping[str, list[float]]
    ratios: list[tuple[str, str]]  # pairs of arms: the first one's time over the second one's is shown
    notes: list[str] = field(default_factory=list)  # further figures, a sentence each

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: all fields, with the ratios' median, least and most over the rounds."""
        values = {}
        for above, below in self.ratios:
            found = [a / b for a, b in zip(self.seconds[above], self.seconds[below], strict=True)]
            median = statistics.median(found)
            values[f"{above} / {below}"] = {"median": median, "least": min(found), "most": max(found)}
        return asdict(self) | {"ratios": values}

    def show(self) -> None:
        """Print the arms' median times, the ratios and the notes."""
        print(f"\n{self.title}")
        for arm, seconds in self.seconds.items():
            print(f"{arm:<60} {1000 * statistics.median(seconds):.4g} ms")
        for arms, found in self.to_dict()["ratios"].items():
            print(f"{arms:<60} " + "{median:.2f} ({least:.2f} to {most:.2f})".format(**found))
        print(*self.notes, sep="\n")


def take_turns(arms: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """Arm -> seconds [round]. The arms alternate, so that a slow phase of the machine affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    turns = [name for number in range(rounds) for name in list(arms)[:: -1 if number % 2 else 1]]
    for name in tqdm(turns, desc="benchmark", unit="arm"):
        seconds[name].append(arms[name]())
    return seconds


def timed(job: Callable[[], Any], *, units: int = 1, times: int = 1) -> Callable[[], float]:
    """An arm: seconds of ``job``, the mean of ``times``, divided by ``units``. Runs the job once now, to warm up."""
    job()

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(times):
            job()
        return (time.perf_counter() - begin) / times / units

    return run


class Clock:
    """Its own thread's processor time by part; a part within another counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._thread, self._inner = threading.get_ident(), 0.0

    def watched(self, call: Callable, part: str) -> Callable:
        """The same call, whose time counts for this part."""

        def timed(*given: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return call(*given, **named)
            outer, self._inner, begin = self._inner, 0.0, time.thread_time()
            try:
                return call(*given, **named)
            finally:
                spent = time.thread_time() - begin
                self.seconds[part] += spent - self._inner
                self._inner = outer + spent

        return timed


def training_step(module: torch.nn.Module, loss: Callable[..., Tensor]) -> Callable[..., None]:
    """One step of AdamW on the module's trainable weights; returns when the device has done it."""
    trained = [weights for weights in module.parameters() if weights.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)

    def step(*given: Any) -> None:
        value = loss(*given)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        value.item()

    return step
