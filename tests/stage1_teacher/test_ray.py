"""The pass on a local Ray of two actors, one of which is killed."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from teacher_passes import contents

from stage1_teacher.config import TeacherConfig
from stage1_teacher.generate import prepare, run

ray = pytest.importorskip("ray")


@pytest.mark.slow
def test_a_killed_actors_shard_goes_to_another_and_the_pass_is_whole(
    config: TeacherConfig, whole: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    from stage1_teacher import ray_team

    take, victims = ray_team._Crew._take, []

    def kill_the_first_that_is_ready(self: Any, call: Any, report: Any) -> None:
        _, shard = self._busy[call]
        if shard is None and not victims:
            pid = ray.get(call)
            victims.append(pid)
            threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        take(self, call, report)

    monkeypatch.setattr(ray_team._Crew, "_take", kill_the_first_that_is_ready)
    store = run(replace(config, workers=2, cluster="ray"))
    assert len(victims) == 1
    assert contents(store.path) == contents(whole)
    assert "is lost" in capfd.readouterr().err
    assert not prepare(config).missing
