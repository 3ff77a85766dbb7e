"""The exported network against the one it was made from, and what happens where it cannot be used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import ndd.model.export as network_export
from ndd.config import ModelConfig, StnConfig
from ndd.errors import ConfigError, ModelError
from ndd.images import to_square
from ndd.model import checkpoint
from ndd.model.directory import describe
from ndd.model.export import export
from ndd.model.runtime import OpenVinoNetwork, Runtime, forget_ahead, has_eight_bits, load_ahead, load_openvino, loaded
from ndd.model.siamese import SiameseEmbedder
from ndd.stages.embed import MICRO_BATCH, Embedder
from tests.samples import photographs

SIDE = 64


def model_directory(directory: Path, stn: dict[str, Any]) -> Path:
    """Random weights, but statistics of BatchNorm and poses that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = SiameseEmbedder(ModelConfig(image_size=SIDE, dim=32, stn=StnConfig.from_dict(stn)))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        if network.stn is not None:
            net = network.stn.localization
            if network.stn.has_frames:
                torch.nn.init.normal_(net.attention.logit.weight, std=1.0)
            else:
                torch.nn.init.normal_(net.theta.weight, std=0.03)
    return checkpoint.save(directory, network, card={"note": "random"})


@pytest.fixture(scope="module")
def canvases() -> NDArray[np.uint8]:
    """48 windows of photographs; neighbours differ, so that calibration and judgement see different ones."""
    rng = np.random.default_rng(0)
    found = []
    for pixels in [*photographs().values()] * 12:
        top, left = rng.integers(0, pixels.shape[0] // 2), rng.integers(0, pixels.shape[1] // 2)
        found.append(to_square(pixels[top : top + pixels.shape[0] // 2, left : left + pixels.shape[1] // 2], SIDE))
    return np.stack(found)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, canvases: NDArray[np.uint8]) -> Path:
    if not has_eight_bits():
        pytest.skip("this processor has no instructions for 8-bit networks")
    directory = model_directory(tmp_path_factory.mktemp("models") / "model", {})
    export(directory, canvases)
    return directory


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory, canvases: NDArray[np.uint8]) -> Path:
    """A network that says it is int8: what is chosen can be tested on any processor."""
    directory = model_directory(tmp_path_factory.mktemp("models") / "model", {"kind": "none"})
    export(directory, canvases, precision="fp32")
    facts = directory / "runtime" / "runtime.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "precision": "int8"}))
    return directory


def cosines(left: NDArray[np.float16], right: NDArray[np.float16]) -> NDArray[np.float64]:
    a, b = left.astype(np.float64), right.astype(np.float64)
    found: NDArray[np.float64] = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


@pytest.mark.parametrize(
    "stn",
    [
        {"kind": "none"},
        {"kind": "affine"},
        {"kind": "homography"},
        {"localization": "polar"},
        {"localization": "moments"},
        {"localization": "moments", "prior": True, "trust": 0.0, "second": 0.75},
    ],
    ids=["none", "affine", "homography", "polar", "moments", "two looks"],
)
def test_single_precision_is_the_reference(stn: dict[str, Any], canvases: NDArray[np.uint8], tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "model", stn)
    reference = Embedder(checkpoint.load(directory)).embed(canvases[:16])
    export(directory, canvases, precision="fp32")
    assert describe(directory).runtime is not None
    found = Embedder(describe(directory)).embed(canvases[:16])
    assert cosines(found, reference).min() > 0.9999
    assert len(np.unique(reference, axis=0)) == 16


def test_int8_is_near_the_reference_and_says_how_near(exported: Path, canvases: NDArray[np.uint8]) -> None:
    said = describe(exported)
    assert said.runtime is not None and said.runtime.precision == "int8"
    near = cosines(Embedder(said).embed(canvases), Embedder(checkpoint.load(exported)).embed(canvases))
    assert 0.995 <= near.mean() < 1
    assert said.runtime.agreement["mean"] == pytest.approx(near[1::2].mean(), abs=1e-3)
    assert said.runtime.agreement["least"] <= said.runtime.agreement["mean"]
    assert weights_of(exported, "Convolution") == ["Constant"] * 4 + ["Multiply"] * 17
    # 4 of the localization network are spared, 20 of ResNet-18 are not, of which three see 2 × 2 places.
    assert weights_of(exported, "MatMul").count("Multiply") == 3


def weights_of(directory: Path, kind: str) -> list[str]:
    """What gives each node its weights: `Multiply` brings 8-bit integers back, `Constant` is single precision."""
    network = load_openvino().Core().read_model(directory / "runtime" / "network.xml")
    found = []
    for node in network.get_ordered_ops():
        if node.get_type_name() == kind:
            weights = node.input_value(1).get_node()
            converted = weights.get_input_size() > 0 and weights.input_value(0).get_node().get_type_name() == "Convert"
            found.append(weights.get_type_name() if converted or weights.get_type_name() == "Constant" else "computed")
    return found


def test_a_convolution_of_four_places_is_one_product() -> None:
    """The same sums: for whole numbers, which both compute exactly, bit for bit."""
    openvino = load_openvino()
    from openvino import opset13 as operations

    rng = np.random.default_rng(0)
    integers = rng.integers(-127, 128, (5, 3, 3, 3)).astype(np.int8)
    scale = 2.0 ** rng.integers(-3, 3, (5, 1, 1, 1)).astype(np.float32)
    x = rng.integers(0, 256, (4, 3, 2, 2)).astype(np.float32)
    answers = []
    for product in (False, True):
        given = operations.parameter([4, 3, 2, 2], np.float32)
        weights = (integers * scale).astype(np.float32)
        convolution = operations.convolution(given, operations.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1])
        network = openvino.Model([operations.relu(convolution)], [given])
        if product:
            assert network_export._is_product(convolution, weights)
            network_export._as_product(operations, convolution, integers, scale)
            assert "Convolution" not in {node.get_type_name() for node in network.get_ordered_ops()}
        compiled = openvino.Core().compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        answers.append(compiled([x])[0])
    assert np.array_equal(*answers) and answers[0].max() > 0
    strided = operations.convolution(given, operations.constant(weights), [2, 2], [1, 1], [1, 1], [1, 1])
    assert not network_export._is_product(strided, weights), "a stride leaves one place"


@pytest.mark.parametrize("looks", [1, 2])
def test_frames_are_spared_as_well(canvases: NDArray[np.uint8], tmp_path: Path, looks: int) -> None:
    if not has_eight_bits():
        pytest.skip("this processor has no instructions for 8-bit networks")
    frames = {"localization": "moments", "width": 12, "prior": True, "second": 0.75 * (looks - 1)}
    directory = model_directory(tmp_path / "model", frames)
    export(directory, canvases)
    near = cosines(Embedder(describe(directory)).embed(canvases), Embedder(checkpoint.load(directory)).embed(canvases))
    assert 0.995 <= near.mean() < 1
    # Five at each of four sizes, three on the rings, one across them and the template.
    assert sorted(weights_of(directory, "Convolution")) == ["Constant"] * 25 + ["Multiply"] * 17 * looks
    assert weights_of(directory, "MatMul").count("Multiply") == 3 * looks


def test_what_was_refined_spans_what_its_origin_spans(
    exported: Path, canvases: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The same weights calibrated on other pictures give other vectors, and with the origin's spans the same ones."""
    vectors, dark = [Embedder(describe(exported)).embed(canvases)], (canvases // 3).astype(np.uint8)
    for name, like in (("alone", None), ("refined", exported)):
        directory = tmp_path / name
        shutil.copytree(exported, directory, ignore=shutil.ignore_patterns("runtime"))
        export(directory, dark, like=like)
        vectors.append(Embedder(describe(directory)).embed(canvases))
    assert not np.array_equal(vectors[1], vectors[0])
    assert np.array_equal(vectors[2], vectors[0])


def test_the_digest_tells_precisions_apart(exported: Path) -> None:
    digests = {engine: describe(exported, engine=engine).embedding_digest for engine in ("torch", "openvino", "auto")}
    assert digests["auto"] == digests["openvino"] != digests["torch"]
    assert checkpoint.load(exported).embedding_digest == digests["torch"]
    assert Embedder(describe(exported)).digest == digests["openvino"]


@pytest.mark.parametrize("size", [1, 3, MICRO_BATCH + 1])
def test_bit_equal_in_any_batch_and_on_any_thread(exported: Path, canvases: NDArray[np.uint8], size: int) -> None:
    embedder = Embedder(describe(exported))
    whole = embedder.embed(canvases)
    order = np.random.default_rng(size).permutation(len(canvases))
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda at: embedder.embed(canvases[order[at : at + size]]), range(0, len(order), size)))
    assert np.array_equal(np.concatenate(parts), whole[order])
    assert np.array_equal(Embedder(describe(exported)).embed(canvases), whole), "compiled again, it answers the same"


def test_embedding_with_it_imports_no_torch(exported: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from ndd.model.directory import describe\n"
        "from ndd.stages.embed import Embedder\n"
        f"vectors = Embedder(describe(sys.argv[1])).embed(np.zeros((1, {SIDE}, {SIDE}, 3), np.uint8))\n"
        "assert vectors.shape == (1, 32) and 'torch' not in sys.modules, sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_several_threads_may_be_the_first_to_use_it(exported: Path) -> None:
    """OpenVINO's binding makes things at its first use, and two threads at that could wait for each other for ever."""
    code = (
        "import sys, threading, numpy as np\n"
        "from ndd.model.directory import describe\n"
        "from ndd.stages.embed import Embedder\n"
        "embedder, together, made = Embedder(describe(sys.argv[1])), threading.Barrier(4), []\n"
        "def use():\n"
        f"    canvas = np.zeros((1, {SIDE}, {SIDE}, 3), np.uint8)\n"
        "    together.wait()\n"
        "    made.append(embedder.embed(canvas))\n"
        "threads = [threading.Thread(target=use) for _ in range(4)]\n"
        "[thread.start() for thread in threads], [thread.join() for thread in threads]\n"
        "assert len(made) == 4, made\n"
    )
    for _ in range(4):  # one in four hung
        done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_what_was_loaded_ahead_is_used_once_and_for_its_own_directory(
    exported: Path, canvases: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = described(exported)
    made: list[str] = []
    whole = OpenVinoNetwork.__init__

    def noted(network: OpenVinoNetwork, of: Runtime) -> None:
        made.append(threading.current_thread().name)
        whole(network, of)

    monkeypatch.setattr(OpenVinoNetwork, "__init__", noted)
    here = threading.current_thread().name
    expected = loaded(runtime)(canvases[:MICRO_BATCH])
    load_ahead(lambda: described(exported))
    assert (loaded(runtime)(canvases[:MICRO_BATCH]) == expected).all()
    assert made == [here, "network"]
    loaded(runtime)
    assert made == [here, "network", here], "a network belongs to who asked first"
    load_ahead(lambda: described(exported))
    loaded(replace(runtime, content="of another"))
    assert made[3:] == ["network", here]


def test_what_goes_wrong_ahead_is_found_out_by_who_needs_it(exported: Path) -> None:
    def missing() -> Runtime:
        raise ModelError("no such model")

    for wanted in (missing, lambda: None):
        load_ahead(wanted)
        assert isinstance(loaded(described(exported)), OpenVinoNetwork)


def test_what_nobody_wants_is_not_loaded(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer, made = threading.Event(), threading.Event(), []
    monkeypatch.setattr(OpenVinoNetwork, "__init__", lambda network, of: made.append(threading.current_thread().name))

    def wanted() -> Runtime:
        asked.set()
        assert answer.wait(60)
        return described(exported)

    load_ahead(wanted)
    assert asked.wait(60)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "network"]
    forget_ahead()
    answer.set()
    thread.join(60)
    assert made == []
    loaded(described(exported))
    assert made == [threading.current_thread().name], "whoever wants it after all loads it"


def described(directory: Path) -> Runtime:
    runtime = describe(directory).runtime
    assert runtime is not None
    return runtime


def test_without_the_package_torch_makes_the_vectors(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert describe(exported).runtime is None
    assert describe(exported).embedding_digest == describe(exported, engine="torch").embedding_digest
    monkeypatch.setenv("NDD_RUNTIME", "openvino")
    with pytest.raises(ModelError, match="openvino is missing; pip install 'openvino>=2026.0'"):
        describe(exported)


def test_eight_bit_instructions_are_read_from_the_processors_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "cpuinfo"
    monkeypatch.setattr("ndd.model.runtime._PROCESSOR", place)
    assert not has_eight_bits(), "nothing to be read: not Linux"
    place.write_text("processor\t: 0\nmodel name\t: avx512_vnni edition\nflags\t\t: fpu avx2 avx512f\n")
    assert not has_eight_bits(), "a name is no flag"
    for flag in ("avx512_vnni", "avx_vnni", "amx_int8"):
        place.write_text(f"processor\t: 0\nflags\t\t: fpu avx2 {flag} sse\n")
        assert has_eight_bits()


@pytest.mark.parametrize(
    ("flags", "made"),
    [("fpu avx2 avx512f avx512_vnni", "int8"), ("fpu avx2 avx_vnni", "int8"), ("fpu avx2 avx512f", None), (None, None)],
)
def test_eight_bits_are_for_processors_that_add_them_up_exactly(
    claimed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str | None, made: str | None
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: One with avx512_vnni\nflags\t\t: {flags}\n")
    monkeypatch.setattr("ndd.model.runtime._PROCESSOR", tmp_path / "cpuinfo")
    runtime = describe(claimed).runtime
    assert (runtime.precision if runtime else None) == made
    monkeypatch.setenv("NDD_RUNTIME", "openvino")
    if made is None:
        with pytest.raises(ModelError, match="this processor has none of amx_int8, avx512_vnni, avx_vnni"):
            describe(claimed)
    else:
        assert describe(claimed).runtime is not None


def test_single_precision_is_for_every_processor(
    canvases: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = model_directory(tmp_path / "model", {"kind": "none"})
    export(directory, canvases, precision="fp32")
    monkeypatch.setattr("ndd.model.runtime._PROCESSOR", tmp_path / "none")
    runtime = describe(directory).runtime
    assert runtime is not None and runtime.precision == "fp32"


def test_what_cannot_be_used_is_named(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "model"
    shutil.copytree(exported, directory)
    facts = directory / "runtime" / "runtime.json"
    said = json.loads(facts.read_text())
    facts.write_text(json.dumps({**said, "content": "0" * 64}))
    with pytest.raises(ModelError, match="not those that were exported"):
        describe(directory)
    facts.write_text(json.dumps({**said, "source": "0" * 64}))
    with pytest.raises(ModelError, match="made from other weights"):
        describe(directory)
    facts.write_text(json.dumps({**said, "precision": "int4"}))
    with pytest.raises(ModelError, match="precision 'int4' is none of int8, fp32"):
        describe(directory)
    facts.write_text("{}")
    with pytest.raises(ModelError, match="damaged"):
        describe(directory)
    assert describe(directory, engine="torch").runtime is None
    monkeypatch.setenv("NDD_RUNTIME", "tensorrt")
    with pytest.raises(ConfigError, match="NDD_RUNTIME.*tensorrt"):
        describe(directory)


def test_new_weights_take_the_runtime_of_the_old_away(exported: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(exported, directory)
    loaded = checkpoint.load(directory)
    checkpoint.save(directory, loaded.model, card={})
    assert not (directory / "runtime").exists()
    with pytest.raises(ModelError, match="pipelines export"):
        describe(directory, engine="openvino")


def test_a_network_far_from_the_reference_is_not_written(
    exported: Path, canvases: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(exported, directory, ignore=shutil.ignore_patterns("runtime"))
    monkeypatch.setattr("ndd.model.export.LEAST_AGREEMENT", 0.99999999)
    with pytest.raises(ModelError, match="nothing was written"):
        export(directory, canvases)
    assert sorted(path.name for path in directory.iterdir()) == ["card.json", "config.json", "weights.safetensors"]
    with pytest.raises(ModelError, match="at least 16"):
        export(directory, canvases[:15])
