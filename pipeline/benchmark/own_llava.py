"""Answers with vLLM's own LLaVA on all tokens, in a process of its own: what users run without Trimline.

A process holds one engine of vLLM. This one gets the same squares of pixels and prompts as the other arms,
and vLLM's image processor, vision tower and language model do all the rest. It needs torchvision.
"""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from pipeline.benchmark.bench import Bench, Measured
from pipeline.benchmark.devices import peak_mib
from pipeline.benchmark.published_layout import write_published
from pipeline.engines.base import EngineConfig
from pipeline.engines.vllm import Vllm
from pipeline.engines.vllm_engine import ENVIRONMENT, OWN_PROCESS
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.support.errors import ConfigError, first_line
from pipeline.support.memory import keep_freed_memory

NAME = "vLLM's own LLaVA"
_ANSWER_S = 3600.0  # the most that loading, or a round, may take
# what embedded prompts need, and our choice of blocks: vLLM's own is the baseline
_NOT_FOR_IMAGES = {"skip_tokenizer_init", "enable_prompt_embeds", "use_tqdm_on_load", "block_size"}


def own_arm(model: Model, engine: EngineConfig, bench: Bench) -> "tuple[OwnLlava | None, str | None]":
    """Start vLLM's own LLaVA, which is to be closed, or else say in a line why there is none.

    Neither is there for another engine than vLLM.
    """
    if not isinstance(engine, Vllm):
        return None, None
    if find_spec("torchvision") is None:
        return None, f"{NAME} is not measured: its image processor needs torchvision"
    on_gpu = bench.device.type != "cpu"
    try:
        given = engine.arguments(model, folders(model), on_gpu=on_gpu)
        arguments = {name: value for name, value in given.items() if name not in _NOT_FOR_IMAGES}
        arguments |= {"max_num_seqs": engine.max_num_seqs, "dtype": model.generate_dtype, "seed": 0}
        arguments |= {"max_model_len": engine.max_model_len}
        return OwnLlava(folders(model)[0], arguments, bench), None
    except ConfigError as error:
        return None, f"{NAME} is not measured: {str(error)[:200]}"


class OwnLlava:
    """Holds the process of vLLM's own LLaVA.

    Args:
        arguments: of vLLM's EngineArgs, as the arms' engine has them.

    Raises:
        ConfigError: vLLM cannot run it here.
    """

    def __init__(self, folder: Path, arguments: Mapping[str, object], bench: Bench) -> None:
        self._bench = bench
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._copy = TemporaryDirectory(prefix="trimline-published-")
        write_published(folder, Path(self._copy.name))
        self._process = context.Process(
            target=_serve, args=(self._copy.name, dict(arguments), bench.device.type, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self._receive()
        except ConfigError:
            self.close()
            raise

    def run(self, number: int) -> Measured:
        """Answer all requests about the pictures of a round; the seconds are the process's own."""
        bench = self._bench
        self._connection.send((list(bench.prompts), bench.pictures(number).numpy(), bench.job.new_tokens))
        answered = self._receive()
        patches = float(bench.geometry.num_patches)
        return {"encode_s": 0.0, "generate_s": answered.pop("seconds"), "visual_tokens": patches} | answered

    def close(self) -> None:
        """End the process, and remove its copy of the checkpoint."""
        self._connection.close()
        self._process.kill()
        self._process.join()
        self._copy.cleanup()

    def _receive(self) -> Measured:
        try:
            if not self._connection.poll(_ANSWER_S):
                raise EOFError
            answered = self._connection.recv()
        except EOFError:
            raise ConfigError("its process ended or does not answer") from None
        if isinstance(answered, str):
            raise ConfigError(answered)
        assert isinstance(answered, dict)
        return answered


def _serve(folder: str, arguments: dict[str, object], device: str, connection: Connection) -> None:
    """Load the model, then answer one round after the other until the other end is closed."""
    try:
        model = _load(folder, arguments)
        connection.send({})
        while True:
            prompts, pixels_BSSC, new_tokens = connection.recv()
            connection.send(_answer(model, prompts, pixels_BSSC, new_tokens, torch.device(device)))
    except EOFError:
        return
    except BaseException as error:  # noqa: BLE001 - said by the other process
        connection.send(first_line(error))


# Any: vLLM is not installed where types are checked
def _load(folder: str, arguments: dict[str, object]) -> Any:
    os.environ.update({**ENVIRONMENT, **os.environ, OWN_PROCESS: "0"})
    from vllm import LLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    keep_freed_memory()  # as the arms have it
    return LLM(
        model=folder,
        limit_mm_per_prompt={"image": 1},
        mm_processor_cache_gb=0,
        distributed_executor_backend="uni",
        trust_remote_code=False,
        **arguments,
    )


def _answer(
    model: Any, prompts: Sequence[str], pixels_BSSC: Any, new_tokens: int, device: torch.device
) -> Measured:
    from PIL import Image
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    requests = [
        {"prompt": prompt, "multi_modal_data": {"image": Image.fromarray(pixels_SSC)}}
        for prompt, pixels_SSC in zip(prompts, pixels_BSSC, strict=True)
    ]
    started = perf_counter()
    peak, outputs = peak_mib(lambda: model.generate(requests, sampling, use_tqdm=False), device)
    return {
        "seconds": perf_counter() - started,
        "generated_tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "peak_mib": peak,
    }
