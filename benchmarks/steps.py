"""A student's training step on stored targets, against the same step with the teacher in the loop.

The online arms pay for the teacher's conditioned steps and for nothing else that the offline one does not: images are
decoded and processed beforehand, and the joint prompt is taken as it is stored.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.arms import Job
from benchmarks.measure import interleaved, ratio, timed
from benchmarks.online import OnlineTeacher
from benchmarks.setting import settings
from sekd.inference.schedule import read_image
from sekd.store import Store
from stage2_student.batch import Batch
from stage2_student.config import OptimConfig
from stage2_student.stored import HeldOut, Part, Reader, Wanted
from stage2_student.training import assemble
from stage2_student.vision import VisionCache

STEPS = 2  # of a round


class Steps:
    """A student and one batch of its data, taken again and again."""

    def __init__(self, job: Job, store: Store, folder: Path, *, batch: int) -> None:
        self._job = job
        config = settings(job, store, folder, optim=OptimConfig(lr=1e-3, batch_size=batch))
        self._module, data = assemble(config, store)
        self._vlm = self._module.student.base
        self._data = data
        self._trained = [weights for weights in self._module.parameters() if weights.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=1e-3)
        order = data.order(0, 1)
        self._block = next(order.blocks(0))
        reader = Reader(Part(store, Wanted(candidates=True, layers=(0,)), HeldOut(0)), open_shards=8)
        self._paths = list(reader.read(self._block.runs))[:batch]
        self._batch = data.encoder.batch(self._paths, images=batch, all_images=batch, world=1)

    def offline(self) -> None:
        """Targets as stored."""
        self._learn(self._batch)

    def cached(self, folder: Path) -> Callable[[], None]:
        """Offline, with the frozen vision tower's output kept, as in every epoch but the first."""
        student = self._module.student
        cache = VisionCache(folder, limit_gb=1)

        def step() -> None:
            student.vision = cache
            self._learn(self._batch)
            student.vision = None

        return step

    def online(self, *, cached: bool) -> Callable[[], None]:
        """The teacher's conditioned steps first, by the same model without its adapter."""
        teacher = OnlineTeacher(self._vlm, self._job.model, cached=cached)
        root = Path(self._job.data.root)
        images = teacher.images([read_image(root / path.image) for path in self._paths])
        questions = [path.questions for path in self._paths]

        def step() -> None:
            self._vlm.eval()
            with self._module.student.vlm.disable_adapter():
                steps = teacher.ask(questions, images)
            asked = [tuple(answers) for answers in zip(*(one.answers for one in steps), strict=True)]
            assert asked == [path.answers for path in self._paths], "the teacher in the loop is another one"
            self._vlm.train()
            self._learn(self._batch)

        return step

    def _learn(self, batch: Batch) -> None:
        loss = self._module.training_outcome(batch).total
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, 1.0)
        self._optimizer.step()


def measure_steps(job: Job, store: Store, folder: Path, *, batch: int, rounds: int) -> dict[str, Any]:
    """Seconds a step of every arm, and the ratios that matter."""
    steps = Steps(job, store, folder, batch=batch)
    arms = {
        "offline": steps.offline,
        "offline, vision kept": steps.cached(folder),
        "online": steps.online(cached=False),
        "online, key-value cache": steps.online(cached=True),
    }
    seconds = interleaved({name: timed(step, times=STEPS) for name, step in arms.items()}, rounds=rounds)
    offline = seconds["offline"]
    return {
        "batch": batch,
        "seconds": seconds,
        "ratios": {
            "offline / online": ratio(offline, seconds["online"]),
            "offline / online with key-value cache": ratio(offline, seconds["online, key-value cache"]),
            "vision kept / offline": ratio(seconds["offline, vision kept"], offline),
        },
    }
