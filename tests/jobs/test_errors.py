"""A wrong command fails with status 2 and one line that names the cause, before Ray starts."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from tests.support.commands import begin, trimline
from tests.support.tars import write_tar

GRAMMAR = "needs quotes inside quotes"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # the input
        (["source.path=nowhere"], "source.path: nothing at nowhere"),
        (
            ["source.path=pictures/*.png"],
            "source.path: no image (.jpg, .jpeg, .png, ",
        ),
        (["source=webdataset", "source.path=pictures"], "source.path: no .tar at pictures"),
        (["source.path=nope://x"], "nope://x"),
        (["source.path='a b'"], "source.path: nothing at a b"),
        (["source.path=[pictures,'b{1,2}']"], "source.path: nothing at b1"),
        (["source.path=null"], "source.path: None is no path"),
        (["source.path='zip://*.jpg::p.zip'"], "source.path: cannot open zip://*.jpg::p.zip"),
        (["source.path=hf://datasets/a/b/x.tar"], "source.path: cannot"),
        (["source.path=gs://bucket/x.tar"], "source.path: cannot open gs://bucket/x.tar: "),
        (["source.path=http://127.0.0.1:9/folder/"], "source.path: nothing at http://127.0.0.1:9/folder/"),
        (["storage.anon=true", "storage.key=a", "storage.secret=b"], "storage.anon: without credentials"),
        (["source_storage.key=abc"], "source_storage.key and source_storage.secret go together"),
        (["source_storage=s3"], "source_storage.endpoint_url must be given"),
        # keys
        (["foo=1"], "no key 'foo'"),
        (["reducer.foo=1"], "no key 'reducer.foo'"),
        (["+foo=1"], "foo"),
        (["+reducer.foo=1"], "reducer.foo"),
        (["cluster.encode.foo=1"], "cluster.encode.foo"),
        (["~unit_samples", "source.slice_files=abc"], "source.slice_files"),
        (["+storage.foo=1"], "storage.foo"),
        # types
        (["unit_samples=abc"], "unit_samples: Value 'abc'"),
        (["decoding.temperature=warm"], "decoding.temperature: Value 'warm'"),
        (["cluster.encode.num_cpus=x"], "cluster.encode.num_cpus: Value 'x'"),
        (["cluster.encode=3"], "cluster: "),
        (["decoding.stop=abc"], "decoding.stop"),
        (["task.prompts=null"], "task.prompts"),
        (["seed=null"], "seed"),
        (["source.path=${nope}"], "nope"),
        # options of groups
        (
            ["reducer=nope"],
            "Available options in 'reducer': cdpruner divprune full prumerge prumerge_plus random trim",
        ),
        (["model=nope"], "'model': demo llava_1_5_13b llava_1_5_13b_trim llava_1_5_7b"),
        (["reducer=null"], "group"),
        (["reducer=full,trim"], "reducer=full,trim"),
        (["reducer._target_=os.system"], "reducer._target_"),
        (["reducer._target_=true"], "reducer._target_: True names no class"),
        (["source._target_=[a]"], "source._target_: ['a'] names no class"),
        (["reducer._target_=trim.Nope"], "reducer._target_: Error loading 'trim.Nope'"),
        # values
        (["reducer.sign=3"], "reducer: sign must be -1 or 1, not 3"),
        (["reducer.keep_ratio=0.5", "reducer.num_kept=3"], "keep_ratio and num_kept"),
        (["unit_samples=0"], "unit_samples must be at least 1"),
        (["max_questions=10001"], "max_questions must be at most 10000"),
        (["limit=0"], "limit must be at least 1"),
        (["limit=3", "extend=true"], "extend and limit"),
        (["output="], "output must not be empty"),
        (["device=tpu"], "device: 'tpu'"),
        (["model.encode_dtype=float8"], "model.encode_dtype: 'float8'"),
        (["model.template='{question}'"], "model.template must hold <image>"),
        (["model.path=nowhere"], "model: 'nowhere' is neither a folder nor a hub id"),
        (["model.clip=/no/where"], "model: '/no/where' is neither a folder nor a hub id"),
        (["storage.key=abc"], "storage.key and storage.secret go together"),
        (["cluster.encode.num_cpus=64"], "the actors book 64.6 CPUs"),
        (["cluster.generate.num_actors=99"], "cluster: the actors book"),
        (["unit_samples=100000"], "unit_samples, unit_requests, max_questions"),
        (["unit_requests=1000000"], "unit_samples, unit_requests, max_questions"),
        # keys without a default
        (["source=webdataset", "~source.path"], "source.path"),
        (["storage=s3"], "storage.endpoint_url must be given"),
        # the grammar of overrides
        (["source.path=a b{"], GRAMMAR),
        (["source.path=a{b"], GRAMMAR),
        (["source.path=a=b"], GRAMMAR),
        (["source.path=[a"], GRAMMAR),
        (["source.path='a"], GRAMMAR),
        (["source.path"], "source.path"),
        # groups
        (["storage=[1,2]"], "storage=[1,2]: storage takes the name of one option"),
        (["source_storage=[null]"], "source_storage=[null]: source_storage takes the name of one option"),
        (["reducer={a:1}"], "reducer={a:1}: reducer takes the name of one option"),
        # flags
        (["--nope"], "unknown option --nope"),
        (["--multir", "seed=0,1"], "unknown option --multir"),
        (["--cfg=nope"], "argument --cfg/-c: invalid choice: 'nope'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_configuration_is_one_line_that_names_the_key(annotate, overrides, message):
    line = annotate.refused(*overrides)
    assert message in line
    if message == GRAMMAR:
        assert overrides[-1] in line
    assert "Config search path" not in line, "our own folders are no help"
    assert not list(Path().glob("**/*.parquet"))


def test_a_mandatory_key_that_is_missing(annotate):
    assert annotate.refused("source=webdataset", "source.path=???") == "source.path must be given"


def test_a_folder_that_is_empty_or_holds_no_images(annotate, folder):
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("What is this?")
    for name in ("empty", "texts"):
        assert "source.path: no image" in (line := annotate.refused(f"source.path={name}"))
        assert name in line


def test_an_output_that_cannot_be_written(annotate, folder):
    (folder / "file").write_text("")
    assert annotate.refused("output=file/out").startswith("output: cannot use")


def test_checkpoints_that_do_not_fit(annotate, cache, folder):
    annotate.refused("source.path=nowhere", "model=random")  # makes the random checkpoint
    random = next(cache.glob("random-v*"))
    shutil.copytree(random / "clip", folder / "clip")
    config = json.loads((folder / "clip" / "config.json").read_text())
    config["vision_config"]["patch_size"] = 28
    (folder / "clip" / "config.json").write_text(json.dumps(config))
    line = annotate.refused("model=random", f"model.clip={folder}/clip")
    assert "vision towers differ: patch_size is 14 in" in line and f"28 in {folder}/clip" in line


def test_checkpoints_of_one_geometry_with_other_weights(annotate, folder):
    from pipeline.models.demo.random_weights import make_random

    make_random(folder / "other", seed=1)
    line = annotate.refused("model=random", f"model.clip={folder}/other/clip")
    assert "is not that of" in line and f"{folder}/other/clip" in line


def test_a_checkpoint_without_weights(annotate, folder):
    (folder / "llava").mkdir()
    assert f"{folder}/llava" in annotate.refused(f"model.path={folder}/llava")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["decoding.max_new_tokens=5"], "decoding.max_new_tokens was 64, is 5"),
        (["unit_samples=3"], "unit_samples was 64, is 3"),
        (["reducer=full"], 'reducer._target_ was "trim.Trim", is "trim.Full"'),
        (["limit=2"], "limit was null, is 2"),
        (["seed=1", "task=vqa"], "seed was 0, is 1"),
    ],
)
def test_another_configuration_for_an_output_is_refused_with_the_difference(annotate, overrides, message):
    begin("source.path=pictures", "output=out")
    line = annotate.refused(*overrides)
    assert "/out was made with another configuration" in line
    assert message in line


def test_settings_that_cannot_change_a_prediction_may_differ(annotate, folder):
    begin("source.path=pictures", "output=out")
    before = (folder / "out" / "run.json").read_bytes()
    begin("source.path=pictures", "output=out", "max_failed_fraction=0.5", "cluster.encode.threads=1")
    assert (folder / "out" / "run.json").read_bytes() == before


def test_another_source_for_an_output(annotate, folder):
    begin("source.path=pictures", "output=out")
    shutil.copytree(folder / "pictures", folder / "others")
    line = annotate.refused("source.path=others")
    assert f"belongs to the source file://{folder}/pictures, not file://{folder}/others" in line


def test_a_damaged_run_json(annotate, folder):
    begin("source.path=pictures", "output=out")
    (folder / "out" / "run.json").write_text("{")
    assert "run.json" in annotate.refused()


def test_two_files_for_one_range(annotate, folder):
    begin("source.path=pictures", "output=out")
    (folder / "out" / "data").mkdir()
    for name in ("000000-00000000-00000001.parquet", "000000-00000000-00000002.parquet"):
        (folder / "out" / "data" / name).write_bytes(b"")
    assert "two files for one range" in annotate.refused()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["size", "time", "gone"])
@pytest.mark.parametrize("finished", [False, True])
def test_an_image_that_changed_under_an_unfinished_output(annotate, folder, change, finished):
    begin("source.path=pictures", "output=out")
    if finished:
        (folder / "out" / "data").mkdir()
        (folder / "out" / "data" / "000000-00000000-00000001.parquet").write_bytes(b"")
    spoil(folder / "pictures" / "1.jpg", change)
    line = annotate.refused()
    assert "shard 0 has changed or is gone" in line and f"file://{folder}/pictures/1.jpg" in line


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_tar_that_changed_under_an_unfinished_output(annotate, folder, change):
    for seed in range(2):
        write_tar(folder / "tars" / f"{seed}.tar", 2, seed=seed)
    begin("source=webdataset", "source.path=tars", "output=out")
    spoil(folder / "tars" / "1.tar", change)
    line = annotate.refused("source=webdataset", "source.path=tars")
    assert "shard 1 has changed" in line and f"file://{folder}/tars/1.tar" in line


def spoil(file: Path, change: str) -> None:
    stat = file.stat()
    if change == "gone":
        file.unlink()
    elif change == "time":
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    else:
        file.write_bytes(file.read_bytes() + b"\0")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.slow
@pytest.mark.timeout(60)  # the refusal is reported at once, without retries
def test_a_store_that_refuses_connections(annotate):
    with socket.socket() as bound:  # bound but not listening: no other process can take the port
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        line = annotate.refused(
            "source.path=s3://bucket/images/",
            "storage=s3",
            f"storage.endpoint_url={endpoint}",
            "storage.key=CANARYkey",
            "storage.secret=CANARYsecret",
        )
    assert line.startswith("source.path: cannot use s3://bucket/images/") and endpoint in line
    assert "CANARY" not in line


LONG = "CANARY-0123456789"  # a shorter one is hidden only where it is no part of a path


@pytest.mark.parametrize(
    "overrides",
    [
        ["storage.secret=CANARY{"],
        ["storage.key=CANARY"],
        ["storage.key=[CANARY]", "storage.secret=x"],
        ["storage.secret={a:CANARY}"],
        [f"source_storage.secret={LONG}", "source_storage.key=abcd", f"source.path=nowhere/{LONG}"],
        ["source_storage.key=[CANARY]", "source_storage.secret=x"],
        ["source.path=https://user:CANARY@127.0.0.1/a.jpg"],
        ["source.path='https://127.0.0.1/a.jpg?X-Amz-Signature=CANARY'"],
        ["output=https://user:CANARY@127.0.0.1/out"],
        ["output=s3://user:CANARY@bucket/out"],
        [f"storage.secret={LONG}", "storage.key=abcd", f"source.path=nowhere/{LONG}"],
        ["source.path=${oc.decode:'CANARY ]'}", "storage.secret=CANARY", "storage.key=abcd"],
        ["source.path=nowhere/ENVIRONMENT-CANARY"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("full", [False, True])
def test_credentials_never_stand_in_an_error(annotate, monkeypatch, overrides, full):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "ENVIRONMENT-CANARY")
    if full:
        monkeypatch.setenv("TRIMLINE_FULL_ERROR", "1")
    status, out, err = annotate(*overrides)
    assert status == 2
    assert "CANARY" not in out + err
    assert ("Traceback" in err) == full


def test_hydra_prints_no_credentials_of_the_command_line():
    """The process restarts without them, so `ps` does not show them; `--resolve` prints them on request."""
    secrets = ["storage.key=CANARY-1", 'storage.secret="CANARY-2="']
    result = trimline("annotate", "--cfg", "job", *secrets)
    assert (result.returncode, result.stderr) == (0, "")
    assert "secret: ${oc.env:TRIMLINE_STORAGE_SECRET}" in result.stdout
    assert "CANARY" not in result.stdout
    resolved = trimline("annotate", "--cfg", "job", "--resolve", *secrets)
    assert "key: CANARY-1\n  secret: CANARY-2=\n" in resolved.stdout


def test_credentials_never_stand_in_a_traceback(annotate, monkeypatch):
    import jobs.annotate

    def fail(config):
        raise LookupError(f"no s3://user:CANARY0@b with {config.storage.secret} and CANARY2 {'CANARY1'!r}")

    monkeypatch.setattr(jobs.annotate, "run", fail)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY2")
    monkeypatch.setenv("ELSEWHERE", "CANARY1")
    status, out, err = annotate("storage.key=abcd", "storage.secret=${oc.env:ELSEWHERE}")
    assert status == 1
    assert "LookupError: no s3://***b with *** and *** '***'" in err
    assert "CANARY0@" not in out + err.replace('"no s3://user:CANARY0@b', "")


def test_an_interrupt_ends_a_whole_sweep(annotate, monkeypatch):
    import jobs.annotate

    seeds = []

    def interrupted(config):
        seeds.append(config.seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs.annotate, "run", interrupted)
    status, _, err = annotate("-m", "seed=0,1,2")
    assert (status, seeds) == (1, [0])
    assert err == "trimline annotate: interrupted; run the same command again to go on\n"


def test_no_command_and_unknown_commands():
    for arguments, message in (
        ([], "usage: trimline"),
        (["nope"], "unknown command 'nope'; there is: annotate"),
    ):
        result = trimline(*arguments)
        assert result.returncode == 2
        assert message in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_installed_command_prints_one_error_line(folder):
    result = trimline("annotate", "source.path=nowhere", "output=out")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == "trimline annotate: source.path: nothing at nowhere\n"
