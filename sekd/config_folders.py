"""The folders that settings are composed from: the package's own, and the user's on top of it.

A user's folder is the one named by ``--config-dir DIR``, or ``conf`` in the working directory. Its files replace the
package's files of the same name, and may add to them.
"""

import sys
from pathlib import Path

from sekd.errors import SekdError

CONF = Path(__file__).parent / "conf"


def config_folders() -> list[Path]:
    """The user's folders that there are and then the package's; the first that holds a file counts.

    Raises:
        SekdError: the folder that is named does not exist.
    """
    named = _named(sys.argv)
    if named is not None and not named.is_dir():
        raise SekdError(f"--config-dir {named}: no such folder; `sekd init` makes one with a copy of the settings")
    folders = [named] if named else []
    folders += [folder for folder in [Path("conf")] if folder.is_dir()]
    return [*(folder for folder in folders if not folder.samefile(CONF)), CONF]


def entries(group: str) -> list[str]:
    """The names in a group of settings, such as "data"."""
    return sorted({file.stem for folder in config_folders() for file in (folder / group).glob("*.yaml")})


def register() -> None:
    """Have Hydra look in the user's folders before the package's."""
    from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class UsersFolders(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in config_folders()[:-1]:
                search_path.prepend("users", f"file://{folder.resolve()}", SearchPathQuery(provider="main"))

    Plugins.instance().register(UsersFolders)


def _named(arguments: list[str]) -> Path | None:
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            return Path(value or next(iter(arguments[place + 1 :]), "")).expanduser()
    return None
