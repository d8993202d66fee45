"""Every setting of stage 2, as typed dataclasses, composed by ``conf/student.yaml``.

The defaults are those of a real model of several billion parameters; ``conf/recipe/<model>.yaml`` holds what differs.
"""

from dataclasses import dataclass, field

from omegaconf import MISSING

from sekd.datasets.config import DataConfig
from sekd.models import ModelConfig

LEAF = "leaf"  # among loss.levels: the last level of each path
INDEPENDENT = "independent"  # among rehearsal.requests: a single question of the image's own path
FSDP = "fsdp"  # the strategy that shards the frozen weights over the processes of a machine


@dataclass
class HardConfig:
    """Cross-entropy on the teacher's answer."""

    weight: float = 1.0


@dataclass
class SoftConfig:
    """Divergence from the teacher's distribution.

    ``source`` is ``topk`` (the stored candidates and a tail bucket) or ``exact`` (the full vocabulary, from the stored
    last layer through the frozen head). ``k`` candidates are used, all stored ones by default. With ``exact``,
    full-vocabulary logits exist for ``chunk`` positions at a time.
    """

    weight: float = 1.0
    temperature: float = 2.0
    divergence: str = "forward"
    source: str = "topk"
    k: int | None = None
    chunk: int = 64


@dataclass
class HiddenConfig:
    """Distance between decoder states.

    ``layers`` are indices in transformers' ``hidden_states``; negative ones count from the last layer, so -1 is the
    last. With ``after_norm`` the last layer is compared after the final norm, as the head reads it; every other layer
    is compared as stored.
    """

    weight: float = 1.0
    distance: str = "cosine"
    layers: list[int] = field(default_factory=lambda: [-1])
    after_norm: bool = True


@dataclass
class FormatConfig:
    """Cross-entropy on the other tokens of the joint answer, so that the student keeps its format."""

    weight: float = 0.1


@dataclass
class LossConfig:
    """Weights by loss, by level, and by the probability of the parent's answer.

    ``levels`` maps a level's name to its weight, 1 where it is not named. ``leaf`` is the last level of each path,
    whatever its name; its weight comes on top of that of the name, also in a rehearsed single question.
    ``confidence`` is the exponent γ of p(parent's answer)^γ, the weight of a step below the first: 0 gives every step
    the same weight. A rehearsed single question always has weight 1.
    """

    name: str = "all"
    hard: HardConfig = field(default_factory=HardConfig)
    soft: SoftConfig = field(default_factory=SoftConfig)
    hidden: HiddenConfig = field(default_factory=HiddenConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    levels: dict[str, float] = field(default_factory=dict)
    confidence: float = 0.0


@dataclass
class RehearsalConfig:
    """Other tasks that are trained beside the paths, so that the student does not forget them.

    Single questions of another stored pass over the same data, with its wording and answers: ``paradigm`` is that
    pass's, ``independent`` or ``conditioned``; None rehearses none. ``store`` names the pass; by default it is the one
    distilled from if its paradigm fits, else the newest complete one. ``share`` is the number of single questions for
    each path, the levels in turn.

    And ``requests``, any other prompts about an image, such as "Describe this image.": ``images`` images of every batch
    of ``optim.batch_size`` get one each, and the first token of the student's reply is trained to stay the base's, as
    in Learning without Forgetting (arXiv 1606.09282). Each counts as much as ``weight`` paths. The request
    ``independent`` stands for a single question of the image's own path, each level for some images: the base answers
    it during the training, so that no second pass is needed.
    """

    paradigm: str | None = None
    store: str | None = None
    share: float = 0.5
    requests: list[str] = field(default_factory=list)
    images: int = 1
    weight: float = 1.0


@dataclass
class LoraSettings:
    """PEFT LoRA on the language model's linear layers of these names; everything else is frozen."""

    rank: int = 64
    alpha: int = 64
    dropout: float = 0.05
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to ``final_lr`` of the peak. ``batch_size`` is of one process."""

    lr: float = 5e-5
    weight_decay: float = 0.0
    batch_size: int = 4
    accumulate: int = 1
    epochs: int = 1
    warmup_steps: int = 20
    final_lr: float = 0.02
    clip_norm: float = 1.0


@dataclass
class StreamConfig:
    """How the stored pass is read: ``buffer`` examples of one process, from ``open_shards`` shards, are shuffled
    together.

    ``workers`` processes read and encode, ``ahead`` buffers each in advance; with 0 workers the training process does
    it. Neither changes the order. ``group_by_length`` puts examples of similar length in one batch.
    """

    buffer: int = 64
    open_shards: int = 8
    workers: int = 4
    ahead: int = 2
    group_by_length: bool = True


@dataclass
class TrainerConfig:
    """Settings of Lightning's trainer. ``precision`` auto is bf16 on GPU and fp32 on CPU.

    ``strategy`` is ``fsdp``, which shards the frozen weights over the processes of a machine, or any of Lightning's.
    """

    name: str = "default"
    strategy: str = "auto"
    accelerator: str = "auto"
    devices: str = "auto"
    nodes: int = 1
    precision: str = "auto"
    gradient_checkpointing: bool = False
    loggers: list[str] = field(default_factory=lambda: ["csv", "tensorboard"])
    log_every: int = 10
    checkpoint_every: int = 50
    progress: bool = True
    threads: int | None = None
    max_steps: int | None = None


@dataclass
class ValidationConfig:
    """``times`` times during training and once at the end: agreement with the teacher on the share ``held_out`` of the
    stored examples, at most ``held_out_images`` of them, which are never trained on, and greedy joint answers to
    ``images`` images of ``split``."""

    times: int = 3
    held_out: float = 0.02
    held_out_images: int = 1000
    images: int = 100
    batch_size: int = 50
    split: str = "val"


@dataclass
class StudentConfig:
    """One run. ``name`` is its folder in ``runs``, by default made from the overrides. ``store`` names a stored pass;
    by default it is the newest complete one of the dataset and ``paradigm`` (a control unless it is conditioned).
    ``tracker`` is ``tensorboard``, ``wandb`` or ``mlflow``, which then has the numbers and plots of this run.
    ``min_path_probability`` leaves out the images whose path a descent found with less. ``force`` repeats a finished
    run."""

    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    loss: LossConfig = field(default_factory=LossConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    name: str | None = None
    seed: int = 0
    paradigm: str = "conditioned"
    store: str | None = None
    tracker: str | None = None
    min_path_probability: float = 0.0
    artifacts: str = "artifacts"
    runs: str = "runs"
    force: bool = False
