"""``sekd doctor``: what is installed, what fits this machine, what was made last, and what is missing.

Exit status 1 where something is missing that the commands need; the last lines say how to get it.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table

from sekd import machine
from sekd.config_folders import config_folders, entries
from sekd.errors import as_typed, exit_on_error
from sekd.memory import GIB, RESERVED_GIB
from sekd.recent import newest_pass, newest_run

DISK_GIB, SHARED_GIB = 5, 0.5  # less is too little for a pass and a student; for the pages that processes share


@dataclass(frozen=True)
class Finding:
    """One line: ``fix`` is the command or the step that helps where something is missing or short."""

    what: str
    found: str
    fix: str = ""
    needed: bool = True


def packages() -> Iterator[Finding]:
    """What the package requires, with the engine of this machine; then what is optional."""
    extra = machine.engine_extra()
    optional = {*importlib.metadata.metadata("sekd").get_all("Provides-Extra", ())} - {"cpu", "gpu", "dev"}
    for wanted in map(Requirement, importlib.metadata.requires("sekd") or ()):
        extras = [x for x in ("", extra, *optional) if not wanted.marker or wanted.marker.evaluate({"extra": x})]
        if not extras:
            continue
        fix = machine.install_engine() if extras == [extra] else f"uv pip install '{wanted.name}{wanted.specifier}'"
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(wanted.name, "not installed", fix, needed=extras[0] not in optional)
            continue
        if wanted.specifier.contains(found, prereleases=True):
            yield Finding(wanted.name, found)
        else:
            yield Finding(wanted.name, f"{found}, expected {wanted.specifier}", fix)


def torch_loads() -> Iterator[Finding]:
    """Whether torch loads and sees the GPU, and torchvision loads where it is installed; each in its own process."""
    checks = {"torch": "import torch; print('CUDA' if torch.cuda.is_available() else 'CPU')"}
    if importlib.util.find_spec("torchvision"):
        checks["torchvision"] = "import torchvision; print('yes')"
    for name, code in checks.items():
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
        found, fix = done.stdout.strip(), ""
        if done.returncode:
            found = (done.stderr.strip().splitlines() or ["no"])[-1][:80]
            fix = machine.install_engine() if name == "torch" else f"uv pip uninstall {name}"
        elif found == "CPU" and machine.engine_extra() == "gpu":
            fix = "this torch sees no GPU: install its build for CUDA"
        yield Finding(f"{name} loads", found, fix)


def hardware() -> Iterator[Finding]:
    cards = machine.ask_driver("memory.total")
    yield Finding("GPU", f"{len(cards)} × {machine.card_gib():.0f} GiB" if cards else "none: the CPU engine is used")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    yield Finding("cores, memory", f"{len(os.sched_getaffinity(0))}, {memory:.0f} GiB")
    for what, folder, least in (("free disk", ".", DISK_GIB), ("free shared memory", "/dev/shm", SHARED_GIB)):
        free = shutil.disk_usage(folder).free / GIB
        fix = "" if free >= least else f"make room in {Path(folder).resolve()}: at least {least:g} GiB"
        yield Finding(what, f"{free:.1f} GiB", fix)


def models() -> Iterator[Finding]:
    """Each entry of ``conf/model`` whose 16-bit weights fit the GPU, by the size in its name, and its recipe."""
    card = machine.card_gib()
    recipes = entries("recipe")
    for name in entries("model"):
        size = name.rpartition("_")[2].removesuffix("b")
        fits = card is not None and size.isdigit() and int(size) * 2e9 / GIB + RESERVED_GIB <= card
        if not fits and not name.startswith("tiny"):
            continue
        recipe = machine.default_recipe(name)
        yield Finding(name, f"recipe {recipe}" if recipe in recipes else "no recipe of its own")


def made() -> Iterator[Finding]:
    for what, newest, make in (
        ("newest pass", newest_pass(Path("artifacts")), "`make teacher`"),
        ("newest student", newest_run(Path("runs")), "`make student`"),
    ):
        found = f"{newest.folder} ({' '.join(newest.overrides)})" if newest else f"none: {as_typed(make)} makes one"
        yield Finding(what, found)
    yield Finding("settings", ", ".join(str(folder) for folder in config_folders()))


def main() -> None:
    groups = {"installed": [*packages(), *torch_loads()], "this machine": [*hardware()]}
    groups |= {"models that fit": [*models()], "this folder": [*made()]}
    console = Console(highlight=False)
    table = Table("", "", "", box=None, show_header=False)
    for title, findings in groups.items():
        table.add_row(f"[bold]{title}")
        for each in findings:
            mark = "[green]✓" if not each.fix else "[red]✗" if each.needed else "–"
            table.add_row(f"  {each.what}", mark, each.found)
    console.print(table)
    missing = [each for findings in groups.values() for each in findings if each.fix and each.needed]
    for each in missing:
        console.print(f"{each.what}: {each.fix}", markup=False, soft_wrap=True)
    if missing:
        raise SystemExit(1)


if __name__ == "__main__":
    with exit_on_error():
        main()
