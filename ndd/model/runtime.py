"""The network in the form that a processor runs fastest: the optional `runtime/` of a model directory.

    runtime/
      network.xml, network.bin    OpenVINO's representation: the squares of pixels go in, vectors come out
      runtime.json                engine, precision, micro-batch, what it was made from, how near to the reference it is

`ndd.model.export` writes it. Precision is part of what a vector means, so the file's digest is part of the embedding's.
Nothing here imports torch: a process that only embeds starts without it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ndd.cores import cores
from ndd.errors import ConfigError, ModelError
from ndd.files import digest_of

__all__ = [
    "ENGINES",
    "FACTS",
    "NETWORK",
    "RUNTIME",
    "OpenVinoNetwork",
    "Precision",
    "Runtime",
    "chosen",
    "cpu_settings",
    "forget_ahead",
    "has_eight_bits",
    "load_ahead",
    "load_openvino",
    "loaded",
    "read",
]

Precision = Literal["int8", "fp32"]
"""Of the backbone."""

RUNTIME, FACTS, NETWORK = "runtime", "runtime.json", "network.xml"
ENGINES = ("auto", "torch", "openvino")
"""What NDD_RUNTIME may say. `auto`: the exported network where there is one, its package is installed and the processor is
made for it, else torch."""

_FIRST_USE = threading.Lock()

_AHEAD: list[_Ahead] = []
"""What `load_ahead` has begun."""

_PROCESSOR = Path("/proc/cpuinfo")
_EIGHT_BITS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Instructions that add up products of 8-bit integers in 32 bits. Those before them do it in 16 bits and cut off what is too
large: other vectors, and worse ones."""

_FIELDS = {"engine": str, "precision": str, "batch": int, "source": str, "content": str, "agreement": dict}


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """An exported network.

    batch: pictures per call, fixed. source: digest of the config and weights it was made from. content: digest of its own
    files. agreement: cosine to the reference, `mean` and `least`, and over how many pictures.
    """

    directory: Path
    engine: str
    precision: Precision
    batch: int
    source: str
    content: str
    agreement: Mapping[str, float]


def chosen(directory: Path, *, source: str, engine: str | None = None) -> Runtime | None:
    """The runtime that vectors of this model directory are made with; None means torch.

    engine: one of ENGINES, None for NDD_RUNTIME or `auto`. Raises ConfigError for another name; ModelError where
    `openvino` is asked for and is not to be had, and for a runtime that is damaged or was made from other weights.
    An int8 network is for x86 processors with VNNI or AMX alone.
    """
    asked = engine or os.environ.get("NDD_RUNTIME") or "auto"
    if asked not in ENGINES:
        raise ConfigError(f"NDD_RUNTIME: expected one of {', '.join(ENGINES)}, got {asked!r}")
    if asked == "torch":
        return None
    offered = read(directory, source=source)
    if offered is None:
        if asked == "openvino":
            raise ModelError(f"{directory}: no {RUNTIME}/ there; `python -m pipelines export` writes one")
        return None
    if importlib.util.find_spec("openvino") is None:
        if asked == "openvino":
            raise ModelError(
                "NDD_RUNTIME is openvino and the package openvino is missing; pip install 'openvino>=2026.0'"
            )
        return None
    if offered.precision == "int8" and not has_eight_bits():
        if asked == "openvino":
            raise ModelError(
                f"NDD_RUNTIME is openvino, {offered.directory} is int8, and this processor has none of "
                f"{', '.join(sorted(_EIGHT_BITS))}: leave NDD_RUNTIME unset, or export with --precision fp32"
            )
        return None
    return offered


def has_eight_bits() -> bool:
    """Whether the processor is known to compute with 8-bit integers exactly."""
    try:
        said = _PROCESSOR.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return False
    return any(not _EIGHT_BITS.isdisjoint(line.split()) for line in said.splitlines() if line.startswith("flags"))


def read(directory: Path, *, source: str) -> Runtime | None:
    """What `runtime/` of a model directory says of itself, checked; None if there is none. Raises ModelError."""
    place = directory / RUNTIME
    if not (place / FACTS).is_file():
        return None
    try:
        said = json.loads((place / FACTS).read_bytes())
        facts = {name: kind(said[name]) for name, kind in _FIELDS.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{place / FACTS}: damaged ({error!r}); remove {RUNTIME}/ or export again") from error
    if facts["precision"] not in get_args(Precision):
        raise ModelError(
            f"{place / FACTS}: precision {facts['precision']!r} is none of {', '.join(get_args(Precision))}"
        )
    if facts["source"] != source:
        raise ModelError(f"{place}: made from other weights than lie beside it; remove it or export again")
    if facts["content"] != content_digest(place):
        raise ModelError(f"{place}: its files are not those that were exported; remove it or export again")
    return Runtime(directory=place, **facts)


def content_digest(place: Path) -> str:
    """sha256 of the exported files; raises ModelError if one is missing."""
    try:
        return digest_of(place / NETWORK, place / NETWORK.replace(".xml", ".bin"))
    except OSError as error:
        raise ModelError(f"{error.filename}: {error.strerror}; remove {RUNTIME}/ or export again") from error


def cpu_settings(*, streams: int) -> dict[str, Any]:
    """OpenVINO's settings for results that depend on nothing but the pictures: each request runs on one thread."""
    return {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
        # Left to itself it takes bf16 where the processor has it: another machine would give other vectors.
        "INFERENCE_PRECISION_HINT": "f32",
        # Pinned threads would sit on the cores that decoding wants.
        "ENABLE_CPU_PINNING": False,
    }


class _Ahead(threading.Thread):
    """Loads a network unless it is told in time that nobody wants it."""

    def __init__(self, wanted: Callable[[], Runtime | None]) -> None:
        super().__init__(name="network")
        self._wanted, self.unwanted = wanted, threading.Event()
        self.found: tuple[str, OpenVinoNetwork] | None = None

    def run(self) -> None:
        with contextlib.suppress(Exception):
            runtime = self._wanted()
            if runtime is not None and not self.unwanted.is_set():
                self.found = runtime.content, OpenVinoNetwork(runtime)


def load_ahead(wanted: Callable[[], Runtime | None]) -> None:
    """Begin to load the network that `wanted` names, in a thread: half a second that passes while a command imports what else
    it needs. What goes wrong is for whoever wants the network to find out. Where nobody comes to want it: `forget_ahead`."""
    ahead = _Ahead(wanted)
    _AHEAD.append(ahead)
    ahead.start()


def forget_ahead() -> None:
    """Nobody wants what was begun ahead. What is past stopping is waited for when the process ends."""
    for ahead in _AHEAD:
        ahead.unwanted.set()
    _AHEAD.clear()


def loaded(runtime: Runtime) -> OpenVinoNetwork:
    """The network: the one that was begun ahead, once, or loaded now. Raises ModelError."""
    with contextlib.suppress(IndexError):
        while True:
            ahead = _AHEAD.pop()
            ahead.join()
            if ahead.found is not None and ahead.found[0] == runtime.content:
                return ahead.found[1]
    return OpenVinoNetwork(runtime)


def load_openvino() -> Any:
    """The package openvino with its telemetry left out; raises ModelError if it is not installed.

    Importing it reports the import to its makers through `openvino_telemetry`, which it can do without.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # to Python: this cannot be imported
    try:
        import openvino
    except ImportError as error:
        raise ModelError("this needs the package openvino; pip install 'openvino>=2026.0'") from error
    return openvino


class OpenVinoNetwork:
    """An exported network, compiled for this processor; call it from any thread."""

    def __init__(self, runtime: Runtime) -> None:
        openvino = load_openvino()
        try:
            self._compiled = openvino.Core().compile_model(
                str(runtime.directory / NETWORK), "CPU", cpu_settings(streams=cores())
            )
        except RuntimeError as error:
            first = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{runtime.directory}: OpenVINO cannot run it ({first}); NDD_RUNTIME=torch does"
            ) from error
        self._of_thread = threading.local()
        size = self._compiled.input(0).shape
        # What OpenVINO's binding makes at its first use must be made by one thread: of two, one holds Python's lock and waits
        # for the other to finish, which waits for that lock, for ever (seen with 2026.4).
        with _FIRST_USE:
            self(np.zeros(tuple(size), np.uint8))

    def __call__(self, canvas_BSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8, B the runtime's batch → (B, D) float32, unit length."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        answer = self._of_thread.request.infer([canvas_BSS3])
        vectors: NDArray[np.float32] = answer[0].copy()  # the request's own memory: its next call would change it
        return vectors
