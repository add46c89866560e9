"""The report of a study: JSON, Markdown and plots, all from one result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from autosam_deploy.benchmarks.efficiency.plan import count_of
from autosam_deploy.benchmarks.efficiency.plot import (
    MOST_CLASSES,
    write_class_plot,
    write_dice_plot,
)
from autosam_deploy.benchmarks.efficiency.result import failures
from autosam_deploy.benchmarks.efficiency.rows import Row, listed_sizes, row_names
from autosam_deploy.benchmarks.efficiency.store import (
    CLASSES_PLOT,
    DICE_PLOT,
    REPORT_FILE,
    RESULT_FILE,
)
from autosam_deploy.benchmarks.efficiency.tables import (
    dice_table,
    distance_table,
    seconds_table,
    size_table,
)
from autosam_deploy.files import atomic_file, write_json
from autosam_deploy.models.image_size import show_image_size

Result = Mapping[str, Any]


def write_report(folder: Path, result: Result) -> None:
    """Write `label-efficiency.json`, `dice.png`, `classes.png` and `report.md`.

    One foreground class needs no panels of its own, and very many have no room for them: there is
    no `classes.png` then.

    Raises:
        OutputError: a file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    write_json(folder / RESULT_FILE, result)
    write_dice_plot(folder / DICE_PLOT, result)
    if has_class_plot(result):
        write_class_plot(folder / CLASSES_PLOT, result)
    else:
        (folder / CLASSES_PLOT).unlink(missing_ok=True)  # of the same study before it was resumed
    with atomic_file(folder / REPORT_FILE) as temporary:
        temporary.write_text(markdown(result), "utf-8")


def has_class_plot(result: Result) -> bool:
    """Tell whether panels by class say more than the mean, and are readable."""
    return 2 <= len(result["data"]["classes"]) - 1 <= MOST_CLASSES


def show(console: Console, result: Result) -> None:
    """Print the tables, what failed, and the warning of a random encoder."""
    tables = dice_table(result), size_table(result), distance_table(result), seconds_table(result)
    for table in filter(None, tables):
        console.print(Text(table.title, "bold"))
        console.print(table.rich())
    for line in _failures(result):
        console.print(Text(f"failed: {line}", "red"), soft_wrap=True)
    if result["warning"]:
        console.print(Text(result["warning"], "bold yellow"), soft_wrap=True)


def markdown(result: Result) -> str:
    """Return the whole report as Markdown."""
    return "\n\n".join(_sections(result)) + "\n"


def _sections(result: Result) -> Iterator[str]:
    data, seeds = result["data"], result["recipe"]["seeds"]
    yield f"# Label efficiency: {data['name']}"
    if result["warning"]:
        yield f"> **{result['warning']}**"
    yield (
        f"How good each method is on {count_of(len(data['test']), 'test volume')} after learning "
        f"from N labelled volumes. {_validation(result)} "
        f"Mean{' ± standard deviation' if seeds > 1 else ''} over {count_of(seeds, 'seed')}."
    )
    yield "## Dice"
    yield dice_table(result).markdown()
    yield f"![Dice against the number of labelled volumes]({DICE_PLOT})"
    if has_class_plot(result):
        yield f"![The same for every class]({CLASSES_PLOT})"
    if (sizes := size_table(result)) is not None:
        yield f"## {sizes.title}"
        yield sizes.markdown()
        yield _bullets(_size_notes(result))
    yield "## HD95, mm"
    yield distance_table(result).markdown()
    yield "## Training, seconds a cell"
    yield seconds_table(result).markdown()
    yield _bullets(_times(result))
    if failed := _failures(result):
        yield "## Failures"
        yield _bullets(failed)
    yield "## What is compared"
    yield _bullets(_notes(result))
    yield "## Methods"
    yield _bullets(_methods(result))
    yield "## Data"
    yield _bullets(_data(result))
    yield "## Recipe and machine"
    yield _bullets(_recipe(result))
    yield f"Command:\n\n    {result['command']}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _validation(result: Result) -> str:
    count = len(result["data"]["validation"])
    if not count:
        return "No other volume is labelled: the N volumes choose the epoch themselves."
    return (
        f"{count_of(count, 'more volume')} {'is' if count == 1 else 'are'} labelled too and "
        f"choose{'s' if count == 1 else ''} the epoch, so that N stands for N + {count} labelled "
        "volumes."
    )


def _times(result: Result) -> list[str]:
    lines = [
        f"Embeddings of the frozen encoder at {show_image_size(one['image_size'])}, once for all "
        f"heads: {one['embeddings']} of them, {one['bytes'] / 1e6:.1f} MB; {one['computed']} "
        f"computed in {one['seconds']:.1f} s, the rest was in the cache."
        for one in result["embeddings"]
    ]
    lines += [
        f"Pretraining of the U-Net's encoder, seed {one['seed']}: {one['seconds']:.1f} s for "
        f"{one['epochs']} epochs on {one['slices']} slices of {one['volumes']} volumes without "
        f"labels; loss {one['losses'][0]:.3f} to {one['losses'][-1]:.3f}."
        for one in result["pretraining"]
    ]
    apart = "This is not part of the seconds above. " if lines else ""
    return [*lines, f"{apart}The seconds include validation in every epoch, not scoring."]


def _size_notes(result: Result) -> list[str]:
    """Say how the differences are taken, and what each size costs the encoder."""
    macs = sorted(result["encoder"]["macs"].items(), key=lambda item: -item[1])
    costs = ", ".join(
        f"{count / 1e9:.3g} billion multiply-adds a slice at {size}"
        + (f" ({macs[0][1] / count:.1f} times less)" if count < macs[0][1] else "")
        for size, count in macs
    )
    return [
        "Mean ± standard deviation, over seeds, of the difference within a seed: same volumes, "
        "first weights and order at both sizes.",
        f"Work of the encoder, counted from its shapes: {costs}.",
    ]


def _notes(result: Result) -> list[str]:
    recipe, seeds = result["recipe"], result["recipe"]["seeds"]
    notes = [
        "Dice: mean over the test volumes of the mean over the classes of a volume. HD95: the same "
        "over the structures that were found; a structure that was missed has Dice 0 and no "
        "distance, and how many were missed, of all in all seeds, stands beside the mean.",
        "Every seed draws its volumes from the pool; its draws are nested, and all methods learn "
        "from the same ones. A seed also decides first weights, order and augmentation.",
    ]
    if seeds > 1:
        notes.append(
            f"± is the standard deviation (n - 1) over {seeds} seeds, so over other volumes and "
            "other weights, not over test volumes. Seeds share the test volumes, and draws overlap "
            "when N nears the pool: the spread is then too small."
        )
    notes += [
        f"Steps: at least {recipe['steps']}, in whole epochs, the same for all methods in a cell: "
        f"{_steps(result)}. The best epoch by validation Dice counts; with larger N there are "
        "fewer epochs to choose from.",
        "The best mean of a column is bold, where no seed failed and, for HD95, nothing was "
        "missed.",
    ]
    if recipe["views"]:
        notes.append(
            f"Heads learn from every slice and {count_of(recipe['views'], 'view')} (augmented "
            "copies) of it, made once and the same for all seeds; U-Nets see a new view in every "
            "epoch."
        )
    else:
        notes.append("No method augments its slices; contrastive pretraining always does.")
    return notes


def _steps(result: Result) -> str:
    ranges: dict[int, list[int]] = {}
    for one in result["summary"]:
        ranges.setdefault(one["volumes"], []).extend(one["steps"])
    shown = []
    for volumes, steps in sorted(ranges.items()):
        if steps:
            low, high = min(steps), max(steps)
            shown.append(f"N = {volumes}: {low}" + (f" to {high}" if high > low else ""))
    return ", ".join(shown) or "none was trained"


def _methods(result: Result) -> list[str]:
    sizes = {one["method"]: one["parameters"] for one in result["summary"] if one["parameters"]}
    lines = []
    for method, what in result["methods"].items():
        size = f" ({sizes[method]:,} trained weights)" if method in sizes else ""
        lines.append(f"`{method}`: {what}{size}")
    return lines


def _data(result: Result) -> list[str]:
    data = result["data"]
    lines = [f"Classes: {', '.join(data['classes'])}."]
    for role, what in (
        ("pool", "Pool to draw from"),
        ("validation", "Validation"),
        ("test", "Test"),
    ):
        names = data[role]
        slices = sum(data["slices"][name] for name in names)
        listed = ", ".join(f"`{name}`" for name in names) or "none"
        lines.append(f"{what} ({count_of(len(names), 'volume')}, {slices} slices): {listed}.")
    for seed, names in data["draws"].items():
        lines.append(f"Drawn by seed {seed}, in order: {', '.join(f'`{n}`' for n in names)}.")
    return lines


def _recipe(result: Result) -> list[str]:
    recipe, machine, encoder = result["recipe"], result["machine"], result["encoder"]
    lines = [
        f"Adam, learning rate {recipe['learning_rate']:g}, batches of {recipe['batch']}, "
        "cross-entropy plus soft Dice without background, rate lowered on a plateau of the loss."
    ]
    if encoder is not None:
        random = " Its weights are random." if encoder["random"] else ""
        lines.append(
            f"Encoder: {encoder['name']} at {listed_sizes(result)}, positional tables made for "
            f"{show_image_size(encoder['image_size'])}; `{encoder['file']}`, weights "
            f"{encoder['sha256'][:16]}.{random}"
        )
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items())
    return [
        *lines,
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}; {count_of(machine['threads'], 'thread')}, load before: "
        f"{machine['load_before']}.",
        f"{versions}.",
    ]


def _failures(result: Result) -> list[str]:
    """Return a line for every cell that could not be trained."""
    names = row_names(result["cells"])
    return [
        f"{names[Row.of(cell)]}, {count_of(cell['volumes'], 'volume')}, seed {cell['seed']}: "
        f"{cell['failed']}"
        for cell in failures(result)
    ]
