"""Connection files: what is written is read, and a file that others can read is refused."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import msgspec
import pytest

from mpiparallel import connection_file
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError


@pytest.fixture
def info() -> ConnectionInfo:
    return ConnectionInfo(
        cluster_id="c",
        role="client",
        version="1",
        host=socket.gethostname(),
        pid=1,
        addresses=["tcp://10.0.0.1:5", "tcp://127.0.0.1:5"],
        local="ipc:///tmp/nowhere/s",
        server_key="a" * 40,
        public_key="b" * 40,
        secret_key="c" * 40,
    )


def test_what_is_written_is_read(tmp_path: Path, info: ConnectionInfo) -> None:
    path = tmp_path / "new" / "folder" / "client.json"
    connection_file.write(path, info)
    assert connection_file.read(path) == info
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["client.json"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path, info: ConnectionInfo) -> None:
    before = os.umask(0)
    try:
        connection_file.write(tmp_path / "client.json", info)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "client.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o606, 0o777])
def test_a_file_that_others_can_use_is_refused_with_the_remedy(tmp_path: Path, info, mode: int) -> None:
    path = tmp_path / "client.json"
    connection_file.write(path, info)
    path.chmod(mode)
    with pytest.raises(ConnectionFileError, match=f"mode {mode:04o}.*chmod 600 {path}"):
        connection_file.read(path)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, info: ConnectionInfo, monkeypatch) -> None:
    path = tmp_path / "client.json"
    connection_file.write(path, info)
    other = path.stat().st_uid + 1
    if os.geteuid() == 0:
        os.chown(path, other, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ConnectionFileError, match="another user"):
        connection_file.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFileError, match=r"client\.json: No such file"):
        connection_file.read(tmp_path / "client.json")
    assert issubclass(ConnectionFileError, OSError)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\xff\xfe", b'{"role": "king"}', b"[" * 100_000])
def test_what_is_no_connection_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "client.json"
    connection_file.write_private(path, content)
    with pytest.raises(ConnectionFileError, match=r"client\.json is not a connection file"):
        connection_file.read(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, info, monkeypatch) -> None:
    path = tmp_path / "client.json"
    connection_file.write(path, info)

    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        connection_file.write(path, msgspec.structs.replace(info, pid=2))
    assert connection_file.read(path) == info
    assert [one.name for one in tmp_path.iterdir()] == ["client.json"]


def test_local_means_this_host_and_a_socket_that_is_there(tmp_path: Path, info: ConnectionInfo) -> None:
    (tmp_path / "s").touch()
    here = msgspec.structs.replace(info, local=f"ipc://{tmp_path}/s")
    assert here.is_local
    assert not info.is_local
    assert not msgspec.structs.replace(here, host="elsewhere").is_local
