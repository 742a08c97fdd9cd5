"""`log=json` and `--log json` on the command line: what goes wrong is a JSON line, too."""

import json

import pytest

from jobs.common.entry import run_command


@pytest.fixture(autouse=True)
def text_again():
    from pipeline.support import log

    yield
    log.start("text", str)


@pytest.mark.parametrize("given", [["log=json"], ["--log", "json"], ["--log=json"]], ids=" ".join)
@pytest.mark.parametrize("wrong", ["source.path=nowhere", "nokey=1", "seed=x"])
def test_an_error_is_one_json_line(annotate, given, wrong):
    status, out, err = annotate(*given, wrong, "storage.key=CANARY", "storage.secret=CANARY1")
    assert (status, out, err.count("\n")) == (2, "", 1)
    told = json.loads(err)
    assert (told["level"], told["event"], told["exit_status"], told["run_id"]) == ("error", "error", 2, None)
    assert wrong.partition("=")[0] in told["message"] and "CANARY" not in err


def test_a_crash_is_one_json_line(annotate, monkeypatch):
    import jobs.annotate

    monkeypatch.setattr(jobs.annotate, "run", lambda config: {}["nothing"])
    status, _, err = annotate("log=json")
    told = json.loads(err)
    assert (status, told["event"], told["level"]) == (1, "crash", "critical")
    assert "KeyError: 'nothing'" in told["message"]


def test_other_forms_are_refused_and_the_next_command_is_text_again(annotate, capfd):
    annotate("log=json", "source.path=nowhere")
    assert "log: 'xml' is none of" in annotate.refused("log=xml")
    assert run_command("verify", ["--log", "json", "output=out"]) == 2, "only what runs has something to log"
    assert "log" in json.loads(capfd.readouterr().err)["message"]


@pytest.mark.parametrize(("port", "told"), [("0", "metrics_port: 0 is no port"), ("x", "metrics_port")])
def test_a_port_that_is_none(annotate, port, told):
    assert told in annotate.refused(f"metrics_port={port}")
