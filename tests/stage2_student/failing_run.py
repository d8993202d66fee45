"""`python -m stage2_student`, of which one process meets a fault before a step: the others must notice."""

import multiprocessing
import os
import signal
from typing import Any

from stage2_student.__main__ import main
from stage2_student.module import StudentModule

FAULT, RANK, STEP = "SEKD_TEST_FAULT", "SEKD_TEST_RANK", "SEKD_TEST_STEP"
KILLED, READER_KILLED = "killed", "reader killed"

if __name__ == "__main__":
    ordinary = StudentModule.on_train_batch_start

    def fail(module: StudentModule, batch: Any, batch_idx: int) -> None:
        if (module.global_rank, module.global_step) == (int(os.environ[RANK]), int(os.environ[STEP])):
            readers = [process.pid for process in multiprocessing.active_children()]
            for pid in [os.getpid()] if os.environ[FAULT] == KILLED else readers:
                os.kill(pid or 0, signal.SIGKILL)
        ordinary(module, batch, batch_idx)

    StudentModule.on_train_batch_start = fail  # type: ignore[method-assign]
    main()
