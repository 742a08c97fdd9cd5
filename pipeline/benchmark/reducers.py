"""Measures time and memory of each reducer, beside CLIP's forward pass for the same images.

Legend: B images, N patches, D vision width, P joint CLIP width, d width of a head, H language width.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TypedDict

import torch

from pipeline.benchmark.devices import peak_mib, timed
from pipeline.benchmark.inputs import vit_l
from pipeline.benchmark.merge_loop import merge_loop
from pipeline.benchmark.options import ReducersOptions
from pipeline.models.devices import torch_device
from pipeline.run.config import RunConfig
from pipeline.support.table import Table
from trim import PruMerge, VisualTokens
from trim.cosine import unit_vectors
from trim.prumerge import merge_neighbours
from trim.select import iqr_outliers

_N, _D, _P, _HEAD, _H = 576, 1024, 768, 64, 4096


class ReducerRow(TypedDict):
    """Holds the figures of one reducer at one batch size."""

    reducer: str
    batch: int
    kept: float
    ms_an_image: float
    peak_mib: float
    share_of_vit: float


class MergeFigures(TypedDict):
    """Holds the times of PruMerge's merge and of the published loop."""

    kept: int
    ms_an_image: float
    loop_ms_an_image: float
    times_faster: float


class ReducersFigures(TypedDict):
    """Holds the rows, and the ViT's milliseconds an image by batch size."""

    dtype: str
    patches: int
    width: int
    rows: list[ReducerRow]
    vit_ms_an_image: dict[int, float]
    merge: MergeFigures


def measure(config: RunConfig, options: ReducersOptions) -> ReducersFigures:
    """Measure milliseconds an image and peak MiB of the reducers of `config.arms`, on random features.

    A tenth of each image's patches lies near its text and near CLS, so that automatic budgets keep about as
    many patches as on real images. Reducers and the ViT take turns; the figures are medians.
    """
    reducers = {arm.name: arm.reducer for arm in config.arms}
    rounds, kind = options.rounds, getattr(torch, options.reducer_dtype)
    device = torch_device(config.options.device)
    tower = vit_l(kind).to(device)
    rows: list[ReducerRow] = []
    vit_ms: dict[int, float] = {}
    for batch in options.reducer_batches:
        times: dict[str, list[float]] = {name: [] for name in reducers}
        kept: dict[str, float] = {}
        peaks: dict[str, float] = {}
        vit_s: list[float] = []
        # a larger batch is no faster on a CPU
        pixels = torch.randn(min(batch, 4) if device.type == "cpu" else batch, 3, 336, 336).to(device, kind)
        features = {name: _features(batch, kind, reducer.needs, device) for name, reducer in reducers.items()}
        for name, reducer in reducers.items():  # warms up, too
            peaks[name], results = peak_mib(partial(reducer, features[name]), device)
            kept[name] = sum(len(item.tokens) for item in results) / batch
        for _ in range(rounds):
            for name, reducer in reducers.items():
                times[name].append(timed(partial(reducer, features[name]), device))
            with torch.inference_mode():
                vit_s.append(timed(partial(tower, pixels), device) / len(pixels))
        for name in reducers:
            rows.append(
                {
                    "reducer": name,
                    "batch": batch,
                    "kept": kept[name],
                    "ms_an_image": 1e3 * median(times[name]) / batch,
                    "peak_mib": peaks[name],
                    "share_of_vit": median(times[name]) / batch / median(vit_s),
                }
            )
        vit_ms[batch] = 1e3 * median(vit_s)
    return {
        "dtype": options.reducer_dtype,
        "patches": _N,
        "width": _D,
        "rows": rows,
        "vit_ms_an_image": vit_ms,
        "merge": _measure_merge(rounds, device),
    }


def _measure_merge(rounds: int, device: torch.device) -> MergeFigures:
    """Time PruMerge's merge of one image and the published loop over its tokens, in float32, in turns."""
    x = _features(1, torch.float32, PruMerge.needs, device)
    assert x.last_cls_attention is not None and x.last_keys is not None
    scores_N = x.last_cls_attention[0]
    kept_k = scores_N.argsort(descending=True)[: int(iqr_outliers(scores_N[None]).sum())]
    unit_ND = unit_vectors(x.last_keys[0])[0]
    arguments = (x.patches[0], scores_N, unit_ND, kept_k, PruMerge().neighbours)
    published = (
        x.patches[0],
        scores_N,
        unit_ND.float(),
        kept_k,
        PruMerge().neighbours,
    )  # no wider than its keys
    torch.testing.assert_close(merge_neighbours(*arguments), merge_loop(*published), rtol=1e-4, atol=1e-4)
    merge_s: list[float] = []
    loop_s: list[float] = []
    for _ in range(10 * rounds):
        merge_s.append(timed(partial(merge_neighbours, *arguments), device))
        loop_s.append(timed(partial(merge_loop, *published), device))
    return {
        "kept": len(kept_k),
        "ms_an_image": 1e3 * median(merge_s),
        "loop_ms_an_image": 1e3 * median(loop_s),
        "times_faster": median(loop_s) / median(merge_s),
    }


def table(figures: ReducersFigures) -> Table:
    """Show a row for each reducer, with columns for each batch size."""
    batches = sorted({row["batch"] for row in figures["rows"]})
    names = list(dict.fromkeys(row["reducer"] for row in figures["rows"]))
    cells = {(row["reducer"], row["batch"]): row for row in figures["rows"]}
    columns = ["", "kept"]
    for batch in batches:
        columns += [f"ms/image B={batch}", "MiB", "of ViT"]
    rows = []
    for name in names:
        line: list[object] = [name, cells[name, batches[0]]["kept"]]
        for batch in batches:
            cell = cells[name, batch]
            line += [cell["ms_an_image"], cell["peak_mib"], f"{cell['share_of_vit']:.2%}"]
        rows.append(tuple(line))
    merging = figures["merge"]
    vit = ", ".join(f"{ms:.0f} beside B={batch}" for batch, ms in figures["vit_ms_an_image"].items())
    return Table(
        f"reducers: {figures['patches']} patches of width {figures['width']}, {figures['dtype']}",
        tuple(columns),
        rows,
        (
            f"ViT-L/14-336 (23 layers), ms an image: {vit}",
            "MiB: the peak above what features and code take",
            f"PruMerge's merge, {merging['kept']} tokens, float32: {merging['ms_an_image']:.2f} ms an image;"
            f" token by token, as published: {merging['loop_ms_an_image']:.2f} ms, "
            f"{merging['times_faster']:.1f} times as long",
        ),
    )


def _features(batch: int, dtype: torch.dtype, needs: frozenset[str], device: torch.device) -> VisualTokens:
    """Make random features of `batch` images on a device, the same on each, only those in `needs`."""
    generator = torch.Generator().manual_seed(batch)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    near_BN1 = (torch.rand(batch, _N, 1, generator=generator) < 0.1).float()
    text_BP = normal(batch, _P) * _P**-0.5
    weights_BN = (normal(batch, _N) + 4 * near_BN1[..., 0]).softmax(-1)
    fields: dict[str, Callable[[], torch.Tensor]] = {
        "metric": lambda: normal(batch, _N, _P) * 0.5 - 8 * near_BN1 * text_BP[:, None],
        "text": lambda: text_BP,
        "cls": lambda: normal(batch, _D).to(dtype),
        "cls_attention": lambda: weights_BN,
        "head_mean_keys": lambda: normal(batch, _N, _HEAD).to(dtype),
        "last_cls_attention": lambda: weights_BN,
        "last_keys": lambda: normal(batch, _N, _D).to(dtype),
        "embeddings": lambda: normal(batch, _N, _H).to(dtype),
        "identity": lambda: torch.randint(2**62, (batch,), generator=generator),
    }
    patches_BND = normal(batch, _N, _D).to(device, dtype)
    return VisualTokens(patches=patches_BND, **{name: fields[name]().to(device) for name in needs})
