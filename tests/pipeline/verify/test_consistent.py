"""Without the source, every kind of damage to an output is found and named."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.footers import FOOTER, totals_of
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from pipeline.support.schema import PREDICTIONS
from pipeline.verify.verify import Verification, verify

FIRST, SECOND, LAST = (
    *("000000-00000000-00000002.parquet", "000000-00000002-00000004.parquet"),
    "000000-00000004-00000006-end.parquet",
)
NOT_WELL = ("damaged", "_SUCCESS")


def edit(file, rows=None, footer=None, schema=PREDICTIONS, count=False):
    """Rewrite a unit's file as sound Parquet with other rows or another footer; the sums of before go."""
    shutil.rmtree(file.parents[1] / "done", ignore_errors=True)
    table = pq.read_table(file)
    new_footer = json.loads(table.schema.metadata[FOOTER])
    new_footer |= footer or {}
    lines = table.to_pylist() if rows is None else rows(table.to_pylist())
    table = pa.Table.from_pylist(lines, schema=schema)
    if count:
        new_footer["totals"] = totals_of(table).to_json()
    pq.write_table(
        table.replace_schema_metadata({FOOTER: json.dumps(new_footer)}), file, write_page_checksum=True
    )


def test_a_whole_output_is_consistent(output, check, finished):
    findings, result = check(output)
    assert (findings, result.notes, result.ok) == ({}, [], True)
    assert (result.shards, result.units, result.rows) == (2, 6, len(finished.rows))
    assert list(result.lines()) == ["2 shards, 6 units, 18 rows: consistent"]


def test_a_deleted_file(output, check):
    (output / "data" / SECOND).unlink()
    (output / "data" / FIRST.replace("000000-", "000001-", 1)).unlink()
    findings, result = check(output)
    assert findings.keys() == {("missing", (0, 2, 4)), ("missing", (1, 0, 2)), NOT_WELL}
    lines = list(result.lines())
    assert lines[0] == "missing  shard 0 [2, 4): no file holds them"
    assert lines[-1] == "2 shards, 4 units, 12 rows: not consistent: 2 missing, 1 damaged"


def test_a_deleted_last_unit(output, check):
    (output / "data" / LAST).unlink()
    assert check(output)[0].keys() == {("missing", (0, 4, None)), NOT_WELL}


def test_shards_that_were_never_begun(output, check):
    for file in (output / "data").iterdir():
        file.unlink()
    findings, _ = check(output)
    assert findings[("missing", (0, None, None))] == "neither it nor any other up to shard 1 has a file"


@pytest.mark.parametrize("size", [0, 3, 200, -1])
def test_a_file_that_was_cut(output, check, size):
    file = output / "data" / SECOND
    file.write_bytes(file.read_bytes()[:size])
    findings, _ = check(output)
    assert findings.keys() == {("damaged", f"data/{SECOND}"), NOT_WELL}, (
        "its range is not reported as missing, too"
    )
    assert "cannot be read" in findings[("damaged", f"data/{SECOND}")]


@pytest.mark.slow
def test_a_byte_that_was_flipped_anywhere(output, check):
    file = output / "data" / SECOND
    data = file.read_bytes()
    pages = max(
        column.data_page_offset + column.total_compressed_size
        for column in (pq.read_metadata(file).row_group(0).column(n) for n in range(len(PREDICTIONS)))
    )
    detected, flipped = [], set()
    for place in range(4, len(data), 61):
        file.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        findings, _ = check(output)
        assert findings.keys() <= {("damaged", f"data/{SECOND}"), NOT_WELL}
        if place < pages - 8:
            flipped.add(place)
            detected += [place] if findings else []
    assert len(detected) >= 0.8 * len(flipped) >= 6, "pages have checksums, their headers have none"


def test_a_letter_that_was_changed_is_found_by_its_pages_checksum_alone(output, check):
    file = output / "data" / SECOND
    shutil.rmtree(output / "done")
    table = pq.read_table(file)
    options = {"compression": None, "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, file, write_page_checksum=True, **options)
    assert check(output)[0] == {}
    file.write_bytes(file.read_bytes().replace(b"what is thing", b"what was hing"))
    assert pq.read_table(file)["question"][0].as_py().startswith("what was hing"), (
        "the file is sound otherwise"
    )
    assert "cannot be read" in check(output)[0][("damaged", f"data/{SECOND}")]


def swapped(rows):
    return [rows[1], rows[0], *rows[2:]]


def renumbered(rows):
    return [{**row, "key": row["key"][:-4] + "0007"} for row in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (swapped, "row 0 has the key 000000-00000003-0000 and sample 3 in the place of 000000-00000002-0000"),
        (
            lambda rows: [rows[0], *rows],
            "row 1 has the key 000000-00000002-0000 and sample 2 in the place of",
        ),
        (lambda rows: rows[:1], "its rows end with sample 2, its name with 3"),
        (lambda rows: rows[1:], "row 0 has the key 000000-00000003-0000"),
        (lambda rows: [rows[0], rows[2]], "row 1 has the key 000000-00000003-0001"),
        (renumbered, "row 0 has the key 000000-00000002-0007"),
        (lambda rows: [{**row, "sample": 5} for row in rows], "and sample 5 in the place of"),
        (lambda rows: [], "its rows end with sample 2, its name with 3"),
    ],
)
def test_rows_that_do_not_match_the_files_range(output, check, rows, message):
    """Wrong rows are found even if the footer's counts agree with them."""
    edit(output / "data" / SECOND, rows, count=True)
    findings, _ = check(output)
    assert findings.keys() == {("damaged", f"data/{SECOND}"), NOT_WELL}
    assert message in findings[("damaged", f"data/{SECOND}")]


def test_a_missing_last_question_contradicts_the_footer(output, check):
    edit(output / "data" / SECOND, lambda rows: rows[:-1])
    assert check(output)[0][("damaged", f"data/{SECOND}")] == "its footer counts 3 rows, its rows 2"


@pytest.mark.parametrize(
    ("footer", "message"),
    [
        ({"first": 1}, "its footer says that it is 000000-00000001-00000004.parquet"),
        ({"end": True}, "its footer says that it is 000000-00000002-00000004-end.parquet"),
        ({"fingerprint": "f" * 64}, "its fingerprint ffffffffffffffff is not run.json's"),
        ({"schema_version": 0}, "its schema_version 0 is not run.json's 1"),
        ({"source_size": 7}, "it was made of a shard of size 7, the plan has"),
        ({"source_etag": "x"}, "it was made of a shard of etag x, the plan has"),
        ({"totals": {}}, "cannot be read: KeyError"),
        ({"totals": None}, "cannot be read: TypeError"),
    ],
)
def test_a_footer_that_does_not_agree(output, check, footer, message):
    edit(output / "data" / SECOND, footer=footer)
    findings, _ = check(output)
    assert findings.keys() == {("damaged", f"data/{SECOND}"), NOT_WELL}
    assert message in findings[("damaged", f"data/{SECOND}")]


def test_counts_status_and_tokens_are_those_of_the_rows(output, check):
    for name, change in (("visual_tokens_kept", 3), ("generated_tokens", 2), ("status", "failed")):
        edit(
            output / "data" / SECOND,
            lambda rows, values={name: change}: [
                {**row, "visual_tokens_kept": None, **values} for row in rows
            ],
        )
        assert f" {name}, its rows " in check(output)[0][("damaged", f"data/{SECOND}")]


def test_columns_other_than_the_declared_ones(output, check):
    kinds = [field.with_nullable(True) for field in PREDICTIONS]
    edit(output / "data" / SECOND, schema=pa.schema(kinds))
    assert "its columns are not" in check(output)[0][("damaged", f"data/{SECOND}")]
    pq.write_table(pa.table({"key": ["a"]}), output / "data" / SECOND)
    assert "not written by Trimline" in check(output)[0][("damaged", f"data/{SECOND}")]


def test_rows_of_another_source(output, check):
    edit(output / "data" / SECOND, lambda rows: [{**row, "source": "file:///x.tar"} for row in rows])
    assert "its source is not the plan's" in check(output)[0][("damaged", f"data/{SECOND}")]


def test_a_file_under_another_name(output, check):
    (output / "data" / SECOND).rename(output / "data" / "000000-00000006-00000008.parquet")
    findings, _ = check(output)
    assert findings.keys() == {
        ("missing", (0, 2, 4)),
        ("damaged", "data/000000-00000006-00000008.parquet"),
        NOT_WELL,
    }
    assert "its footer says that it is" in findings[("damaged", "data/000000-00000006-00000008.parquet")]


def test_a_copy_under_a_name_of_no_unit(output, check):
    for name in ("copy.parquet", "0000000-00000002-00000004.parquet"):
        (output / "data" / name).write_bytes((output / "data" / SECOND).read_bytes())
    (output / "data" / "notes.txt").touch()
    findings, _ = check(output)
    damaged = [("damaged", f"data/{name}") for name in ("copy.parquet", "0000000-00000002-00000004.parquet")]
    assert findings.keys() == {*damaged, ("leftover", "data/notes.txt"), NOT_WELL}


def overlap(output):
    """Write a file that is valid by itself, for samples that other files hold."""
    file = output / "data" / "000000-00000002-00000003.parquet"
    file.write_bytes((output / "data" / SECOND).read_bytes())
    edit(file, lambda rows: rows[:1], {"stop": 3}, count=True)
    return file


def test_files_whose_ranges_overlap(output, check):
    file = overlap(output)
    findings, _ = check(output)
    assert findings.keys() == {("doubled", f"data/{file.name}"), ("doubled", f"data/{SECOND}"), NOT_WELL}
    assert findings[("doubled", f"data/{SECOND}")] == f"it contradicts {file.name}"


def test_a_damaged_file_does_not_condemn_overlapping_files(output, check):
    file = overlap(output)
    file.write_bytes(file.read_bytes()[:-1])
    assert check(output)[0].keys() == {("damaged", f"data/{file.name}"), NOT_WELL}


def test_an_end_before_the_end(output, check):
    early = output / "data" / SECOND.replace(".parquet", "-end.parquet")
    (output / "data" / SECOND).rename(early)
    edit(early, footer={"end": True})
    findings, _ = check(output)
    assert findings.keys() == {("doubled", f"data/{early.name}"), ("doubled", f"data/{LAST}"), NOT_WELL}


def test_a_unit_beyond_the_plan(output, check):
    file = output / "data" / LAST.replace("000000", "000002", 1)
    (output / "data" / LAST).rename(file)
    edit(file, lambda rows: [{**row, "key": "000002" + row["key"][6:]} for row in rows], {"shard": 2})
    findings, _ = check(output)
    assert findings.keys() == {("missing", (0, 4, None)), ("damaged", f"data/{file.name}"), NOT_WELL}
    assert findings[("damaged", f"data/{file.name}")].startswith("the plan has no shard 2")


def test_leftovers_alone_are_no_fault(output, check):
    names = [f"data/.{FIRST}.{'0a' * 16}.tmp", f".run.json.{'0b' * 16}.tmp", f"plan/.0.{'0c' * 16}.tmp"]
    for name in names:
        (output / name).touch()
    findings, result = check(output)
    assert findings.keys() == {("leftover", name) for name in names}
    assert result.ok


def test_a_missing_or_damaged_plan(output, check):
    part = output / "plan" / "000000.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:-1])
    assert check(output)[0].keys() == {("damaged", "plan/")}
    part.write_bytes(data)
    part.rename(part.with_name("000004.parquet"))
    pq.write_table(pq.read_table(part.with_name("000004.parquet")).slice(1), part.with_name("000004.parquet"))
    assert check(output)[0].keys() == {("missing", "plan/")}
    part.with_name("000004.parquet").unlink()
    assert check(output)[0].keys() == {("missing", "plan/")}


def test_a_missing_or_damaged_run_json(output, check):
    (output / "run.json").write_text("{")
    assert check(output)[0].keys() == {("damaged", "run.json")}
    (output / "run.json").unlink()
    assert check(output)[0].keys() == {("missing", "run.json")}


def test_a_run_json_of_another_output_makes_repair_delete_no_unit(output, check):
    manifest = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**manifest, "fingerprint": "f" * 64}))
    findings, result = check(output, repair=True)
    assert findings.keys() == {("damaged", f"data/{FIRST}"), NOT_WELL}
    assert "no file agrees with run.json" in findings[("damaged", f"data/{FIRST}")]
    assert result.removed == ["_SUCCESS"]


def test_a_shard_that_broke_off_is_a_note(output, check):
    edit(output / "data" / LAST, footer={"shard_error": "the tar breaks off"})
    findings, result = check(output)
    (note,) = result.notes
    assert findings == {} and note.startswith("not read whole: shard 0 (file://")
    assert note.endswith("/0.tar): the tar breaks off")


def test_a_summary_of_other_rows(output, check):
    summary = json.loads((output / "summary.json").read_text())
    (output / "summary.json").write_text(json.dumps({**summary, "rows": 5}))
    assert check(output)[0] == {("damaged", "summary.json"): "it counts 5 rows, data/ 18"}
    (output / "summary.json").unlink()
    assert check(output)[0] == {("damaged", "summary.json"): "it cannot be read"}
    (output / "_SUCCESS").unlink()
    findings, result = check(output)
    assert (findings, result.notes) == ({}, ["there is no _SUCCESS: the run has not ended, or it failed"])


def test_a_folder_without_run_json_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is no output of Trimline: it has no run\.json"):
        verify(Verification(output=str(tmp_path)), Storage())


def test_an_endless_list_is_cut(output, check):
    for number in range(70):
        (output / "data" / f"{number}.txt").touch()
    _, result = check(output)
    lines = list(result.lines())
    assert len(lines) == 52 and lines[50] == "... and 20 more: json=FILE has all of them"
