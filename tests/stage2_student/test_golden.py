"""Thirty steps with every loss and weighting at work give the curve that is written down.

``SEKD_WRITE_GOLDEN=1`` writes it anew, for a change of behaviour that is meant. Other machines round otherwise, and the
difference grows with the steps: hence the tolerance, which the smallest changes of behaviour tried here exceed.
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from student_settings import Configure
from test_training import losses_of, run_of

from sekd.store import Store
from stage2_student.config import HiddenConfig, LossConfig, OptimConfig, StudentConfig, ValidationConfig
from stage2_student.training import train

GOLDEN = Path(__file__).parent / "golden" / "losses.txt"
TOLERANCE = 2e-4


def curve(config: StudentConfig, store: Store) -> list[float]:
    run = run_of(config, store)
    train(config, store, run)
    return [float(loss) for _, loss in sorted(losses_of(run).items())]


@pytest.fixture
def everything(configure: Configure) -> StudentConfig:
    return configure(
        loss=LossConfig(hidden=HiddenConfig(layers=[2, -1]), levels={"species": 1.5}, confidence=0.5),
        optim=OptimConfig(lr=2e-3, batch_size=8, epochs=5, warmup_steps=4),
        validation=ValidationConfig(times=0, held_out=0.1, images=0),
    )


def test_thirty_steps_follow_the_golden_curve(everything: StudentConfig, store: Store) -> None:
    got = curve(everything, store)
    if os.environ.get("SEKD_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text("".join(f"{step} {loss:.6f}\n" for step, loss in enumerate(got)))
    rows = [line.split() for line in GOLDEN.read_text().splitlines()]
    assert [int(step) for step, _ in rows] == list(range(30))
    assert got == pytest.approx([float(loss) for _, loss in rows], rel=TOLERANCE)


@pytest.mark.parametrize("fault", ["temperature", "confidence"])
def test_a_small_change_of_behaviour_leaves_the_golden_curve(
    fault: str, everything: StudentConfig, store: Store
) -> None:
    soft = everything.loss.soft
    changed = {
        "temperature": replace(everything, loss=replace(everything.loss, soft=replace(soft, temperature=2.02))),
        "confidence": replace(everything, loss=replace(everything.loss, confidence=0.52)),
    }[fault]
    golden = [float(line.split()[1]) for line in GOLDEN.read_text().splitlines()]
    assert curve(changed, store) != pytest.approx(golden, rel=TOLERANCE)
