"""Provenance has the versions, the source and the machine, and imports none of the packages."""

import subprocess
import sys

import pyarrow
import pytest

from sekd.provenance import collect, git_state


def test_it_names_settings_device_versions_and_machine():
    made = collect(settings={"seed": 3}, device="a card")
    assert made["settings"] == {"seed": 3}
    assert made["device"] == "a card"
    assert made["software"]["versions"]["pyarrow"] == pyarrow.__version__
    assert made["software"]["versions"]["python"] == sys.version.split()[0]
    assert made["machine"]["processor"]


@pytest.fixture
def checkout(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    return tmp_path, git("rev-parse", "HEAD")


def test_it_tells_a_clean_checkout_from_a_changed_one(checkout):
    folder, commit = checkout
    assert git_state(folder) == {"commit": commit, "changed": False}
    (folder / "untracked").write_text("does not count")
    assert git_state(folder) == {"commit": commit, "changed": False}
    (folder / "file").write_text("two")
    assert git_state(folder) == {"commit": commit, "changed": True}


def test_a_folder_outside_any_checkout_has_no_commit(tmp_path):
    assert git_state(tmp_path) is None


def test_a_package_installed_inside_a_users_own_checkout_has_no_commit(checkout):
    folder, _ = checkout
    installed = folder / ".venv" / "sekd"
    installed.mkdir(parents=True)
    (installed / "provenance.py").touch()
    assert git_state(installed) is None


def test_versions_are_known_without_loading_what_they_are_of():
    code = "import sys; from sekd.provenance import collect; collect(settings={}, device=''); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'vllm', 'transformers')))"
    subprocess.run([sys.executable, "-c", code], check=True)
