"""A pass keeps its engine full: the simulation of ``make bench ARGS=occupancy``."""

import pytest

from benchmarks import occupancy


@pytest.mark.parametrize(("capacity", "whole"), [(64, 0.97), (256, 0.95)])
def test_the_engine_is_full_until_the_last_image_has_entered(
    monkeypatch: pytest.MonkeyPatch, capacity: int, whole: float
) -> None:
    monkeypatch.setattr(occupancy, "CAPACITY", capacity)
    engine, ended = occupancy.simulate(overlap=True)
    assert sorted(ended) == list(range(occupancy.SHARDS))
    assert engine.occupancy(0.0, 0.9) == pytest.approx(1.0)
    assert engine.occupancy() > whole
    drained, _ = occupancy.simulate(overlap=False)
    assert drained.occupancy(0.0, 0.9) < 0.9
