from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from autosam_deploy.errors import BackendError, UsageError
from autosam_deploy.kernels import ahead
from autosam_deploy.kernels.ahead import CAPABILITIES, Case, Resources

pytest.importorskip("triton")

#: Beside these, the attention kernels, which are named by their shapes.
NAMES = {
    *(f"statistics-{one}-slice-minmax" for one in ("fp32", "i16", "u16", "u8")),
    "statistics-fp32-slice-zscore",
    *(f"tokens-fp32-{one}-slice-minmax-1" for one in ("fp16", "bf16", "fp32")),
    *(f"tokens-{one}-fp16-slice-minmax-1" for one in ("i16", "u16", "u8")),
    *(f"tokens-fp32-fp16-{one}-1" for one in ("slice-zscore", "window", "none")),
    "tokens-fp32-fp16-slice-minmax-2",
    *(
        f"labels-{one}-{how}-first"
        for one in ("fp16", "bf16", "fp32")
        for how in ("once", "nested")
    ),
    "labels-fp16-once-last",
    "labels-fp32-once-last",
    *(
        f"norm-{channels}-{how}"
        for channels in (256, 768, 1024, 1280)
        for how in ("fp16-fp16", "bf16-bf16", "fp16-fp32")
    ),
}


def run(folder: Path, code: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that compiles, with an empty cache."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *code],
        env=environment
        | {
            "TRITON_CACHE_DIR": str(folder / "cache"),
            "COLUMNS": "120",
            "PYTHONIOENCODING": "utf-8",
        },
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def compile_all(folder: Path, *options: str) -> list[Resources]:
    target = folder / "kernels.json"
    done = run(folder, ["-m", "autosam_deploy.kernels.ahead", "--json", str(target), *options])
    assert (done.stderr, done.returncode) == ("", 0)
    written = json.loads(target.read_text("utf-8"))
    assert written["triton"]
    found = [Resources(**one) for one in written["kernels"]]
    assert all(one.case in done.stdout for one in found)
    return found


def assert_fit(found: list[Resources]) -> None:
    assert [one for one in found if one.spill_stores or one.spill_loads or one.fault] == []
    assert all(0 < one.registers <= 255 for one in found)
    assert all(one.cubin_bytes > 0 for one in found)


@pytest.mark.parametrize(("capability", "dtype"), [(86, "fp16"), (120, "bf16")])
def test_kernels_fit_their_registers(capability: int, dtype: str, tmp_path: Path) -> None:
    found = compile_all(tmp_path, "--sm", str(capability), "--only", dtype)
    names = {one.case for one in found}
    assert {one.capability for one in found} == {capability}
    assert {name for name in NAMES if dtype in name} == {
        name for name in names if not name.startswith("relpos")
    }
    assert any(name.startswith("relpos") for name in names)
    assert_fit(found)


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_kernel_on_every_architecture(capability: int, tmp_path: Path) -> None:
    found = compile_all(tmp_path, "--sm", str(capability))
    assert {one.case for one in found} == {one.name for one in ahead.all_cases(capability)}
    assert {one.case for one in found} >= NAMES
    assert_fit(found)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_cases_fill_their_kernels(capability: int) -> None:
    """Without compiling: names, parameters, and every module of kernels is in the table."""
    cases = ahead.all_cases(capability)
    assert {case.name for case in cases} >= NAMES
    for case in cases:
        assert {*case.signature, *case.constants} == set(case.function.arg_names), case.name
    folder = Path(ahead.__file__).parent
    modules = {f"autosam_deploy.kernels.{path.stem}" for path in folder.glob("*_triton.py")}
    have = {one for one in modules if hasattr(importlib.import_module(one), "ahead_cases")}
    assert have == set(ahead.MODULES)


#: A kernel that holds hundreds of values a thread, and one whose parameters are not the case's.
BAD = """
import triton, triton.language as tl
from autosam_deploy.kernels.ahead import Case, compile_case
from autosam_deploy.errors import BackendError

@triton.jit
def hungry(x, n, size: tl.constexpr):
    i = tl.arange(0, size)
    a = tl.load(x + i)
    for k in range(n):
        b = tl.load(x + i * 3 + k)
        tl.store(x + i * 5 + k, a * b)
        a = a * b + tl.cumsum(a, 0)
    tl.store(x + i, a)

def case(**change):
    fields = dict(name="hungry", function=hungry, signature={"x": "*fp32", "n": "i32"},
                  constants={"size": 4096}, num_warps=1, num_stages=1)
    return Case(**(fields | change))
"""


def test_spills_are_seen(tmp_path: Path) -> None:
    script = tmp_path / "bad.py"
    text = "import json, dataclasses\n"
    text += "found = compile_case(case(), 80)\n"
    text += "print(json.dumps(dataclasses.asdict(found)))"
    script.write_text(BAD + text, "utf-8")
    done = run(tmp_path, [str(script)])
    assert done.returncode == 0, done.stderr
    found = Resources(**json.loads(done.stdout))
    assert found.spill_stores > 0
    assert found.spill_loads > 0
    assert found.fault.startswith("spills")


def test_cases_that_cannot_be_compiled(tmp_path: Path) -> None:
    expected = {
        "case(signature={'x': '*fp32'})": "not those of its kernel; got none beyond; expected each",
        "case(constants={'size': 4, 'n': 1})": "the parameters of case 'hungry' are not those",
        "case(constants={'size': 5})": "'hungry' does not compile for compute capability 80; got ",
    }
    script = tmp_path / "bad.py"
    text = f"for one in ({', '.join(expected)}):\n    try:\n        compile_case(one, 80)\n"
    text += "    except BackendError as error:\n        print(error)\n"
    script.write_text(BAD + text, "utf-8")
    done = run(tmp_path, [str(script)])
    assert done.returncode == 0, done.stderr
    for found, message in zip(done.stdout.splitlines(), expected.values(), strict=True):
        assert message in found


def test_the_interpreter_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "interpreted", lambda: True)
    with pytest.raises(BackendError, match=r"interprets kernels.*unset TRITON_INTERPRET"):
        ahead.compile_case(ahead.all_cases(80)[0], 80)


def test_names_are_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "MODULES", (ahead.MODULES[-1],) * 2)
    with pytest.raises(BackendError, match="cases repeat; got norm-1024-bf16-bf16, norm-1024-"):
        ahead.all_cases(80)


@pytest.mark.parametrize("text", ["", "80,", "8.6", "75", "-80", "sm_80"])
def test_capabilities_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--sm is not a list of compute capabilities; got"):
        ahead.parse_capabilities(text)


def test_capabilities() -> None:
    assert ahead.parse_capabilities("80,120") == (80, 120)


def resources(**change: Any) -> Resources:
    fields: dict[str, Any] = {"case": "k", "capability": 86, "registers": 64, "spill_stores": 0}
    fields |= {"spill_loads": 0, "shared_bytes": 8, "cubin_bytes": 9}
    return Resources(**(fields | change))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"spill_stores": 4, "spill_loads": 8}, "spills 12 bytes"),
        ({"shared_bytes": 99 * 1024}, ""),
        ({"shared_bytes": 100 * 1024}, "takes 102400 bytes of shared memory of 101376"),
        ({"shared_bytes": 100 * 1024, "capability": 80}, ""),
    ],
)
def test_faults(change: dict[str, int], fault: str) -> None:
    assert resources(**change).fault == fault


@pytest.mark.parametrize(("spilled", "code"), [(0, 0), (4, 1)])
def test_exit_code(spilled: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(name="k", function=None, signature={}, constants={}, num_warps=1, num_stages=1)
    monkeypatch.setattr(ahead, "all_cases", lambda capability: (case,))
    monkeypatch.setattr(
        ahead, "compile_case", lambda case, capability: resources(spill_loads=spilled)
    )
    result = CliRunner().invoke(ahead.main, ["--sm", "86"])
    assert result.exit_code == code
    assert ("k on compute capability 86: spills 4 bytes" in result.output) == bool(spilled)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--sm", "70"], "error: --sm is not a list"), (["--only", "x"], "error: no kernel has such")],
)
def test_errors_of_the_command(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "all_cases", lambda capability: (SimpleNamespace(name="k"),))
    result = CliRunner().invoke(ahead.main, options)
    assert result.exit_code == 2
    assert result.output.startswith(message)
