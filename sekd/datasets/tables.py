"""Read the text files of published datasets; each error names the file and what was expected."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from sekd.errors import SekdError

PIECE = 2**23  # bytes of a list that are parsed at a time
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Table = TypeVar("Table")


class JsonFile:
    """A JSON object in a file of any size, mapped into memory. Of a long list one piece at a time is parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _cannot_be_read(path, error) from error
        except ValueError as error:  # a file without a byte cannot be mapped
            raise self._not_json(error) from error

    def read(self, kind: type[Table]) -> Table:
        """The object as a ``msgspec.Struct``; the lists that ``rows`` is to read are ``msgspec.Raw`` in it."""
        text = memoryview(self._map)[3 if self._map[:3] == BYTE_ORDER_MARK else 0 :]
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.ValidationError as error:
            expected = ", ".join(kind.__annotations__)
            raise SekdError(f"{self.path}: expected an object with {expected}; {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._not_json(error) from error

    def rows(self, array: msgspec.Raw, kind: type[Table]) -> Iterator[list[Table]]:
        """The objects of a list, as many at a time as ``PIECE`` bytes hold."""
        text, start, size = memoryview(array), 0, PIECE
        while len(text) - start > size:
            piece = bytes(text[start : start + size])
            end, rows = len(piece), None
            while rows is None and (end := piece.rfind(b"{", 2, end)) > 0:
                # Not a list, and rejected, where this brace is one within an object or a text.
                rows = self._list(b"[" + piece[1:end].rstrip().removesuffix(b",") + b"]", kind)
            if rows is None:
                size *= 2  # holds no whole object
                continue
            yield rows
            start += end - 1  # the character before the brace stands for the list's bracket
            self._map.madvise(mmap.MADV_DONTNEED)  # what was parsed stays in no memory
        rows = self._list(b"[" + bytes(text[start + 1 :]), kind)
        assert rows is not None, "the whole object was valid"
        yield rows

    def _list(self, text: bytes, kind: type[Table]) -> list[Table] | None:
        """The objects of a whole list; None if the text is none."""
        try:
            return msgspec.json.decode(text, type=list[kind])  # type: ignore[valid-type]
        except msgspec.ValidationError as error:
            raise SekdError(f"{self.path}: in one of its lists, {error}") from error
        except msgspec.DecodeError:
            return None

    def _not_json(self, error: Exception) -> SekdError:
        return SekdError(f"{self.path} is not valid JSON ({error}): the file may be cut off; copy it again")


def read_lines(path: Path) -> list[str]:
    """A text file's lines without the empty ones."""
    return [line.strip() for line in _read(path).splitlines() if line.strip()]


def read_pairs(path: Path) -> dict[str, str]:
    """Lines of "key value", the value up to the line's end, as in CUB's and ImageNet's lists."""
    pairs = {}
    for number, line in enumerate(read_lines(path), start=1):
        key, _, value = line.partition(" ")
        if not value.strip():
            raise SekdError(f"{path}, line {number}: expected an id and a value with a space between, got {line!r}")
        pairs[key] = value.strip()
    return pairs


def locate(root: str, name: str) -> Path:
    """A file in the root or the working directory; its path in the root if neither exists."""
    inside, here = Path(root) / name, Path(name)
    return here if here.is_file() and not inside.is_file() else inside


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise _cannot_be_read(path, error) from error
    except UnicodeDecodeError as error:
        raise SekdError(f"{path} is not text ({error}): expected it as the dataset's authors publish it") from error


def _cannot_be_read(path: Path, error: OSError) -> SekdError:
    return SekdError(
        f"{path} cannot be read ({error.strerror}): expected it as the dataset's authors publish it; "
        "check data.root and data.splits"
    )
