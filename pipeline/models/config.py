"""Configures a model, its prompt template, and decoding."""

from dataclasses import dataclass

from pipeline.support.fields import counted, free, require

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Configures the model: its checkpoints and the prompt template for questions.

    `path` is a LLaVA checkpoint, in the Hugging Face layout or in the original one, and `clip` the CLIP or
    SigLIP that its vision tower was made of: a local folder, a hub id, or a `demo:` name. Without `clip`, it
    is the one that a LLaVA in the original layout names itself, or none: then no reducer may read texts.
    """

    name: str = free()
    path: str = free()  # the fingerprint has the weights' digest instead
    clip: str | None = free()
    template: str = counted()
    trim_sign: int = free(-1)  # the fingerprint has it in the reducer's fields
    encode_dtype: str = counted("float32")
    generate_dtype: str = counted("float32")
    encode_batch_size: int = counted(16)  # images in one pass of CLIP; it changes rounding
    check_memory: bool = free(True)  # refuse a model that does not fit into free memory
    allow_pickle: bool = free(False)  # also read tensors of a pickle (pytorch_model.bin)

    def __post_init__(self) -> None:
        for key in ("encode_dtype", "generate_dtype"):
            require(getattr(self, key) in DTYPES, f"model.{key}: {getattr(self, key)!r} is none of {DTYPES}")
        require(self.encode_batch_size >= 1, "model.encode_batch_size must be at least 1")
        for part in ("<image>", "{question}"):
            require(self.template.count(part) == 1, f"model.template must hold {part} exactly once")

    @property
    def dtypes(self) -> dict[str, str]:
        """The precision in which each stage computes, by the stages' names."""
        return {"encode": self.encode_dtype, "generate": self.generate_dtype}


@dataclass(frozen=True, kw_only=True)
class PinnedModel(Model):
    """Holds a run's model: hub ids in it name a commit, and the weights are known by their digests.

    Whoever finds other weights at its paths, on any node, refuses them (checkpoints/folders.py).
    """

    weights: str = free()  # of the LLaVA, see checkpoints/digest.py
    clip_weights: str | None = free()


def fill_template(template: str, question: str) -> str:
    """Put a question into a model's prompt template; `<image>` stays."""
    return template.replace("{question}", question)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Configures decoding: greedy at temperature 0, else nucleus sampling.

    `from_checkpoint` decodes as the checkpoint's generation_config.json says instead, but for the length and
    the stop strings.
    """

    max_new_tokens: int = counted(64)
    temperature: float = counted(0.0)
    top_p: float = counted(1.0)
    stop: list[str] = counted(default_factory=list)
    from_checkpoint: bool = counted(False, neutral=True)

    def __post_init__(self) -> None:
        require(self.max_new_tokens >= 1, "decoding.max_new_tokens must be at least 1")
        require(self.temperature >= 0, "decoding.temperature must not be negative")
        require(0 < self.top_p <= 1, "decoding.top_p must be in (0, 1]")
        require(all(self.stop), "decoding.stop must not hold an empty string")
        require(
            not self.from_checkpoint or (self.temperature == 0 and self.top_p == 1),
            "decoding.from_checkpoint=true: the checkpoint's temperature and top_p hold, not decoding's",
        )
