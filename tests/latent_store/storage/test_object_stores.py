"""Addresses of object stores that do not work are one line that says why, without a long wait."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path

import pytest

from latent_store import cli
from latent_store.console import STORAGE_OPTIONS
from latent_store.errors import LatentStoreError
from latent_store.storage.addresses import common_options
from latent_store.storage.location import Location
from latent_store.storage.object_stores import input_file, open_location
from latent_store.storage.requests import AT_ONCE
from tests import s3
from training import train

FORBIDDEN = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>InvalidAccessKeyId</Code><Message>The key does not exist in our records.</Message>
</Error>"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Server]:
    with s3.serving(monkeypatch) as server:
        yield server


@pytest.fixture
def refused(fails: Callable[..., str]) -> Callable[..., str]:
    """Runs `latent-store inspect`, which must be refused in a minute; returns the line."""

    def run(*words: str) -> str:
        start = time.monotonic()
        line = fails(cli.main, ["inspect", *words])
        assert time.monotonic() - start < 60
        assert s3.SECRET not in line
        return line

    return run


@pytest.fixture
def forbidding(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that knows nobody."""
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    s3.clean(monkeypatch)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", str(len(FORBIDDEN)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(FORBIDDEN)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def options(**given: object) -> tuple[str, str]:
    return "--storage_options", json.dumps(given)


@pytest.fixture(autouse=True)
def own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    # What the flag sets is taken back.
    monkeypatch.setenv(STORAGE_OPTIONS, "")


def test_a_missing_library_names_its_extra(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "gs", raising=False)
    line = refused("gs://bucket/s.zarr")
    assert "gs://bucket/s.zarr cannot be opened" in line
    assert line.endswith("pip install 'latent-store[gcs]'")


def test_an_unknown_scheme_is_no_address(refused: Callable[..., str]) -> None:
    assert "nosuch://b/s.zarr is no address that can be opened" in refused("nosuch://b/s.zarr")


def test_what_no_extra_opens_is_one_line_with_a_remedy(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "adlfs", None)
    _require_told(refused("az://b/s.zarr"), "az://b/s.zarr", "Install adlfs")


@pytest.mark.skipif(find_library("hdfs") is not None, reason="this machine opens hdfs://")
def test_a_library_that_is_no_module_is_told_likewise(refused: Callable[..., str]) -> None:
    _require_told(refused("hdfs://lab:9000/s.zarr"), "hdfs://lab:9000/s.zarr", "load lib")


def _require_told(line: str, url: str, reason: str) -> None:
    assert f"{url} cannot be opened: " in line
    assert reason in line
    assert line.endswith("install it, or give a path, s3:// or gs://")


def test_a_server_that_refuses_is_no_missing_library(refused: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        line = refused(f"ftp://127.0.0.1:{taken.getsockname()[1]}/s.zarr")
        other = refused(f"webhdfs://127.0.0.1:{taken.getsockname()[1]}/s.zarr")
    assert "refused; mend the address, its credentials or its server" in line
    assert "webhdfs://127.0.0.1" in other
    assert "check the network, and the endpoint (in --storage_options)" in other


def test_a_file_that_is_none_is_no_missing_library(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused("zip://s.zarr::none.zip")
    assert "zip://s.zarr::none.zip cannot be opened: " in line
    assert line.endswith("; mend the address, its credentials or its server")


@pytest.mark.parametrize("url", ["s3:://bucket/s.zarr", "dir://bucket/s.zarr"])
def test_an_address_over_which_a_client_stumbles_is_one_line(
    server: s3.Server, refused: Callable[..., str], url: str
) -> None:
    line = refused(url)
    assert f"{url} cannot be opened: " in line
    assert line.endswith("; check the address, and its options (in --storage_options)")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"endpoint_url": "127.0.0.1:9000"}, "Invalid endpoint: 127.0.0.1:9000"),
        ({"endpoint": "http://127.0.0.1:9000"}, "unexpected keyword argument 'endpoint'"),
    ],
)
def test_options_that_a_client_refuses_are_one_line(
    server: s3.Server, refused: Callable[..., str], given: dict[str, str], reason: str
) -> None:
    line = refused("s3://bucket/s.zarr", *options(**given))
    assert "s3://bucket/s.zarr cannot be opened: " in line
    assert reason in line
    assert line.endswith("; check the address, and its options (in --storage_options)")


def test_a_wrong_endpoint_is_named(
    server: s3.Server, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    line = refused("s3://bucket/s.zarr", *options(endpoint_url="http://127.0.0.1:9"))
    assert "s3://bucket/s.zarr" in line
    assert "check the network, and the endpoint (in --storage_options" in line


def test_missing_and_wrong_credentials_are_told_apart(
    forbidding: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused("s3://bucket/s.zarr", *options(endpoint_url=forbidding))
    assert "Unable to locate credentials; log in as your store's own tool wants it" in line
    known = options(endpoint_url=forbidding, key="somebody", secret=s3.SECRET)
    line = refused("s3://bucket/s.zarr", *known)
    assert "s3://bucket/s.zarr cannot be opened" in line
    assert "check its credentials and what they may do" in line


def test_a_missing_bucket_is_no_missing_store(
    server: s3.Server, refused: Callable[..., str]
) -> None:
    assert "s3://others/s.zarr lies in no bucket that is there" in refused("s3://others/s.zarr")
    assert "no latent store at s3://bucket/s.zarr" in refused("s3://bucket/s.zarr")


@pytest.mark.parametrize("text", ['{"secret": "x', "[1]", "x"])
def test_options_that_are_none_are_refused_and_not_shown(
    refused: Callable[..., str], text: str
) -> None:
    line = refused("s3://bucket/s.zarr", "--storage_options", text)
    assert "--storage_options must be an object in JSON, e.g." in line
    assert "secret" not in line


def test_a_variable_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_OPTIONS, "[")
    with pytest.raises(LatentStoreError, match=f"the variable {STORAGE_OPTIONS} is no object"):
        open_location("s3://bucket/s.zarr")
    assert open_location("memory://s.zarr").storage_options == {}


@pytest.mark.parametrize("url", ["s3://lab/x", "s3:/lab/x", "S3:/lab/x", "s3:lab/x", "gs:/lab/x"])
def test_outputs_are_no_folders_called_s3(
    fails: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = fails(train.main, ["--store", "s", "--dataset", "d", "--output", url])
    assert f"--output must be a path of this machine, got {url}; copy" in line
    assert list(tmp_path.iterdir()) == []


def test_files_of_flags_are_taken_from_urls(
    server: s3.Server, fails: Callable[..., str], tmp_path: Path
) -> None:
    location = open_location(f"{server.url}/runs")
    location.write("dynamic/last.pt", b"weights")
    path = input_file(f"{server.url}/runs/dynamic/last.pt")
    assert (path.read_bytes(), path.parent.name) == (b"weights", "dynamic")
    words = ["decode", "x.stream", "--output", str(tmp_path / "x.png"), "--codec_checkpoint"]
    line = fails(cli.main, [*words, f"{server.url}/runs/none.pt"])
    assert "--codec_checkpoint must be a file, got s3://bucket/runs/none.pt, where none" in line
    for url in ("s3://bucket", "s3://bucket/runs/"):
        line = fails(cli.main, [*words, url])
        assert f"--codec_checkpoint must be a file, got {url}, which names none" in line


def test_a_profile_that_is_not_there_is_named(
    server: s3.Server, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nolab")
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    assert "(nolab) could not be found; check AWS_PROFILE" in refused("s3://bucket/s.zarr")


def test_options_of_object_stores_are_none_of_a_web_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORAGE_OPTIONS, '{"endpoint_url": "http://127.0.0.1:9"}')
    assert common_options("s3://bucket/x") == {"endpoint_url": "http://127.0.0.1:9"}
    assert [common_options(url) for url in ("http://host/x", "https://host/x", "x", "/x")] == [
        {}
    ] * 4


def test_options_hold_for_the_flags_before_them(
    server: s3.Server, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_location(f"{server.url}/k").write("codec.pt", b"weights")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    told = {"endpoint_url": server.endpoint, "key": "somebody", "secret": s3.SECRET}
    for given in (
        ("--storage_options", json.dumps(told)),
        (f"--storage_options={json.dumps(told)}",),
    ):
        monkeypatch.delenv(STORAGE_OPTIONS, raising=False)
        pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
        words = ["decode", "none.stream", "--output", "x.png", "--codec_checkpoint"]
        line = fails(cli.main, [*words, f"{server.url}/k/codec.pt", *given])
        assert "none.stream" in line


def test_a_client_has_a_connection_for_each_request_that_is_under_way() -> None:
    pytest.importorskip("s3fs")
    anybody = {"anon": True, "endpoint_url": "http://127.0.0.1:9"}
    given = {"max_pool_connections": 5, "read_timeout": 7}
    own = {**anybody, "config_kwargs": given}
    assert Location("s3://b/s", anybody).fs.config_kwargs == {"max_pool_connections": AT_ONCE}
    assert Location("s3://b/s", own).fs.config_kwargs == given
    # Who names no client's options is told of none.
    assert Location("s3://b/s", own).storage_options == own
