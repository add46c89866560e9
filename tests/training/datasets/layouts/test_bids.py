from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autosam_deploy.errors import VolumeError
from autosam_deploy.training.datasets.loading import load_dataset
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.patients import patients_of


def touch(root: Path, *names: str) -> Path:
    """Make empty files: pairing reads no voxel."""
    for name in names:
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def label(name: str, pipeline: str = "manual") -> str:
    subject = name.split("_")[0]
    session = f"/{name.split('_')[1]}" if "_ses-" in name else ""
    return f"derivatives/{pipeline}/{subject}{session}/anat/{name}"


def test_labels_of_one_pipeline(tmp_path: Path, write_pair: Callable[..., None]) -> None:
    for number, subject in enumerate(("sub-01", "sub-ms2"), start=1):
        image = f"{subject}/anat/{subject}_T1w"
        write_pair(image, label(f"{subject}_dseg"), 10 * number)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x"}')
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.names) == ("bids", ("sub-01_T1w", "sub-ms2_T1w"))
    assert found.summary == "layout: BIDS, 2 patients, 2 volumes"
    assert found.class_names is None
    volumes = load_dataset(found).volumes
    assert volumes[1].slices[0, 0].tolist() == [20, 21, 22, 23, 24]
    assert volumes[1].labels[0, 0].tolist() == [0, 1, 2, 3, 0]


def test_sessions_are_of_one_patient(tmp_path: Path) -> None:
    names = [f"sub-0{n}_ses-{s}" for n in (1, 2) for s in "12"]
    for name in names:
        subject, session = name.split("_")
        touch(tmp_path, f"{subject}/{session}/anat/{name}_T2w", label(f"{name}_T2w_seg"))
    assert patients_of(find_dataset(data=tmp_path)) == {
        "sub-01": ("sub-01_ses-1_T2w", "sub-01_ses-2_T2w"),
        "sub-02": ("sub-02_ses-1_T2w", "sub-02_ses-2_T2w"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_dseg",
        "sub-01_T1w_seg",
        "sub-01_space-T1w_dseg",
        "sub-01_space-orig_desc-manual_dseg",
        "sub-01_T1w_label-hippocampus",
        "sub-01_T1w_label-lesion_mask",
        "sub-01_T1w_label-GM_seg",
        "sub-01_T1w-label",
        "sub-01_T1w_seg-manual",
    ],
)
def test_names_of_labels(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w", label(name))
    (case,) = find_dataset(data=tmp_path).cases
    assert case.label == tmp_path / f"{label(name)}.nii.gz"


def test_other_images_are_left_out_and_counted(tmp_path: Path) -> None:
    for subject in ("sub-01", "sub-02"):
        touch(
            tmp_path,
            *(f"{subject}/anat/{subject}_{suffix}" for suffix in ("T1w", "T2w")),
            f"{subject}/func/{subject}_task-rest_bold",
            label(f"{subject}_space-T1w_dseg"),
            label(f"{subject}_label-GM_probseg"),
            label(f"{subject}_desc-brain_mask"),
        )
    found = find_dataset(data=tmp_path)
    assert found.names == ("sub-01_T1w", "sub-02_T1w")
    assert found.notes == ("left out: images of a kind that has no labels, 2 T2w, 2 bold",)


def test_every_image_with_its_own_labels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-01/anat/sub-01_{one}" for one in ("T1w", "run-1_T2w", "run-2_T2w")))
    touch(tmp_path, *(label(f"sub-01_{one}_seg") for one in ("T1w", "run-1_T2w", "run-2_T2w")))
    found = find_dataset(data=tmp_path)
    assert [(case.name, case.label.name) for case in found.cases] == [
        ("sub-01_T1w", "sub-01_T1w_seg.nii.gz"),
        ("sub-01_run-1_T2w", "sub-01_run-1_T2w_seg.nii.gz"),
        ("sub-01_run-2_T2w", "sub-01_run-2_T2w_seg.nii.gz"),
    ]


def test_several_pipelines_want_a_choice(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w")
    touch(tmp_path, *(label("sub-01_dseg", pipeline) for pipeline in ("freesurfer", "manual")))
    with pytest.raises(
        VolumeError,
        match=r"labels of several pipelines; got 'freesurfer', 'manual'; expected labels of one; "
        r"choose one with --images .* --labels .*derivatives/freesurfer",
    ):
        find_dataset(data=tmp_path)
    found = find_dataset(tmp_path, tmp_path / "derivatives" / "manual")
    assert (found.layout, found.names) == ("bids", ("sub-01_T1w",))
    assert "derivatives/manual/" in found.cases[0].label.as_posix()


def test_labels_that_may_be_of_several_images(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w", label("sub-01_dseg"))
    with pytest.raises(
        VolumeError, match="may belong to several images; got 'sub-01_T1w', 'sub-01_T2w'; expected"
    ):
        find_dataset(data=tmp_path)


def test_several_labels_of_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w")
    touch(tmp_path, *(label(f"sub-01_T1w_label-{one}_seg") for one in ("GM", "WM")))
    with pytest.raises(
        VolumeError, match=r"'sub-01_T1w' has several label files; got '.*GM_seg', '.*WM_seg'"
    ):
        find_dataset(data=tmp_path)


def test_unpaired(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-0{n}/anat/sub-0{n}_T1w" for n in (1, 2)))
    touch(tmp_path, label("sub-01_dseg"), label("sub-03_dseg"))
    with pytest.raises(
        VolumeError, match="got 'sub-02_T1w' without labels, and 'sub-03_dseg' without an image"
    ):
        find_dataset(data=tmp_path)


def test_derivatives_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w", label("sub-01_desc-preproc_T1w"))
    with pytest.raises(
        VolumeError, match=r"derivatives' holds no labels; got 'sub-01_desc-.* expected names that"
    ):
        find_dataset(data=tmp_path)
    with pytest.raises(
        VolumeError, match=r"manual' holds no labels; got 'sub-01_desc-preproc_T1w'"
    ):
        find_dataset(tmp_path, tmp_path / "derivatives" / "manual")
