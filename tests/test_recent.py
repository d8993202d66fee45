"""A command uses the data and model of the newest pass or run, unless its own overrides set others."""

import os
from pathlib import Path

import pytest

from sekd.errors import SekdError
from sekd.machine import WORLDS
from sekd.recent import PASS_FILE, RUN_FILE, Recent, inherited, newest_pass, newest_run, record, run_folder


def recorded(file: Path, *, at: int, data: str = "demo", model: str = "tiny", overrides: tuple[str, ...] = ()) -> Path:
    record(file, {"data": data, "model": model}, overrides)
    os.utime(file, (at, at))
    return file


def whole_run(folder: Path, *, at: int, **choices: str) -> Path:
    recorded(folder / RUN_FILE, at=at, **choices)  # type: ignore[arg-type]
    (folder / "metrics.json").write_text("{}")
    return folder


def test_the_pass_recorded_last_is_the_newest(tmp_path: Path) -> None:
    recorded(tmp_path / "inat" / "a" / PASS_FILE, at=10, data="inat", model="qwen2_5_vl_7b")
    recorded(tmp_path / "cub" / "b" / PASS_FILE, at=20, data="cub", model="qwen2_5_vl_3b")
    assert newest_pass(tmp_path) == Recent(tmp_path / "cub" / "b", ("data=cub", "model=qwen2_5_vl_3b"))
    newest = newest_pass(tmp_path, ["data=inat", "seed=1"])
    assert newest is not None
    assert newest.folder == tmp_path / "inat" / "a"
    assert newest_pass(tmp_path, ["data=inat", "model=tiny"]) is None


def test_only_what_concerns_data_and_model_is_recorded(tmp_path: Path) -> None:
    overrides = ("data=inat", "data.root=/photos", "topk=8", "engine.threads=2", "model.max_pixels=100")
    recorded(tmp_path / "inat" / "a" / PASS_FILE, at=1, data="inat", overrides=overrides)
    newest = newest_pass(tmp_path)
    assert newest is not None
    assert newest.overrides == ("data=inat", "model=tiny", "data.root=/photos", "model.max_pixels=100")


def test_what_a_command_names_itself_is_not_inherited() -> None:
    newest = Recent(Path("pass"), ("data=inat", "model=tiny", "data.root=/old", "data.limit=5"))
    assert inherited(["data=inat", "data.root=/new", "seed=1"], newest) == ["model=tiny", "data.limit=5"]
    assert inherited([], newest) == list(newest.overrides)


@pytest.mark.parametrize(
    ("overrides", "added"),
    [
        ([], ["model=tiny"]),
        (["data=demo_moth"], ["model=tiny"]),
        (["data=inat"], ["model=qwen2_5_vl_3b"]),
        (["data=inat", "model=tiny"], []),
        (["data=inat,cub"], []),
    ],
)
def test_without_a_record_the_model_is_the_default_of_the_data(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], added: list[str]
) -> None:
    monkeypatch.setattr("sekd.machine.card_gib", lambda: None)
    assert inherited(overrides, None) == added


@pytest.mark.parametrize(
    ("memory", "model"), [(16.0, "qwen2_5_vl_3b"), (24.0, "qwen2_5_vl_7b"), (80.0, "qwen2_5_vl_7b")]
)
def test_the_default_model_is_what_the_card_holds(monkeypatch: pytest.MonkeyPatch, memory: float, model: str) -> None:
    monkeypatch.setattr("sekd.machine.card_gib", lambda: memory)
    assert inherited(["data=inat"], None) == [f"model={model}"]


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("demo_moth", "tiny"),
        ("forest", "tiny_forest"),
        ("forest_kite", "tiny_forest"),
        ("forest_fungi", "qwen2_5_vl_3b"),
    ],
)
def test_only_the_embedded_worlds_have_an_embedded_model(
    monkeypatch: pytest.MonkeyPatch, data: str, model: str
) -> None:
    monkeypatch.setattr("sekd.machine.card_gib", lambda: None)
    assert inherited([f"data={data}"], None) == [f"model={model}"]


def test_every_entry_of_an_embedded_world_is_known_as_one() -> None:
    names = {file.stem for file in (Path(__file__).parents[1] / "conf" / "data").glob("*.yaml")}
    assert {name for name in names if name.startswith(tuple(WORLDS))} == {
        name for each in WORLDS.values() for name in each
    }


def test_a_run_counts_once_it_is_whole(tmp_path: Path) -> None:
    whole_run(tmp_path / "demo" / "seed0", at=10)
    recorded(tmp_path / "inat" / RUN_FILE, at=20, data="inat")  # still in training
    newest = newest_run(tmp_path)
    assert newest is not None
    assert newest.folder == tmp_path / "demo" / "seed0"
    assert run_folder(None, tmp_path) == tmp_path / "demo" / "seed0"
    assert run_folder(None, tmp_path, whole_group=True) == tmp_path / "demo"
    assert run_folder(Path("named"), tmp_path) == Path("named")


def test_where_there_is_no_run_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match="`make student` makes one"):
        run_folder(None, tmp_path)


def test_all_ranks_of_a_training_may_record_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def and_another_rank_meanwhile(self: Path, text: str, **how: str) -> int:
        monkeypatch.setattr(Path, "write_text", write)
        written = write(self, text, **how)
        recorded(tmp_path / RUN_FILE, at=1)
        return written

    monkeypatch.setattr(Path, "write_text", and_another_rank_meanwhile)
    recorded(tmp_path / RUN_FILE, at=2)
    assert [file.name for file in tmp_path.iterdir()] == [RUN_FILE]
