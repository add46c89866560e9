from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from autosam_deploy.bundle import reader
from autosam_deploy.bundle.reader import MAX_MANIFEST_BYTES, Bundle, parse_manifest
from autosam_deploy.bundle.schema import manifest_schema
from autosam_deploy.errors import BundleError
from autosam_deploy.spec import HeadKind

BAD = json.loads((Path(__file__).parent / "bad_manifests.json").read_text("utf-8"))
SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "manifest.schema.json"


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("linear"), tmp_path / "m.autosam"))


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def at(value: Any, path: str) -> tuple[Any, Any]:
    *parents, last = path.split(".")
    for part in parents:
        value = value[int(part)] if part.isdecimal() else value[part]
    return value, int(last) if last.isdecimal() else last


def text_of(entry: dict[str, Any], good: str) -> str:
    if "text" in entry:
        return str(entry["text"])
    value = json.loads(good)
    for path, new in entry.get("set", {}).items():
        parent, key = at(value, path)
        parent[key] = new
    for path in entry.get("delete", []):
        parent, key = at(value, path)
        del parent[key]
    return json.dumps(value)


@pytest.mark.parametrize("entry", BAD, ids=lambda entry: entry["name"])
def test_bad_manifest_is_refused(
    exported: Callable[[HeadKind], Path], entry: dict[str, Any]
) -> None:
    good = (exported("linear") / "manifest.json").read_text("utf-8")
    with pytest.raises(BundleError, match=entry["message"]) as caught:
        parse_manifest(text_of(entry, good))
    assert "\n" not in str(caught.value)


def test_good_manifest_fits_the_published_schema(bundle: Path) -> None:
    published = json.loads(SCHEMA_FILE.read_text("utf-8"))
    assert published == manifest_schema()
    jsonschema.validate(json.loads((bundle / "manifest.json").read_text("utf-8")), published)


#: What JSON Schema cannot say, or says otherwise (to it, 1.0 is the integer 1); a host has to check
#: these itself.
BEYOND_THE_SCHEMA = {
    *("bytes-as-float", "class-count", "engine-without-info", "graph-without-opset", "itself"),
    *("odd-image-size", "other-inputs", "other-outputs", "same-file-but-case", "same-file-twice"),
    *("tinyvit-heads", "tinyvit-odd-width", "tinyvit-odd-size"),
    "schema-as-float",
}


@pytest.mark.parametrize(
    "entry", [e for e in BAD if "text" not in e], ids=lambda entry: entry["name"]
)
def test_schema_refuses_what_it_can_express(
    exported: Callable[[HeadKind], Path], entry: dict[str, Any]
) -> None:
    """Hosts in other languages may check a manifest with little but its schema."""
    good = (exported("linear") / "manifest.json").read_text("utf-8")
    validator = jsonschema.Draft202012Validator(manifest_schema())
    valid = validator.is_valid(json.loads(text_of(entry, good)))
    assert valid == (entry["name"] in BEYOND_THE_SCHEMA)


def test_number_of_thousands_of_digits() -> None:
    with pytest.raises(BundleError, match="is no JSON; got Exceeds the limit"):
        parse_manifest('{"schema_version": ' + "1" * 5000 + "}")


def test_open_verifies_hashes(bundle: Path) -> None:
    graph = bundle / "model.fp32.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(BundleError, match=r"'model.fp32.onnx' .* was altered; got sha256"):
        Bundle.open(bundle)
    assert Bundle.open(bundle, verify=False).manifest.name == "linear"


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_member(bundle: Path, verify: bool) -> None:
    graph = bundle / "model.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"was altered; got 1000 bytes"):
        Bundle.open(bundle, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_missing_member(bundle: Path, verify: bool) -> None:
    (bundle / "golden" / "case_1.labels.npy").unlink()
    with pytest.raises(BundleError, match=r"'golden/case_1.labels.npy' .* is missing"):
        Bundle.open(bundle, verify=verify)


def test_linked_member(bundle: Path, tmp_path: Path) -> None:
    graph = bundle / "model.fp32.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleError, match="is a link; expected a regular file"):
        Bundle.open(bundle)


def test_linked_folder(bundle: Path, tmp_path: Path) -> None:
    (bundle / "golden").rename(tmp_path / "elsewhere")
    (bundle / "golden").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a link"):
        Bundle.open(bundle)


def test_folder_as_member(bundle: Path) -> None:
    (bundle / "parity.json").unlink()
    (bundle / "parity.json").mkdir()
    with pytest.raises(BundleError, match="is no regular file"):
        Bundle.open(bundle)


def test_huge_manifest_is_not_read(bundle: Path) -> None:
    with (bundle / "manifest.json").open("wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(BundleError, match=rf"too large; .* at most {MAX_MANIFEST_BYTES}"):
        Bundle.open(bundle)


def test_binary_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match=r"is no JSON; got 'utf-8' codec"):
        Bundle.open(bundle)


def test_linked_manifest(bundle: Path, tmp_path: Path) -> None:
    (bundle / "manifest.json").rename(tmp_path / "m.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "m.json")
    with pytest.raises(BundleError, match=r"is no bundle; got manifest\.json that is a link"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "got nothing"),
        (lambda path: path.write_text("x"), "got a file"),
        (lambda path: path.mkdir(), r"got no manifest\.json in it"),
    ],
)
def test_no_bundle(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "x.autosam"
    make(path)
    with pytest.raises(BundleError, match=message):
        Bundle.open(path)


def test_deeply_nested_json() -> None:
    with pytest.raises(BundleError, match=r"is no JSON|is no manifest"):
        parse_manifest("[" * 200_000)


def test_unlisted_files_are_noted(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    """File managers leave such files behind; a bundle is none the worse for it."""
    assert Bundle.open(bundle).notes == ()
    (bundle / "golden" / ".DS_Store").write_bytes(b"x")
    (bundle / "notes.txt").write_text("x")
    expected = ("'golden/.DS_Store' is not in the manifest", "'notes.txt' is not in the manifest")
    assert Bundle.open(bundle, verify=False).notes == expected
    assert "'notes.txt' is not in the manifest; it is ignored" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_member_that_may_not_be_read(bundle: Path) -> None:
    (bundle / "parity.json").chmod(0)
    with pytest.raises(BundleError, match=r"'parity.json' .* cannot be read; got .*denied"):
        Bundle.open(bundle)


def test_read_error_is_one_line(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(reader, "sha256_file", broken)
    with pytest.raises(BundleError, match=r"'parity.json' .* cannot be read; got .*Input/output"):
        Bundle.open(bundle)


def test_manifest_hash_is_of_the_file(bundle: Path) -> None:
    content = (bundle / "manifest.json").read_bytes()
    assert Bundle.open(bundle).manifest_sha256 == hashlib.sha256(content).hexdigest()


def test_find(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.precisions("onnx") == ("fp32", "fp16")
    half = opened.find("onnx", "fp16")
    assert half is not None
    assert half.typing is not None
    assert {island.reason for island in half.typing.islands} >= {"layer-norm", "logits"}
    assert opened.find("engine") is None
    assert re.fullmatch(r"[0-9a-f]{64}", opened.manifest_sha256)
