"""Test that what is secret on a command line is moved into the environment, and kept out of run.json."""

import dataclasses
import os
import sys

import pytest
from omegaconf import OmegaConf

from jobs.common import credentials
from jobs.common.written_out import with_references
from pipeline.run.cluster.worker_environment import is_early, without_secrets, worker_environment
from pipeline.sources.images import Images
from pipeline.storage.secrets import OWN_VALUES, OWN_VARIABLES, hide_everywhere, hide_secrets
from tests.support.commands import compose

SECRETS = [
    "storage.key=CANARY-1",
    "source_storage.secret='CANARY 2'",
    "+storage.token=CANARY/3+A==",
    "storage.endpoint_url=http://user:CANARY@host:9000",
    "cluster.runtime_env={env_vars: {MY_TOKEN: CANARY}}",
    "cluster.runtime_env.env_vars={MY_TOKEN: CANARY}",
    "+cluster.runtime_env.env_vars.MY_TOKEN=CANARY",
    "cluster.dashboard=http://user:CANARY@head:8265",
    "source.path='https://bucket.s3.amazonaws.com/x.tar?X-Amz-Signature=CANARY'",
    "+source.password=CANARY",
    "+engine.api_key=CANARY",
    "+source.token=CANARY",
    "+source.headers={Authorization: CANARY, x-api-key: CANARY}",
    "storage={key: CANARY, secret: 'CANARY'}",
    "~storage.secret=CANARY",
    "arms={a: {engine: {api_key: CANARY}}}",
    "arms.a.engine={api_key: CANARY, other: 1}",
    "+source.options=[{password: CANARY}]",
    "+source.passphrase=CANARY",
    "source.path=[s3://b/x,'https://me:CANARY@h/x']",
    "storage.endpoint_url=//user:CANARY@host:9000",
    "cluster.runtime_env={pip: {pip_install_options: ['--index-url=https://me:CANARY@h/simple']}}",
    "cluster.runtime_env={env_vars: {A: CANARY, B: 3}, pip: [x]}",
]
OTHERS = [
    *(
        "storage.endpoint_url=http://host:9000",
        "storage.key=null",
        "storage.key=${oc.env:X}",
        "seed=1",
        "source.path=s3://b/x",
    ),
    *("cluster.runtime_env={pip: [x]}", "cluster.runtime_env=null", "key=value"),
]


@pytest.mark.parametrize("override", SECRETS)
def test_a_credential_leaves_the_command_line(monkeypatch, override):
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(sys, "orig_argv", ["python", "trimline", "annotate", override, *OTHERS])
    monkeypatch.setattr(
        os, "execve", lambda path, arguments, environment: started.append((arguments, environment))
    )
    credentials.restart_without_credentials()
    ((arguments, environment),) = started
    assert "CANARY" not in str(arguments) and arguments[4:] == OTHERS
    assert arguments[3].partition("=")[0] == override.partition("=")[0]
    assert any("CANARY" in value for name, value in environment.items() if name.startswith("TRIMLINE_"))


@pytest.mark.parametrize("override", SECRETS)
def test_a_credential_is_known_for_messages(override):
    shown = override
    for secret in credentials.credentials_in([override]):
        shown = shown.replace(secret, "***")
    assert "CANARY" not in shown


MEANT = [
    (r"storage.secret='it\'s it'", "it's it"),
    (r"storage.secret=a\,b", "a,b"),
    ("storage.secret=0123", "0123"),
    ("storage.secret=1e5", "1e5"),
    ("storage.secret=a=b", "a=b"),
    ("storage.secret='a=b'", "a=b"),
]


@pytest.mark.parametrize(("override", "meant"), MEANT)
def test_a_credential_is_what_hydra_reads(override, meant):
    assert credentials.credentials_in([override]) == [meant]


@pytest.mark.parametrize(
    "override",
    ["cluster.runtime_env={env_vars: {A: 'x, \"y\"', B: 3}, pip: [x]}", "storage={key: a, secret: b}"],
)
def test_a_tree_with_references_means_the_same(monkeypatch, override):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    def read(argument: str) -> object:
        value = OverridesParser.create().parse_override(argument).value()
        return OmegaConf.to_container(OmegaConf.create({"value": value}), resolve=True)

    def refer(key: str, secret: str) -> str:
        monkeypatch.setenv(f"GIVEN_{key}", secret)
        return f"${{oc.env:GIVEN_{key}}}"

    moved = with_references(override, refer)
    assert moved != override
    assert str(read(moved)) == str(read(override)).replace("3", "'3'")


@pytest.mark.parametrize("override", OTHERS)
def test_nothing_else_is_moved(monkeypatch, override):
    monkeypatch.setattr(sys, "orig_argv", ["python", "trimline", "annotate", override])
    monkeypatch.setattr(os, "execve", None)
    credentials.restart_without_credentials()


def test_variables_of_the_workers_are_not_in_run_json(monkeypatch):
    monkeypatch.setenv("GIVEN", '{env_vars: {MY_TOKEN: "CANARY is it", OMP_NUM_THREADS: "2"}, pip: [x]}')
    config = compose(
        "source=images", "source.path=p", "output=o", "cluster.runtime_env='${oc.decode:${oc.env:GIVEN}}'"
    )
    variables = {"MY_TOKEN": "CANARY is it", "OMP_NUM_THREADS": "2"}
    assert config.cluster.runtime_env == {"env_vars": variables, "pip": ["x"]}
    hidden = {"env_vars": {"MY_TOKEN": "***", "OMP_NUM_THREADS": "***"}, "pip": ["x"]}
    assert config.settings["cluster"]["runtime_env"] == hidden


def test_ray_is_told_only_what_a_process_needs_at_its_start(monkeypatch):
    given = {"env_vars": {"MY_TOKEN": "CANARY", "LD_PRELOAD": "x.so", "LEVEL": 3}, "pip": ["x"]}
    environment = worker_environment(given)
    assert "CANARY" not in str({name: value for name, value in environment.items() if not callable(value)})
    ours = {"OMP_WAIT_POLICY", "PYTORCH_CUDA_ALLOC_CONF"}
    assert environment["env_vars"].keys() == ours | {"LD_PRELOAD"} and environment["pip"] == ["x"]
    for name in given["env_vars"]:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    environment["worker_process_setup_hook"]()
    assert (os.environ["MY_TOKEN"], os.environ["LEVEL"]) == ("CANARY", "3")
    assert without_secrets(given) == {"env_vars": {"LD_PRELOAD": "x.so"}, "pip": ["x"]}
    assert without_secrets({"env_vars": {"MY_TOKEN": "CANARY"}}) == {}
    assert not is_early("RAY_AUTH_TOKEN") and is_early("PYTHONPATH") and is_early("NCCL_DEBUG")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader(Images):
    """A reader of a user's own, which asks for a password."""

    password: str = ""


def test_secret_fields_of_a_users_own_class_are_not_in_run_json(monkeypatch):
    monkeypatch.setenv("GIVEN", "CANARY")
    config = compose(
        "source.path=p", "output=o", f"source._target_={__name__}.Reader", "+source.password=${oc.env:GIVEN}"
    )
    assert config.source.password == "CANARY"
    assert config.settings["source"]["password"] == "***" and "CANARY" not in str(config.settings)


def test_messages_hide_what_a_configuration_resolves(monkeypatch):
    monkeypatch.setenv("GIVEN", "CANARY is it")
    config = OmegaConf.create(
        {
            "storage": {"key": "${oc.env:GIVEN}1", "secret": "???", "token": None},
            "cluster": {"runtime_env": {"env_vars": {"A": "${oc.env:GIVEN}2", "B": "false"}}},
            "source": {"api_key": "${oc.env:GIVEN}3", "password": "${oc.env:NOT_THERE}", "path": "???"},
        }
    )
    assert sorted(credentials.credentials_of(config)) == [f"CANARY is it{number}" for number in (1, 2, 3)]


def test_secret_fields_are_found_in_lists_and_as_numbers():
    tree = {"source": {"readers": [{"password": 12345678}], "api_key": "CANARY", "max_key": 3}}
    assert sorted(credentials.secret_fields_of(OmegaConf.create(tree))) == ["12345678", "CANARY"]
    hidden = {"readers": [{"password": "***"}], "api_key": "***", "max_key": 3}
    assert credentials.settings_without_credentials(tree) == {"source": hidden}


def test_workers_hide_what_the_command_hides_everywhere(monkeypatch):
    monkeypatch.setenv(OWN_VALUES, "[]")
    hide_everywhere(["CANARY-of-a-class"])
    hook = worker_environment({})["worker_process_setup_hook"]
    assert hide_secrets("401: CANARY-of-a-class", []) == "401: ***"
    hide_everywhere([])
    assert hide_secrets("401: CANARY-of-a-class", []) == "401: CANARY-of-a-class"
    monkeypatch.setenv(OWN_VARIABLES, "")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    hook()
    assert hide_secrets("401: CANARY-of-a-class", []) == "401: ***"


def test_variables_of_the_workers_are_hidden_in_what_they_say(monkeypatch):
    environment = worker_environment({"env_vars": {"MY_TOKEN": "CANARY-of-workers", "LEVEL": "3"}})
    for name in ("MY_TOKEN", "LEVEL", OWN_VARIABLES):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    environment["worker_process_setup_hook"]()
    assert hide_secrets("refused: CANARY-of-workers 3 times", []) == "refused: *** 3 times"
