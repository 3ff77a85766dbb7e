"""Writing `runtime/` into a model directory: the network for OpenVINO, the backbone's convolutions in 8-bit integers.

Post-training quantisation as in Jacob et al. 2018 (arXiv:1712.05877): weights symmetric, with a scale for each output
channel; activations with one range for each tensor, the mean over calibration batches of their extremes. The spatial
transformer stays in single precision: an error in a pose moves the whole picture, and it costs little.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ndd.errors import ModelError
from ndd.model import checkpoint
from ndd.model.checkpoint import Checkpoint
from ndd.model.directory import source_digest
from ndd.model.runtime import (
    FACTS,
    NETWORK,
    RUNTIME,
    OpenVinoNetwork,
    Precision,
    Runtime,
    content_digest,
    cpu_settings,
    load_openvino,
)
from ndd.model.siamese import SiameseEmbedder
from ndd.stages.embed import MICRO_BATCH, Embedder

__all__ = ["LEAST_AGREEMENT", "MOST", "export"]

MOST = 512
"""Pictures that are enough: half of them calibrate, half of them judge."""

LEAST_AGREEMENT = 0.995
"""Least mean cosine between exported and reference vectors; a network below it is not written."""

_LEVELS = 256

_SPANS = "spans.json"
"""Beside the network: (low, high) of each tensor that is quantised."""


def export(
    directory: str | os.PathLike[str],
    canvas_NSS3: NDArray[np.uint8],
    *,
    precision: Precision = "int8",
    like: str | os.PathLike[str] | None = None,
) -> Runtime:
    """Write `runtime/` of a model directory, whole or not at all.

    canvas_NSS3: photographs as the model sees them (`ndd.stages.decode`). The even ones calibrate, the odd ones judge. like:
    the model directory that this one was refined from; what its tensors span is taken over, if it is known and as many, so
    that a network which has hardly moved gives vectors that have hardly moved.
    Raises ModelError if OpenVINO is missing, fewer than two micro-batches of pictures are given, or the exported vectors
    are not near enough to the reference.
    """
    openvino = load_openvino()
    reference = checkpoint.load(directory)
    calibration, judged = canvas_NSS3[::2], canvas_NSS3[1::2]
    if len(judged) < MICRO_BATCH:
        raise ModelError(f"{len(canvas_NSS3)} pictures to calibrate with; give at least {2 * MICRO_BATCH}")
    network, convolutions = _converted(reference.model, reference.config.image_size)
    spans: list[tuple[float, float]] = []
    if precision == "int8":
        known = [] if like is None else _spans_of(Path(like))
        spans = _quantise(openvino, network, convolutions, calibration, known=known)
    target = reference.directory / RUNTIME
    part = reference.directory / f".{RUNTIME}.{os.getpid()}.tmp"
    part.mkdir()
    try:
        openvino.save_model(network, part / NETWORK, compress_to_fp16=False)
        if spans:
            (part / _SPANS).write_text(json.dumps(spans) + "\n", encoding="utf-8")
        facts: dict[str, Any] = {
            "engine": "openvino",
            "precision": precision,
            "batch": MICRO_BATCH,
            "source": source_digest(reference.directory),
            "content": content_digest(part),
            "agreement": {},
        }
        facts["agreement"] = _agreement(Runtime(directory=part, **facts), reference, judged)
        (part / FACTS).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Runtime(directory=target, **facts)


class _OfCanvas(nn.Module):
    """The network from bytes of pixels on, so that nothing is computed outside what is exported."""

    def __init__(self, model: SiameseEmbedder) -> None:
        super().__init__()
        self.model = model

    def forward(self, canvas_BSS3: Tensor) -> Tensor:
        vectors: Tensor = self.model(canvas_BSS3.permute(0, 3, 1, 2).float() / 255.0)
        return vectors


def _converted(model: SiameseEmbedder, size: int) -> tuple[Any, list[Any]]:
    """The network as an `openvino.Model` of fixed shape, BatchNorm folded in, and the convolutions of its backbone."""
    from openvino import frontend as frontends
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(MICRO_BATCH, size, size, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of Python branches on shapes, which are fixed here
        # Not `openvino.convert_model`: it reports each conversion to its makers.
        frontend = frontends.FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(_OfCanvas(model).eval(), example_input=example)
        network = frontend.convert(frontend.load(decoder))
    network.reshape(list(example.shape))
    spared = sum(".backbone." not in node.get_friendly_name() for node in _convolutions(network))
    apply_moc_transformations(network, cf=True, smart_reshape=False)
    # Folding takes their names away, not their order: the backbone reads what the transformer has made.
    return network, _convolutions(network)[spared:]


def _spans_of(model: Path) -> list[tuple[float, float]]:
    """What the tensors of an exported network span, in the order of its convolutions; none where that is not known."""
    try:
        return [(float(low), float(high)) for low, high in json.loads((model / RUNTIME / _SPANS).read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise ModelError(f"{model / RUNTIME / _SPANS}: damaged ({error!r}); export that model again") from error


def _quantise(
    openvino: Any,
    network: Any,
    convolutions: Sequence[Any],
    canvas_NSS3: NDArray[np.uint8],
    *,
    known: Sequence[tuple[float, float]],
) -> list[tuple[float, float]]:
    """The weights of `convolutions` become int8 constants, their inputs pass through a FakeQuantize; what these span, which
    is `known` where that is of as many tensors."""
    from openvino import opset13 as operations

    inputs = {_place(node.input_value(0)): node.input_value(0) for node in convolutions}
    fits = len(known) == len(inputs)
    ranges = list(known) if fits else _ranges(openvino, network, list(inputs.values()), canvas_NSS3)
    for output, (low, high) in zip(inputs.values(), ranges, strict=True):
        # Every reader of the tensor, the residual sums as well: two versions of it would cost a conversion each.
        readers = list(output.get_target_inputs())
        bounds = [operations.constant(np.full((1, 1, 1, 1), bound, np.float32)) for bound in (low, high)]
        quantised = operations.fake_quantize(output, *bounds, *bounds, _LEVELS)
        for reader in readers:
            reader.replace_source_output(quantised.output(0))
    for node in convolutions:
        weights = np.array(node.input_value(1).get_node().data, np.float32)
        scale = np.maximum(np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127, np.float32(1e-12))
        integers = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
        if _is_product(node, weights):
            _as_product(operations, node, integers, scale)
            continue
        restored = operations.multiply(
            operations.convert(operations.constant(integers), "f32"), operations.constant(scale)
        )
        node.input(1).replace_source_output(restored.output(0))
    network.validate_nodes_and_infer_types()
    return ranges


def _is_product(node: Any, weights_OIHW: NDArray[np.float32]) -> bool:
    """Is it a 3 × 3 convolution of 2 × 2 places that keeps them? Each place then sees all four."""
    attributes = node.get_attributes()
    kept = (attributes["strides"], attributes["pads_begin"], attributes["pads_end"]) == ([1, 1], [1, 1], [1, 1])
    return kept and weights_OIHW.shape[2:] == (3, 3) and list(node.input_value(0).get_shape())[2:] == [2, 2]


def _as_product(operations: Any, node: Any, integers_OI33: NDArray[np.int8], scale_O111: NDArray[np.float32]) -> None:
    """Put a product with one matrix (4 O, 4 I) in the place of a convolution of 2 × 2 places: the same sums.

    As a convolution it reads its weights for every picture, which is most of what it costs; as a product once for the
    micro-batch (see `ndd.model.small_maps` for the same in training).
    """
    outside, inside = integers_OI33.shape[:2]
    matrix = np.empty((outside, 2, 2, inside, 2, 2), np.int8)
    for y, x, v, u in np.ndindex(2, 2, 2, 2):
        matrix[:, y, x, :, v, u] = integers_OI33[:, :, v - y + 1, u - x + 1]
    restored = operations.multiply(
        operations.convert(operations.constant(matrix.reshape(4 * outside, 4 * inside)), "f32"),
        operations.constant(np.repeat(scale_O111.reshape(outside), 4)[:, None]),
    )
    flat = operations.reshape(node.input_value(0), operations.constant(np.array([-1, 4 * inside])), False)
    product = operations.matmul(flat, restored, False, True)
    places = operations.reshape(product, operations.constant(np.array([-1, outside, 2, 2])), False)
    for reader in list(node.output(0).get_target_inputs()):
        reader.replace_source_output(places.output(0))


def _convolutions(network: Any) -> list[Any]:
    return [node for node in network.get_ordered_ops() if node.get_type_name() == "Convolution"]


def _place(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _ranges(
    openvino: Any, network: Any, outputs: Sequence[Any], canvas_NSS3: NDArray[np.uint8]
) -> list[tuple[float, float]]:
    """What each tensor spans: from 0 where it is never negative, else symmetric with -128 and 127 as its ends."""
    from openvino import opset13 as operations

    probe = openvino.Model([operations.result(output) for output in outputs], network.get_parameters())
    compiled = openvino.Core().compile_model(probe, "CPU", cpu_settings(streams=1))
    extremes = []
    for start in range(0, len(canvas_NSS3) - MICRO_BATCH + 1, MICRO_BATCH):
        answer = compiled([canvas_NSS3[start : start + MICRO_BATCH]])
        extremes.append([(answer[at].min(), answer[at].max()) for at in range(len(outputs))])
    spans = []
    for low, high in np.mean(np.asarray(extremes, np.float64), axis=0).tolist():
        reach = max(-low, high, 1e-6)
        spans.append((0.0, reach) if low >= 0 else (-reach * 128 / 127, reach))
    return spans


def _agreement(runtime: Runtime, reference: Checkpoint, canvas_NSS3: NDArray[np.uint8]) -> dict[str, float]:
    """Cosines between exported and reference vectors; raises ModelError where their mean is below LEAST_AGREEMENT."""
    whole = canvas_NSS3[: len(canvas_NSS3) // MICRO_BATCH * MICRO_BATCH]
    network, expected = OpenVinoNetwork(runtime), Embedder(reference).embed(whole).astype(np.float64)
    made = [network(whole[start : start + MICRO_BATCH]) for start in range(0, len(whole), MICRO_BATCH)]
    cosine = (np.concatenate(made) * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)
    facts = {"mean": float(cosine.mean()), "least": float(cosine.min()), "pictures": float(len(whole))}
    if not facts["mean"] >= LEAST_AGREEMENT:
        raise ModelError(
            f"{reference.directory}: {runtime.precision} vectors agree with the reference to a mean cosine of "
            f"{facts['mean']:.4f}, wanted {LEAST_AGREEMENT}; nothing was written: keep torch, or export as fp32"
        )
    return facts
