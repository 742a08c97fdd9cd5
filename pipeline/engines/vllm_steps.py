"""Runs vLLM's engine in a thread, which makes steps as long as the engine has requests.

Callers submit their requests from other threads and wait for the futures. So one caller's last answers and
the next caller's first prompts are computed in the same steps.

Legend: L tokens of a prompt (visual ones included), H language width.
"""

import math
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.engines.answers import share

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput, SamplingParams
    from vllm.outputs import CompletionOutput


@dataclass
class Generation:
    """Holds a prompt for the engine and, once `done`, the generated token ids.

    `prefill_s` and `decode_s` are its share of the steps' seconds. A step's seconds are divided by the number
    of tokens computed for each prompt; a prompt's own tokens count in the step that completes the prompt.
    """

    embeds_LH: Tensor
    sampling: "SamplingParams"
    caller: int  # the number of the `generate` call that it belongs to
    ids: list[int] = field(default_factory=list)
    stopped: bool = False  # a stop string ended it
    fault: int | None = None  # the number of the token whose scores are nan or infinite
    cached_tokens: int = 0  # tokens of the prompt that the prefix cache held
    prefill_s: float = 0.0
    decode_s: float = 0.0
    done: "Future[None]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.length = len(self.embeds_LH)


class Steps:
    """Runs the engine's steps in a thread.

    Args:
        make: makes vLLM's LLMEngine; called in the thread, since on a CPU OpenMP ties its threads to it.
        stopped: tells from the token ids generated so far whether the answer is complete.
        close: undoes the process-wide setup that `make` has done.

    Attributes:
        most_callers: the largest number of callers whose requests were computed in one step.
    """

    def __init__(
        self,
        make: Callable[[], "LLMEngine"],
        stopped: Callable[[Sequence[int]], bool],
        close: Callable[[], None],
    ) -> None:
        self.most_callers = 0
        self._make, self._stopped, self._close = make, stopped, close
        self._inbox: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._open: dict[str, Generation] = {}
        self._number = 0
        self._unaccounted_s = 0.0
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        self._ready.result()

    def submit(self, generation: Generation) -> None:
        """Queue a prompt; its future ends with the answer, or with the error that ended the engine."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._inbox.put(generation)

    def close(self) -> None:
        """End the thread and free the engine; unfinished prompts end with an error."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            engine = self._make()
            shutdown = engine.engine_core.shutdown  # a vLLM without it is refused now, not in silence later
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while self._add_requests(engine):
                self._step(engine)
            self._end(RuntimeError("the engine was closed"))
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting threads
            self._end(error)
        finally:
            with suppress(Exception):  # of a process that has ended already
                shutdown()  # frees the memory now; a process of its own ends
            del engine, shutdown
            self._close()

    def _add_requests(self, engine: "LLMEngine") -> bool:
        """Add queued prompts to the engine, waiting for one if it has none; False once `close` was called."""
        while not self._open or not self._inbox.empty():
            generation = self._inbox.get()
            if generation is None:
                return False
            self._number += 1
            name = str(self._number)
            self._open[name] = generation
            engine.add_request(name, {"prompt_embeds": generation.embeds_LH}, generation.sampling)
        return True

    def _step(self, engine: "LLMEngine") -> None:
        """Run one step: append its tokens to their generations, and finish those that are complete."""
        started = perf_counter()
        outputs = engine.step()
        self._unaccounted_s += perf_counter() - started
        pairs = [(output, self._open[output.request_id]) for output in outputs]
        if not pairs:  # a part of a long prompt: its seconds are shared out once the prompt is complete
            return
        self.most_callers = max(self.most_callers, len({generation.caller for _, generation in pairs}))
        self._share_seconds(pairs)
        for output, generation in pairs:
            new = output.outputs[0]
            if not all(map(math.isfinite, _logprobs(new))):
                generation.fault = len(generation.ids)
            generation.ids += new.token_ids
            generation.stopped = self._stopped(generation.ids)
            if output.finished or generation.stopped or generation.fault is not None:
                if not output.finished:
                    engine.abort_request([output.request_id])
                del self._open[output.request_id]
                generation.done.set_result(None)

    def _share_seconds(self, pairs: Sequence[tuple["RequestOutput", Generation]]) -> None:
        """Divide the steps' seconds among the generations by the tokens that were computed for each."""
        computed = []
        for output, generation in pairs:
            if generation.ids:
                computed.append(len(output.outputs[0].token_ids))
            else:  # its first output: the prompt was computed, except for the cached tokens
                generation.cached_tokens = output.num_cached_tokens or 0
                computed.append(generation.length - generation.cached_tokens)
        for (_, generation), seconds in zip(pairs, share(self._unaccounted_s, computed), strict=True):
            if generation.ids:
                generation.decode_s += seconds
            else:
                generation.prefill_s += seconds
        self._unaccounted_s = 0.0

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
        while not self._inbox.empty():
            generation = self._inbox.get()
            if generation is not None:
                generation.done.set_exception(error)
        for generation in self._open.values():
            generation.done.set_exception(error)
        self._open.clear()


def _logprobs(output: "CompletionOutput") -> list[float]:
    """Return the log-probabilities of new tokens: nan wherever a score of the token's step was nan or inf."""
    steps = zip(output.token_ids, output.logprobs or [], strict=True)
    return [step[token].logprob for token, step in steps]
