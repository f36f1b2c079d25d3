"""Addresses with credentials: used, and never shown."""

import pickle

import pytest

from latent_store.errors import LatentStoreError
from latent_store.storage.location import Location, public_url


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
        location.require()
    assert "secret" not in str(error.value) + repr(location)
    assert pickle.loads(pickle.dumps(location)).address == location.address
