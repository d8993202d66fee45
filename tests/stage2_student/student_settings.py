"""What the tests of stage 2 say of settings."""

from collections.abc import Callable

from stage2_student.config import LoraSettings, StudentConfig

Configure = Callable[..., StudentConfig]  # the fixture ``configure``
PLAIN = LoraSettings(rank=4, alpha=8, dropout=0.0)  # an untrained student is then the teacher
