"""Directories, addresses, keys and files of a controller."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from zmq.utils import z85

from mpiparallel import connection_file
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.controller import places
from mpiparallel.controller.keys import Keys, Pair


def info(role: Any = "client", **fields: Any) -> ConnectionInfo:
    base = ConnectionInfo(
        cluster_id="",
        role=role,
        version="0",
        host=socket.gethostname(),
        pid=os.getpid(),
        addresses=["tcp://127.0.0.1:1"],
        local="ipc:///nowhere/s",
        server_key="k",
        public_key="p",
        secret_key="s",
    )
    return msgspec.structs.replace(base, **fields)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


class TestAddresses:
    def test_real_interfaces_come_first_and_loopback_last(self) -> None:
        found = [
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("eth1", "169.254.3.4"),
            ("ib0", "10.1.0.5"),
            ("eth0", "192.168.1.2"),
            ("eth0", "192.168.1.2"),
        ]
        assert places.rank_addresses(found) == [
            "10.1.0.5", "192.168.1.2", "172.17.0.1", "169.254.3.4", "127.0.0.1",
        ]  # fmt: skip

    def test_one_address_is_itself(self) -> None:
        assert places.tcp_addresses("10.0.0.1", 7) == ["tcp://10.0.0.1:7"]
        assert places.tcp_addresses("::1", 7) == ["tcp://[::1]:7"]

    @pytest.mark.parametrize("ip", ["*", "0.0.0.0"])
    def test_any_address_lists_this_hosts(self, ip: str) -> None:
        addresses = places.tcp_addresses(ip, 7)
        assert "tcp://127.0.0.1:7" in addresses
        assert "tcp://0.0.0.0:7" not in addresses


class TestSocketDirectory:
    def test_it_is_private_and_its_name_is_short(self) -> None:
        directory = places.make_socket_dir()
        try:
            assert directory.stat().st_mode & 0o777 == 0o700
            assert len(os.fsencode(directory / "s")) <= places.MAX_IPC_PATH
        finally:
            places.remove(directory)
        assert not directory.exists()

    def test_a_long_temporary_folder_is_avoided(self, tmp_path: Path, monkeypatch) -> None:
        long = tmp_path / ("x" * 90)
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        directory = places.make_socket_dir()
        try:
            assert len(os.fsencode(directory / "s")) <= places.MAX_IPC_PATH
        finally:
            places.remove(directory)


class TestClaim:
    def test_a_directory_is_made(self, tmp_path: Path) -> None:
        places.claim(tmp_path / "a" / "b", remove=True)
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700

    def test_a_live_controller_is_not_disturbed(self, tmp_path: Path) -> None:
        connection_file.write(tmp_path / "client.json", info())
        with pytest.raises(places.AlreadyRunning, match=f"pid {os.getpid()} .*stop it first"):
            places.claim(tmp_path, remove=False)

    def test_files_of_a_dead_one_are_overwritten(self, tmp_path: Path, caplog, child) -> None:
        left = places.make_socket_dir()
        child.kill()
        child.wait()
        connection_file.write(tmp_path / "client.json", info(pid=child.pid, local=f"ipc://{left}/s"))
        places.claim(tmp_path, remove=False)
        assert f"pid {child.pid}" in caplog.text
        assert not left.exists()

    def test_a_pid_that_was_given_anew_is_not_the_controller(self, tmp_path: Path) -> None:
        path = tmp_path / "client.json"
        connection_file.write(path, info())
        before = psutil.Process().create_time() - 100
        os.utime(path, (before, before))
        places.claim(tmp_path, remove=False)

    @pytest.mark.parametrize("content", [b"", b"garbage", b'{"pid": 1}'])
    def test_a_malformed_file_is_overwritten(self, tmp_path: Path, caplog, content: bytes) -> None:
        connection_file.write_private(tmp_path / "client.json", content)
        places.claim(tmp_path, remove=False)
        assert "overwriting" in caplog.text

    @pytest.mark.parametrize("foreign", ["thesis.tex", "folder/"])
    def test_a_directory_with_other_things_is_not_to_be_removed(self, tmp_path: Path, foreign: str) -> None:
        (tmp_path / foreign).mkdir() if foreign.endswith("/") else (tmp_path / foreign).touch()
        with pytest.raises(places.UnsuitableDirectory, match=foreign.strip("/")):
            places.claim(tmp_path, remove=True)
        places.claim(tmp_path, remove=False)

    def test_logs_and_the_cluster_file_are_a_clusters_own(self, tmp_path: Path) -> None:
        for name in ("controller.log", "cluster.json", ".client.json-xyz"):
            (tmp_path / name).touch()
        places.claim(tmp_path, remove=True)


class TestFiles:
    def test_only_ours_are_removed(self, tmp_path: Path) -> None:
        places.write_files(tmp_path, [info("client"), info("engine")])
        places.remove_files(tmp_path, "another key", all_of_it=True)
        assert len(list(tmp_path.iterdir())) == 2
        (tmp_path / "notes").touch()
        places.remove_files(tmp_path, "k", all_of_it=False)
        assert [path.name for path in tmp_path.iterdir()] == ["notes"]

    def test_everything_is_removed_when_asked(self, tmp_path: Path) -> None:
        directory = tmp_path / "d"
        places.write_files(directory, [info("client"), info("engine")])
        (directory / "controller.log").touch()
        places.remove_files(directory, "k", all_of_it=True)
        assert not directory.exists()


class TestKeys:
    def test_roles(self) -> None:
        keys = Keys.new()
        question = [b"1.0", b"7", b"d", b"1.2.3.4", b"", b"CURVE"]
        for role, pair in (("client", keys.client), ("engine", keys.engine)):
            reply, refused = keys.answer([*question, z85.decode(pair.public)])
            assert reply == [b"1.0", b"7", b"200", b"OK", role.encode(), b""]
            assert refused == ""
        for wrong in (
            z85.decode(Pair.new().public),
            z85.decode(keys.server.public),
            b"",
            b"short",
            bytes(32),
        ):
            reply, refused = keys.answer([*question, wrong])
            assert reply[2] == b"400"
            assert reply[4] == b""
            assert refused == "1.2.3.4"

    @pytest.mark.parametrize("mechanism", [b"NULL", b"PLAIN", b"GSSAPI"])
    def test_other_mechanisms_are_refused(self, mechanism: bytes) -> None:
        reply, _ = Keys.new().answer([b"1.0", b"7", b"d", b"1.2.3.4", b"", mechanism, b"user", b"password"])
        assert reply[2] == b"400"
