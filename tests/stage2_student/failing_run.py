"""`python -m stage2_student`, killed without warning before a step: rank 0 alone, so that the others must notice."""

import os
import signal
from typing import Any

from stage2_student.__main__ import main
from stage2_student.module import StudentModule

STEP = "SEKD_TEST_KILLED_AT"

if __name__ == "__main__":
    ordinary = StudentModule.on_train_batch_start

    def killed(module: StudentModule, batch: Any, batch_idx: int) -> None:
        if module.global_rank == 0 and module.global_step == int(os.environ[STEP]):
            os.kill(os.getpid(), signal.SIGKILL)
        ordinary(module, batch, batch_idx)

    StudentModule.on_train_batch_start = killed  # type: ignore[method-assign]
    main()
