"""Every setting of the evaluation, as typed dataclasses, composed by ``conf/evaluate.yaml``."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sekd.datasets.config import DataConfig
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig


@dataclass
class EvaluateConfig:
    """What is asked of whom.

    Attributes:
        data: the trees that were distilled on; ``model``: the base; ``engine``: how it is served.
        name: the run, a folder below ``runs``: every adapter below that folder is evaluated beside the base.
        unseen: names of datasets that were never distilled on; null takes those that ``usual_unseen`` names for
            ``data``.
        usual_unseen: dataset -> its unseen companions.
        split: "test" for scores; "val" for every choice that is made.
        base: how the base is asked; ``student``: how every student is, by default as ``usual_student`` says for
            ``data``, else by joint questions. The prompting strategies are the three
            paradigms, and guided, true_prefix and wrong_prefix: joint answers with a forced prefix, after the model's
            own, the true, and wrong answers (see ``sekd.inference.strategies``).
        limit: so many images of each dataset at most; null asks about all.
        topk: most likely tokens reported with each generated token, in which letters' probabilities are looked up.
        parser: how answers are read; "benchmark" is the reference script's rule.
        part_size: images kept at a time: what an interruption costs at most.
        workers: engines, one process each; null: on CPU one a core, up to four, and one on GPU.
        unreadable_share: more unreadable images than this share stop the evaluation.
        resamples: of the bootstrap behind every interval.
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
    parser: str = "lenient"
    part_size: int = 512
    workers: int | None = None
    unreadable_share: float = 0.01
    resamples: int = 2000
    progress: bool = True

    @property
    def asked_of_students(self) -> list[str]:
        """How every student is asked."""
        return self.usual_student.get(self.data.name, ["joint"]) if self.student is None else self.student
