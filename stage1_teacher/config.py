"""Every setting of stage 1, as typed dataclasses, composed by ``conf/teacher.yaml``."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import MISSING

from sekd.datasets.config import DataConfig
from sekd.errors import SekdError
from sekd.inference.config import EngineConfig
from sekd.models import ModelConfig
from sekd.store.lock import WHOLE, ShardPart
from stage1_teacher.teacher_modes import ON_POLICY, TEACHER_MODES, USES_LABELS


@dataclass
class Teacher:
    """The teacher: the model, with or without a LoRA adapter; for ``paradigm=on_policy`` also the store of the given
    answers."""

    adapter: str | None = None
    prefixes: str | None = None


@dataclass
class TeacherConfig:
    """One pass. ``conf/teacher.yaml`` explains each setting."""

    data: DataConfig = MISSING
    model: ModelConfig = MISSING
    engine: EngineConfig = MISSING
    teacher: Teacher = field(default_factory=Teacher)
    split: str = "train"
    paradigm: str = "conditioned"
    topk: int = 32
    layers: list[int] = field(default_factory=lambda: [-1])
    hidden_dtype: str | None = None
    artifacts: str = "artifacts"
    shard_size: int = 512
    unreadable_share: float = 0.01
    workers: int = 1
    shard: str | None = None
    cluster: str | None = None
    progress: bool = True

    @property
    def taught_by(self) -> ModelConfig:
        """The model that answers, its adapter included."""
        return replace(self.model, adapter=self.teacher.adapter or self.model.adapter)

    @property
    def adapter(self) -> Path | None:
        return None if self.taught_by.adapter is None else Path(self.taught_by.adapter)

    @property
    def part(self) -> ShardPart:
        if self.shard is None:
            return WHOLE
        try:
            index, count = (int(number) for number in self.shard.split("/"))
        except ValueError:
            raise SekdError(f"shard={self.shard!r}: expected i/n, such as 0/4 for the first of four parts") from None
        return ShardPart(index, count)


def check(config: TeacherConfig) -> None:
    """Refuse impossible settings.

    Raises:
        SekdError: says which, and the valid ones.
    """
    if config.paradigm not in (modes := (*TEACHER_MODES, ON_POLICY)):
        raise SekdError(f"paradigm={config.paradigm}: the teacher modes are {', '.join(modes)}")
    if (config.paradigm == ON_POLICY) != (config.teacher.prefixes is not None):
        raise SekdError(
            f"paradigm={ON_POLICY} and teacher.prefixes go together: the prefixes are a student's own pass, "
            '`make teacher ARGS="paradigm=joint teacher.adapter=runs/<run>/adapter"`'
        )
    if config.data.by_descent and config.paradigm == ON_POLICY:
        raise SekdError(f"paradigm={ON_POLICY} needs labels: two descents may ask about different paths")
    if config.data.by_descent and config.paradigm in USES_LABELS:
        raise SekdError(f"paradigm={config.paradigm} needs labels, and data.questions=descent reads none")
    if config.data.by_descent and config.topk < config.data.options:
        raise SekdError(f"topk={config.topk}: a descent needs the probabilities of {config.data.options} options")
    if config.cluster not in (None, "ray"):
        raise SekdError(f"cluster={config.cluster}: the clusters known are ray")
    if config.workers < 1:
        raise SekdError(f"workers={config.workers}: at least one engine has to run")
