"""Test what a source's path names: braces, lists, names that look like patterns, and where keys begin."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.output.changed import require_unchanged
from pipeline.output.opened import questions_of
from pipeline.output.plan_growth import extend_plan, make_plan
from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.listing import File, list_entries
from pipeline.storage.paths import expand_braces, expanded, fixed_part, parts_of, path_of_text, source_text
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import ConfigError
from pipeline.support.fields import fingerprint_fields
from tests.support.tars import write_tar

HERE = Storage()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a", "a"),
        ("{a,b}.tar", "a.tar b.tar"),
        ("s{08..11}", "s08 s09 s10 s11"),
        ("{3..1}", "3 2 1"),
        ("{0..9..4}", "0 4 8"),
        ("{a..e..2}", "a c e"),
        ("{x,{1..2},}-{p,q}", "x-p x-q 1-p 1-q 2-p 2-q -p -q"),
        ("{a}{}{b,c}", "{a}{}b {a}{}c"),
        ("{-01..1}", "-01 000 001"),
        ("{a,b", "{a,b"),
        ("a}b{1..x}", "a}b{1..x}"),
    ],
)
def test_braces(text, meant):
    assert list(expand_braces(text)) == meant.split(" ")


@given(st.text("a1{},.", max_size=12))
def test_braces_mean_what_they_mean_to_webdataset(text):
    braceexpand = pytest.importorskip("braceexpand")
    depths = [text[:stop].count("{") - text[:stop].count("}") for stop in range(len(text) + 1)]
    assume(min(depths) == depths[-1] == 0)  # it reads unbalanced braces in a way of its own
    assert list(expand_braces(text)) == list(braceexpand.braceexpand(text, escape=False))


def test_too_many_paths_are_refused():
    with pytest.raises(ConfigError, match=r"source\.path: .* more than 100,000 paths"):
        expanded("a{0..999999999999}")


NOWHERE = ["", "file://", "file:", "local://", "s3://", "s3:///", "s3a://", "a\0b", "s3://b/\0"]


@pytest.mark.parametrize(
    "path", [None, {}, [], ["a", None], True, *NOWHERE, *(["a", path] for path in NOWHERE)]
)
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ConfigError, match=r"source\.path"):
        parts_of(path)


@pytest.mark.parametrize("path", ["{,a}", "{x,}", "s3://{,b}", ["a", "file://{,b}"]])
def test_braces_that_stand_for_nothing_are_refused(tmp_path, monkeypatch, path):
    for name in "axb":
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for part in path if isinstance(path, list) else [path]:
        if "{" in part:
            with pytest.raises(ConfigError, match=r"source\.path: .* names no"):
                expanded(part)
    if "s3" not in path:
        with pytest.raises(ConfigError, match=r"source\.path: .* names no"):
            list(list_entries(path, HERE))


def tars(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_tar(folder / name, 1)
    return list(names)


def listed(path: object, folder: Path) -> list[str]:
    return [
        entry.uri.removeprefix(f"file://{folder}/")
        for entry in list_entries(path, HERE)
        if isinstance(entry, File)
    ]


def test_several_paths_are_one_listing_in_the_order_of_names(tmp_path):
    names = tars(tmp_path, "a/000.tar", "a/001.tar", "a/010.tar", "a-b/1.tar", "b/x/1.tar", "c.tar")
    paths = [f"{tmp_path}/c.tar", f"{tmp_path}/b", f"{tmp_path}/a/{{000..001}}.tar", f"{tmp_path}/b/*/*.tar"]
    wanted = ["a/000.tar", "a/001.tar", "b/x/1.tar", "c.tar"]
    assert listed(paths, tmp_path) == listed(paths[::-1], tmp_path) == wanted
    assert listed([str(tmp_path), f"{tmp_path}/a", f"{tmp_path}/a*/*.tar"], tmp_path) == sorted(names)
    assert listed(f"{tmp_path}/{{b,a{{,-b}}}}", tmp_path) == sorted(names[:-1])


def test_a_path_that_matches_nothing_is_named(tmp_path):
    tars(tmp_path, "a/1.tar", "b/2.tar")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/x.txt").write_text("")
    for part in (f"{tmp_path}/a/2.tar", f"{tmp_path}/none", f"{tmp_path}/a/*.gz", f"{tmp_path}/c"):
        with pytest.raises(ConfigError, match=r"source\.path: ") as refusal:
            list(WebDataset(path=[f"{tmp_path}/b", part]).entries(HERE))
        assert part in str(refusal.value)
    with pytest.raises(ConfigError, match=r"source\.path: nothing at .*a/3\.tar"):
        list(WebDataset(path=f"{tmp_path}/a/{{1..3..2}}.tar").entries(HERE))


def test_a_name_that_looks_like_a_pattern_is_found_and_keys_are_relative_to_it(tmp_path):
    for name in (
        "set[1]/b.jpg",
        "set1/c.jpg",
        "x{a,b}/d.jpg",
        "xa/e.jpg",
        "xb/f.jpg",
        "q?/g.jpg",
        "z*/h.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"image")

    def keys(path: object) -> list[str]:
        source = Images(path=path)
        (shard,) = source.shards(files_of(source, HERE), HERE)
        return [sample.key for sample in source.samples(shard, HERE, lambda _: Want.ALL)]

    assert keys(f"{tmp_path}/set[1]") == ["b.jpg"]
    assert keys(f"{tmp_path}/set[1]/") == ["b.jpg"]
    assert keys(f"{tmp_path}/set[1-9]/*") == ["set1/c.jpg"]
    assert keys(f"{tmp_path}/x{{a,b}}") == ["d.jpg"]
    assert keys(f"{tmp_path}/x{{b,a}}/*.jpg") == ["xa/e.jpg", "xb/f.jpg"]
    assert keys([f"{tmp_path}/q?", f"{tmp_path}/z*"]) == ["g.jpg", "h.jpg"]
    assert keys(f"{tmp_path}/set[1]/b.jpg") == ["b.jpg"]


LOOKING_LIKE_PATTERNS = ["set[1]", "q?", "z*", "x{a,b}", "[!a]", "k[", "{1..2}", "a[b]{c,d}"]
ODD = st.lists(st.sampled_from(LOOKING_LIKE_PATTERNS), min_size=1, max_size=3).map("/".join)
ENDS = ["*.jpg", "[ab].jpg", "{a,b}.jpg", "?.jpg", "{a,[b]}.*", "**/*.jpg", "**"]


def decoys(name: str) -> list[str]:
    """Name folders that `name` would mean as a pattern."""
    matches = {"set[1]": "set1", "q?": "qq", "z*": "zz", "[!a]": "b", "a[b]{c,d}": "abc"}
    return [matches[name]] if name in matches else list(expand_braces(name))


def check_folder_by_its_name(root: str, folder: str, end: str, storage: Storage) -> None:
    """Check that a pattern below a folder of an odd name lists that folder, with keys relative to it."""
    source = Images(path=f"{root}/{folder}/{end}")
    files = list(files_of(source, storage))
    assert [file.uri.rpartition("/")[0] for file in files] == [canonical(f"{root}/{folder}", storage)] * 2
    (shard,) = source.shards(files, storage)
    samples = [sample for sample in source.samples(shard, storage, lambda _: Want.ALL) if sample]
    assert [(sample.key, sample.image, sample.fault) for sample in samples] == [
        ("a.jpg", b"own", None),
        ("b.jpg", b"own", None),
    ]


@settings(max_examples=60)
@given(ODD, st.sampled_from(ENDS))
def test_a_folder_that_exists_is_no_pattern(folder, end):
    with tempfile.TemporaryDirectory() as root:
        first, _, rest = folder.partition("/")
        for name, content in [(first, b"own"), *((decoy, b"other") for decoy in decoys(first))]:
            for file in ("a.jpg", "b.jpg"):
                path = Path(root, name, rest, file)
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
        check_folder_by_its_name(root, folder, end, HERE)


def test_a_folder_of_a_bucket_that_exists_is_no_pattern(s3):
    fs, path = s3.open("s3://bucket/odd")
    for number, folder in enumerate(LOOKING_LIKE_PATTERNS[:4]):
        for name, content in [(folder, b"own"), *((decoy, b"other") for decoy in decoys(folder))]:
            for file in ("a.jpg", "b.jpg"):
                fs.pipe_file(f"{path}/{number}/{name}/{file}", content)
        for end in ("*.jpg", "{b,a}.jpg"):
            check_folder_by_its_name(f"s3://bucket/odd/{number}", folder, end, s3)


def test_braces_over_folders_still_stand_for_several(tmp_path):
    tars(tmp_path, "{a/1.tar", "a/x.tar", "b/y.tar", "c[1]/z.tar", "c1/no.tar")
    assert listed(f"{tmp_path}/{{a/x,b/y}}.tar", tmp_path) == ["a/x.tar", "b/y.tar"]
    assert listed(f"{tmp_path}/{{a,c[1]}}/*.tar", tmp_path) == ["a/x.tar", "c[1]/z.tar"]
    assert listed(f"{tmp_path}/{{a,c[1-2]}}/*.tar", tmp_path) == ["a/x.tar", "c1/no.tar"]
    long = ",".join(f"{number:06d}" for number in range(100))
    assert listed(f"{tmp_path}/{{a,b}}/[xy{long}].tar", tmp_path) == ["a/x.tar", "b/y.tar"]
    with pytest.raises(ConfigError, match=r"nothing at .*/a/000000\.tar"):
        listed(f"{tmp_path}/a/{{x,{long}}}.tar", tmp_path)


def test_a_link_that_looks_like_a_pattern_is_the_users_own_word(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.jpg").write_bytes(b"own")
    (tmp_path / "l[1]").symlink_to("real")
    source = Images(path=f"{tmp_path}/l[1]/*.jpg")
    (shard,) = source.shards(files_of(source, HERE), HERE)
    (sample,) = source.samples(shard, HERE, lambda _: Want.ALL)
    assert sample is not None and (sample.key, sample.image, sample.fault) == ("a.jpg", b"own", None)


def test_the_plan_of_several_paths_is_continued_extended_and_moved(tmp_path):
    tars(tmp_path, "one/a.tar", "two/b.tar", "three/c.tar")
    paths = [f"{tmp_path}/two", f"{tmp_path}/one"]
    source, output = WebDataset(path=paths), f"file://{tmp_path}/output"
    plan = make_plan(output, source, None, HERE)
    assert path_of_text(plan.source) == [f"file://{path}" for path in paths]
    assert [Path(shard.uri).name for shard in plan.shards(HERE)] == ["a.tar", "b.tar"]
    grown = extend_plan(plan, WebDataset(path=f"{tmp_path}/three"), HERE)
    assert [Path(shard.uri).name for shard in grown.shards(HERE)] == ["a.tar", "b.tar", "c.tar"]
    everything = WebDataset(path=path_of_text(grown.source))
    require_unchanged(grown, lambda _: False, everything, HERE)
    assert extend_plan(grown, everything, HERE).parts == grown.parts, "nothing is new"

    from pipeline.output.manifest import Manifest

    settings = {
        "source": {"_target_": "pipeline.sources.webdataset.WebDataset", **vars(source)},
        "task": {"_target_": "pipeline.sources.task.Task", "source_questions": True},
        "max_questions": 1,
    }
    manifest = Manifest("", "", 1, {}, settings, {})
    for name in ("one", "two", "three"):
        (tmp_path / name).rename(tmp_path / f"{name}[moved]")
    with pytest.raises(ConfigError, match=r"source\.path: the run had 3 paths, not 1"):
        questions_of(output, manifest, grown, str(tmp_path), HERE)
    moved = [f"{tmp_path}/{name}[moved]" for name in ("two", "one", "three")]
    questions = questions_of(output, manifest, grown, moved, HERE)
    assert [file.uri for file in questions.entries()] == [
        f"file://{tmp_path}/{name}.tar" for name in ("one/a", "three/c", "two/b")
    ]
    assert questions.moved(grown.line(0)).uri == f"file://{tmp_path}/one[moved]/a.tar"


def test_one_path_is_kept_as_it_was(tmp_path):
    assert source_text(f"{tmp_path}/a{{1,2}}", HERE) == f"file://{tmp_path}/a{{1,2}}"
    assert source_text([str(tmp_path), str(tmp_path)], HERE) == f"file://{tmp_path}"
    assert fixed_part("s3://b/a/x{1..3}/*.tar") == "s3://b/a"
    assert fingerprint_fields(Images(path="a")) == {"slice_files": 4096}


def test_several_places_of_a_bucket(s3):
    fs, path = s3.open("s3://bucket/several")
    for name in ("a/0.jpg", "b/1.jpg", "c/2.jpg", "d[1]/3.jpg", "e{1,2}/4.jpg"):
        fs.pipe_file(f"{path}/{name}", b"x")

    def names(path: object) -> list[str]:
        return [str(entry.uri).rpartition("/")[2] for entry in list_entries(path, s3)]

    root = "s3://bucket/several"
    assert names(f"{root}/{{c,a}}") == ["0.jpg", "2.jpg"]
    assert names([f"{root}/b", f"{root}/a/0.jpg", f"{root}/*/1.jpg"]) == ["0.jpg", "1.jpg"]
    source = Images(path=[f"{root}/d[1]", f"{root}/e{{1,2}}"])
    (shard,) = source.shards(files_of(source, s3), s3)
    assert [sample.key for sample in source.samples(shard, s3, lambda _: Want.ALL)] == ["3.jpg", "4.jpg"]
    with pytest.raises(ConfigError, match=r"source\.path: .*several/z"):
        names(f"{root}/{{a,z}}")
