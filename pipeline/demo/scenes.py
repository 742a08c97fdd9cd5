"""Makes pictures with ground truth: `python -m pipeline.demo.scenes --out FOLDER_OR_URI --samples N ...`.

Writes WebDataset shards whose sidecars hold questions with their kinds and answers. A sample depends on
split, seed and index alone, so equal arguments give equal bytes and splits never share a picture.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from pipeline.demo.ask import SceneQuestion, ask_all, caption_of
from pipeline.demo.draw import draw
from pipeline.demo.scene import Scene, compose
from pipeline.storage.uris import Storage, write_atomic

SPLITS = {"train": 0, "val": 1, "test": 2, "dense": 3}  # dense: crowded, to train a tower
CAPTION_PROMPT = "Describe the image in one sentence."
JPEG_QUALITY = 92


@dataclass(frozen=True)
class SceneSample:
    """Holds one picture with its scene, caption and questions."""

    key: str
    scene: Scene
    image: Image.Image
    caption: str
    questions: tuple[SceneQuestion, ...]

    def jpeg(self) -> bytes:
        """Encode the picture."""
        buffer = io.BytesIO()
        self.image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue()

    def sidecar(self) -> dict[str, object]:
        """Make the sidecar: the questions as sources read them, and the truth that scores read."""
        questions = [
            {
                "question_id": f"{self.key}-{number}",
                "question": question.question,
                "kind": question.kind,
                "answers": list(question.answers),
            }
            for number, question in enumerate(self.questions)
        ]
        things = [asdict(thing) for thing in self.scene.things]
        return {"questions": questions, "caption": self.caption, "things": things}


def make_sample(split: str, seed: int, index: int) -> SceneSample:
    """Draw sample `index` of a split; each split has a random stream of its own."""
    rng = np.random.default_rng([SPLITS[split], seed, index])
    held_out = split == "test"
    scene = compose(rng, held_out=held_out, dense=split == "dense")
    questions = tuple(ask_all(scene, rng, held_out=held_out, small=split in ("val", "test")))
    image = draw(scene, rng)
    return SceneSample(f"{split}-{seed}-{index:07d}", scene, image, caption_of(scene), questions)


def write_shards(
    out: str, *, samples: int, samples_per_shard: int, split: str, seed: int, storage: Storage
) -> Iterator[str]:
    """Write the shards one after the other; yields their names."""
    fs, folder = storage.open(out)
    for shard, first in enumerate(range(0, samples, samples_per_shard)):
        name = f"{split}-{shard:06d}.tar"
        indices = range(first, min(first + samples_per_shard, samples))
        write_atomic(fs, f"{folder}/{name}", _tar(split, seed, indices))
        yield name


def _tar(split: str, seed: int, indices: range) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index in indices:
            sample = make_sample(split, seed, index)
            sidecar = json.dumps(sample.sidecar(), sort_keys=True).encode()
            for suffix, data in (("jpg", sample.jpeg()), ("json", sidecar)):
                member = tarfile.TarInfo(
                    f"{sample.key}.{suffix}"
                )  # its time is 0, so equal samples are equal bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def write_from_command_line(arguments: list[str] | None = None) -> None:
    """Write the shards that the command line describes and print their names."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.scenes", description=__doc__)
    parser.add_argument("--out", required=True, help="folder or URI; made if missing")
    parser.add_argument("--samples", type=_positive, required=True)
    parser.add_argument("--samples-per-shard", type=_positive, default=1000)
    parser.add_argument("--split", choices=sorted(SPLITS), default="test")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    for name in write_shards(options.pop("out"), storage=Storage(), **options):
        print(name)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    write_from_command_line()
