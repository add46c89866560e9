from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.training.datasets.choosing import split_dataset
from autosam_deploy.training.datasets.loading import load_dataset
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.patients import patients_of


def touch(root: Path, *names: str) -> Path:
    """Make empty files: pairing reads no voxel."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    "ending", ["_seg", "_label", "_labels", "_gt", "_mask", "-label", "-seg", "_SEG"]
)
def test_endings(tmp_path: Path, ending: str) -> None:
    touch(tmp_path, "b.nii.gz", f"b{ending}.nii.gz", "a.nrrd", f"a{ending}.nii", "._a.nii.gz")
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.names) == ("suffixes", ("a", "b"))
    assert found.cases[0].image == tmp_path / "a.nrrd"
    assert found.cases[0].label == tmp_path / f"a{ending}.nii"
    assert found.summary == "layout: pairs by suffix, 2 volumes"


def test_values(tmp_path: Path, write_pair: Callable[..., None]) -> None:
    write_pair("x", "x_seg", 3)
    (volume,) = load_dataset(find_dataset(data=tmp_path)).volumes
    assert volume.slices[2, 1].tolist() == [3, 4, 5, 6, 7]
    assert volume.labels[0, 0].tolist() == [0, 1, 2, 3, 0]


def test_a_folder_a_patient(tmp_path: Path) -> None:
    for patient in ("anna", "bert"):
        touch(tmp_path, *(f"{patient}/{name}.nii.gz" for name in ("pre", "pre_gt", "x", "x_gt")))
    found = find_dataset(data=tmp_path)
    assert patients_of(found) == {
        "anna": ("anna_pre", "anna_x"),
        "bert": ("bert_pre", "bert_x"),
    }
    assert found.summary == "layout: pairs by suffix, 2 patients, 4 volumes"


def test_names_that_begin_with_the_folder_or_the_patient(tmp_path: Path) -> None:
    touch(tmp_path, "p1/p1_ED.nii", "p1/p1_ED_seg.nii", "p2/p2_ED.nii", "p2/p2_ED_seg.nii")
    touch(tmp_path, *(f"site3/sub-{n}_T1w{end}.nii" for n in (1, 2) for end in ("", "_seg")))
    assert patients_of(find_dataset(data=tmp_path)) == {
        "p1": ("p1_ED",),
        "p2": ("p2_ED",),
        "sub-1": ("site3_sub-1_T1w",),
        "sub-2": ("site3_sub-2_T1w",),
    }


def test_one_folder_is_no_patient(tmp_path: Path) -> None:
    touch(tmp_path, *(f"all/v{n}{end}.nii" for n in range(3) for end in ("", "_seg")))
    found = find_dataset(data=tmp_path)
    assert found.names == ("v0", "v1", "v2")
    assert [case.patient_id for case in found.cases] == [None] * 3


def test_folders_that_part_the_set(tmp_path: Path) -> None:
    for part, names in {"train": "abcde", "test": "xy"}.items():
        touch(tmp_path, *(f"{part}/{name}{end}.nii" for name in names for end in ("", "_mask")))
    found = find_dataset(data=tmp_path)
    assert found.names == tuple("abcdexy")
    chosen = split_dataset(found)
    assert (chosen.train, chosen.validation, chosen.test) == (tuple("abcd"), ("e",), ("x", "y"))


def test_deeper_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "a_seg.nii", "x/y/b.nii", "x/y/b_seg.nii")
    found = find_dataset(data=tmp_path)
    assert (found.names, found.notes) == (("a",), ("left out: 2 files in deeper folders",))


def test_refusals(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "b_seg.nii")
    with pytest.raises(
        VolumeError,
        match=r"images and labels .* got 'a' without labels, and 'b' without an image; expected "
        r"x_seg \(or _label,",
    ):
        find_dataset(data=tmp_path)
    touch(tmp_path, "a_seg.nii", "b.nii")
    with pytest.raises(UsageError, match="no such channel"):
        find_dataset(data=tmp_path, channel=1)
    touch(tmp_path, "a_mask.nii")
    with pytest.raises(VolumeError, match=r"'a' has several label files; got '.*a_mask\.nii', '"):
        find_dataset(data=tmp_path)
    (tmp_path / "a_mask.nii").unlink()
    touch(tmp_path, "a.nrrd")
    with pytest.raises(VolumeError, match=r"two images are named 'a'; got '.*a\.nii', '.*a\.nrrd'"):
        find_dataset(data=tmp_path)
