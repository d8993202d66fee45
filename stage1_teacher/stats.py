"""What a pass has done so far, in numbers that add up over images and shards."""

from dataclasses import astuple, dataclass, replace

LISTED = 5


@dataclass(frozen=True)
class Stats:
    """``letter_mass`` is the sum over steps of the probability that the answer is any of the letters at all;
    ``reasons`` say why the first few images were skipped. ``outside`` are those whose path ended before it began."""

    images: int = 0
    steps: int = 0
    skipped: int = 0
    outside: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    letter_mass: float = 0.0
    reasons: tuple[str, ...] = ()

    def __add__(self, other: "Stats") -> "Stats":
        both = Stats(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))
        return replace(both, reasons=both.reasons[:LISTED])
