"""Test listings from a table: they equal those of the store, and what is wrong with a table is named."""

import csv
import dataclasses
import gzip
import io
import json
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.changed import require_same, require_unchanged
from pipeline.output.plan_growth import make_plan
from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.items import samples_of
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.listing import File, ListingRules, list_entries
from pipeline.storage.uris import Storage
from pipeline.support.census import Census
from pipeline.support.errors import ConfigError, RunError
from tests.support.commands import compose
from tests.support.tars import jpeg

HERE = Storage()
ROOT = "s3://bucket/inv"
NAMES = [
    *(
        "a b.jpg",
        "a+b.jpg",
        "a%20b.jpg",
        "a-b/y.jpg",
        "a.tar",
        "a/b/x.tar",
        "a/z.jpg",
        "é/1.jpg",
        "\uff61.jpg",
    ),
    *("[x]/1.jpg", "q,u'o\"te.jpg", ".hidden/1.jpg", "_part.parquet", "x.parquet", "l.jsonl", "a/notes.txt"),
    *("x/plan/000000.parquet", "x/run.json", "line\nbreak.jpg"),
]
IN_BUCKET = ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "e_tag")


@pytest.fixture(scope="module")
def bucket(s3):
    """A bucket with odd names, one of them in several parts; returns what an Inventory would say of it."""
    fs, path = s3.open(ROOT)
    for name in NAMES:
        fs.pipe_file(f"{path}/{name}", jpeg(1) if name.endswith(".jpg") else name.encode())
    fs.pipe_file(f"{path}/x/run.json", b'{"fingerprint": "", "run_id": ""}')
    with fs.open(f"{path}/parts.tar", "wb", block_size=5 << 20) as file:
        for _ in range(3):
            file.write(b"x" * (5 << 20))
    infos = fs.find(path, detail=True).values()
    rows = [
        (
            "bucket",
            info["name"].removeprefix("bucket/"),
            "v1",
            True,
            False,
            info["size"],
            info["ETag"].strip('"'),
        )
        for info in infos
    ]
    assert any("-" in row[-1] for row in rows), "of several parts"
    rows += [
        ("bucket", "inv/a/z.jpg", "v0", False, False, 7, "0" * 32),
        ("bucket", "inv/deleted.jpg", "v2", True, True, None, None),
        ("bucket", "inv/old.jpg", "v1", False, True, None, None),
        ("bucket", "inv/folder/", "v1", True, False, 0, "0" * 32),
        ("bucket", "elsewhere/a.jpg", "v1", True, False, 3, "0" * 32),
        ("another", "inv/a.jpg", "v1", True, False, 3, "0" * 32),
    ]
    return rows[::-1]


def csv_text(rows, header=None, delimiter=",") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(
        [*([header] if header else []), *rows]
    )
    return text.getvalue().encode()


def table_of(rows) -> pa.Table:
    return pa.table(list(map(list, zip(*rows, strict=True))), names=list(IN_BUCKET))


def parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=7)
    return sink.getvalue()


def with_manifest(form: str, schema: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Make the objects of an Inventory: data files under inventories/, and the manifest that names them."""
    listed = [
        {"key": f"inventories/{name}", "size": len(data), "MD5checksum": "0"} for name, data in files.items()
    ]
    manifest = {
        "sourceBucket": "bucket",
        "destinationBucket": "arn:aws:s3:::bucket",
        "version": "2016-11-30",
        "fileFormat": form,
        "fileSchema": schema,
        "files": listed,
    }
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def as_csv_inventory(rows) -> dict[str, bytes]:
    quoted = [
        (
            row[0],
            quote_plus(row[1]),
            *(str(value).lower() if isinstance(value, bool) else value for value in row[2:]),
        )
        for row in rows
    ]
    schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, ETag"
    half = len(quoted) // 2
    files = {
        f"{n}.csv.gz": gzip.compress(csv_text(part)) for n, part in enumerate((quoted[:half], quoted[half:]))
    }
    return with_manifest("CSV", schema, files)


def as_parquet_inventory(rows) -> dict[str, bytes]:
    return with_manifest("Parquet", "message s3.inventory {}", {"0.parquet": parquet_bytes(table_of(rows))})


def latest(rows):
    return [row for row in rows if row[3] and not row[4]]


def as_uris(rows) -> list[dict]:
    return [{"URL": f"s3://{row[0]}/{row[1]}", "Size": row[5], "ETag": f'"{row[6]}"'} for row in latest(rows)]


FORMS = {
    "csv_inventory": as_csv_inventory,
    "parquet_inventory": as_parquet_inventory,
    "files.csv": lambda rows: {"files.csv": csv_text(latest(rows), IN_BUCKET)},
    "files.tsv.gz": lambda rows: {"files.tsv.gz": gzip.compress(csv_text(latest(rows), IN_BUCKET, "\t"))},
    "files.jsonl": lambda rows: {
        "files.jsonl": b"\n\n".join(json.dumps(row).encode() for row in as_uris(rows))
    },
    "files.parquet": lambda rows: {"files.parquet": parquet_bytes(pa.Table.from_pylist(as_uris(rows)))},
}


@pytest.fixture(scope="module", params=FORMS)
def listing(request, s3, bucket):
    """Each form of table in the bucket; returns its URI."""
    files = FORMS[request.param](bucket)
    fs, _ = s3.open(ROOT)
    for name, data in files.items():
        fs.pipe_file(f"bucket/inventories/{name}", data)
    return f"s3://bucket/inventories/{list(files)[-1]}"


PATHS = [
    *(
        ROOT,
        f"{ROOT}/",
        "s3://bucket",
        f"{ROOT}/*",
        f"{ROOT}/**",
        f"{ROOT}/*.jpg",
        f"{ROOT}/**/*.jpg",
        f"{ROOT}/a*",
    ),
    *(f"{ROOT}/a/z.jpg", f"{ROOT}/[x]", f"{ROOT}/{{a,é}}/**", f"{ROOT}/x", f"{ROOT}/.hidden"),
]
SEVERAL = [[f"{ROOT}/a", ROOT], [f"{ROOT}/é", f"{ROOT}/a*/*", f"{ROOT}/a"], [f"{ROOT}/.hidden", ROOT]]


@pytest.mark.parametrize("path", [*PATHS, *SEVERAL], ids=str)
def test_a_table_lists_what_the_store_lists(s3, bucket, listing, path):
    names = {f"s3://{row[0]}/{row[1]}" for row in bucket}
    expected = [
        entry for entry in list_entries(path, s3) if not isinstance(entry, File) or entry.uri in names
    ]
    if (
        path == "s3://bucket"
    ):  # tables of this test lie in the bucket, and rows of the bucket elsewhere in none
        expected = None
    found = list(list_entries(path, s3, ListingRules(listing=listing)))
    if expected is not None:
        assert found == expected
    else:
        uris = [entry.uri for entry in found if isinstance(entry, File)]
        assert (
            uris == sorted(uris)
            and "s3://bucket/elsewhere/a.jpg" in uris
            and f"{ROOT}/deleted.jpg" not in uris
        )


@pytest.mark.parametrize(
    "kind, path",
    [(Images, ROOT), (WebDataset, ROOT), (Parquet, ROOT), (Jsonl, f"{ROOT}/*.jsonl")],
    ids=["images", "webdataset", "parquet", "jsonl"],
)
def test_every_source_takes_the_files_of_a_table(s3, listing, kind, path):
    from_store, from_table = Census(), Census()
    expected = list(files_of(kind(path=path), s3, from_store))
    assert expected and list(files_of(kind(path=path, listing=listing), s3, from_table)) == expected
    assert from_table == from_store


def test_a_plan_is_that_of_the_store(s3, listing):
    source = Images(path=ROOT, slice_files=3)
    plan = make_plan("s3://bucket/plans/store", source, None, s3)
    other = make_plan("s3://bucket/plans/table", Images(path=ROOT, slice_files=3, listing=listing), None, s3)
    assert list(other.shards(s3)) == list(plan.shards(s3)) and other.source == plan.source


# --- local files ---


def write_table(folder, rows, name="files.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def test_local_files_and_what_is_not_known_of_them(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / "in" / name).write_bytes(jpeg(1))
    size = len(jpeg(1))
    rows = [{"path": f"{tmp_path}/in/./{name}", "size": size} for name in ("b.jpg", "a.jpg", "a.jpg")]
    source = Images(path=f"{tmp_path}/in", listing=write_table(tmp_path, rows))
    files = list(files_of(source, HERE))
    assert files == [File(f"file://{tmp_path}/in/{name}", size, "") for name in ("a.jpg", "b.jpg")]
    assert "no etags: a file that changes and keeps its size is not noticed" in capsys.readouterr().err
    assert all(
        file.is_same(now) for file, now in zip(files, files_of(Images(path=source.path), HERE), strict=True)
    )


def samples(source, storage):
    (shard,) = source.shards(files_of(source, storage), storage)
    return list(samples_of(source, shard, storage, lambda _: Want.ALL))


def test_images_that_have_changed_or_are_gone_are_rows(s3):
    fs, _ = s3.open(ROOT)
    names = ["changed.jpg", "gone.jpg", "grown.jpg", "same.jpg"]
    for name in names:
        fs.pipe_file(f"bucket/moving/{name}", jpeg(1))
    files = list(files_of(Images(path="s3://bucket/moving"), s3))
    rows = [{"uri": file.uri, "size": file.size, "etag": file.etag} for file in files]
    fs.pipe_file("bucket/moving.jsonl", "\n".join(map(json.dumps, rows)).encode())
    fs.pipe_file("bucket/moving/changed.jpg", jpeg(1)[:-1] + b"x")
    fs.rm_file("bucket/moving/gone.jpg")
    fs.pipe_file("bucket/moving/grown.jpg", jpeg(1) + b"x")
    found = samples(Images(path="s3://bucket/moving", listing="s3://bucket/moving.jsonl"), s3)
    assert [sample.key for sample in found] == names
    changed, gone, grown, same = (str(sample.fault) for sample in found)
    assert "moving/changed.jpg: it has changed since source.listing was made" in changed
    assert "it has changed" in grown and "FileNotFoundError" in gone and same == "None"
    bare = [{"uri": row["uri"], "size": row["size"]} for row in rows]
    fs.pipe_file("bucket/bare.jsonl", "\n".join(map(json.dumps, bare)).encode())
    found = samples(Images(path="s3://bucket/moving", listing="s3://bucket/bare.jsonl"), s3)
    assert [sample.fault is None for sample in found] == [True, False, False, True], "by size alone"


def test_a_shard_that_has_changed_or_is_gone_is_named(tmp_path):
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(b"x" * 10)
    rows = [
        {"path": str(tmp_path / name), "size": size}
        for name, size in (("a.tar", 10), ("b.tar", 11), ("c.tar", 1))
    ]
    source = WebDataset(path=str(tmp_path), listing=write_table(tmp_path, rows))
    same, changed, gone = source.shards(files_of(source, HERE), HERE)
    require_same(same, HERE)
    with pytest.raises(RunError, match=r"shard 1 has changed .*b\.tar"):
        require_same(changed, HERE)
    with pytest.raises(ConfigError, match=r"nothing at .*c\.tar"):
        require_same(gone, HERE)
    for size in (2, 3):
        (tmp_path / "q.jsonl").write_text('{"image": "a.jpg"}\n' * size)
        rows = [{"path": str(tmp_path / "q.jsonl"), "size": 38}]
        questions = Jsonl(path=str(tmp_path / "q.jsonl"), listing=write_table(tmp_path, rows))
        if size == 2:
            assert len(list(questions.shards(files_of(questions, HERE), HERE))) == 1
    with pytest.raises(ConfigError, match=r"source\.listing: .*q\.jsonl has changed"):
        list(questions.shards(files_of(questions, HERE), HERE))


def test_a_run_goes_on_with_a_table_or_without(tmp_path):
    """The plan is from a table without etags; the store, which has them, is then asked file by file."""
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(jpeg(1))
    rows = [{"path": f"{tmp_path}/in/{name}", "size": len(jpeg(1))} for name in ("a.jpg", "b.jpg")]
    source = Images(path=f"{tmp_path}/in", listing=write_table(tmp_path, rows))
    plan = make_plan(str(tmp_path / "out"), source, None, HERE)
    for listing in (source.listing, None):
        require_unchanged(plan, lambda _: False, dataclasses.replace(source, listing=listing), HERE)
    (tmp_path / "in" / "b.jpg").write_bytes(jpeg(1) + b"x")
    later = write_table(tmp_path, [rows[0], {**rows[1], "size": len(jpeg(1)) + 1}], "later.jsonl")
    for listing in (later, None):
        with pytest.raises(ConfigError, match=r"shard 0 has changed or is gone .*b\.jpg"):
            require_unchanged(plan, lambda _: False, dataclasses.replace(source, listing=listing), HERE)


def test_the_key_of_the_command_line(tmp_path):
    listing = write_table(tmp_path, [])
    config = compose("source=webdataset", f"source.path={tmp_path}", f"source.listing={listing}", "output=o")
    assert config.source == WebDataset(path=str(tmp_path), listing=listing)


def test_a_source_that_has_moved_asks_the_store(tmp_path):
    source = Images(path="a", listing="b.csv")
    assert source.relocated("a").listing == "b.csv" and source.relocated("c").listing is None


# --- what is wrong with a table ---

ROWS = [("bucket", "inv/a.tar", "v1", True, False, 5, "e")]
CSV_SCHEMA = "Bucket, Key, Size"
WRONG = {
    "uri,size\ns3://bucket/inv/a,five\n": r"files\.csv, row 1: column size: 'five' is no number of bytes",
    "uri,size\ns3://bucket/inv/a,-5\n": r"row 1: column size: '-5'",
    "uri,size\ns3://bucket/inv/a,\n": r"row 1: column size: ''",
    "uri,size\ns3://bucket/inv/a,1\na/b.jpg,1\n": r"row 2: column uri: 'a/b\.jpg' is neither a URI nor",
    "uri,size\ns3://bucket/inv/a\n": r"row 1: it has 1 of 2 columns",
    "name,size\na,1\n": r"no column uri, url, path, or key with bucket; it has name, size",
    "key,size\na,1\n": r"no column uri, url, path, or key with bucket; it has key, size",
    "uri,bytes\na,1\n": r"no column size; it has uri, bytes",
    "bucket,key,size\nbucket,,1\n": r"row 1: columns bucket and key: 'bucket' and '' name no object",
    "": r"no column uri, .*; it has none",
    'uri,size\n"s3://bucket/inv/a,1\n': r"files\.csv cannot be read: unexpected end of data",
    "uri,size\ns3://bucket/inv/a,1\ns3://bucket/inv/a,2\n": r"lists s3://bucket/inv/a twice, with different",
    "uri,size\ns3://bucket/other/a,1\n": r"source\.path: .*files\.csv names no file at s3://bucket/inv",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_damaged_table_is_named(s3, tmp_path, text):
    (tmp_path / "files.csv").write_text(text)
    refused(s3, str(tmp_path / "files.csv"), WRONG[text])


def refused(storage, listing, message):
    with pytest.raises(ConfigError, match=message) as error:
        list(list_entries(ROOT, storage, ListingRules(listing=listing)))
    assert "\n" not in str(error.value) and str(error.value).startswith(("source.listing: ", "source.path: "))


def test_other_tables_that_cannot_be_read(s3, tmp_path):
    files = {
        "a.xlsx": (b"", r"a\.xlsx is none of \.parquet"),
        "a.parquet": (b"PAR1", r"a\.parquet cannot be read: "),
        "a.csv.gz": (gzip.compress(b"uri,size\n" + b"s3://b/a,1\n" * 9)[:-9], r"a\.csv\.gz cannot be read: "),
        "b.csv.gz": (b"uri,size\n", r"b\.csv\.gz cannot be read: Not a gzipped file"),
        "a.csv": ("uri,size\né,1".encode("latin-1"), r"a\.csv cannot be read: 'utf-8'"),
        "a.jsonl": (b'{"uri": "s3://a/b", "size": 1}\n{', r"a\.jsonl cannot be read: "),
        "b.jsonl": (b"[1]", r"b\.jsonl, row 1: it is no object"),
        "c.jsonl": (b'{"uri": null, "size": 1}', r"c\.jsonl, row 1: column uri: None is neither"),
        "1/manifest.json": (b"{}", r"no manifest of an S3 Inventory: KeyError: 'fileFormat'"),
        "2/manifest.json": (b"[", r"manifest\.json cannot be read: "),
    }
    for name, (data, message) in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
        refused(s3, str(tmp_path / name), message)
    refused(s3, str(tmp_path / "none.csv"), r"source\.listing: nothing at .*none\.csv")
    refused(s3, "s3://no-such-bucket/a.csv", r"source\.listing: .*s3://no-such-bucket/a\.csv")


def test_a_manifest_whose_files_do_not_fit(s3, tmp_path):
    def manifest(**changes):
        for name, data in with_manifest(
            "CSV", CSV_SCHEMA, {"0.csv.gz": gzip.compress(b"bucket,inv/a%2Bb.jpg,5\n")}
        ).items():
            if name == "manifest.json":
                data = json.dumps({**json.loads(data), **changes}).encode()
            (tmp_path / name).write_bytes(data)
        return str(tmp_path / "manifest.json")

    (file,) = list_entries(ROOT, s3, ListingRules(listing=manifest()))
    assert file == File(f"{ROOT}/a+b.jpg", 5, "")
    refused(s3, manifest(fileFormat="ORC"), r"manifest\.json: ORC is not read; CSV and Parquet are")
    refused(s3, manifest(fileSchema="Bucket, Key"), r"0\.csv\.gz has no column size; it has Bucket, Key")
    refused(
        s3,
        manifest(files=[{"key": "a/0.csv.gz", "size": 1}]),
        r"0\.csv\.gz has \d+ bytes where its manifest says 1",
    )
    refused(
        s3, manifest(files=[{"key": "a/9.csv.gz", "size": 1}]), r"source\.listing: nothing at .*9\.csv\.gz"
    )
    manifest()
    (tmp_path / "day").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "0.csv.gz").rename(tmp_path / "data" / "0.csv.gz")
    (tmp_path / "manifest.json").rename(tmp_path / "day" / "manifest.json")
    (moved,) = list_entries(ROOT, s3, ListingRules(listing=str(tmp_path / "day" / "manifest.json")))
    assert moved == file
