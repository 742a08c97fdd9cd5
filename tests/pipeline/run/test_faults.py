"""Nothing that a corpus of faulty inputs holds stops a run or costs a neighbour; every row is as expected.

Each format is one run of the real command, in this process, so that all of them share one Ray.
"""

import contextlib
import functools
import hashlib
import io
import json
import tarfile
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.summary import Summary
from tests.support.corpus import Case, encoded, images, members, picture, questions, sidecar
from tests.support.runs import rows
from tests.support.tars import add

pytestmark = [pytest.mark.usefixtures("ray"), pytest.mark.slow, pytest.mark.timeout(900)]
CASES = [case for seed in (0, 1) for case in (*images(seed), *questions(seed))]
SETTINGS = [
    *("task=vqa", "reducer=trim", "decoding.max_new_tokens=2", "unit_samples=16", "device=cpu"),
    *("cluster.encode.threads=1", "cluster.generate.threads=1"),
]


@pytest.fixture(scope="module")
def annotate(random_checkpoint, ray):
    """`trimline annotate` with these overrides: its exit status and its last line."""
    from jobs.common.entry import run_command

    model = [f"model.path={random_checkpoint / 'llava'}", f"model.clip={random_checkpoint / 'clip'}"]

    def run(*overrides):
        with contextlib.redirect_stdout(io.StringIO()) as told:
            status = run_command("annotate", [*SETTINGS, *model, *overrides])
        return status, told.getvalue().strip().rpartition("\n")[2]

    return run


@pytest.fixture(scope="module")
def finished(annotate, tmp_path_factory):
    """The corpus in one format, run: how it ended, its rows and its summary; made when first asked for."""

    @functools.cache
    def make(write):
        folder = tmp_path_factory.mktemp(write.__name__)
        (folder / "in").mkdir()
        overrides = [*write(folder / "in", CASES), f"output={folder / 'out'}"]
        status, line = annotate(*overrides)
        summary = Summary.from_json(json.loads((folder / "out" / "summary.json").read_text()))
        return SimpleNamespace(
            overrides=overrides,
            output=folder / "out",
            status=status,
            line=line,
            rows=rows(folder / "out"),
            summary=summary,
        )

    return make


def as_webdataset(folder, cases):
    write_tar(folder / "corpus.tar", cases)
    write_members(folder / "members.tar")
    write_broken(folder)
    return "source=webdataset", f"source.path={folder}"


def write_tar(path, cases):
    with tarfile.open(path, "w") as tar:
        for index, case in enumerate(cases):
            add(tar, f"{index:06d}.jpg", case.image)
            add(tar, f"{index:06d}.json", sidecar(case))


def as_images(folder, cases):
    for index, case in enumerate(cases):
        (folder / f"{index:06d}.jpg").write_bytes(case.image)
        (folder / f"{index:06d}.json").write_bytes(sidecar(case))
    return "source=images", f"source.path={folder}", "source.slice_files=30"


def as_parquet(folder, cases):
    table = pa.table({"image": [c.image for c in cases], "questions": [list(c.questions) for c in cases]})
    pq.write_table(table, folder / "a.parquet", row_group_size=20)
    return "source=parquet", f"source.path={folder}"


def as_jsonl(folder, cases):
    lines = []
    for index, case in enumerate(cases):
        (folder / f"{index:06d}.jpg").write_bytes(case.image)
        for text in case.questions or [None]:
            lines.append(json.dumps({"question_id": len(lines), "image": f"{index:06d}.jpg", "text": text}))
    (folder / "q.jsonl").write_text("\n".join(lines))
    return "source=jsonl", f"source.path={folder / 'q.jsonl'}", "source.slice_files=30"


BESIDE = ("cut.tar", "members.tar", "spoilt.tar", "whole.tar")  # what lies beside the corpus
FORMATS = [as_webdataset, as_images, as_parquet, as_jsonl]


def of_corpus(run):
    """The rows of a run that are the corpus's, in its order."""
    own = [row for row in run.rows if not row["source"].endswith(BESIDE)]
    return sorted(own, key=lambda row: (number(row), row["key"]))


def number(row):
    """The place of a row's sample in the corpus."""
    return int(row["sample_key"].removesuffix(".jpg"))


@pytest.mark.parametrize("write", FORMATS)
def test_every_row_of_the_corpus_is_as_expected(finished, write):
    assert len(CASES) * len(FORMATS) >= 300, "the corpus over all formats"
    found = of_corpus(finished(write))
    expected = [
        (case.name, place, asked, status)
        for place, case in enumerate(CASES)
        for asked, status in enumerate(case.statuses)
    ]
    assert [
        (name, number(row), int(row["key"][-4:]), row["status"])
        for (name, *_), row in zip(expected, found, strict=True)
    ] == expected
    for row in found:
        case = CASES[number(row)]
        assert row["image_sha256"] in (None, hashlib.sha256(case.image).hexdigest())
        assert (row["error"] is None) == (row["status"] == "ok") == (row["prediction"] is not None)
        assert "\n" not in (row["error"] or ""), "an error is one line"
        if row["status"] == "ok":
            assert row["question"] == case.questions[int(row["key"][-4:])]
            assert row["image_sha256"] and row["visual_tokens_kept"] > 0


def test_an_answer_hangs_on_no_neighbour(finished):
    """The formats put other samples side by side in a unit; what is kept and said of each is the same."""
    first, *others = (
        [(row["kept_patches"], row["prediction"]) for row in of_corpus(finished(write))] for write in FORMATS
    )
    for other in others:
        differing = sum(one != two for one, two in zip(first, other, strict=True))
        assert differing <= 1, "rounding decides about a patch that lies on TRIM's very fence"
    assert len(set(first)) > 30, "equal means something: they differ from row to row"


def test_too_many_failed_rows_are_status_3_until_they_are_allowed(finished, annotate):
    bad = sum(status != "ok" for case in CASES for status in case.statuses)
    total = sum(len(case.statuses) for case in CASES)
    for write in (as_images, as_parquet, as_jsonl):
        run = finished(write)
        assert (run.status, run.summary.rows) == (3, total)
        assert run.line == f"{bad} of {total} rows failed, more than max_failed_fraction=0.1"
        assert run.summary.status == Counter(row["status"] for row in run.rows)
        assert not (run.output / "_SUCCESS").exists()
        status, line = annotate(*run.overrides, "max_failed_fraction=0.5")
        assert (status, line.partition(":")[0]) == (0, "nothing to do")
        assert (run.output / "_SUCCESS").exists()


def write_members(path):
    with tarfile.open(path, "w") as tar:
        for parts, _ in members().values():
            for name, content in parts:
                if isinstance(content, bytes) and len(content) > 1:
                    add(tar, name, content)
                else:
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = content, "/etc/hostname"
                    tar.addfile(info)


def test_every_member_that_a_tar_can_hold(finished):
    run = finished(as_webdataset)
    found = [row["status"] for row in run.rows if row["source"].endswith("members.tar")]
    expected = {name: status for name, (_, status) in members().items()}
    assert dict(zip(expected, found, strict=True)) == expected
    assert not list(run.output.parent.parent.rglob("n.jpg")), "names are names, nothing is unpacked"


def write_broken(folder):
    """Three tars of the same samples: one ends in the middle of a member, one has a bad header there."""
    good = [Case(f"{seed}", encoded(picture(seed), "JPEG")) for seed in range(12)]
    for name in ("cut.tar", "spoilt.tar", "whole.tar"):
        write_tar(folder / name, good)
    with tarfile.open(folder / "cut.tar") as tar:
        offset = tar.getmember("000006.jpg").offset
    data = (folder / "cut.tar").read_bytes()
    (folder / "cut.tar").write_bytes(data[: offset + 700])
    (folder / "spoilt.tar").write_bytes(data[:offset] + b"\xaa" * 512 + data[offset + 512 :])


def test_shards_that_break_are_status_1_and_lose_no_neighbour(finished):
    run = finished(as_webdataset)
    found = Counter((row["source"].rpartition("/")[2], row["status"]) for row in run.rows)
    assert {
        key: count for key, count in found.items() if key[0] in ("cut.tar", "spoilt.tar", "whole.tar")
    } == {
        ("cut.tar", "ok"): 6,
        ("cut.tar", "bad_sample"): 1,
        ("spoilt.tar", "ok"): 6,
        ("whole.tar", "ok"): 12,
    }
    names = ["corpus.tar", *BESIDE]
    failed = [names[failed.shard] for failed in run.summary.failed_shards_named]
    assert failed == ["cut.tar", "spoilt.tar"]
    assert run.status == 1, "and not 3: more was lost than the rows that failed"
    assert run.line.startswith("2 shards could not be read whole; shard 1: ")
    assert not (run.output / "_SUCCESS").exists()
