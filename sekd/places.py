"""The places that ``sekd.share`` sends to and fetches from: a hub, a tar file, a folder, any other URL of fsspec."""

import hashlib
import io
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub import CommitOperationAdd, HfApi, parse_hf_uri
from tqdm import tqdm

from sekd.cards import HUB_NAME
from sekd.errors import SekdError
from sekd.files import atomic
from sekd.store import manifest as m

LIST = "sekd.json"  # every file with its size and SHA-256; sent last
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
A_COMMIT = 1000  # files: the hub takes neither commits of any size nor many of them
Content = Path | bytes


def url_of(where: str, *, data: bool = False) -> str:
    """WHERE as fsspec names it; of a hub that of the data set where ``data``, else of the model."""
    if where.endswith(".tar") or "://" in where or not HUB_NAME.fullmatch(where):
        url = where
    elif Path(where).parent.exists():
        raise SekdError(f"{where} may be a folder or a hub repository: write ./{where} or hf://{where}")
    else:
        url = f"hf://{where}"
    if data and url.startswith("hf://") and not url.startswith("hf://datasets/"):
        return url.replace("hf://", "hf://datasets/")
    return url


def open_place(url: str) -> tuple[Any, str]:
    """The file system of a place, and what its files' names begin with. Of a tar file every member is checked."""
    if not url.endswith(".tar"):
        fs, root = fsspec.url_to_fs(url)
        fs.invalidate_cache()
        return fs, f"{root}/"
    fs = fsspec.filesystem("tar", fo=url)
    members = fs.tar.getmembers()
    refuse_outside((member.name for member in members), url)
    if others := [member.name for member in members if not (member.isfile() or member.isdir())]:
        raise SekdError(f"{url} is refused: {others[0]!r} in it is a link or a device")
    return fs, ""


def find(where: str) -> tuple[Any, str, bytes]:
    """The place that holds what is to be pulled, and its list. A repository's name may be a model's or a data set's."""
    for url in dict.fromkeys((url_of(where), url_of(where, data=True))):
        fs, root = open_place(url)
        if fs.exists(root + LIST):
            return fs, root, fs.cat_file(root + LIST)
    raise SekdError(f"{where} holds no {LIST}: nothing was pushed there, or a push has not ended; push again")


def already_there(url: str, digests: Mapping[str, dict[str, Any]]) -> set[str]:
    """The files that a place holds with these very bytes; a ``SekdError`` where it holds others of the same names."""
    if url.endswith(".tar") and not Path(url).exists():
        return set()
    fs, root = open_place(url)
    found = fs.find(root, detail=True) if fs.exists(root or LIST) else {}
    listed = m.unseal(fs.cat_file(root + LIST)) if root + LIST in found else None
    there = set()
    for name in progress({n: d["bytes"] for n, d in digests.items() if root + n in found}, f"comparing {url}"):
        info, digest = found[root + name], digests[name]
        known = (info.get("lfs") or {}).get("sha256") or (listed or {"files": {}})["files"].get(name, {}).get("sha256")
        if info["size"] == digest["bytes"] and (known or _sha256(fs, root + name)) == digest["sha256"]:
            there.add(name)
        else:
            raise SekdError(f"{url} holds another {name}: push to another place, or overwrite this one by --replace")
    if url.endswith(".tar") and there != digests.keys():
        raise SekdError(f"{url} holds something else: push to another file, or overwrite this one by --replace")
    return there


def _sha256(fs: Any, path: str) -> str:
    with fs.open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def send(url: str, new: Mapping[str, Content], sizes: Mapping[str, int], message: str, *, public: bool) -> None:
    """Send files, the list last. A tar file is written whole, a hub's in commits with this message."""
    if url.endswith(".tar"):
        if "://" in url:
            raise SekdError(f"{url}: a tar file is written to a path of this machine; a URL takes the files themselves")
        _write_tar(Path(url), new, sizes)
    elif url.startswith("hf://"):
        _commit(url, new, message, public=public)
    else:
        _put(url, new, sizes)


def _put(url: str, new: Mapping[str, Content], sizes: Mapping[str, int]) -> None:
    fs, root = open_place(url)
    if LIST in new and fs.exists(root + LIST):
        fs.rm_file(root + LIST)  # what is replaced in part is not whole
    local = isinstance(fs, LocalFileSystem)  # object stores show a file only when all of it is there
    for name in progress(sizes, url):
        path, content = root + name, new[name]
        partial = f"{path}.partial" if local else path
        if local:
            fs.makedirs(fs._parent(path), exist_ok=True)
        fs.pipe_file(partial, content) if isinstance(content, bytes) else fs.put_file(str(content), partial)
        if local:
            fs.mv(partial, path)


def _commit(url: str, new: Mapping[str, Content], message: str, *, public: bool) -> None:
    """The hub keeps what it has received of a commit that was interrupted, and does not take it twice."""
    at, api, names = parse_hf_uri(url), HfApi(), list(new)
    api.create_repo(at.id, repo_type=at.type, private=not public, exist_ok=True)
    for start in range(0, len(names), A_COMMIT):
        some = names[start : start + A_COMMIT]
        files = [CommitOperationAdd(f"{at.path_in_repo}/{name}".lstrip("/"), new[name]) for name in some]
        api.create_commit(at.id, files, commit_message=message, repo_type=at.type, revision=at.revision)


def _write_tar(file: Path, contents: Mapping[str, Content], sizes: Mapping[str, int]) -> None:
    with atomic(file) as partial, tarfile.open(partial, "w") as tar:
        for name in progress(sizes, str(file)):
            content, member = contents[name], tarfile.TarInfo(name)
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as stream:
                member.size = stream.seek(0, io.SEEK_END)
                stream.seek(0)
                tar.addfile(member, stream)


def digest(content: Content) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return m.file_digest(content)


def refuse_outside(names: Iterable[str], where: str) -> None:
    for name in names:
        parts = PurePosixPath(name).parts
        if name != "/".join(parts) or not parts or ".." in parts or "\\" in name or name.startswith("/"):
            raise SekdError(f"{where} is refused: {name!r} in it is outside its own folder")


def progress(sizes: Mapping[str, int], title: str) -> Iterator[str]:
    total = sum(sizes.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=not sys.stderr.isatty()) as bar:
        for name, size in sizes.items():
            yield name
            bar.update(size)


@contextmanager
def one_sentence(where: str) -> Iterator[None]:
    """Every kind of storage raises errors of its own; all become a ``SekdError``."""
    try:
        yield
    except SekdError:
        raise
    except ImportError as error:
        package = PACKAGES.get(where.partition("://")[0], "<package>")
        raise SekdError(f"{where}: {error}: `uv pip install {package}`") from error
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise SekdError(f"{where}: {what}. What has arrived is kept: run the command again") from error
