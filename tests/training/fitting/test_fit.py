from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autosam_deploy.errors import CheckpointError, TrainingError, UsageError
from autosam_deploy.models.heads import Head
from autosam_deploy.spec import HEAD_KINDS, HeadKind, ModelSpec, PreprocessSpec
from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version
from autosam_deploy.training.fitting.fit import Fit, FitResult, fit_head
from autosam_deploy.training.fitting.recipe import Epoch, FitConfig, steady
from autosam_deploy.training.fitting.resume import Journal
from autosam_deploy.training.fitting.step import PLATEAU_FROM, evaluate_head

SpecFactory = Callable[..., ModelSpec]
EasySlices = Callable[[HeadKind], tuple[Head, EmbeddedSlices]]


def fit(head: Head, slices: EmbeddedSlices, **fields: Any) -> FitResult:
    hooks = {name: fields.pop(name) for name in ("report", "save", "resume") if name in fields}
    config = replace(FitConfig(epochs=15, learning_rate=3e-3), **fields)
    return fit_head(
        head,
        slices,
        slices.plain,
        preprocess=PreprocessSpec(),
        image_size=(48, 48),
        config=config,
        **hooks,
    )


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_head_learns(easy_slices: EasySlices, kind: HeadKind) -> None:
    head, slices = easy_slices(kind)
    # A linear head starts slowly: its few channels pass two norms before any class shows.
    result = fit(head, slices, epochs=60, learning_rate=1e-2 if kind == "linear" else 3e-3)
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert result.best.dice > 0.7
    assert result.best.dice == max(epoch.dice for epoch in result.history)


def test_same_seed_same_weights(easy_slices: EasySlices) -> None:
    states = []
    for seed in (0, 0, 1):
        head, slices = easy_slices("linear")
        states.append(fit(head, slices, epochs=3, seed=seed).state)
    assert equal(states[0], states[1])
    assert not equal(states[0], states[2])


def test_weights_of_the_iou_head_stay(easy_slices: EasySlices) -> None:
    """The reference freezes whatever has "iou" in its name."""
    head, slices = easy_slices("autosam")
    before = copy.deepcopy(head.state_dict())
    fit(head, slices, epochs=2)
    changed = {name for name, t in head.state_dict().items() if not torch.equal(t, before[name])}
    assert "mask_decoder.mask_tokens.weight" in changed
    assert not [name for name in changed if "iou" in name]


def test_sizes_may_differ(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    ragged = tuple(
        (replace(one, labels=one.labels[: 24 - n, : 20 + n % 4]),)
        for n, one in enumerate(slices.plain)
    )
    assert len(fit(head, EmbeddedSlices(ragged), epochs=2).history) == 2


def test_sizes_are_weighed_by_pixel(easy_slices: EasySlices) -> None:
    """One batch of two sizes has the loss of its pixels, whatever way they are grouped."""
    head, slices = easy_slices("linear")
    small = [replace(one, labels=one.labels[:12]) for one in slices.plain[:2]]
    mixed = [slices.plain[2], small[0], slices.plain[3], small[1]]
    trainer = Fit(
        head,
        FitConfig(),
        resize=lambda low, size: low[..., : size[0], :],
        device=torch.device("cpu"),
    ).trainer
    one = trainer.loss(mixed)
    other = trainer.loss([small[0], small[1], slices.plain[2], slices.plain[3]])
    assert float(one.detach()) == pytest.approx(float(other.detach()), rel=1e-6)


def test_every_epoch_takes_one_version_of_each_slice(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    views = tuple(
        tuple(replace(one, origin=f"{one.origin} view {v}") for v in range(3))
        for one in slices.plain
    )
    seen: list[list[str]] = []

    def watch(fit_: Fit, _: bool) -> None:
        seen.append([])

    trainer_step = "autosam_deploy.training.fitting.step.Trainer._step"
    with pytest.MonkeyPatch.context() as patch:
        from autosam_deploy.training.fitting.step import Trainer

        original = Trainer._step

        def spy(self: Trainer, part: list[Version], number: int, step: int) -> float:
            seen[-1].extend(version.origin for version in part)
            return original(self, part, number, step)

        patch.setattr(trainer_step, spy)
        seen.append([])
        fit(head, EmbeddedSlices(views), epochs=6, save=watch)
    epochs = seen[:6]
    for origins in epochs:
        assert sorted(origin.split(" view")[0] for origin in origins) == [
            f"slice {n}" for n in range(8)
        ]
    assert {origin[-1] for origins in epochs for origin in origins} == {"0", "1", "2"}
    assert len({tuple(origins) for origins in epochs}) == 6


def test_loss_that_is_not_finite_names_the_step(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    slices.plain[5].embedding[:] = float("nan")
    with pytest.raises(
        TrainingError, match=r"not finite; got nan in epoch 1, step [12]: .*slice 5.*; lower the"
    ):
        fit(head, slices)


def last_layer(head: Head) -> torch.nn.Conv2d:
    """The layer of a linear head that gives the logits."""
    layer = head.get_submodule("mask_decoder.final.2")
    assert isinstance(layer, torch.nn.Conv2d)
    return layer


def constant_head(model_spec: SpecFactory, *, bias: tuple[float, ...], relu: bool) -> Head:
    """A linear head whose last layer ignores what comes before it."""
    spec = model_spec("linear").head.model_copy(update={"final_relu": relu})
    head = Head(spec)
    with torch.no_grad():
        last_layer(head).weight.zero_()
        last_layer(head).bias.copy_(torch.tensor(bias))  # type: ignore[union-attr]
    return head


def test_dead_head_is_noticed(model_spec: SpecFactory, easy_slices: EasySlices) -> None:
    """The reference's ReLU on logits can die: all are zero and nothing moves them."""
    _, slices = easy_slices("linear")
    dead = constant_head(model_spec, bias=(-1.0, -1.0, -1.0), relu=True)
    with pytest.raises(TrainingError, match=r"head died: .* got constant output in epoch 1"):
        fit(dead, slices, epochs=1)


def test_constant_output_is_seen_though_classes_differ(
    model_spec: SpecFactory, easy_slices: EasySlices
) -> None:
    _, slices = easy_slices("linear")
    head = constant_head(model_spec, bias=(1.0, 2.0, 3.0), relu=False)
    score = evaluate_head(head, slices.plain, lambda low, size: low)
    assert score.spread == 0
    assert 0 < score.dice < 0.5


@pytest.mark.parametrize(
    "name", ["epochs", "batch", "learning_rate", "lr_patience", "time_limit_s", "steps"]
)
def test_impossible_settings(name: str) -> None:
    with pytest.raises(UsageError, match=f"training {name}; got 0; expected > 0"):
        replace(FitConfig(), **{name: 0})
    with pytest.raises(UsageError, match=r"lr_factor; got 1\.0; expected in \(0, 1\)"):
        FitConfig(lr_factor=1.0)
    with pytest.raises(UsageError, match="training patience; got -1"):
        FitConfig(patience=-1)
    with pytest.raises(UsageError, match="training seed; got -1; expected >= 0"):
        FitConfig(seed=-1)


def test_limits_stop_after_a_whole_epoch(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    timed = fit(head, slices, epochs=50, time_limit_s=1e-9)
    assert len(timed.history) == 1
    assert "time limit" in timed.ended
    assert len(fit(head, slices, epochs=2, time_limit_s=600.0).history) == 2
    counted = fit(head, slices, epochs=50, steps=3)  # two steps an epoch
    assert counted.steps == 4
    assert counted.ended == "3 steps are done"


def test_early_stopping(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    for one in slices.plain:
        one.embedding[:] = 0  # nothing to learn from: the Dice of the first epochs is the best
    result = fit(head, slices, epochs=60, patience=3, learning_rate=1e-6)
    assert len(result.history) == result.best.number + 3
    assert result.ended == "no higher validation Dice for 3 epochs"
    head, slices = easy_slices("linear")
    assert len(fit(head, slices, epochs=6, patience=0, learning_rate=1e-9).history) == 6


def test_plateau_lowers_the_rate(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    # A rate so small that the loss does not fall by the schedule's threshold.
    result = fit(
        head, slices, epochs=16, learning_rate=1e-6, lr_patience=2, lr_factor=0.5, patience=0
    )
    rates = [epoch.learning_rate for epoch in result.history]
    assert rates[: PLATEAU_FROM + 3] == [1e-6] * (PLATEAU_FROM + 3)
    assert rates[-1] == 0.5e-6


def test_validation_needs_foreground(easy_slices: EasySlices) -> None:
    """Without any, no epoch has a Dice, and none could be called the best."""
    head, slices = easy_slices("linear")
    empty = [replace(one, labels=one.labels * np.uint8(0)) for one in slices.plain]
    where = {"preprocess": PreprocessSpec(), "image_size": (48, 48)}
    with pytest.raises(UsageError, match=r"got 8 for training, 8 for validation; .* foreground"):
        fit_head(head, slices, empty, **where)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="got 0 for training, 8 for validation"):
        fit_head(head, EmbeddedSlices(()), slices.plain, **where)  # type: ignore[arg-type]


def test_best_state_is_kept_though_training_goes_on(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    after: list[dict[str, torch.Tensor]] = []

    def spoil(epoch: Epoch) -> None:
        after.append(copy.deepcopy(head.state_dict()))
        if epoch.number == 5:
            with torch.no_grad():  # classes change places, and one epoch cannot undo that
                for weight in last_layer(head).parameters():
                    weight.copy_(weight.roll(1, 0))

    result = fit(head, slices, epochs=6, learning_rate=0.2, report=spoil)
    assert result.best.dice > result.history[-1].dice
    same = [equal(result.state, state) for state in after]
    assert [number for number, one in enumerate(same, start=1) if one] == [result.best.number]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["autosam", "linear"])
def test_resumed_fit_ends_as_an_undisturbed_one(
    easy_slices: EasySlices, tmp_path: Path, kind: HeadKind
) -> None:
    head, slices = easy_slices(kind)
    views = EmbeddedSlices(tuple((one, one) for one in slices.plain))
    whole = fit(head, views, epochs=14, lr_patience=1)

    def save_and_die(fit_: Fit, ended: bool) -> None:
        journal.save(fit_, ended)
        if len(fit_.history) == 11:
            raise KilledError

    head, _ = easy_slices(kind)
    journal = Journal(tmp_path / "fit.pt", {"data": "x"}, every_s=0)
    with pytest.raises(KilledError, match=r"^$"):
        fit(head, views, epochs=14, lr_patience=1, save=save_and_die)
    head, _ = easy_slices(kind)
    later = Journal(tmp_path / "fit.pt", {"data": "x"})
    resumed = fit(head, views, epochs=14, lr_patience=1, resume=later.load)
    assert equal(whole.state, resumed.state)
    assert [replace(e, seconds=0) for e in whole.history] == [
        replace(e, seconds=0) for e in resumed.history
    ]
    later.discard()
    assert list(tmp_path.iterdir()) == []


def test_resuming_another_fit_is_refused(easy_slices: EasySlices, tmp_path: Path) -> None:
    head, slices = easy_slices("linear")
    journal = Journal(tmp_path / "fit.pt", {"data": "x", "recipe": "a"}, every_s=0)
    fit(head, slices, epochs=1, save=journal.save)
    other = Journal(tmp_path / "fit.pt", {"data": "y", "recipe": "a"})
    with pytest.raises(UsageError, match=r"is of another training; got another data; expected"):
        fit(head, slices, resume=other.load)
    (tmp_path / "fit.pt").write_bytes((tmp_path / "fit.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"fit\.pt' cannot be read; .*--overwrite"):
        fit(head, slices, resume=journal.load)


def test_journal_is_not_written_more_often_than_asked(
    easy_slices: EasySlices, tmp_path: Path
) -> None:
    head, slices = easy_slices("linear")
    journal = Journal(tmp_path / "fit.pt", {}, every_s=1000)
    written: list[int] = []
    journal.write = lambda fit_: written.append(len(fit_.history))  # type: ignore[method-assign]
    fit(head, slices, epochs=4, save=journal.save)
    assert written == [4]  # at the end alone


def test_steady_takes_its_steps_whatever_the_slices() -> None:
    for slices in (1, 7, 8, 40, 439):
        config = steady("linear", slices, steps=1200)
        assert config.epochs <= 25
        assert 1200 <= config.steps_of(slices) <= 1400
    assert steady("autosam", 439).steps_of(439) == 4 * 110
    assert steady("linear", 40, steps=100, batch=8).steps_of(40) == 100


def test_cosine_falls_from_the_highest_rate_to_nearly_nothing(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    rates = [
        epoch.learning_rate for epoch in fit(head, slices, epochs=20, schedule="cosine").history
    ]
    top = rates.index(max(rates))
    assert 0 < top < 10  # it rises first
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 2e-3 < rates[top] <= 3e-3
    assert rates[-1] < 1e-4


def test_the_average_is_kept_and_trails_the_weights(easy_slices: EasySlices) -> None:
    head, slices = easy_slices("linear")
    start = copy.deepcopy(head.state_dict())
    last = fit(head, slices, epochs=1, average=0.9).state
    name = "mask_decoder.final.0.weight"
    moved, kept = head.state_dict()[name] - start[name], last[name] - start[name]
    assert 0 < float(kept.norm()) < float(moved.norm())


def test_a_fit_with_an_average_goes_on_where_it_was(
    easy_slices: EasySlices, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"schedule": "cosine", "average": 0.9}
    head, slices = easy_slices("linear")
    whole = fit(head, slices, epochs=6, **fields).state
    journal = Journal(tmp_path / "fit.pt", {}, every_s=0)

    class KilledError(Exception):
        pass

    def save(running: Any, ended: bool) -> None:
        journal.save(running, ended)
        if len(running.history) == 3:
            raise KilledError

    head, _ = easy_slices("linear")
    with pytest.raises(KilledError, match=""):
        fit(head, slices, epochs=6, save=save, **fields)
    head, _ = easy_slices("linear")
    assert equal(fit(head, slices, epochs=6, resume=journal.load, **fields).state, whole)
