"""Test a source and an output in different stores: a public one without credentials, and a private one."""

import dataclasses

import pytest

from pipeline.output.opened import open_output
from pipeline.output.plan_growth import make_plan, share_plan
from pipeline.run.prepare import prepare
from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from tests.support.commands import compose, compose_only
from tests.support.s3 import Server
from tests.support.tars import jpeg

ROOT = "s3://bucket/photos"


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """Start a second store, whose bucket everyone may read, with two photographs."""
    with Server(tmp_path_factory.mktemp("public") / "data", public=True) as server:
        fs, path = server.storage.open(ROOT)
        for number in range(2):
            fs.pipe_file(f"{path}/{number}.jpg", jpeg(number))
        yield server.storage


def without_credentials(storage: Storage) -> Storage:
    return Storage(endpoint_url=storage.endpoint_url, region=storage.region, anon=True)


def test_a_public_bucket_is_read_without_credentials(public, s3, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    anonymous, source = without_credentials(public), Images(path=ROOT)
    (shard,) = source.shards(files_of(source, anonymous), anonymous)
    assert all(sample.image for sample in source.samples(shard, anonymous, lambda _: Want.ALL))
    with pytest.raises(ConfigError, match=r"source\.path: "):
        list(files_of(Images(path="s3://bucket"), without_credentials(s3)))
    with pytest.raises(OSError, match=r"(?i)denied|forbidden"):
        anonymous.open(ROOT)[0].pipe_file("bucket/photos/x", b"")


def test_the_plan_of_a_public_source_lies_in_another_store(public, s3):
    reading, output = without_credentials(public), "s3://bucket/apart"
    source = Images(path=ROOT)
    plan = make_plan(output, source, None, s3, reading)
    assert len(plan) == 1 and plan.source == ROOT
    share_plan(plan, f"{output}/arm", s3)
    with pytest.raises(ConfigError, match=r"source\.path: nothing at"):
        make_plan(f"{output}/other", source, None, s3)


def test_keys_of_the_command_line(public, s3):
    keys = {
        "endpoint_url": s3.endpoint_url,
        "region": s3.region,
        "key": s3.key,
        "secret": s3.secret,
        "token": "t",
    }
    own = [f"storage.{name}={value}" for name, value in keys.items()]
    config = compose_only("source.path=s3://bucket/photos", "output=s3://bucket/answers", *own)
    assert config.source_storage == config.storage
    endpoint = f"source_storage.endpoint_url={public.endpoint_url}"
    config = compose_only(
        "source.path=s3://bucket/photos",
        "output=s3://bucket/answers",
        *own,
        endpoint,
        "source_storage.anon=true",
    )
    assert config.source_storage == dataclasses.replace(without_credentials(public), region=s3.region)
    assert "secret" not in str(config.settings["source_storage"]) and s3.key not in str(config.settings)
    other = ["source_storage.key=their-key", "source_storage.secret=their-secret"]
    config = compose_only("source.path=s3://bucket/photos", "output=s3://bucket/answers", *own, *other)
    assert (config.source_storage.key, config.source_storage.token) == ("their-key", None)
    assert config.redact(f"their-secret {s3.secret}") == "*** ***"
    assert "their" not in str(config.settings)
    with pytest.raises(ConfigError, match=r"^storage\.anon"):
        compose_only("storage.anon=true", "storage.key=k", "storage.secret=s")
    with pytest.raises(ConfigError, match=r"^source_storage\.key and source_storage\.secret"):
        compose_only("source_storage.key=k")
    assert compose_only("source_storage=public").source_storage.anon


@pytest.mark.usefixtures("random_checkpoint")
def test_a_run_is_prepared_from_one_store_into_another(public, s3):
    keys = {"endpoint_url": s3.endpoint_url, "region": s3.region, "key": s3.key, "secret": s3.secret}
    config = compose(
        *(f"storage.{name}={value}" for name, value in keys.items()),
        "source_storage=public",
        f"source_storage.endpoint_url={public.endpoint_url}",
        "source_storage.region=us-east-1",
        *("source.path=s3://bucket/photos", "output=s3://bucket/from_public", "device=cpu", "task=caption"),
    )
    prepared = prepare(config)
    assert prepared.pending == [0]
    assert prepare(config).pending == [0], "and continued"
    output = open_output("s3://bucket/from_public", config.storage)
    questions = output.questions(None, config.reading)
    assert [file.uri for file in questions.entries()] == [f"{ROOT}/0.jpg", f"{ROOT}/1.jpg"]
