"""How runs are named and recognised."""

from dataclasses import replace
from pathlib import Path

import pytest
from student_settings import Configure

from sekd.errors import SekdError
from stage2_student.config import HardConfig, LossConfig, StreamConfig, StudentConfig
from stage2_student.runs import RunFolder, name_of


def folder(config: StudentConfig, fingerprint: str = "f" * 16) -> RunFolder:
    return RunFolder.of(config, fingerprint=fingerprint)


def finished(config: StudentConfig) -> RunFolder:
    run = folder(config)
    assert run.prepare(force=False)
    run.adapter.mkdir()
    run.finish({"val": {}})
    return run


def test_a_finished_run_with_the_very_same_settings_is_recognised(configure: Configure) -> None:
    finished(configure())
    assert not folder(configure()).prepare(force=False)


def test_settings_that_change_nothing_do_not_ask_for_another_run(configure: Configure) -> None:
    finished(configure())
    stream = replace(configure().stream, workers=7, ahead=5)
    assert not folder(configure(stream=stream)).prepare(force=False)


def test_force_repeats_a_finished_run_from_nothing(configure: Configure) -> None:
    finished(configure())
    run = folder(configure())
    assert run.prepare(force=True)
    assert not run.adapter.exists()
    assert run.metrics() is None


def test_a_finished_run_with_other_settings_is_not_overwritten_and_the_difference_named(configure: Configure) -> None:
    finished(configure())
    changed = configure(loss=LossConfig(hard=HardConfig(weight=0.25)))
    with pytest.raises(SekdError, match=r"loss\.hard\.weight: 1\.0 there, 0\.25 here"):
        folder(changed).prepare(force=False)


def test_another_teacher_pass_is_another_run(configure: Configure) -> None:
    finished(configure())
    with pytest.raises(SekdError, match="fingerprint"):
        folder(configure(), fingerprint="e" * 16).prepare(force=False)


def test_an_interrupted_run_keeps_its_checkpoints_and_only_for_the_same_settings(configure: Configure) -> None:
    run = folder(configure())
    run.prepare(force=False)
    run.checkpoints.mkdir()
    (run.checkpoints / "step=3.ckpt").touch()
    assert folder(configure()).prepare(force=False)
    assert run.last_checkpoint() is not None
    other = folder(configure(stream=StreamConfig(buffer=99)))
    with pytest.raises(SekdError, match=r"an interrupted run with other settings \(stream\.buffer"):
        other.prepare(force=False)
    assert run.last_checkpoint() is not None
    assert other.prepare(force=True)
    assert run.last_checkpoint() is None


def test_clearing_a_run_leaves_runs_in_folders_below_it(configure: Configure) -> None:
    outer, inner = finished(configure()), finished(configure(name="run/seed1"))
    folder(configure()).prepare(force=True)
    assert inner.metrics() is not None
    assert outer.metrics() is None


@pytest.mark.parametrize(
    ("overrides", "seed", "name"),
    [
        (["data=demo", "model=tiny"], 0, "demo"),
        (["data=demo", "seed=2"], 2, "demo/seed2"),
        (["loss=hard", "seed=0"], 0, "demo/hard/seed0"),
        (["loss=all", "paradigm=conditioned", "seed=0"], 0, "demo/seed0"),
        (["paradigm=independent", "seed=1"], 1, "demo/independent/seed1"),
        (["loss.soft.weight=0.5"], 0, "demo/loss.soft.weight=0.5"),
        (["data.root=/somewhere/else", "force=true", "stream.workers=3"], 0, "demo"),
        (["optim.lr=1e-3", "loss=soft"], 0, "demo/soft,optim.lr=1e-3"),
        (["lora.targets=[q_proj,v_proj]"], 0, "demo/lora.targets=_q_proj,v_proj_"),
    ],
)
def test_a_run_is_named_by_what_was_asked_for(overrides: list[str], seed: int, name: str) -> None:
    assert name_of("demo", "tiny", overrides, seed) == name


def test_runs_of_another_base_than_the_default_have_a_folder_of_their_own() -> None:
    assert name_of("demo", "qwen2_5_vl_7b", ["model=qwen2_5_vl_7b", "seed=1"], 1) == "demo-qwen2_5_vl_7b/seed1"


def test_names_too_long_for_a_folder_stay_apart(tmp_path: Path) -> None:
    names = {name_of("demo", "tiny", [f"optim.lr={n:.80f}"], 0) for n in (0.1, 0.2)}
    assert len(names) == 2
    assert all(len(name) < 100 for name in names)


def test_a_run_that_is_killed_as_it_ends_has_its_metrics_or_its_checkpoints(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(configure())
    run.prepare(force=False)
    run.checkpoints.mkdir()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.finish({"val": {}})
    assert run.checkpoints.exists()
    assert run.metrics() == {"val": {}}


def test_a_rank_that_starts_while_another_writes_the_settings_keeps_the_checkpoints(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(configure())
    run.prepare(force=False)
    run.checkpoints.mkdir()
    (run.checkpoints / "step=3.ckpt").touch()
    write = Path.write_text

    def in_two_halves(self: Path, text: str, **how: str) -> int:
        monkeypatch.setattr(Path, "write_text", write)
        write(self, text[: len(text) // 2], **how)
        assert folder(configure()).prepare(force=False)
        return write(self, text, **how)

    monkeypatch.setattr(Path, "write_text", in_two_halves)
    assert folder(configure()).prepare(force=False)
    assert run.last_checkpoint() is not None
