"""What is run in each of vLLM's processes."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

KILLED = """
import multiprocessing, os, signal, sys, time
from pathlib import Path

def core(said):
    from sekd.inference.plugin import end_with_parent
    end_with_parent()
    Path(said).write_text(str(os.getpid()))
    time.sleep(3600)

if __name__ == "__main__":
    said = Path(sys.argv[1])
    multiprocessing.get_context(sys.argv[2]).Process(target=core, args=(str(said),)).start()
    while not (said.exists() and said.read_text()):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_core_of_an_engine_ends_with_the_process_that_started_it_however_that_ended(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    for start in ("spawn", "fork"):
        said = tmp_path / start
        path = str(Path(__file__).parents[2])
        subprocess.run(
            [sys.executable, str(script), str(said), start], env={**os.environ, "PYTHONPATH": path}, check=False
        )
        left = [psutil.Process(int(said.read_text()))] if psutil.pid_exists(int(said.read_text())) else []
        _, alive = psutil.wait_procs(left, timeout=30)
        for process in alive:
            process.kill()
        assert not alive, start
