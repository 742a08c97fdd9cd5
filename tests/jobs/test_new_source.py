"""A user adds a source with one Python file and one YAML, without editing Trimline."""

import io
import json
import tarfile
import time
import zipfile

import pyarrow.parquet as pq
import pytest

from jobs.common.entry import run_command
from pipeline.run.in_process import run_in_process
from tests.support.commands import compose
from tests.support.tars import jpeg

ZIPS = '''
import zipfile
from dataclasses import dataclass

from pipeline.sources.base import Sample, Shard, Source, Want, files_ending
from pipeline.sources.sidecars import assemble
from pipeline.support.errors import ShardError
from pipeline.support.fields import counted


@dataclass(frozen=True, kw_only=True)
class Zips(Source):
    """Zip archives of images, each with the question in a .txt beside it."""

    folder: str = counted("")

    def entries(self, storage):
        return files_ending(self, (".zip",), storage)

    def shards(self, entries, storage):
        for number, file in enumerate(entries):
            yield Shard(number, file.uri, file.size, file.etag)

    def samples(self, shard, storage, wanted):
        try:
            with self.open_shard(shard, storage) as stream, zipfile.ZipFile(stream) as archive:
                names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
                for index, name in enumerate(name for name in names if name.startswith(self.folder)):
                    yield self._sample(archive, name, wanted(index))
        except zipfile.BadZipFile as error:
            raise ShardError(f"the zip cannot be read: {error}") from None

    def _sample(self, archive, name, want):
        if not want:
            return None
        stem = name.removesuffix(".jpg")
        image = archive.read(name) if want == Want.ALL else b""
        end = archive.getinfo(name).header_offset + archive.getinfo(name).compress_size
        return assemble(stem, end, {"jpg": image, "txt": archive.read(f"{stem}.txt")})
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The source's two files, and five images with a question each in two archives."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "zips.py").write_text(ZIPS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    (tmp_path / "conf" / "source").mkdir(parents=True)
    (tmp_path / "conf" / "source" / "zips.yaml").write_text(
        "_target_: zips.Zips\npath: ???\nfolder: ''\nfollow_links: false\n"
    )
    (tmp_path / "in").mkdir()
    for number, count in enumerate((3, 2)):
        with zipfile.ZipFile(tmp_path / "in" / f"{number}.zip", "w") as archive:
            for index in range(count):
                archive.writestr(f"{index}.jpg", jpeg(10 * number + index))
                archive.writestr(f"{index}.txt", f"what is thing {index}?")
    return tmp_path


def answer(folder) -> None:
    """Do the work of `trimline annotate --config-dir FOLDER/conf source=zips` without Ray."""
    config = compose(
        *(f"hydra.searchpath=[file://{folder}/conf]", "source=zips", f"source.path={folder}/in"),
        *(f"output={folder}/out", "task=vqa", "model=random", "device=cpu", "unit_samples=1"),
        "decoding.max_new_tokens=2",
    )
    run_in_process(config, attempt=f"{time.time():.3f}")


@pytest.mark.slow
def test_a_users_source_is_read_verified_exported_and_planned(project, capfd):
    answer(project)
    rows = pq.read_table(project / "out" / "data").to_pylist()
    questions = [f"what is thing {index}?" for index in (0, 1, 2, 0, 1)]
    assert [row["question"].partition("\n")[0] for row in rows] == questions
    assert {row["status"] for row in rows} == {"ok"}

    assert run_command("verify", [f"output={project}/out", "deep=true"]) == 0
    assert "proved against the source" in capfd.readouterr().out

    assert run_command("plan", ["requests=50", f"profile={project}/out", f"json={project}/plan.json"]) == 0
    traffic = json.loads((project / "plan.json").read_text())["traffic"]
    size = sum(file.stat().st_size for file in (project / "in").iterdir())
    assert traffic["source_bytes"] == 10 * size and traffic["source_gets"] is None

    # the archives move: the images are read from where they are now
    (project / "in").rename(project / "moved")
    moved = [
        f"output={project}/out",
        f"to={project}/answers",
        "format=webdataset",
        f"source.path={project}/moved",
    ]
    assert run_command("export", moved) == 0
    with tarfile.open(project / "answers" / "000001.tar") as tar:
        member = tar.extractfile("1.jpg")
        assert member is not None and member.read() == jpeg(11)


@pytest.mark.slow
def test_a_changed_archive_is_named(project, capfd):
    answer(project)
    data = io.BytesIO((project / "in" / "1.zip").read_bytes())
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("2.jpg", jpeg(12))
        archive.writestr("2.txt", "and this?")
    (project / "in" / "1.zip").write_bytes(data.getvalue())
    assert run_command("verify", [f"output={project}/out", "deep=true"]) == 1
    assert "1.zip" in capfd.readouterr().out


def test_config_dir_finds_it_and_its_keys_are_checked(project, annotate):
    zips = ("--config-dir", f"{project}/conf", "source=zips")
    assert "source.path must be given" in annotate.refused(*zips, "source.path=???")
    assert "source.fold" in annotate.refused(*zips, "source.path=in", "+source.fold=a")
    assert f"no .zip at {project}/conf" in annotate.refused(*zips, f"source.path={project}/conf")


def test_a_class_that_is_no_source_is_refused(project, annotate):
    text = "from dataclasses import dataclass\n\n\n@dataclass(frozen=True)\nclass Bare:\n    path: str = ''\n"
    (project / "code" / "bare.py").write_text(text)
    (project / "conf" / "source" / "bare.yaml").write_text("_target_: bare.Bare\npath: x\n")
    message = annotate.refused("--config-dir", f"{project}/conf", "source=bare")
    assert message == "source._target_: Bare does not extend pipeline.sources.base.Source"
