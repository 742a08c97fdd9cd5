"""Test that pickled weights need a flag, and that then only tensors are read."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.models.checkpoints.digest import weights_digest
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import resolve
from pipeline.models.checkpoints.loading import load_part
from pipeline.support.errors import ConfigError


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.fixture
def pickled(random_checkpoint, tmp_path, monkeypatch):
    """Make a CLIP with pickled weights, like the published one, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "clip"
    shutil.copytree(random_checkpoint / "clip", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_a_pickle_is_refused_and_the_flag_is_named(random_checkpoint, pickled):
    folder = resolve(str(pickled))
    assert folder == pickled
    for refuse in (lambda: weights_digest(folder), lambda: check_fit(random_checkpoint / "llava", folder)):
        with pytest.raises(ConfigError, match=r"model\.allow_pickle=true") as raised:
            refuse()
        assert str(pickled) in str(raised.value) and "\n" not in str(raised.value)


def test_transformers_never_reads_a_pickle(pickled):
    """Even if no check of ours ran before."""
    from transformers import CLIPVisionModelWithProjection

    with pytest.raises(OSError, match="safetensors"):
        load_part(CLIPVisionModelWithProjection, "vision tower", pickled, torch.float32)


@pytest.mark.parametrize("shards", [1, 2])
def test_with_the_flag_a_pickle_gives_equal_weights(random_checkpoint, pickled, shards):
    if shards > 1:
        split(pickled)
    folder = resolve(str(pickled), allow_pickle=True)
    assert check_fit(random_checkpoint / "llava", folder).num_patches == 576
    loaded = {
        name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    expected = load_file(random_checkpoint / "clip" / "model.safetensors")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert resolve(str(pickled), allow_pickle=True) == folder, "made once"
    assert resolve(str(random_checkpoint / "clip"), allow_pickle=True) == random_checkpoint / "clip"


def split(folder: Path) -> None:
    weights = list(torch.load(folder / "pytorch_model.bin", weights_only=True).items())
    (folder / "pytorch_model.bin").unlink()
    file_of = {}
    for number, part in enumerate((weights[:9], weights[9:]), start=1):
        name = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(dict(part), folder / name)
        file_of |= {tensor: name for tensor, _ in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": file_of}))


def test_a_pickle_with_other_objects_runs_no_code(pickled, tmp_path):
    torch.save({"a": Evil(tmp_path / "mark")}, pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="cannot be read as weights alone") as raised:
        resolve(str(pickled), allow_pickle=True)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "mark").exists()
    torch.load(pickled / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "mark").exists(), "the pickle must work, or this test proves nothing"


def test_a_checkpoint_runs_no_code(random_checkpoint, tmp_path):
    """A checkpoint that names code is refused, or loaded without running it."""
    from pipeline.models.llava import LanguageModel

    folder = tmp_path / "llava"
    shutil.copytree(random_checkpoint / "llava", folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Evil: pass\n")
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoImageProcessor")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        file = folder / name
        tree = json.loads(file.read_text()) if file.exists() else {}
        tree["auto_map"] = {name: "evil.Evil" for name in names}
        tree["trust_remote_code"] = True
        file.write_text(json.dumps(tree))
    with contextlib.suppress(ConfigError, ValueError):
        LanguageModel(folder)
    assert not (tmp_path / "mark").exists()
