"""Generates answers with vLLM, from input embeddings and a checkpoint of the language model alone.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), H language width.
"""

import dataclasses
import hashlib
import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from pipeline.engines.answers import EncodedRequest, admit, make_answer, not_finite, stop_test
from pipeline.engines.base import Answer, Request
from pipeline.engines.vllm_start import explained
from pipeline.engines.vllm_steps import Generation, Steps
from pipeline.models.checkpoints.adapter import Adapter
from pipeline.models.checkpoints.generation import choice_of
from pipeline.models.checkpoints.language_only import language_only
from pipeline.models.config import Decoding
from pipeline.models.prompts import Prompts, load_table
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from vllm import LLMEngine, SamplingParams

# vLLM reads these when it is imported. A variable that is already set is kept.
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
OWN_PROCESS = "VLLM_ENABLE_V1_MULTIPROCESSING"
_GROWING = ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # as pipeline.run.cluster sets it


class VllmEngine:
    """Answers with vLLM (an Engine of pipeline.engines.base); several threads may call it and share batches.

    The prefix cache works on embeddings, too: vLLM (0.32) identifies a block by a hash of its bytes.
    """

    def __init__(
        self,
        folder: Path,
        decoding: Decoding,
        *,
        adapter: Adapter | None,
        arguments: Callable[[], Mapping[str, object]],
        max_num_seqs: int,
        max_model_len: int | None,
        dtype: str,
        device: str,
        seed: int,
    ) -> None:
        """Load the language model of a checkpoint.

        Args:
            adapter: is added to the language model's weights.
            arguments: makes further arguments of vLLM's EngineArgs, once all else is loaded.
        """
        _require_platform(device)
        self.decoding = decoding
        self.seed = seed
        self._choice = choice_of(decoding, folder)
        self._prompts = Prompts(folder, load_table(folder), device=device, dtype=getattr(torch, dtype))
        self.positions = min(self._prompts.max_positions, max_model_len or self._prompts.max_positions)
        self._callers = count()
        # embedded prompts are large: at most as many may wait as are being generated
        self._slots = threading.Semaphore(2 * max_num_seqs)
        of_model = {
            "model": str(language_only(folder, adapter)),
            "dtype": dtype,
            "seed": seed % 2**32,
            "max_model_len": self.positions,
        }
        threads = torch.get_num_threads()
        stopped = stop_test(self._prompts.tokenizer, decoding.stop)
        every: dict[str, object] = {**of_model, **arguments(), "max_num_seqs": max_num_seqs}
        self._steps = Steps(lambda: _make_engine(every, threads), stopped, _clean_up)
        self.close = weakref.finalize(self, self._steps.close)

    @property
    def most_callers(self) -> int:
        """The largest number of `generate` calls whose requests were computed in one step of the engine."""
        return self._steps.most_callers

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in order; a request too long for the model gets an error."""
        fitting, answers = admit(
            requests, self._prompts, max_new_tokens=self.decoding.max_new_tokens, positions=self.positions
        )
        caller = next(self._callers)
        submitted = [(index, encoded, self._submit(encoded, caller)) for index, encoded in fitting.items()]
        for index, encoded, (generation, embed_s) in submitted:
            generation.done.result()
            if generation.fault is not None:
                answers[index] = not_finite(encoded, generation.fault)
                continue
            answers[index] = make_answer(
                encoded,
                generation.ids,
                self._prompts,
                self.decoding,
                stopped=generation.stopped,
                prefill_s=embed_s + generation.prefill_s,
                decode_s=generation.decode_s,
            )
        return [answers[index] for index in range(len(requests))]

    def _submit(self, encoded: EncodedRequest, caller: int) -> tuple[Generation, float]:
        """Embed a request and submit it once a slot is free; also returns the embedding's seconds."""
        self._slots.acquire()
        started = perf_counter()
        embeds_LH = self._prompts.embed_ids(encoded.token_ids, encoded.request.tokens_KD).cpu()
        embed_s = perf_counter() - started
        generation = Generation(embeds_LH, self._sampling(encoded.request), caller)
        generation.done.add_done_callback(lambda _: self._slots.release())
        self._steps.submit(generation)
        return generation, embed_s

    def _sampling(self, request: Request) -> "SamplingParams":
        """Make vLLM's decoding parameters, seeded with a hash of the run's seed and the request's key."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampled, seed = self._choice.sampled, None
        if sampled:
            digest = hashlib.sha256(json.dumps([self.seed, request.key]).encode()).digest()
            seed = int.from_bytes(digest[:8], "big") >> 1
        return SamplingParams(
            temperature=sampled.get("temperature", 1.0) if sampled else 0.0,
            max_tokens=self.decoding.max_new_tokens,
            stop_token_ids=list(self._prompts.eos_token_ids),
            detokenize=False,
            logprobs=0,  # of the chosen token alone, which is nan if a score is
            output_kind=RequestOutputKind.DELTA,
            top_k=sampled.get("top_k", 0),
            top_p=sampled.get("top_p", 1.0),
            min_p=sampled.get("min_p") or 0.0,
            seed=seed,
        )


def _require_platform(device: str) -> None:
    """Raise ConfigError if the installed vLLM was built for another device.

    On a CPU the engine runs in this process and uses all its cores, on a GPU in one of its own, so that
    embedding prompts does not hold it up.
    """
    kind = torch.device(device).type
    for name, value in {**ENVIRONMENT, OWN_PROCESS: "0" if kind == "cpu" else "1"}.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    if current_platform.device_type != kind:
        raise ConfigError(
            f"engine=vllm: device={kind}, but the vLLM that is installed here runs on "
            f"{current_platform.device_type or 'no device of this machine'}"
        )


def _make_engine(arguments: Mapping[str, object], threads: int) -> "LLMEngine":
    """Make vLLM's engine in the calling thread, and where it has a process of its own, that process.

    Raises:
        ConfigError: vLLM knows no such argument, or refuses one.
    """
    from vllm import EngineArgs, LLMEngine

    torch.set_num_threads(threads)
    unknown = sorted(arguments.keys() - {field.name for field in dataclasses.fields(EngineArgs)})
    if unknown:
        raise ConfigError(f"engine.args.{unknown[0]}: the vLLM that is installed here has no such argument")
    is_parallel = arguments["tensor_parallel_size"] != 1
    if is_parallel:
        let_memory_be_shared()
    backend = _executor(parallel=is_parallel)
    with _importable(), explained(own_process=os.environ[OWN_PROCESS] != "0"):
        return LLMEngine.from_engine_args(EngineArgs(**arguments, distributed_executor_backend=backend))


def let_memory_be_shared() -> None:
    """Let the allocator of processes started from now on use fixed segments, which other processes can open.

    vLLM's own all-reduce is faster than NCCL's, and shares the buffers of CUDA graphs between its workers by
    `cudaIpcGetMemHandle`, which refuses segments that grow: the workers end (vLLM's issue 42609).
    """
    name, growing = _GROWING
    if os.environ.get(name) == growing:
        del os.environ[name]


def _executor(*, parallel: bool) -> object:
    """Choose what runs vLLM's workers: in this process, or in one that ends with this one."""
    if os.environ[OWN_PROCESS] == "0":
        return "mp" if parallel else "uni"
    from pipeline.engines.vllm_process import AloneExecutor, ParallelExecutor

    return ParallelExecutor if parallel else AloneExecutor


@contextmanager
def _importable() -> Iterator[None]:
    """Let processes that are started meanwhile import this installation, whatever their folder holds."""
    root = str(Path(__file__).parents[2])
    sys.path.insert(0, root)
    try:
        yield
    finally:
        sys.path.remove(root)


def _clean_up() -> None:
    """Undo vLLM's process-wide setup, so that this process can make another engine."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
