"""vLLM's engine in a thread of its own, which steps as long as anyone's requests are in it.

Whoever has requests hands them over from his own thread and waits for their futures; so one caller's last
answers and the next one's first prompts are computed in the same steps.

Legend: L tokens of a prompt (visual ones included), H language width.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from torch import Tensor

from pipeline.engines.answers import share


@dataclass
class Task:
    """A prompt for the engine, and, once `done`, what was generated.

    `prefill_s` and `decode_s` are its shares of the steps' seconds: a step's are shared out by the tokens
    that it computed, a prompt's all at the step that completed it.
    """

    embeds_LH: Tensor
    sampling: Any  # vllm.SamplingParams
    caller: int  # which call of `generate` it belongs to
    ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    prefill_s: float = 0.0
    decode_s: float = 0.0
    done: "Future[None]" = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.length = len(self.embeds_LH)


class Steps:
    """The thread with the engine.

    Args:
        make: makes vLLM's LLMEngine, in the thread: on a CPU its threads belong to that one.
        stopped: whether what has been generated so far is enough.
        close: gives back what making the engine has taken of the process.

    Attributes:
        most_callers: the most callers whose requests were computed in one step.
    """

    def __init__(
        self, make: Callable[[], Any], stopped: Callable[[Sequence[int]], bool], close: Callable[[], None]
    ) -> None:
        self.most_callers = 0
        self._make, self._stopped, self._close = make, stopped, close
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._open: dict[str, Task] = {}
        self._number = 0
        self._unaccounted_s = 0.0
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        self._ready.result()

    def submit(self, task: Task) -> None:
        """Hand over a task; its future ends when it is generated, or with what ended the engine."""
        with self._lock:
            if self._error is not None:
                raise self._error
            self._inbox.put(task)

    def close(self) -> None:
        """End the thread and free what it holds; tasks under way end with an error."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            engine = self._make()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while self._take(engine):
                self._step(engine)
            self._end(RuntimeError("the engine was closed"))
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads that wait
            self._end(error)
        finally:
            del engine
            self._close()

    def _take(self, engine: Any) -> bool:
        """Give the engine what has come, and wait if it has nothing; whether to go on."""
        while not self._open or not self._inbox.empty():
            task = self._inbox.get()
            if task is None:
                return False
            self._number += 1
            name = str(self._number)
            self._open[name] = task
            engine.add_request(name, {"prompt_embeds": task.embeds_LH}, task.sampling)
        return True

    def _step(self, engine: Any) -> None:
        started = perf_counter()
        outputs = engine.step()
        self._unaccounted_s += perf_counter() - started
        moved = [(output, self._open[output.request_id]) for output in outputs]
        if not moved:  # the beginning of a long prompt: it is paid for when the prompt is through
            return
        self.most_callers = max(self.most_callers, len({task.caller for _, task in moved}))
        self._account([(task, len(output.outputs[0].token_ids)) for output, task in moved], outputs)
        for output, task in moved:
            task.ids += output.outputs[0].token_ids
            if output.finished or self._stopped(task.ids):
                if not output.finished:
                    engine.abort_request([output.request_id])
                del self._open[output.request_id]
                task.done.set_result(None)

    def _account(self, moved: list[tuple[Task, int]], outputs: Sequence[Any]) -> None:
        for (task, _), output in zip(moved, outputs, strict=True):
            if not task.ids:
                task.cached_tokens = output.num_cached_tokens or 0
        computed = [count if task.ids else task.length - task.cached_tokens for task, count in moved]
        for (task, _), seconds in zip(moved, share(self._unaccounted_s, computed), strict=True):
            if task.ids:
                task.decode_s += seconds
            else:
                task.prefill_s += seconds
        self._unaccounted_s = 0.0

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
        while not self._inbox.empty():
            task = self._inbox.get()
            if task is not None:
                task.done.set_exception(error)
        for task in self._open.values():
            task.done.set_exception(error)
        self._open.clear()
