"""What every command composed by Hydra has in common: typed settings in, and one line for whatever is wrong with them.

@entry("teacher", TeacherConfig)
def main(config: TeacherConfig) -> None: ...
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from sekd.errors import SekdError, exit_on_error

CONF = str(Path(__file__).parents[1] / "conf")
Settings = TypeVar("Settings")


def entry(name: str, schema: type[Settings]) -> Callable[[Callable[[Settings], None]], Callable[[], None]]:
    """Make a function of typed settings a command: ``conf/<name>.yaml`` and the command line's overrides go in.

    The settings' type is known to the file as ``<name>_schema``. A ``SekdError``, and any setting that does not exist
    or does not fit, becomes one line on stderr and exit status 2.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)

    def decorate(main: Callable[[Settings], None]) -> Callable[[], None]:
        @hydra.main(config_path=CONF, config_name=name, version_base="1.3")
        @wraps(main)
        def compose_and_run(composed: DictConfig) -> None:
            with _one_line_on_error():
                # Merged once more, because "+name=value" adds what no setting reads.
                plain = OmegaConf.to_container(composed, resolve=True)
                config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), plain))
                main(config)

        @wraps(main)
        def start() -> None:
            # Hydra would print several lines of its own and a hint to set this.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            with _one_line_on_error():
                compose_and_run()

        del start.__wrapped__  # it takes no settings
        return start

    return decorate


@contextmanager
def _one_line_on_error() -> Iterator[None]:
    """Around the composition, and once more around the run: what passes through Hydra is announced by it."""
    with exit_on_error():
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise SekdError(_in_one_line(error)) from error


def _in_one_line(error: Exception) -> str:
    """What is wrong with an override, and what could stand there instead."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={name} is unknown: choose {', '.join(sorted(error.options))}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        above, names = (cause.full_key or "").rpartition(".")[0], {*map(str, cause.parent_node)} - {"hydra"}
        where = f"{above} has" if above else "there are"
        return f"{cause.full_key} is no setting: {where} {', '.join(sorted(names))}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} cannot be read: expected setting=value"
    said = [str(error), *([str(cause).partition("\n")[0]] if isinstance(cause, OmegaConfBaseException) else [])]
    return " ".join(": ".join(said).split())
