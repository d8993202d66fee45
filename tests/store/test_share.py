"""Students and stored passes arrive whole, by every way of sharing them, or not at all."""

import hashlib
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
import yaml
from fsspec.implementations.local import LocalFileSystem
from hub_double import Hub, serve
from store_passes import PLAN, data_bytes, fill, new_store

from sekd.errors import SekdError
from sekd.evaluation.students import find_students, read_base
from sekd.models import ModelConfig
from sekd.recent import newest_pass, newest_run, record
from sekd.share import LIST, pull, push
from sekd.store import Store
from sekd.store import manifest as m
from sekd.store.verify import verify

STOP = 4  # the file in which a transfer is interrupted


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = fill(new_store(tmp_path / "here" / "artifacts" / "demo", plan=PLAN))
    record(made.path / "provenance" / "choices.json", {"data": "demo", "model": "tiny"}, [])
    return made


@pytest.fixture
def student(tmp_path: Path) -> Path:
    run = tmp_path / "here" / "runs" / "mine"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "adapter_config.json").write_text("{}")
    (run / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 50)
    (run / "adapter" / "README.md").write_text("---\nbase_model: a/b\n---\n\n# Student of mine\n")
    model = vars(ModelConfig(name="tiny", path="owner/base", wording="terse", dtype="float32"))
    settings = {"name": "mine", "model": model, "data": {"name": "demo"}, "fingerprint": "0" * 16}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "metrics.json").write_text("{}")
    (run / "logs").mkdir()
    (run / "logs" / "events.pkl").write_bytes(b"not sent")
    record(run / "choices.json", {"data": "demo", "model": "tiny"}, [])
    return run


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of another person, in which commands then run."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    from huggingface_hub import constants

    with serve() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.address)
        patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", "hf_none")
        yield hub


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a local server that speaks S3; its URL."""
    # A process of its own: once Flask is imported, torch cannot look through this one's modules.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while server.poll() is None and not _answers(host, port):
        time.sleep(0.1)
    assert server.poll() is None, "the server did not start"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.kill()
    server.wait()


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


@pytest.mark.parametrize("kind", ["folder", "tar", "s3", "memory", "hub"])
def test_a_store_and_a_student_arrive_as_they_were_sent(
    kind: str,
    tmp_path: Path,
    s3: str,
    hub: Hub,
    store: Store,
    student: Path,
    there: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    start = {"folder": f"{tmp_path}/", "tar": f"{tmp_path}/", "s3": f"{s3}/", "memory": "memory://", "hub": "owner/"}
    ending = ".tar" if kind == "tar" else ""
    where = f"{start[kind]}pass{ending}"
    push(store.path, where)
    came = pull(where)
    assert came == Path("artifacts/demo", store.fingerprint)
    assert data_bytes(Store.open(came)) == data_bytes(store)
    assert not verify(came)
    assert Store.find(Path("artifacts"), "demo").path == came, "where the student looks"

    capsys.readouterr()
    before = [*hub.uploads], [*hub.downloads]
    push(came, where)
    assert ", 0 files sent" in capsys.readouterr().out, "what was pulled is what was pushed"
    pull(where)
    assert "already" in capsys.readouterr().out
    assert (hub.uploads, hub.downloads) == before or kind != "hub", "the hub tells the checksums of large files"

    where = f"{start[kind]}student{ending}"
    push(student, where)
    came = pull(where)
    assert came == Path("runs/mine")
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "config.yaml", "metrics.json"):
        assert (came / name).read_bytes() == (student / name).read_bytes()
    [found] = find_students(came)
    assert (found.adapter, read_base(came).path) == (came / "adapter", "owner/base")
    recent = newest_run(Path("runs"))
    assert recent is not None
    assert recent.folder == came, "the commands after training take it"
    assert not (came / "logs").exists()
    assert not [*there.rglob(".pull*")]


def test_on_a_hub_a_pass_is_a_private_data_set_and_a_student_a_model(
    hub: Hub, store: Store, student: Path, there: Path
) -> None:
    push(store.path, "owner/both")
    push(student, "owner/both", public=True)
    assert "shards/00000/targets.parquet" in hub.repositories["datasets/owner/both"]
    assert {"adapter_model.safetensors", "README.md"} < hub.repositories["models/owner/both"].keys()
    assert hub.private & {"datasets/owner/both", "models/owner/both"} == {"datasets/owner/both"}
    assert pull("hf://datasets/owner/both").parts[0] == "artifacts"
    assert pull("owner/both").parts[0] == "runs"
    (there / "owner").mkdir()
    with pytest.raises(SekdError, match=r"write \./owner/both or hf://owner/both"):
        push(student, "owner/both")


def test_the_hub_keeps_what_it_received_of_an_interrupted_push(hub: Hub, store: Store, there: Path) -> None:
    hub.objects.clear()
    hub.uploads.clear()
    hub.refuses_after = 2
    with pytest.raises(SekdError, match="What has arrived is kept"):
        push(store.path, "owner/broken")
    hub.refuses_after = None
    with pytest.raises(SekdError, match=f"holds no {LIST}"):
        pull("owner/broken")
    push(store.path, "owner/broken")
    assert len(hub.uploads) == len(set(hub.uploads)) == 2 * store.plan.n_shards, "no object was received twice"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that a pull from a folder fetches, by name. It is interrupted once."""
    names: list[str] = []
    real = LocalFileSystem.get_file

    def get_file(self: LocalFileSystem, source: str, *rest: object, **more: object) -> None:
        names.append(source)
        if len(names) == STOP:
            raise KeyboardInterrupt
        real(self, source, *rest, **more)

    monkeypatch.setattr(LocalFileSystem, "get_file", get_file)
    return names


def test_an_interrupted_pull_goes_on_and_shows_nothing_until_then(
    tmp_path: Path, store: Store, there: Path, fetched: list[str]
) -> None:
    where = str(tmp_path / "away")
    push(store.path, where)
    with pytest.raises(KeyboardInterrupt):
        pull(where)
    assert not [*there.glob("artifacts/demo/[0-9a-f]*")]
    assert newest_pass(Path("artifacts")) is None
    pull(where)
    assert len(fetched) == len(set(fetched)) + 1, "only the file in which it was interrupted is fetched again"


def test_a_byte_that_arrives_changed_is_refused_and_fetched_again(tmp_path: Path, store: Store, there: Path) -> None:
    where = tmp_path / "away"
    push(store.path, str(where))
    file = where / "shards/00001/targets.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(SekdError, match=r"shards/00001/targets\.parquet arrived with other bytes"):
        pull(str(where))
    assert not [*there.glob("artifacts/demo/[0-9a-f]*")]
    file.write_bytes(whole)
    assert data_bytes(Store.open(pull(str(where)))) == data_bytes(store)


def test_a_list_that_agrees_with_changed_bytes_does_not_pass_for_a_whole_store(
    tmp_path: Path, store: Store, there: Path
) -> None:
    where = tmp_path / "away"
    push(store.path, str(where))
    file = where / "shards/00001/targets.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    relist(where, {"shards/00001/targets.parquet": m.file_digest(file)})
    with pytest.raises(SekdError, match=r"no whole store: shard 1: shards/00001/targets\.parquet"):
        pull(str(where))
    assert not [*there.glob("artifacts/demo/*")]


def relist(where: Path, files: dict[str, dict], **changes: str) -> None:
    """Write the list again, with other files and a right checksum of its own."""
    listing = m.read_sealed(where / LIST)
    (where / LIST).write_text(m.seal({**listing, "files": {**listing["files"], **files}, **changes}))


@pytest.mark.parametrize("name", ["../x.json", "/x.json", "a/../../x.json", "a\\..\\x.json", "code.py", "weights.pkl"])
def test_a_list_that_leads_outside_or_brings_code_is_refused(
    tmp_path: Path, student: Path, there: Path, name: str
) -> None:
    push(student, str(tmp_path / "away"))
    relist(tmp_path / "away", {name: {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}})
    with pytest.raises(SekdError, match=r"outside its own folder|a student's files end in"):
        pull(str(tmp_path / "away"))
    relist(tmp_path / "away", {}, name="../../elsewhere")
    with pytest.raises(SekdError, match="outside its own folder"):
        pull(str(tmp_path / "away"))
    assert not [*there.rglob("*")]


@pytest.mark.parametrize(("name", "kind"), [("../x", tarfile.REGTYPE), ("/x", tarfile.REGTYPE), ("x", tarfile.SYMTYPE)])
def test_a_tar_with_a_member_outside_or_a_link_is_refused(
    tmp_path: Path, student: Path, there: Path, name: str, kind: bytes
) -> None:
    push(student, str(tmp_path / "away.tar"))
    with tarfile.open(tmp_path / "away.tar", "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(SekdError, match="is refused"):
        pull(str(tmp_path / "away.tar"))
    assert not [*there.rglob("*")]


def test_only_what_is_whole_is_sent(tmp_path: Path, store: Store, student: Path) -> None:
    (student / "metrics.json").unlink()
    with pytest.raises(SekdError, match=r"lacks metrics\.json"):
        push(student, str(tmp_path / "away"))
    shutil.rmtree(store.path / "shards" / "00002")
    with pytest.raises(SekdError, match="only whole stores are sent: 1 faults, first shard 2"):
        push(store.path, str(tmp_path / "away"))
    assert not (tmp_path / "away").exists()


def test_an_interrupted_push_is_not_whole_and_goes_on(
    tmp_path: Path, store: Store, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    sent: list[str] = []
    real = LocalFileSystem.put_file

    def put_file(self: LocalFileSystem, source: str, target: str, **more: object) -> None:
        sent.append(source)
        if len(sent) == STOP:
            Path(target).write_bytes(b"half")
            raise OSError("the line is down")
        real(self, source, target, **more)

    monkeypatch.setattr(LocalFileSystem, "put_file", put_file)
    where = str(tmp_path / "away")
    with pytest.raises(SekdError, match="the line is down"):
        push(store.path, where)
    with pytest.raises(SekdError, match=f"holds no {LIST}"):
        pull(where)
    push(store.path, where)
    assert f"{STOP - 1} were there already" in capsys.readouterr().out
    assert data_bytes(Store.open(pull(where))) == data_bytes(store)


@pytest.mark.parametrize("ending", ["", ".tar"])
def test_other_content_is_not_overwritten_unless_told_to(
    tmp_path: Path, student: Path, there: Path, ending: str
) -> None:
    where = str(tmp_path / f"away{ending}")
    push(student, where)
    pull(where)
    (student / "metrics.json").write_text('{"other": 1}')
    with pytest.raises(SekdError, match=r"holds another .*--replace"):
        push(student, where)
    push(student, where, replace=True)
    with pytest.raises(SekdError, match=r"runs/mine holds other content.*--to"):
        pull(where)
    assert (there / "runs/mine/metrics.json").read_text() == "{}"
    assert (pull(where, Path("runs/second")) / "metrics.json").read_text() == '{"other": 1}'


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SekdError, match=r"gs://bucket/x: .*`uv pip install gcsfs`"):
        push(student, "gs://bucket/x")
