"""A corpus of faulty and unusual inputs, each with the status expected of its row."""

import io
import json
import random
import struct
import tarfile
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

WORDS = ["red", "green", "large", "small", "round", "what", "where", "left", "right", "of", "the", "picture"]


@dataclass(frozen=True)
class Case:
    """One sample: its name, its image or None, its questions and the statuses of their rows."""

    name: str
    image: bytes | None
    questions: tuple[str, ...] = ("what is it?",)
    statuses: tuple[str, ...] = ("ok",)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def images(seed: int) -> list[Case]:
    """Make images with every fault and oddity known; their pixels differ from seed to seed."""
    plain = picture(seed)
    exif = Image.Exif()
    exif[0x0112] = 1 + seed % 8
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray((np.arange(64 * 48).reshape(48, 64) * 21 + seed).astype(np.uint16))
    jpeg = encoded(plain, "JPEG")
    png, webp = encoded(plain, "PNG"), encoded(plain, "WEBP")
    junk = random.Random(seed).randbytes(500)
    fine = {
        "jpeg": jpeg,
        "png": png,
        "webp": webp,
        "cmyk": encoded(plain.convert("CMYK"), "JPEG"),
        "grey": encoded(plain.convert("L"), "JPEG"),
        "sixteen bits": encoded(deep, "PNG"),
        "palette": encoded(plain.convert("P"), "PNG"),
        "palette with transparency": encoded(plain.convert("P"), "PNG", transparency=3),
        "transparent": encoded(plain.convert("RGBA"), "PNG"),
        "grey and alpha": encoded(plain.convert("LA"), "PNG"),
        "one bit": encoded(plain.convert("1"), "PNG"),
        "exif rotated": encoded(plain, "JPEG", exif=exif),
        "one pixel": encoded(picture(seed, 1, 1), "PNG"),
        "long": encoded(Image.new("RGB", (20_000, 10), (seed % 256, 9, 9)), "PNG"),
        "tall": encoded(Image.new("RGB", (10, 20_000), (seed % 256, 9, 9)), "PNG"),
        "animated": encoded(plain, "WEBP", save_all=True, append_images=[picture(seed + 1)], duration=50),
        "animated png": encoded(plain, "PNG", save_all=True, append_images=[picture(seed + 1)]),
        "progressive": encoded(plain, "JPEG", progressive=True),
        "with a profile": encoded(plain, "JPEG", icc_profile=profile),
        "with a broken profile": encoded(plain, "JPEG", icc_profile=junk),
        "with a broken exif": encoded(plain, "JPEG", exif=b"Exif\0\0" + junk[:40]),
        "junk behind the end": jpeg + junk,
        "gif": encoded(plain, "GIF"),
        "tiff": encoded(plain, "TIFF", compression="tiff_lzw"),
        "bitmap": encoded(plain, "BMP"),
        "avif": encoded(plain, "AVIF"),
    }
    faulty = {
        "empty": b"",
        "text": b"this is no picture " * 30,
        "noise": junk,
        "truncated jpeg": jpeg[: len(jpeg) // 2],
        "truncated png": png[: len(png) // 2],
        "truncated webp": webp[: len(webp) // 2],
        "jpeg header alone": jpeg[:20],
        "truncated gif": encoded(plain, "GIF")[:-300],
        "truncated tiff": encoded(plain, "TIFF")[:-300],
        "truncated bitmap": encoded(plain, "BMP")[:-300],
        "truncated avif": encoded(plain, "AVIF")[:-100],
        "portable pixmap": encoded(plain, "PPM"),
        "bomb": _bomb(40_000, 40_000),
        "html": b"<!doctype html><html><body>404</body></html>",
        "flipped bytes": png[:60] + bytes(byte ^ 255 for byte in png[60:120]) + png[120:],
    }
    cases = [Case(f"{name} {seed}", data) for name, data in fine.items()]
    return cases + [Case(f"{name} {seed}", data, statuses=("bad_image",)) for name, data in faulty.items()]


def questions(seed: int) -> list[Case]:
    """Make questions with every fault and oddity known, each about a sound picture."""
    data = encoded(picture(seed), "JPEG")
    rng = random.Random(seed)
    long = " ".join(rng.choice(WORDS) for _ in range(200))
    return [
        Case(f"control characters {seed}", data, ("what\x00is\x07this\x1b[31m?\r\n",)),
        Case(f"right to left {seed}", data, ("ما هذا؟ \u202e abc",)),
        Case(f"emoji {seed}", data, ("🤷🏽‍♀️ 这是什么？ \U0001f600",)),
        Case(f"longer than CLIP takes {seed}", data, (long,)),
        Case(f"an image token {seed}", data, ("what is <image> and </s>?",)),
        Case(f"empty {seed}", data, ("", "what is it?", "  \n"), ("bad_question", "ok", "bad_question")),
        Case(f"10,000 words {seed}", data, ("word " * 10_000, "and?"), ("bad_question", "ok")),
        Case(f"10,000 questions {seed}", data, ("why?",) * 10_000, ("bad_sample",)),
        Case(f"none {seed}", data, (), ("bad_question",)),
    ]


def members():
    """List possible tar members in order: a name, the parts, the row's status.

    A part is its name, and its content or tar type.
    """
    image, ask = encoded(picture(7), "JPEG"), b'{"question": "what?"}'
    big = b'{"question": "' + b"x" * (50 << 20) + b'"}'
    return {
        "fine": ([("fine.jpg", image), ("fine.json", ask)], "ok"),
        "no image": ([("a.json", ask)], "bad_sample"),
        "two images": ([("b.jpg", image), ("b.png", image), ("b.json", ask)], "bad_sample"),
        "not json": ([("c.jpg", image), ("c.json", b"{,")], "bad_sample"),
        "no object": ([("d.jpg", image), ("d.json", b'"what?"')], "bad_sample"),
        "deep json": ([("e.jpg", image), ("e.json", b"[" * 100_000)], "bad_sample"),
        "50 MB": ([("f.jpg", image), ("f.json", big)], "bad_sample"),
        "not utf-8": ([("g.jpg", image), ("g.txt", b"\xff\xfe\xfd")], "bad_question"),
        "not utf-8 json": ([("h.jpg", image), ("h.json", b'{"question": "\xff"}')], "ok"),
        "symbolic link": ([("i.jpg", tarfile.SYMTYPE), ("i.json", ask)], "bad_sample"),
        "hard link": ([("j.jpg", tarfile.LNKTYPE), ("j.json", ask)], "bad_sample"),
        "device": ([("k.jpg", tarfile.CHRTYPE), ("k.json", ask)], "bad_sample"),
        "pipe": ([("l.jpg", tarfile.FIFOTYPE), ("l.json", ask)], "bad_sample"),
        "absolute": ([("/etc/m.jpg", image), ("/etc/m.json", ask)], "ok"),
        "dots": ([("../../n.jpg", image), ("../../n.json", ask)], "ok"),
        "key once": ([("o.jpg", image), ("o.json", ask)], "ok"),
        "key twice": ([("o.jpg", image), ("o.json", ask)], "ok"),
        "long name": ([("p" * 300 + ".jpg", image), ("p" * 300 + ".json", ask)], "ok"),
        "capitals": ([("q.JPG", image), ("q.JSON", ask)], "ok"),
        "last": ([("z.jpg", image), ("z.json", ask)], "ok"),
    }


def sidecar(case: Case) -> bytes:
    """Encode the case's questions as a WebDataset sidecar."""
    entries = [{"question_id": f"q{index}", "question": text} for index, text in enumerate(case.questions)]
    return json.dumps({"questions": entries}).encode()


def _bomb(width: int, height: int) -> bytes:
    """Make a PNG of a few bytes whose header declares a gigantic size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
