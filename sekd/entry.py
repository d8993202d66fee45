"""The decorator of every command that Hydra composes: typed settings, and one line for whatever is wrong with them.

@entry("teacher", TeacherConfig)
def main(config: TeacherConfig) -> None: ...
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from sekd import config_folders, machine
from sekd.config_folders import CONF
from sekd.errors import SekdError, exit_on_error
from sekd.recent import GROUPS, Recent, inherited

Settings = TypeVar("Settings")
# From a command's own overrides to the record that it continues, and overrides to add to those of the record.
Newest = Callable[[Sequence[str]], tuple[Recent | None, list[str]]]
ADDED = "SEKD_INHERITED_OVERRIDES"  # for the other ranks of a run, which start with the complete command line
_added: list[str] = []
_source: list[Path] = []


def entry(
    name: str, schema: type[Settings], *, newest: Newest = lambda _: (None, [])
) -> Callable[[Callable[[Settings], None]], Callable[[], None]]:
    """Make a function of typed settings a command, composed from ``conf/<name>.yaml`` and the command line.

    The yaml file names the settings' type as ``<name>_schema``. Data and model that the command line does not set are
    those of the ``newest`` record (see ``sekd.recent``); the first line of output says which. A ``SekdError``, and
    any setting that does not exist or has a wrong type, becomes one line on stderr and exit status 2.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    machine.register()
    config_folders.register()

    def decorate(main: Callable[[Settings], None]) -> Callable[[], None]:
        @hydra.main(config_path=str(CONF), config_name=name, version_base="1.3")
        @wraps(main)
        def compose_and_run(composed: DictConfig) -> None:
            with _one_line_on_error():
                # Merged with the schema again, which refuses settings added by "+name=value".
                plain = OmegaConf.to_container(composed, resolve=True)
                config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
                if is_main_process():
                    print(_first_line(), flush=True)
                main(config)

        @wraps(main)
        def start() -> None:
            # Without it Hydra prints several lines of its own on an error.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            with _one_line_on_error():
                _add_inherited(newest)
                compose_and_run()

        del start.__wrapped__  # it takes no settings
        return start

    return decorate


def own_overrides() -> list[str]:
    """The overrides on this command's own line, without the inherited ones."""
    return [override for override in HydraConfig.get().overrides.task if override not in _added]


def is_main_process() -> bool:
    """Whether this is the process that prints, of a run's processes on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def value_of(overrides: Sequence[str], setting: str) -> str | None:
    return next((value for key, _, value in (o.partition("=") for o in overrides) if key == setting), None)


def _add_inherited(newest: Newest) -> None:
    """Insert the inherited overrides before the command's own; options come first."""
    if "LOCAL_RANK" in os.environ and ADDED in os.environ:
        _added[:] = os.environ[ADDED].split("\n")
        return
    arguments = sys.argv[1:]
    own = [each for each in arguments if ("=" in each and not each.startswith("-")) or each.startswith("~")]
    record, more = newest(own)
    _added[:] = [*inherited(own, record), *more]
    _source[:] = [record.folder] if record else []
    options = [argument for argument in arguments if argument not in own]
    os.environ[ADDED] = "\n".join(_added)
    sys.argv[1:] = [*options, *_added, *own]


def _first_line() -> str:
    """The data, model and engine that this command uses, and where they come from if not from its command line."""
    choices = HydraConfig.get().runtime.choices
    chosen = " ".join(f"{group}={choices[group]}" for group in (*GROUPS, "engine") if choices.get(group))
    origin = f"as in {_source[0]}" if _source else "model: the default for this data on this machine"
    notes = [origin] if _added else []
    notes += [f"settings of {folder} on top of the package's" for folder in config_folders.config_folders()[:-1]]
    return f"{chosen} ({'; '.join(notes)})" if notes else chosen


@contextmanager
def _one_line_on_error() -> Iterator[None]:
    """Used around the composition and again around the run, because Hydra reports errors of the run itself."""
    with exit_on_error():
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise SekdError(_in_one_line(error)) from error


def _in_one_line(error: Exception) -> str:
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={name} is unknown: choose {', '.join(sorted(error.options))}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        above, names = (cause.full_key or "").rpartition(".")[0], {*map(str, cause.parent_node)} - {"hydra"}
        where = f"{above} has" if above else "there are"
        return f"{cause.full_key} is no setting: {where} {', '.join(sorted(names))}"
    if isinstance(error, OverrideParseException):
        return f'{error.override!r} cannot be read: expected setting=value, and "…" around a value with = or ,'
    details = [str(cause).partition("\n")[0]] if isinstance(cause, OmegaConfBaseException) else []
    return " ".join(": ".join([str(error), *details]).split())
