"""The wheel and the source archive: built offline from the tracked files, and used from an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from PIL import Image

import sekd
from sekd.errors import SekdError
from sekd.project import write_project

ROOT = Path(__file__).parents[1]
LARGEST = 8e6  # bytes
TREE = "class,order,species\n" + "\n".join(f"bird{i},Order {i % 3},Bird {i}" for i in range(6))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both archives. The wheel is built from the source archive."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("conf", "sekd", "stage1_teacher", "stage2_student", "tools", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "uv", "build", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--quiet", "--out-dir", str(built), str(source)], check=True, timeout=300)
    return built


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, as an installation lays it out."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the wheel's code in a folder; the environment's packages follow it on the path."""
    command = [sys.executable, "-P", "-m", "sekd.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_both_archives_hold_the_package_and_its_data_and_nothing_else(built: Path, installed: Path) -> None:
    wheel = {file.relative_to(installed).as_posix() for file in installed.rglob("*") if file.is_file()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    packages = ("sekd/", "stage1_teacher/", "stage2_student/")
    expected = {file for file in tracked if file.startswith(packages) and file != "sekd/conf"}
    expected |= {f"sekd/{file}" for file in tracked if file.startswith("conf/")}
    assert {file for file in wheel if ".dist-info/" not in file} == expected
    assert {"sekd/conf/teacher.yaml", "sekd/embedded/base/model.safetensors", "sekd/prompts.yaml"} < wheel
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        source = {name.partition("/")[2] for name in archive.getnames()}
    assert expected < source
    assert not [name for name in source if name.startswith(("tests", "tools", "benchmarks"))]
    assert all(file.stat().st_size < LARGEST for file in built.iterdir())


def test_the_metadata_names_one_version_both_engines_and_the_command(installed: Path) -> None:
    folder = next(installed.glob("sekd-*.dist-info"))
    metadata = message_from_bytes((folder / "METADATA").read_bytes())
    written = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert written
    assert metadata["Version"] == sekd.__version__ == written[1]
    assert {"cpu", "gpu"} < set(metadata.get_all("Provides-Extra", []))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "sekd = sekd.cli:main" in (folder / "entry_points.txt").read_text()


def test_the_help_imports_nothing_slow(installed: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['sekd', '--help']; from sekd.cli import main; main(); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    shown = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "stage 2: distil" in shown
    assert not {"torch", "hydra", "numpy", "rich", "stage1_teacher"} & set(shown.splitlines()[-1].split())


def test_a_command_reads_the_wheels_settings_and_the_users_on_top(installed: Path, tmp_path: Path) -> None:
    for i in range(6):
        file = tmp_path / f"birds/bird{i}/1.png"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20), (40 * i, 0, 0)).save(file)
    (tmp_path / "birds/tree.csv").write_text(TREE)
    for folder, splits in (("conf/data", "{train: none}"), ("other/data", "{train: .}")):
        (tmp_path / folder).mkdir(parents=True)
        text = f"name: birds\nformat: folder\nroot: birds\nsplits: {splits}\nhierarchy: tree.csv\n"
        (tmp_path / folder / "birds.yaml").write_text(text)
    (tmp_path / "other/data/folder.yaml").write_text("defaults: [birds]\nname: mine\n")
    result = run(installed, tmp_path, "preview", "data=folder", "MODEL=tiny", "--config-dir", "other", "count=2")
    assert "(settings of other on top of the package's; settings of conf on top of the package's)" in result.stdout
    assert "runs/preview/mine.html: 2 of 6 images" in result.stdout, result.stderr
    result = run(installed, tmp_path, "preview", "data=nowhere", "--config-dir=other")
    assert result.returncode == 2
    assert "data=nowhere is unknown: choose birds, choices, cub" in result.stderr
    result = run(installed, tmp_path, "preview", "data=birds", "--config-dir", "absent")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "--config-dir absent: no such folder" in result.stderr


def test_a_project_holds_a_copy_of_the_settings_and_replaces_nothing(tmp_path: Path) -> None:
    new = tmp_path / "new"
    write_project(new)
    assert (new / "conf/teacher.yaml").read_text() == (ROOT / "conf/teacher.yaml").read_text()
    asked = ["make", "--dry-run", "--no-print-directory", "-C", str(new), "teacher", "DATA=inat", "ARGS=topk=8"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["sekd", "teacher", 'DATA="inat"', "topk=8"]
    with pytest.raises(SekdError, match=r"holds conf, Makefile, README\.md already"):
        write_project(new)


def test_the_doctor_ends_with_one_where_something_needed_is_missing(installed: Path, tmp_path: Path) -> None:
    metadata = next(installed.glob("sekd-*.dist-info")) / "METADATA"
    text = metadata.read_text()
    metadata.write_text(text.replace("Requires-Dist: tqdm>=4.67", "Requires-Dist: no-such-package>=4", 1))
    try:
        result = run(installed, tmp_path, "doctor")
    finally:
        metadata.write_text(text)
    assert result.returncode == 1, result.stderr
    assert result.stdout.splitlines()[-1] == "no-such-package: uv pip install 'no-such-package>=4'"
    assert re.search(r"torch loads +✓", result.stdout)
    assert "`sekd teacher` makes one" in result.stdout


def test_the_lock_file_fits_the_dependencies_that_the_project_declares(tmp_path: Path) -> None:
    """Without network uv can confirm a lock file that fits; it cannot make another."""
    check = [sys.executable, "-m", "uv", "lock", "--check", "--offline", "--python", sys.executable]
    environment = os.environ | {"UV_CACHE_DIR": str(tmp_path / "empty")}
    project = (ROOT / "pyproject.toml").read_text()
    stale = project.replace('"tqdm>=4', '"tqdm>=3')
    assert stale != project
    codes = []
    for name, text in (("fits", project), ("stale", stale)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyproject.toml").write_text(text)
        shutil.copy(ROOT / "uv.lock", tmp_path / name)
        codes.append(subprocess.run(check, cwd=tmp_path / name, env=environment, check=False).returncode)
    assert codes == [0, 1]
