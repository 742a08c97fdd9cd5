"""Answers by vLLM, which is given input embeddings and a checkpoint of the language model alone.

Legend: K visual tokens kept, L tokens of a prompt (visual ones included), H language width.
"""

import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from pipeline.engines.answers import Asked, admit, answered
from pipeline.engines.base import Answer, Request
from pipeline.engines.vllm_steps import Steps, Task
from pipeline.models.checkpoints.language_only import language_only
from pipeline.models.config import Decoding
from pipeline.models.prompts import Prompts, load_table
from pipeline.support.errors import ConfigError

# Read when vLLM is imported; who has set one himself keeps what he set.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives and dies with this process, and has all cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
# vLLM's EngineArgs whatever is configured.
_ALWAYS = {
    "skip_tokenizer_init": True,
    "enable_prompt_embeds": True,
    "generation_config": "vllm",  # none of the checkpoint's own
    "enable_chunked_prefill": True,
    "distributed_executor_backend": "uni",
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
}


class VllmEngine:
    """An Engine (pipeline.engines.base) that several threads may call at once: they share its batches.

    The prefix cache works on embeddings, too (seen with vLLM 0.32): it knows a block by a hash of its bytes.
    """

    def __init__(
        self,
        folder: Path,
        decoding: Decoding,
        *,
        arguments: Mapping[str, Any],
        max_model_len: int | None,
        dtype: str,
        device: str,
        seed: int,
    ) -> None:
        """Load the language model of a checkpoint; `arguments` are more of vLLM's EngineArgs."""
        _require_platform(device)
        self.decoding = decoding
        self.seed = seed
        self._prompts = Prompts(folder, load_table(folder), device=device, dtype=getattr(torch, dtype))
        self.positions = min(self._prompts.max_positions, max_model_len or self._prompts.max_positions)
        self._callers = count()
        # embedded prompts are large: as many may wait as are under way
        self._room = threading.Semaphore(2 * int(arguments["max_num_seqs"]))
        of_model = {
            "model": str(language_only(folder)),
            "dtype": dtype,
            "seed": seed % 2**32,
            "max_model_len": self.positions,
        }
        threads = torch.get_num_threads()
        stopped = _stop_strings(self._prompts.tokenizer, decoding.stop)
        self._steps = Steps(lambda: _make(_ALWAYS | of_model | dict(arguments), threads), stopped, _forget)
        self.close = weakref.finalize(self, self._steps.close)

    @property
    def most_callers(self) -> int:
        """The most calls of `generate`, of different units, that had requests in one step of the engine."""
        return self._steps.most_callers

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request, in order; one that is too long for the model gets an error instead."""
        fit, answers = admit(
            requests, self._prompts, max_new_tokens=self.decoding.max_new_tokens, positions=self.positions
        )
        caller = next(self._callers)
        under_way = [(place, asked, self._begin(asked, caller)) for place, asked in fit.items()]
        for place, asked, (task, embed_s) in under_way:
            task.done.result()
            answers[place] = answered(
                asked,
                task.ids,
                self._prompts,
                self.decoding,
                prefill_s=embed_s + task.prefill_s,
                decode_s=task.decode_s,
            )
        return [answers[place] for place in range(len(requests))]

    def _begin(self, asked: Asked, caller: int) -> tuple[Task, float]:
        """Hand a request to the engine, as soon as there is room for it; and how long embedding it took."""
        self._room.acquire()
        started = perf_counter()
        embeds_LH = self._prompts.embed_ids(asked.token_ids, asked.request.tokens_KD).cpu()
        embed_s = perf_counter() - started
        task = Task(embeds_LH, self._sampling(asked.request), caller)
        task.done.add_done_callback(lambda _: self._room.release())
        self._steps.submit(task)
        return task, embed_s

    def _sampling(self, request: Request) -> Any:
        """How to decode; when sampling, with a seed that is a function of the run's and the request alone."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampled: dict[str, Any] = {}
        if self.decoding.temperature > 0:
            told = json.dumps([self.seed, request.prompt]).encode()
            visual = request.tokens_KD.to("cpu", torch.float32).contiguous().numpy()
            digest = hashlib.sha256(told + hashlib.sha256(visual.tobytes()).digest()).digest()
            sampled = {"top_p": self.decoding.top_p, "seed": int.from_bytes(digest[:8], "big") >> 1}
        return SamplingParams(
            temperature=self.decoding.temperature,
            max_tokens=self.decoding.max_new_tokens,
            stop_token_ids=list(self._prompts.eos_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **sampled,
        )


def _stop_strings(tokenizer: Any, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether a stop string has been generated."""

    def stopped(ids: Sequence[int]) -> bool:
        text = tokenizer.decode(ids, skip_special_tokens=True) if stop else ""
        return any(one in text for one in stop)

    return stopped


def _require_platform(device: str) -> None:
    """Raises ConfigError if the vLLM that is installed is made for something else than the device."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    kind = torch.device(device).type
    if current_platform.device_type != kind:
        raise ConfigError(
            f"engine=vllm: device={kind}, but the vLLM that is installed here runs on "
            f"{current_platform.device_type or 'nothing that is here'}"
        )


def _make(arguments: dict[str, Any], threads: int) -> Any:
    """vLLM's engine in the thread that calls."""
    from vllm import EngineArgs, LLMEngine

    torch.set_num_threads(threads)
    return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _forget() -> None:
    """Take down what vLLM has set up for the process, so that another engine can be made in it."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()
