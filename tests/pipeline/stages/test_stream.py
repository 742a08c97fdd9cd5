"""Test that reading a shard takes memory for some units, not for the whole shard."""

import pytest

from pipeline.storage.uris import Storage
from tests.support.measure_stream import measure, write_random_tar
from tests.support.s3 import BUCKET

UNIT_BYTES = 64 << 20  # the default


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    """Write a tar five times as large as a unit."""
    return write_random_tar(tmp_path_factory.mktemp("stream") / "big.tar", 5 * UNIT_BYTES)


@pytest.mark.parametrize("store", ["local", "S3"])
def test_reading_holds_less_than_three_units(store, tar, request):
    if store == "local":
        measured = measure(str(tar), Storage(), UNIT_BYTES)
    else:
        storage = request.getfixturevalue("s3")
        uri = f"s3://{BUCKET}/stream/big.tar"
        fs, path = storage.open(uri)
        fs.put_file(str(tar), path)
        measured = measure(uri, storage, UNIT_BYTES)
        fs.rm_file(path)
    print(store, {name: round(value) for name, value in measured.items()})
    assert measured["bytes"] == tar.stat().st_size
    assert measured["units"] == 5
    assert measured["peak_private_bytes"] < 3 * UNIT_BYTES
