"""Any command line gives one line and status 2, or a configuration with which Ray would start."""

import contextlib
import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.harness import cases
from tests.support.tars import jpeg

KEYS = """
    source task model reducer engine cluster storage pricing dataset decoding image clip_text retry_failed
    source.path source.slice_files task.prompts task.suffix model.template model.path model.name
    model.allow_pickle
    reducer.sign reducer.keep_ratio reducer._target_ reducer.foo engine.batch_tokens cluster.address
    cluster.encode cluster.encode.num_cpus storage.key storage.endpoint_url decoding.stop decoding.top_p
    image.max_pixels unit_samples unit_bytes max_questions limit extend seed max_failed_fraction device
    foo a.b.c é source..path source.path.
"""
WORDS = """
    null ??? true 0 -1 1e400 nan inf [] {} [a,b] {a:1} {a:{b:[1,2]}} ${nope} ${oc.env:NOPE} ${source}
    ${unit_samples} ${.path} a,b "\\"" \\ range(1,3) full trim vqa caption s3 local 99999999999999999999
    pictures nowhere pictures/*.jpg trim.Nope os.system builtins.dict pipeline.support.fields.Model cpu cuda
    glob(*) choice(1,2)
"""
TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
VALUES = st.one_of(
    st.sampled_from([*WORDS.split(), "", "'a b'", "1" * 400, "a\nb", "\x1b[31m", "\t"]),
    st.integers().map(str),
    st.floats().map(str),
    st.text(TEXT, max_size=12),
)
OVERRIDES = st.one_of(
    st.builds(
        "{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), st.sampled_from(KEYS.split()), VALUES
    ),
    st.sampled_from(KEYS.split()).map("~{}".format),
    st.sampled_from(
        [
            "--nope",
            "-x",
            "--cfg=nope",
            "--package",
            "--info=x",
            "=",
            "==",
            "~",
            "+",
            "@",
            "source@x=images",
            "~source",
            "",
        ]
    ),
    # no flags here: those of Hydra print something and exit
    st.text(TEXT, min_size=1, max_size=15).filter(lambda text: not text.startswith("-")),
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with pictures, and a Ray that does not start."""
    folder = tmp_path_factory.mktemp("overrides")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "1.jpg").write_bytes(jpeg(1))

    def no_ray(*_, **__):
        raise ConnectionError("RAY WOULD START")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("ray.init", no_ray)
        patch.setattr("ray.is_initialized", lambda: False)  # earlier tests may have started it
        assert annotate(["source.path=pictures"])[0] == 1, (
            "a first run, so that no case pays for imports and the demo's weights"
        )
        yield folder


def annotate(overrides: list[str]) -> tuple[int, str, str]:
    """Run `trimline annotate`; return its exit status, stdout and stderr."""
    from jobs.common.entry import run_command

    name = hashlib.sha256(repr(overrides).encode()).hexdigest()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command("annotate", [f"output=out/{name}", *overrides])
    return status, out.getvalue(), err.getvalue()


@cases(25)
@given(st.lists(OVERRIDES, min_size=1, max_size=3))
def test_overrides(workplace, overrides):
    keys = {override.lstrip("+~").partition("=")[0] for override in overrides}
    start = [] if "source.path" in keys or "source" in keys else ["source.path=pictures"]
    status, out, err = annotate([*start, *overrides])
    assert err.startswith("trimline annotate: ") and err.count("\n") == 1 and err.endswith("\n"), err
    assert status == 2 or (status == 1 and "RAY WOULD START" in err), err
    assert out == ""
