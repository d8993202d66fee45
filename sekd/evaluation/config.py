"""Every setting of the evaluation, as typed dataclasses, composed by ``conf/evaluate.yaml``."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sekd.datasets.config import DataConfig
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig


@dataclass
class EvaluateConfig:
    """The datasets, models and strategies of an evaluation.

    Attributes:
        data: the dataset distilled on; ``model``: the base; ``engine``: how it is served.
        name: the run, a folder below ``runs``: every adapter in it is evaluated beside the base.
        unseen: names of datasets that were not distilled on; null takes those of ``usual_unseen`` for ``data``.
        usual_unseen: dataset -> its default ``unseen``.
        split: "test" for scores; "val" for choosing settings.
        base: the base's prompting strategies; ``student``: every student's, by default those of ``usual_student`` for
            ``data``, else joint. The prompting strategies are the three paradigms, and guided, true_prefix and
            wrong_prefix: joint answers with a forced prefix, after the model's own, the true, and wrong answers (see
            ``sekd.inference.strategies``).
        limit: most images of each dataset; null keeps each one's ``data.limit``, which for ``data`` may be the newest
            run's.
        topk: most likely tokens reported with each generated token, which give the letters' probabilities.
        part_size: images stored at a time; an interruption loses at most these.
        workers: engines, one process each; null: on CPU one a core, up to four, and one on GPU.
        unreadable_share: more unreadable images than this share stop the evaluation.
        resamples: of every bootstrap interval.
    """

    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    engine: EngineConfig = MISSING
    name: str = MISSING
    runs: str = "runs"
    unseen: list[str] | None = None
    usual_unseen: dict[str, list[str]] = field(default_factory=dict)
    split: str = "test"
    base: list[str] = field(default_factory=lambda: ["joint", "independent", "conditioned"])
    student: list[str] | None = None
    usual_student: dict[str, list[str]] = field(default_factory=dict)
    limit: int | None = None
    topk: int = 20
    part_size: int = 512
    workers: int | None = None
    unreadable_share: float = 0.01
    resamples: int = 2000
    progress: bool = True

    @property
    def asked_of_students(self) -> list[str]:
        return self.usual_student.get(self.data.name, ["joint"]) if self.student is None else self.student
