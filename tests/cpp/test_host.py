"""libautosam against the Python runtime: one bundle, one ONNX Runtime, the same bytes.

Skipped where the host was not built; `cpp/ci.sh` builds it and runs these tests. Another build is
named by AUTOSAM_CPP_BUILD.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError
from autosam_deploy.parity import ParityRecord
from autosam_deploy.runtime.engine import Engine
from autosam_deploy.spec import HEAD_KINDS, Axis, HeadKind
from autosam_deploy.volumes.read import read_labels, read_volume
from autosam_deploy.volumes.volume import Geometry, Volume, same_space

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("AUTOSAM_CPP_BUILD", ROOT / "cpp" / "build" / "release"))
DATA = ROOT / "cpp" / "tests" / "data"
RUNTIME = Path(onnxruntime.__file__).parent / "capi"
SHAPES = ((1, 40, 56), (5, 33, 71), (2, 7, 5), (1, 1, 30))
DTYPES = ("float32", "int16", "uint16", "uint8")


class Host:
    """The host's tool, on this process's ONNX Runtime (or another library) and one thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = RUNTIME

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        tool = BUILD / "tools" / "autosam-run"
        if not tool.is_file():
            pytest.skip(f"no '{tool}': build the host with cpp/ci.sh")
        words = (tool, *arguments, "--runtime", self.runtime, "--threads", "1")
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def label(
        self, bundle: Path, slices: NDArray[Any], *options: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return labels and logits, through files."""
        names = [self.folder / f"{name}.npy" for name in ("slices", "labels", "logits")]
        np.save(names[0], slices)
        done = self.run(
            *(bundle, names[0], names[1], "--logits", names[2], "--device", "cpu", *options)
        )
        assert done.returncode == 0, done.stderr
        return np.load(names[1]), np.load(names[2])


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def slices_of(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    random = np.random.default_rng(seed)
    if dtype == "float32":
        return random.normal(300, 200, shape).astype(np.float32)
    low, high = (0, 255) if dtype == "uint8" else (0 if dtype == "uint16" else -1000, 3000)
    return random.integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_bytes_are_those_of_python(
    host: Host, exported: Callable[[HeadKind], Path], kind: HeadKind, precision: str
) -> None:
    bundle = exported(kind)
    engine = Engine.open(bundle, device="cpu", precision=precision, threads=1)  # type: ignore[arg-type]
    with engine:
        for seed, (shape, dtype) in enumerate(zip(SHAPES, DTYPES, strict=True)):
            slices = slices_of(shape, dtype, seed)
            options = ("--batch", "-1", "--precision", precision)
            labels, logits = host.label(bundle, slices, *options)
            assert labels.shape == shape
            assert labels.tobytes() == engine.labels(slices).tobytes()
            assert logits.tobytes() == engine.logits(slices).tobytes()


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_openvino_gives_the_bytes_that_it_gives_in_python(
    host: Host, exported: Callable[[HeadKind], Path], kind: HeadKind
) -> None:
    package = util.find_spec("openvino")
    if package is None or package.origin is None:
        pytest.skip("OpenVINO is not installed")
    host.runtime = Path(package.origin).parent / "libs"
    bundle = exported(kind)
    with Engine.open(bundle, backend="openvino", threads=1) as engine:
        for seed, (shape, dtype) in enumerate(zip(SHAPES, DTYPES, strict=True)):
            slices = slices_of(shape, dtype, seed)
            labels, logits = host.label(bundle, slices, "--batch", "-1", "--backend", "openvino")
            assert labels.tobytes() == engine.labels(slices).tobytes()
            assert logits.tobytes() == engine.logits(slices).tobytes()
    done = host.run(bundle, "--selftest", "--backend", "openvino")
    assert done.returncode == 0, done.stderr
    refused = host.run(bundle, "--info", "--backend", "openvino", "--precision", "bf16")
    assert refused.returncode == 2
    assert "no bf16 here" in refused.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_gives_the_bytes_that_it_gives_in_python(
    host: Host, int8_bundle: Path, backend: str
) -> None:
    if backend == "openvino":
        package = util.find_spec("openvino")
        if package is None or package.origin is None:
            pytest.skip("OpenVINO is not installed")
        host.runtime = Path(package.origin).parent / "libs"
    options = ("--backend", backend, "--precision", "int8")
    with Engine.open(
        int8_bundle, backend=backend, device="cpu", precision="int8", threads=1
    ) as engine:
        slices = slices_of((2, 40, 48), "int16", 3)
        labels, logits = host.label(int8_bundle, slices, "--batch", "-1", *options)
        assert labels.tobytes() == engine.labels(slices).tobytes()
        assert logits.tobytes() == engine.logits(slices).tobytes()
    assert host.run(int8_bundle, "--selftest", *options).returncode == 0
    known = host.run(int8_bundle, "--info", "--device", "cpu", "--backend", backend)
    assert "fp32" in known.stdout
    assert "int8" not in known.stdout


def test_automatic_batches_are_those_of_python(
    host: Host, exported: Callable[[HeadKind], Path]
) -> None:
    """Another split may change the last bits of a matrix product."""
    bundle = exported("autosam")
    slices = slices_of((37, 24, 20), "int16", 0)
    geometry = Geometry((1, 1, 1), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    with Engine.open(bundle, device="cpu", threads=1) as engine:
        whole = engine.segment(Volume(slices, geometry, "x"), axis="k").array
    labels, _ = host.label(bundle, slices)
    assert labels.tobytes() == whole.tobytes()


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_selftest(host: Host, exported: Callable[[HeadKind], Path], kind: HeadKind) -> None:
    for precision in ("fp32", "fp16"):
        done = host.run(exported(kind), "--selftest", "--device", "cpu", "--precision", precision)
        assert done.returncode == 0, done.stderr
        found = re.search(r"passed (\d+) of (\d+) golden cases", done.stdout)
        assert found is not None
        assert found[1] == found[2] != "0"


def test_altered_bundles_are_refused_by_both(
    host: Host, exported: Callable[[HeadKind], Path], tmp_path: Path
) -> None:
    good = exported("linear")
    for name, change in {
        "cut": lambda folder: (folder / "model.fp32.onnx").write_bytes(b"x"),
        "missing": lambda folder: (folder / "parity.json").unlink(),
        "link": lambda folder: (folder / "note").symlink_to("parity.json"),
        "code": lambda folder: (folder / "golden" / "libx.so.1").write_bytes(b"x"),
        "none": lambda folder: (folder / "manifest.json").unlink(),
        "large": lambda folder: (folder / "manifest.json").write_bytes(b" " * (4 << 20 | 1)),
    }.items():
        bundle = Path(shutil.copytree(good, tmp_path / f"{name}.autosam"))
        change(bundle)
        with pytest.raises(BundleError, match=str(bundle)) as caught:
            Bundle.open(bundle)
        done = host.run(bundle, "--info")
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        # The two say the same, but for what is to be done.
        said = done.stderr.removeprefix("autosam-run: ").split(";")[0]
        assert said.strip() == str(caught.value).split(";")[0]


def test_data_of_the_host_is_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cpp/tests/data/make.py` makes what lies there, and Python opens it."""
    spec = util.spec_from_file_location("make_host_data", DATA / "make.py")
    assert spec is not None
    assert spec.loader is not None
    make = util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setattr(make, "HERE", tmp_path)
    make.main()
    for name in ("threshold", "slow"):
        kept, made = (folder / f"{name}.autosam" for folder in (DATA, tmp_path))
        # The parity record may gain fields; what a host reads of it stays.
        manifests = [Bundle.open(folder).manifest.model_dump() for folder in (kept, made)]
        for manifest in manifests:
            del manifest["parity"]
        assert manifests[0] == manifests[1], "run cpp/tests/data/make.py"
        records = [
            ParityRecord.model_validate_json((folder / "parity.json").read_text("utf-8"))
            for folder in (kept, made)
        ]
        assert records[0].comparisons == records[1].comparisons


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "cpp" / "CMakeLists.txt").read_text("utf-8")
    found = re.search(r"project\(autosam VERSION ([0-9.]+)", text)
    assert found is not None
    assert found[1] == project["version"]


@pytest.mark.data
def test_real_volume_through_an_installed_package(
    exported: Callable[[HeadKind], Path], shared_data: Path, tmp_path: Path
) -> None:
    """A hippocampus through the consumer project that was built against the installed tree."""
    consumer = BUILD / "tests" / "install" / "consumer" / "consumer"
    if not consumer.is_file():
        pytest.skip(f"no '{consumer}': run ctest -R install in '{BUILD}'")
    image = sorted((shared_data / "hippocampus" / "images").glob("*.nii*"))[0]
    volume = read_volume(image)
    slices = np.ascontiguousarray(volume.array, dtype=np.float32)
    bundle = exported("autosam")
    (tmp_path / "in.raw").write_bytes(slices.tobytes())
    sizes = [str(size) for size in slices.shape]
    subprocess.run(
        (consumer, bundle, tmp_path / "in.raw", *sizes, tmp_path / "out.raw"),
        env={**os.environ, "AUTOSAM_ONNXRUNTIME_LIB": str(RUNTIME)},
        check=True,
    )
    with Engine.open(bundle) as engine:
        wanted = engine.segment(volume, axis="k").array
    found = np.frombuffer((tmp_path / "out.raw").read_bytes(), np.uint8).reshape(slices.shape)
    assert len(np.unique(found)) > 1
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.data
@pytest.mark.parametrize("axis", ["auto", "i", "j", "k"])
def test_real_volume_from_file_to_file(
    exported: Callable[[HeadKind], Path], shared_data: Path, tmp_path: Path, axis: Axis
) -> None:
    """The example with ITK gives the voxels and the geometry that Python gives."""
    example = BUILD / "examples" / "itk" / "segment_itk"
    if not example.is_file():
        pytest.skip(f"no '{example}': it is built where ITK is")
    image = sorted((shared_data / "hippocampus" / "images").glob("*.nii*"))[1]
    bundle = exported("linear")
    subprocess.run(
        (example, bundle, image, tmp_path / "labels.nii.gz", axis),
        env={**os.environ, "AUTOSAM_ONNXRUNTIME_LIB": str(RUNTIME)},
        check=True,
    )
    with Engine.open(bundle) as engine:
        wanted = engine.segment(read_volume(image), axis=axis)
    found = read_labels(tmp_path / "labels.nii.gz")
    assert found.array.dtype == np.uint8
    assert found.array.tobytes() == wanted.array.tobytes()
    assert same_space(found.geometry, wanted.geometry)
