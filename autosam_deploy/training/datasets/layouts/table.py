"""The layouts that `--data` knows. A new one is a function that finds it, and a row here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from autosam_deploy.training.datasets.dataset import Dataset
from autosam_deploy.training.datasets.layouts import acdc, bids, folders, mnms, suffixes
from autosam_deploy.training.datasets.layouts.folder import Folder


class Layout(NamedTuple):
    """One row.

    looks: what its folders look like, for messages. find: returns the data set, None where the
    folder is of another layout, and raises where it is of this one but cannot be used.
    """

    looks: str
    find: Callable[[Folder], Dataset | None]


#: From the most particular to the most general: the first that recognises a folder counts.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        ", ".join(f"{first}/ and {second}/" for first, second in folders.SUBFOLDERS), folders.find
    ),
    Layout("ACDC (patient001/patient001_frame01_gt.nii.gz)", acdc.find),
    Layout("M&Ms (A0S9V9/A0S9V9_sa_gt.nii.gz)", mnms.find),
    Layout("M&Ms-2 (001/001_SA_ED_gt.nii.gz)", mnms.find_second),
    Layout("BIDS with derivatives/ (sub-01_dseg.nii.gz)", bids.find),
    Layout("pairs such as x.nii.gz and x_seg.nii.gz", suffixes.find),
)
