"""`log=json` and `--log json`: errors are JSON lines, too."""

import json

import pytest

from jobs.common.entry import run_command


@pytest.fixture(autouse=True)
def text_again():
    from pipeline.support import log

    yield
    log.start("text", str)


@pytest.mark.parametrize("option", [["log=json"], ["--log", "json"], ["--log=json"]], ids=" ".join)
@pytest.mark.parametrize("override", ["source.path=nowhere", "nokey=1", "seed=x"])
def test_an_error_is_one_json_line(annotate, option, override):
    status, out, err = annotate(*option, override, "storage.key=CANARY", "storage.secret=CANARY1")
    assert (status, out, err.count("\n")) == (2, "", 1)
    record = json.loads(err)
    assert (record["level"], record["event"], record["exit_status"], record["run_id"]) == (
        "error",
        "error",
        2,
        None,
    )
    assert override.partition("=")[0] in record["message"] and "CANARY" not in err


def test_a_crash_is_one_json_line(annotate, monkeypatch):
    import jobs.annotate

    monkeypatch.setattr(jobs.annotate, "run", lambda config: {}["nothing"])
    status, _, err = annotate("log=json")
    record = json.loads(err)
    assert (status, record["event"], record["level"]) == (1, "crash", "critical")
    assert "KeyError: 'nothing'" in record["message"]


def test_other_forms_are_refused_and_the_next_command_is_text_again(annotate, capfd):
    annotate("log=json", "source.path=nowhere")
    assert "log: 'xml' is none of" in annotate.refused("log=xml")
    assert run_command("verify", ["--log", "json", "output=out"]) == 2, "only commands that run have a log"
    assert "log" in json.loads(capfd.readouterr().err)["message"]


@pytest.mark.parametrize(("port", "message"), [("0", "metrics_port: 0 is no port"), ("x", "metrics_port")])
def test_an_invalid_port_is_refused(annotate, port, message):
    assert message in annotate.refused(f"metrics_port={port}")


@pytest.mark.parametrize("also", [[], ["metrics_port=8080", "cluster=ray"]])
def test_a_metrics_host_that_would_be_ignored_is_refused(annotate, also):
    assert "metrics_host: needs metrics_port and" in annotate.refused("metrics_host=0.0.0.0", *also)
