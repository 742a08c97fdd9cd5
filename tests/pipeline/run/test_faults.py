"""Test that faulty inputs neither stop a run nor affect their neighbours.

Each format is one run of the real command in this process: the tars' with Ray, the others without, since
they differ in the source alone.
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
from tests.support.runs import rows, without_ray
from tests.support.tars import add

pytestmark = [pytest.mark.usefixtures("ray"), pytest.mark.slow, pytest.mark.timeout(900)]
CASES = [case for seed in (0, 1) for case in (*images(seed), *questions(seed))]
SETTINGS = [
    *("task=vqa", "reducer=trim", "decoding.max_new_tokens=2", "unit_samples=16", "device=cpu"),
    *("cluster.encode.threads=1", "cluster.generate.threads=1"),
]


@pytest.fixture(scope="module")
def annotate(random_checkpoint, ray):
    """Return a function that runs `trimline annotate`, for its exit status and last line."""
    from jobs.common.entry import run_command

    model = [f"model.path={random_checkpoint / 'llava'}", f"model.clip={random_checkpoint / 'clip'}"]

    def run(*overrides):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = run_command("annotate", [*SETTINGS, *model, *overrides])
        return status, printed.getvalue().strip().rpartition("\n")[2]

    return run


@pytest.fixture(scope="module")
def finished(annotate, tmp_path_factory):
    """Return a function that runs the corpus in one format, once, for its end, rows and summary."""

    @functools.cache
    def make(write):
        folder = tmp_path_factory.mktemp(write.__name__)
        (folder / "in").mkdir()
        overrides = [*write(folder / "in", CASES), f"output={folder / 'out'}"]
        with contextlib.nullcontext() if write is as_webdataset else without_ray():
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


BESIDE = ("cut.tar", "members.tar", "spoilt.tar", "whole.tar")  # other tars in the corpus's folder
FORMATS = [as_webdataset, as_images, as_parquet, as_jsonl]


def of_corpus(run):
    """Select the rows of the corpus from a run, in its order."""
    corpus_rows = [row for row in run.rows if not row["source"].endswith(BESIDE)]
    return sorted(corpus_rows, key=lambda row: (number(row), row["key"]))


def number(row):
    """Return the index of a row's sample in the corpus."""
    return int(row["sample_key"].removesuffix(".jpg"))


@pytest.mark.parametrize("write", FORMATS)
def test_every_row_of_the_corpus_is_as_expected(finished, write):
    assert len(CASES) * len(FORMATS) >= 300, "the corpus over all formats"
    corpus_rows = of_corpus(finished(write))
    expected = [
        (case.name, place, question, status)
        for place, case in enumerate(CASES)
        for question, status in enumerate(case.statuses)
    ]
    assert [
        (name, number(row), int(row["key"][-4:]), row["status"])
        for (name, *_), row in zip(expected, corpus_rows, strict=True)
    ] == expected
    for row in corpus_rows:
        case = CASES[number(row)]
        assert row["image_sha256"] in (None, hashlib.sha256(case.image).hexdigest())
        assert (row["error"] is None) == (row["status"] == "ok") == (row["prediction"] is not None)
        assert "\n" not in (row["error"] or ""), "an error is one line"
        if row["status"] == "ok":
            assert row["question"] == case.questions[int(row["key"][-4:])]
            assert row["image_sha256"] and row["visual_tokens_kept"] > 0


def test_an_answer_does_not_depend_on_its_neighbours(finished):
    """The formats place different samples in one unit; kept patches and answers are equal."""
    answers, *other_formats = (
        [(row["kept_patches"], row["prediction"]) for row in of_corpus(finished(write))] for write in FORMATS
    )
    for other_answers in other_formats:
        differing = sum(ours != theirs for ours, theirs in zip(answers, other_answers, strict=True))
        assert differing <= 1, "rounding decides about a patch exactly on TRIM's fence"
    assert len(set(answers)) > 30, "answers must differ from row to row, or equality proves nothing"


def test_too_many_failed_rows_are_status_3_until_they_are_allowed(finished, annotate):
    failed = sum(status != "ok" for case in CASES for status in case.statuses)
    total = sum(len(case.statuses) for case in CASES)
    for write in (as_images, as_parquet, as_jsonl):
        run = finished(write)
        assert (run.status, run.summary.rows) == (3, total)
        assert run.line == f"{failed} of {total} rows failed, more than max_failed_fraction=0.1"
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


def test_every_kind_of_tar_member(finished):
    run = finished(as_webdataset)
    statuses = [row["status"] for row in run.rows if row["source"].endswith("members.tar")]
    expected = {name: status for name, (_, status) in members().items()}
    assert dict(zip(expected, statuses, strict=True)) == expected
    assert not list(run.output.parent.parent.rglob("n.jpg")), "no member is unpacked to disk"


def write_broken(folder):
    """Write three tars of the same samples: one truncated, one with a bad header, one sound."""
    cases = [Case(f"{seed}", encoded(picture(seed), "JPEG")) for seed in range(12)]
    for name in ("cut.tar", "spoilt.tar", "whole.tar"):
        write_tar(folder / name, cases)
    with tarfile.open(folder / "cut.tar") as tar:
        offset = tar.getmember("000006.jpg").offset
    data = (folder / "cut.tar").read_bytes()
    (folder / "cut.tar").write_bytes(data[: offset + 700])
    (folder / "spoilt.tar").write_bytes(data[:offset] + b"\xaa" * 512 + data[offset + 512 :])


def test_broken_shards_are_status_1_and_the_others_are_answered(finished):
    run = finished(as_webdataset)
    counts = Counter((row["source"].rpartition("/")[2], row["status"]) for row in run.rows)
    assert {
        key: count for key, count in counts.items() if key[0] in ("cut.tar", "spoilt.tar", "whole.tar")
    } == {
        ("cut.tar", "ok"): 6,
        ("cut.tar", "bad_sample"): 1,
        ("spoilt.tar", "ok"): 6,
        ("whole.tar", "ok"): 12,
    }
    names = ["corpus.tar", *BESIDE]
    failed = [names[failed.shard] for failed in run.summary.failed_shards_named]
    assert failed == ["cut.tar", "spoilt.tar"]
    assert run.status == 1, "not 3: samples were lost, not only failed"
    assert run.line.startswith("2 shards could not be read whole; shard 1 (file://")
    assert not (run.output / "_SUCCESS").exists()
