from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from autosam_deploy.benchmarks import compare
from autosam_deploy.spec import HeadKind

NAMES = ("torch", "onnx-plain", compare.OURS)


@pytest.fixture
def bundle(exported: Callable[[HeadKind], Path]) -> Path:
    return exported("autosam")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Factory: quick(torch="slow") puts fakes in the place of what takes long to load."""

    def put(**loaders: str) -> None:
        folder = Path(__file__).parent / "harness"
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setattr(compare, "export_plain_apart", lambda bundle, target, *, timeout: None)
        rows = {
            name: (f"a fake {name}", f"bench_fakes:load_{loaders.get(name, 'right')}", name)
            for name in NAMES
        }
        monkeypatch.setattr(compare, "COMPARED", rows)

    return put


def test_peers_take_turns(quick: Callable[..., None], bundle: Path, tmp_path: Path) -> None:
    quick(torch="slow")
    args = [str(bundle), "--threads", "1", "--rounds", "2", "--size", "32"]
    done = CliRunner().invoke(compare.main, [*args, "--out", str(tmp_path / "c.json")])
    assert done.exit_code == 0, done.output
    assert "round 2: torch" in done.stderr
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert [peer["name"] for peer in found["peers"]] == list(NAMES)
    torch, _, ours = found["peers"]
    assert torch["times_ours"] > 1.2
    assert ours["times_ours"] == ours["memory_times_ours"] == 1
    assert torch["labels_equal_torch"] == ours["labels_equal_torch"] == 1
    assert 30 < ours["peak_rss_mib"] < 600


def test_a_peer_that_dies_is_named(quick: Callable[..., None], bundle: Path) -> None:
    quick(**{"onnx-plain": "exits"})
    done = CliRunner().invoke(compare.main, [str(bundle), "--threads", "1", "--size", "32"])
    assert done.exit_code == 2
    assert "peer 'onnx-plain' cannot be loaded; got the process ended with" in done.stderr
    quick(torch="killed")
    done = CliRunner().invoke(compare.main, [str(bundle), "--threads", "1", "--size", "32"])
    assert done.exit_code == 2
    assert "peer 'torch' ended; got the process was ended by SIGKILL" in done.stderr


def test_what_is_compared_is_there() -> None:
    """The loaders by their dotted names: a child would find out late."""
    from importlib import import_module

    assert tuple(compare.COMPARED) == NAMES
    for _, loader, _ in compare.COMPARED.values():
        module, _, name = loader.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.slow
def test_the_real_peers(bundle: Path) -> None:
    args = [str(bundle), "--threads", "1", "--rounds", "1", "--size", "40", "--json"]
    done = CliRunner().invoke(compare.main, args)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [peer["labels_equal_torch"] for peer in found["peers"]] == [1, 1, 1]
