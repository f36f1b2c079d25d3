"""Addresses with credentials: used, and never shown."""

import pickle
from pathlib import Path

import pytest

import latent_store
from latent_store.console import run_command
from latent_store.errors import LatentStoreError, StoreNotFoundError, public_text, public_url
from latent_store.storage.location import Location


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://key:secret@bucket/s.zarr", "s3://bucket/s.zarr"),
        ("https://host/s.zarr?X-Signature=abc#x", "https://host/s.zarr"),
        ("gs://bucket", "gs://bucket"),
        ("/data/a@b/s.zarr", "/data/a@b/s.zarr"),
    ],
)
def test_what_is_shown_of_an_address(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_errors_do_not_show_credentials() -> None:
    location = Location("memory://user:secret@none.zarr")
    with pytest.raises(LatentStoreError) as error:
        latent_store.open(location.address)
    assert "secret" not in str(error.value) + repr(location)
    assert pickle.loads(pickle.dumps(location)).address == location.address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no root at s3://k:s@b/d?X-Sig=1; give", "no root at s3://b/d; give"),
        ("see https://host:8080/a@b/c.", "see https://host:8080/a@b/c."),
        ("s3://key:se/cr?et@bucket/x", "s3://bucket/x"),
        ('bucket name "key:secret@bucket": Bucket', 'bucket name "bucket": Bucket'),
        ("no '/user:secret@bucket/s?X-Amz-Signature=S/zarr.json'", "no '/bucket/s'"),
        ("sample city:001@hflip at 10:30", "sample city:001@hflip at 10:30"),
        ("(memory://u:p@b/s)", "(memory://b/s)"),
    ],
)
def test_texts_of_any_library_show_no_credentials(text: str, shown: str) -> None:
    assert public_text(text) == shown
    assert str(LatentStoreError(text)) == shown
    assert str(pickle.loads(pickle.dumps(StoreNotFoundError(text)))) == shown


@pytest.mark.parametrize("kind", [LatentStoreError, *LatentStoreError.__subclasses__()])
def test_every_error_can_be_made_as_dasks_unpickling_does(kind: type[LatentStoreError]) -> None:
    error = kind.__new__(kind, "no s3://k:s@b/d")
    kind.__init__(error, *error.args)
    assert str(error) == "no s3://b/d"
    assert type(pickle.loads(pickle.dumps(error))) is kind


def test_an_error_of_a_storage_library_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    class EndpointConnectionError(Exception):
        __module__ = "botocore.exceptions"  # which only an extra installs

    def command() -> int:
        raise EndpointConnectionError('Could not connect to "https://u:secret@host:9/b"')

    assert run_command("inspect", command) == 1
    found = capsys.readouterr().err
    assert found.startswith("inspect: error: EndpointConnectionError: Could not connect to")
    assert found.count("\n") == 1
    assert "secret" not in found


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "an address is empty; give a path, or a URL"),
        (
            "nope://u:secret@x/y",
            r"^nope://x/y is no address that can be opened \(Protocol not known",
        ),
        ("s3:/bucket/key", r"^s3:/bucket/key lacks a slash: such an address begins with s3://$"),
        ("s3:bucket/key", r"^s3:bucket/key lacks a slash: such an address begins with s3://$"),
        ("gs:b", r"^gs:b lacks a slash: such an address begins with gs://$"),
        ("memory:/x", r"^memory:/x lacks a slash: such an address begins with memory://$"),
        ("file://data/x", r"^file://data/x lacks a slash: such an address begins with file:///$"),
        ("reference://x", r"^reference://x is no address that can be opened"),
        ("dropbox://u:secret@x", r"^dropbox://x cannot be opened: .*nstall"),
    ],
)
def test_addresses_that_nobody_can_open(url: str, message: str) -> None:
    with pytest.raises(LatentStoreError, match=message):
        Location(url)


def test_addresses_that_nobody_can_write_to() -> None:
    for write in (Location("data:,x").write, Location("data:,x").create):
        with pytest.raises(LatentStoreError, match=r"^nothing can be written to data:,x; give a"):
            write("a", b"1")


def test_a_colon_is_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (
        "x:/y",
        "x:y",
        "./s3:/y",
        "./s3:y",
        "file:y",
        f"file:{tmp_path}/y",
        f"file://{tmp_path}/y",
    ):
        assert Location(url).local_path is not None
    assert Location("simplecache::memory://x").local_path is None


def test_what_a_terminal_would_obey_is_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise LatentStoreError("no file a\x1b[31m\x1a\u200b ŷ.png;\n give another")

    assert run_command("inspect", command) == 2
    shown = "no file a\\x1b[31m\\x1a\\u200b ŷ.png; give another"
    assert capsys.readouterr().err == f"inspect: error: {shown}\n"
