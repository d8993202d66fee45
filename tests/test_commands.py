"""Every command reports a wrong setting in one line, and exits with 2 before anything is loaded."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

COMMANDS = ("stage1_teacher.__main__", "stage2_student.__main__", "sekd.evaluation.__main__", "sekd.preview")
Refusal = Callable[..., str]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Refusal:
    """Runs a command that must fail, in an empty folder; its message without "error: "."""

    def refused(command: str, *overrides: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.delenv("HYDRA_FULL_ERROR")
        monkeypatch.setattr(sys, "argv", [command, *overrides])
        with pytest.raises(SystemExit) as left:
            import_module(command).main()
        said = capfd.readouterr()
        assert left.value.code == 2
        assert not said.out or (said.out.startswith("data=") and said.out.count("\n") == 1), said.out
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("error: ")
        assert not any(tmp_path.iterdir()), "nothing is left where the command runs"
        return said.err.removeprefix("error: ")

    return refused


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("override", "said", "known"),
    [
        ("data=nowhere", "data=nowhere is unknown", ("cub", "inat_plant", "demo_moth")),
        ("model=nobody", "model=nobody is unknown", ("tiny", "qwen3_vl_8b")),
        ("dta=inat", "dta is no setting", ("data", "model")),
        ("data.rot=/data", "data.rot is no setting", ("root", "splits")),
        ("data.splits.trian=x", "data.splits.trian is no setting", ("train", "val", "test")),
        ("+folder=7", "folder is no setting", ("data", "model")),
        ("data.seed=high", "data.seed=high: Value 'high' of type 'str' could not be converted to Integer", ()),
        ("data.root", "'data.root' cannot be read", ("setting=value",)),
        ("data.root=a=b", "'data.root=a=b' cannot be read", ("setting=value", '"…" around')),
        ("data=inat,cub", "Ambiguous value", ("--multirun",)),
    ],
)
def test_a_wrong_setting_is_one_line_that_lists_the_known_ones(
    refusal: Refusal, command: str, override: str, said: str, known: tuple[str, ...]
) -> None:
    found = refusal(command, override)
    assert said in found
    assert all(name in found for name in known)


@pytest.mark.parametrize("command", [command for command in COMMANDS if "student" not in command])
def test_an_absent_dataset_is_one_line_that_names_its_setting(refusal: Refusal, command: str) -> None:
    assert "the folder /nowhere/at/all does not exist; set data.root" in refusal(command, "data.root=/nowhere/at/all")


def test_a_sweep_leaves_nothing_where_the_command_runs(refusal: Refusal, tmp_path: Path) -> None:
    said = refusal("stage2_student.__main__", "--multirun", "seed=0,1", f"runs={tmp_path}-runs", "store=nowhere")
    assert "nowhere holds no store" in said
    assert (Path(f"{tmp_path}-runs") / ".sweep" / "multirun.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--taxonomy", "nowhere", "--model", "tiny"), "data 'nowhere' is unknown: conf/data holds choices, cub"),
        (("--taxonomy", "tree.json", "--model", "nobody"), "model 'nobody' is unknown"),
    ],
)
def test_predictions_refuse_unknown_names_alike(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    (tmp_path / "tree.json").write_text('{"oak": ["plant", "oak"], "fox": ["animal", "fox"]}')
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict", "a.jpg", *arguments])
    with pytest.raises(SystemExit) as left:
        import_module("sekd.evaluation.predict").main()
    assert left.value.code == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1


def test_the_other_processes_of_a_run_do_not_repeat_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setattr(sys, "argv", ["student", "data=demo", "model=tiny"])
        with pytest.raises(SystemExit):
            import_module("stage2_student.__main__").main()
        said = capfd.readouterr()
        assert said.out.count("\n") == lines
        assert "no complete conditioned teacher pass" in said.err
