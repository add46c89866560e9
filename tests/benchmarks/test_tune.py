"""The tuner's choices and its command; its kernels are tested in `test_tune_kernels.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from autosam_deploy.benchmarks import tune
from autosam_deploy.benchmarks.tune import Choice, choose, merged, ordered
from autosam_deploy.benchmarks.tune_kernels import RefusedError
from autosam_deploy.encoders import EncoderSpec
from autosam_deploy.kernels.tiles import Kind, Tiles, candidates, load_tiles, tiles_for

START = tiles_for(80, "grid", 64)
SMALL = Tiles(16, 16, 1, 1)
KINDS: tuple[Kind, ...] = ("grid", "window", "bias")


def pick(
    measure: Callable[[Tiles], float], *, in_time: Callable[[], bool] = lambda: True
) -> tuple[Choice, int]:
    steps: list[int] = []
    choice = choose(
        *("grid", 64),
        start=START,
        measure=measure,
        in_time=in_time,
        step=lambda: steps.append(1),
    )
    return choice, len(steps)


@pytest.mark.parametrize("kind", KINDS)
def test_order_begins_with_the_start_and_what_is_near(kind: Kind) -> None:
    start = tiles_for(90, kind, 64)
    found = ordered(kind, 64, start)
    assert found[0] == start
    assert sorted(map(str, found)) == sorted(map(str, candidates(kind, 64)))


def test_neighbours_of_the_start_come_first() -> None:
    assert ordered("grid", 64, START)[1] in (
        Tiles(128, 64, 8, 2),
        Tiles(128, 64, 8, 4),
        Tiles(128, 32, 8, 3),
    )


def test_the_fastest_wins() -> None:
    best = Tiles(64, 64, 4, 2)
    choice, steps = pick(lambda tiles: 1.0 if tiles == best else 2.0)
    assert choice.best == best
    assert next(iter(choice.seconds)) == best
    assert len(choice.seconds) == steps == len(list(candidates("grid", 64)))
    assert choice.untried == 0


@pytest.mark.parametrize(("share", "wins"), [(0.99, False), (0.97, True)])
def test_the_start_stays_where_the_gain_is_noise(share: float, wins: bool) -> None:
    other = Tiles(64, 64, 4, 2)
    choice, _ = pick(lambda tiles: share if tiles == other else 1.0)
    assert choice.best == (other if wins else START)


def test_what_is_refused_or_wrong_cannot_win() -> None:
    odd, out = Tiles(64, 64, 4, 2), Tiles(64, 32, 4, 2)

    def measure(tiles: Tiles) -> float:
        if tiles == odd:
            raise RefusedError("wrong by 3", wrong=True)
        if tiles == out:
            raise RefusedError("out of resource: shared memory")
        return 1.0 if tiles == START else 2.0

    choice, _ = pick(measure)
    assert choice.best == START
    assert choice.wrong == {odd: "wrong by 3"}
    assert choice.refused == {out: "out of resource: shared memory"}
    assert not {odd, out} & set(choice.seconds)


def test_nothing_runs() -> None:
    def measure(tiles: Tiles) -> float:
        raise RefusedError("no")

    choice, _ = pick(measure)
    assert choice.best is None
    assert len(choice.refused) == len(list(candidates("grid", 64)))


def test_a_start_that_is_refused_is_replaced() -> None:
    def measure(tiles: Tiles) -> float:
        if tiles == START:
            raise RefusedError("no")
        return 1.0

    assert pick(measure)[0].best not in (None, START)


def test_without_time_the_start_alone_is_measured() -> None:
    choice, steps = pick(lambda tiles: 1.0, in_time=lambda: False)
    assert list(choice.seconds) == [START]
    assert (steps, choice.untried) == (1, len(list(candidates("grid", 64))) - 1)


def test_time_is_shared_and_what_is_left_goes_to_the_others() -> None:
    clock = [0.0]
    turns = tune.shares(30.0, 3, lambda: clock[0])
    first = next(turns)
    clock[0] = 9.9
    assert first()
    clock[0] = 10.0
    assert not first()
    clock[0] = 4.0
    second = next(turns)
    clock[0] = 16.9
    assert second()
    clock[0] = 17.0
    assert not second()
    third = next(turns)
    clock[0] = 29.9
    assert third()
    assert list(turns) == []


def test_merging_keeps_what_others_measured(tmp_path: Path) -> None:
    path, row = tmp_path / "tiles.json", {"block_m": 64, "block_n": 64, "num_warps": 4}
    old = {"kind": "grid", **row, "num_stages": 2}
    devices = {"A": [{**old, "width": 64}, {**old, "width": 80}], "B": [{**old, "width": 64}]}
    path.write_text(json.dumps({"schema_version": 1, "devices": devices}), "utf-8")
    found = [
        Choice("grid", 64, START, SMALL, {SMALL: 1.0}),
        Choice("bias", 64, START, None, {}),
    ]
    path.write_text(json.dumps(merged(load_tiles(path), "A", found)), "utf-8")
    kept = Tiles(64, 64, 4, 2)
    assert load_tiles(path) == {
        ("A", "grid", 64): SMALL,
        ("A", "grid", 80): kept,
        ("B", "grid", 64): kept,
    }


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for the GPU: the command's way from options to the file."""

    def run(encoders: list[EncoderSpec], **options: Any) -> tuple[str, list[Choice]]:
        widths = sorted({one.head_dim for one in encoders})
        return "Card", [
            Choice(
                "grid", one, START, SMALL, {SMALL: 1e-3, START: 2e-3}, {Tiles(64, 64, 4, 2): "no"}
            )
            for one in widths
        ]

    monkeypatch.setattr(tune, "missing_gpu", lambda: None)
    monkeypatch.setattr(tune, "run", run)
    return "Card"


def test_command_merges_into_a_file(card: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "tiles.json"
    done = CliRunner().invoke(tune.main, ["--out", str(out), "--models", "vit_b"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "grid, 64 channels a head" in done.stdout
    assert "2 measured, 1 do not compile or do not fit" in done.stdout
    assert str(out) in done.stdout
    done = CliRunner().invoke(tune.main, ["--out", str(out), "--models", "vit_h", "--json"])
    written = json.loads(done.stdout)
    assert written["file"] == str(out)
    assert written["choices"][0]["measured"][0]["seconds"] == 1e-3
    assert written["choices"][0]["refused"][0]["why"] == "no"
    assert load_tiles(out) == {(card, "grid", 64): SMALL, (card, "grid", 80): SMALL}


def test_kernels_read_the_users_file(
    card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autosam_deploy.kernels.measured import measured_tiles, user_file
    from autosam_deploy.kernels.relpos import _measured

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert measured_tiles() == load_tiles()
    assert CliRunner().invoke(tune.main, ["-q"]).stdout == ""
    assert measured_tiles()[card, "grid", 80] == SMALL
    _measured.cache_clear()
    assert tiles_for(80, "grid", 64, device=card, measured=_measured()) == SMALL
    _measured.cache_clear()
    path = user_file()
    assert path == tmp_path / "autosam-deploy" / "tiles.json"
    path.write_text("{", "utf-8")
    with pytest.raises(tune.UsageError, match=r"tiles\.json' are not valid; .*; remove it, or"):
        measured_tiles()


def test_a_file_that_cannot_be_merged_into_ends_it_before_the_work(
    card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "run", lambda *args, **options: pytest.fail("ran"))
    (tmp_path / "x.json").write_text("[]", "utf-8")
    done = CliRunner().invoke(tune.main, ["--out", str(tmp_path / "x.json")])
    assert done.exit_code == 2
    assert "are not valid" in done.stderr


def test_kernels_of_which_nothing_ran(
    card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Choice("bias", 64, START, None, {}, {START: "no"}, {SMALL: "wrong by 2"}, 3)
    monkeypatch.setattr(tune, "run", lambda *args, **options: (card, [nothing]))
    done = CliRunner().invoke(tune.main, ["--out", str(tmp_path / "tiles.json")])
    assert done.exit_code == 4
    assert "none of the tiles ran: bias 64" in done.stderr
    assert "1 give a wrong result, 3 left for want of time" in " ".join(done.stdout.split())
    assert load_tiles(tmp_path / "tiles.json") == {}


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autosam_deploy.benchmarks.gpu.gpu_query", lambda *fields: [])
    done = CliRunner().invoke(tune.main, ["--out", str(tmp_path / "tiles.json")])
    assert done.exit_code == 4
    assert done.stderr.startswith("error: no NVIDIA GPU on this machine")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "tiles.json").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--models", "vit_b,vit_x"], "--models; got 'vit_x'; expected vit_b"),
        (["--dtypes", "fp32"], "--dtypes; got 'fp32'; expected fp16, bf16"),
        (["--models", ""], "--models; got ''"),
    ],
)
def test_wrong_arguments(args: list[str], message: str) -> None:
    done = CliRunner().invoke(tune.main, args)
    assert done.exit_code == 2
    assert message in done.stderr


def test_account_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "user_file", lambda: None)
    done = CliRunner().invoke(tune.main, [])
    assert done.exit_code == 2
    assert "name a file with --out" in done.stderr


def test_table_marks_start_and_choice() -> None:
    console = Console(width=100)
    with console.capture() as captured:
        tune.show(console, Choice("grid", 64, START, SMALL, {SMALL: 0.001, START: 0.004}))
    lines = [line.split() for line in captured.get().splitlines()]
    assert any({"1.000", "0.25", "chosen"} <= set(line) for line in lines)
    assert any({"4.000", "1.00", "start"} <= set(line) for line in lines)


def test_module_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autosam_deploy.benchmarks.tune", "--help"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0
    assert "Time all tiles of the attention kernels" in " ".join(done.stdout.split())
