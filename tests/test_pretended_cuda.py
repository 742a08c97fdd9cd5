"""Test the pretended CUDA device: it must refuse and count what CUDA refuses and waits for."""

import threading

import pytest
import torch

from tests.support.pretended_cuda import pretended_cuda

MIB = 1 << 20


def test_numbers_are_the_cpus_and_devices_do_not_mix():
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Linear(5, 3)
    with pretended_cuda() as counts, torch.inference_mode():
        y = x.to("cuda")
        assert y.device == torch.device("cuda", 0) and y.is_cuda
        assert torch.equal((y @ y.T).softmax(-1).cpu(), (x @ x.T).softmax(-1))
        assert torch.zeros(2, device="cuda").add_(1).cpu().tolist() == [1, 1]
        assert (y * torch.tensor(2.0)).is_cuda, "scalars of the host are allowed"
        for mixed in (
            lambda: y + x,
            lambda: torch.cat([x, y]),
            lambda: x[y[0].long()],
            lambda: y.index_select(0, torch.tensor([1])),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        with pytest.raises(TypeError, match="can't convert cuda"):
            y.numpy()
        assert torch.equal(layer.to("cuda")(y).cpu(), layer.to("cpu")(x))
        assert counts.operations
    assert not torch.cuda.is_available()


@pytest.mark.parametrize(
    ("use", "waits"),
    [
        (lambda y: y.sum().item(), 1),
        (lambda y: y.tolist(), 1),
        (lambda y: bool((y > 0).any()), 1),
        (lambda y: y.nonzero(), 1),
        (lambda y: y[y > 0], 1),
        (lambda y: y[torch.tensor([0])], 1),
        (lambda y: y.cpu(), 1),
        (lambda y: torch.equal(y, y), 1),
        (lambda y: torch.tensor([1], device="cuda"), 1),
        (lambda y: torch.ones(3, pin_memory=True).to("cuda", non_blocking=True), 0),
        (lambda y: torch.ones(3).to("cuda", non_blocking=True), 1),
        (lambda y: y.to("cpu", non_blocking=True), 0),
        (lambda y: torch.cuda.synchronize(), 1),
        (lambda y: torch.cuda.current_stream().record_event().synchronize(), 1),
        (lambda y: (y[0], y[:2] * 2, torch.full((3,), 4, device="cuda"), y.sort().values), 0),
    ],
)  # fmt: skip
def test_waits_are_counted(use, waits):
    with pretended_cuda() as counts:
        y = torch.arange(4.0).to("cuda")
        counts.reset()
        use(y)
        assert counts.waits.total() == waits, str(counts)


def test_a_copy_that_does_not_block_holds_garbage_until_it_is_waited_for():
    with pretended_cuda() as counts:
        y = torch.arange(4.0).to("cuda")
        for wait in (torch.cuda.synchronize, torch.cuda.Event().synchronize):
            host = torch.empty(4, pin_memory=True)
            assert host.is_pinned()
            host.copy_(y, non_blocking=True)
            assert host.isnan().all()
            event = torch.cuda.Event()
            event.record()
            (wait if wait is torch.cuda.synchronize else event.synchronize)()
            assert host.tolist() == [0, 1, 2, 3]
        assert counts.to_host.total() == 2 and counts.bytes_to_host == 32


def test_memory_that_is_being_copied_must_not_be_written():
    with pretended_cuda():
        host = torch.ones(4).pin_memory()
        sent = host.to("cuda", non_blocking=True)
        host.numpy()[0] = 5
        with pytest.raises(RuntimeError, match="being copied"):
            torch.cuda.synchronize()
        assert sent.tolist() == [1, 1, 1, 1]
        host.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        host[0] = 6
        torch.cuda.synchronize()


def test_memory_is_counted_and_has_an_end():
    with pretended_cuda(memory_bytes=8 * MIB, used_bytes=MIB):
        first = torch.zeros(4 * MIB, dtype=torch.uint8, device="cuda")
        view = first[:5]
        assert torch.cuda.memory_allocated() == 4 * MIB and torch.cuda.mem_get_info() == (3 * MIB, 8 * MIB)
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            first + first
        del first
        assert torch.cuda.memory_allocated() == 4 * MIB, "a view holds its memory"
        del view
        assert torch.cuda.memory_allocated() == 0 and torch.cuda.mem_get_info()[0] == 3 * MIB
        torch.cuda.empty_cache()
        assert torch.cuda.mem_get_info()[0] == 7 * MIB and torch.cuda.max_memory_allocated() == 4 * MIB
        torch.cuda.reset_peak_memory_stats()
        assert torch.cuda.max_memory_allocated() == 0


def test_what_the_device_says_of_itself():
    with pretended_cuda(capability=(7, 5), name="Tesla T4"):
        assert torch.cuda.get_device_name() == torch.cuda.get_device_properties(0).name == "Tesla T4"
        assert torch.cuda.get_device_capability() == (7, 5) and torch.cuda.device_count() == 1
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        end.record()
        with pytest.raises(RuntimeError, match="not ready"):
            begin.elapsed_time(end)
        end.synchronize()
        assert begin.elapsed_time(end) >= 0


def test_threads_of_the_block_see_the_device():
    seen = []
    with pretended_cuda() as counts:
        thread = threading.Thread(target=lambda: seen.append(torch.ones(2, device="cuda").tolist()))
        thread.start()
        thread.join()
        assert seen == [[1, 1]] and counts.waits.total() == 1
