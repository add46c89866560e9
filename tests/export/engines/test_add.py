from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from autosam_deploy.bundle import writer
from autosam_deploy.bundle.reader import Bundle
from autosam_deploy.errors import BundleError, ExportError, OutputError
from autosam_deploy.export.engines import add
from autosam_deploy.export.engines.add import AddedEngine, add_engines
from autosam_deploy.export.engines.request import EngineRequest

pytestmark = pytest.mark.trt

REQUEST = EngineRequest(capabilities=(89,), batch=(1, 2, 4))
Copy = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def _library(rtx: Any) -> None:
    """Everything here builds."""


def run(bundle: Bundle, progress: Progress, request: EngineRequest = REQUEST) -> list[AddedEngine]:
    return add_engines(bundle.path, request, progress=progress, added=lambda _: None)


def files(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in (bundle.path / "engines").iterdir())


def test_engine_is_a_member_of_the_bundle(bundle_copy: Copy, progress: Progress) -> None:
    bundle = bundle_copy("linear")
    (added,) = run(bundle, progress)
    again = Bundle.open(bundle.path)  # hashes hold, nothing unlisted lies about
    assert again.notes == ()
    engine = again.find("engine", "fp16")
    assert engine == added.artefact
    assert engine is not None
    assert engine.engine is not None
    assert added.built is not None
    assert again.file(engine.file).read_bytes() == added.built.plan
    assert engine.engine.log is not None
    assert again.file(engine.engine.log).read_text("utf-8") == added.built.log
    # What the exporter wrote is untouched.
    assert again.manifest.artefacts[:-1] == bundle.manifest.artefacts


def test_what_is_there_is_kept(
    bundle_copy: Copy, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_copy("linear")
    (first,) = run(bundle, progress)
    monkeypatch.delattr(add, "build_engine")  # a second build would fail
    (second,) = run(bundle, progress)
    assert second.built is None
    assert second.artefact == first.artefact


def test_another_profile_takes_its_place(bundle_copy: Copy, progress: Progress) -> None:
    bundle = bundle_copy("linear")
    (first,) = run(bundle, progress)
    (second,) = run(bundle, progress, EngineRequest(capabilities=(89,), batch=(1, 1, 1)))
    opened = Bundle.open(bundle.path)
    assert [a for a in opened.manifest.artefacts if a.kind == "engine"] == [second.artefact]
    assert Path(first.artefact.file.path).name not in files(bundle)
    assert len(files(bundle)) == 2  # plan and log


def test_engines_for_several_gpus(bundle_copy: Copy, progress: Progress) -> None:
    bundle = bundle_copy("linear")
    told: list[AddedEngine] = []
    request = EngineRequest(capabilities=(86, 120), batch=(1, 2, 4))
    results = add_engines(bundle.path, request, progress=progress, added=told.append)
    assert told == results
    found = [a.engine for a in Bundle.open(bundle.path).manifest.artefacts if a.engine]
    assert [engine.compute_capabilities for engine in found] == [(86,), (120,)]


def test_a_stop_between_engine_and_manifest_leaves_a_sound_bundle(
    bundle_copy: Copy, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_copy("linear")

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt("stopped")

    monkeypatch.setattr(writer, "write_json", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        run(bundle, progress)
    opened = Bundle.open(bundle.path)
    assert opened.manifest == bundle.manifest
    assert len(opened.notes) == 2  # the plan and its log, ignored


def test_a_full_disk_leaves_the_bundle_alone(
    bundle_copy: Copy, progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_copy("linear")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        run(bundle, progress)
    monkeypatch.undo()
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    assert files(bundle) == []


def test_a_damaged_plan_is_noticed(bundle_copy: Copy, progress: Progress) -> None:
    bundle = bundle_copy("linear")
    (added,) = run(bundle, progress)
    path = bundle.file(added.artefact.file)
    plan = bytearray(path.read_bytes())
    plan[len(plan) // 2] ^= 1
    path.write_bytes(plan)
    with pytest.raises(BundleError, match="was altered; got sha256"):
        Bundle.open(bundle.path)
    path.write_bytes(plan[:-1])
    with pytest.raises(BundleError, match=r"was altered; got .* bytes"):
        Bundle.open(bundle.path, verify=False)


def test_bundle_without_that_graph(bundle_copy: Copy, progress: Progress) -> None:
    bundle = bundle_copy("linear")
    manifest = bundle.manifest.model_copy(
        update={"artefacts": tuple(a for a in bundle.manifest.artefacts if a.precision != "fp16")}
    )
    plain = Bundle(bundle.path, manifest, "")
    assert add.choose_graph(plain, "auto").precision == "fp32"
    with pytest.raises(ExportError, match="no fp16 graph; got fp32; export it again with --fp16"):
        add.choose_graph(plain, "fp16")
