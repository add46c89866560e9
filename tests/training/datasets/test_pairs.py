from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autosam_deploy.errors import SpecError, UsageError, VolumeError
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.volumes.phantom import PHANTOM_CLASSES, write_phantom_set

NNUNET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1},
    "file_ending": ".nii.gz",
}
DECATHLON = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "liver"}}


def touch(root: Path, *names: str) -> Path:
    """Make empty files: pairing reads no voxel."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def describe(root: Path, content: dict[str, Any], **changes: Any) -> None:
    (root / "dataset.json").write_text(json.dumps({**content, **changes}), "utf-8")


def test_folders_with_equal_names(tmp_path: Path) -> None:
    touch(tmp_path, "a/two.nii.gz", "a/one.nrrd", "a/three.mha", "a/notes.txt")
    touch(tmp_path, "b/one.nii", "b/two.nii.gz", "b/three.mhd", "b/.two.nii.gz")
    found = find_dataset(tmp_path / "a", tmp_path / "b")
    assert (found.layout, found.class_names, found.dataset_json) == ("folders", None, None)
    assert found.names == ("one", "three", "two")
    assert found.cases[0].image == tmp_path / "a" / "one.nrrd"
    assert found.cases[0].label == tmp_path / "b" / "one.nii"


def test_unpaired_names_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/c{n}.nii.gz" for n in range(7)))
    touch(tmp_path, "labels/c0.nii.gz", "labels/x.nii.gz")
    with pytest.raises(
        VolumeError,
        match=r"do not pair up; got 'c1', 'c2', 'c3' and 3 more without labels, "
        r"and 'x' without an image; expected one label file",
    ):
        find_dataset(data=tmp_path)


def test_nnunet_phantom(tmp_path: Path) -> None:
    write_phantom_set(tmp_path, train=2, test=1)
    for found in (
        find_dataset(data=tmp_path),
        find_dataset(tmp_path / "imagesTr", tmp_path / "labelsTr"),
    ):
        assert (found.layout, found.names) == ("nnunet", ("heart_000", "heart_001"))
        assert found.class_names == PHANTOM_CLASSES
        assert found.dataset_json == tmp_path / "dataset.json"
        assert found.cases[0].image.name == "heart_000_0000.nii.gz"
    assert find_dataset(tmp_path / "imagesTs", tmp_path / "labelsTs").names == ("heart_002",)


def test_dataset_json_is_found_from_within(tmp_path: Path, monkeypatch: Any) -> None:
    write_phantom_set(tmp_path, train=1, test=0)
    monkeypatch.chdir(tmp_path / "imagesTr")
    assert find_dataset(Path(), Path("../labelsTr")).layout == "nnunet"


def test_dataset_json_of_another_folder_does_not_count(tmp_path: Path) -> None:
    touch(tmp_path, "x/imagesTr/a.nii.gz", "y/labelsTr/a.nii.gz")
    describe(tmp_path / "x", NNUNET)
    found = find_dataset(tmp_path / "x" / "imagesTr", tmp_path / "y" / "labelsTr")
    assert (found.layout, found.class_names) == ("folders", None)


def test_files_of_another_ending_are_not_the_sets(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nrrd")
    describe(tmp_path, NNUNET)
    assert find_dataset(data=tmp_path).names == ("a",)
    describe(tmp_path, NNUNET, file_ending=".mha")
    with pytest.raises(VolumeError, match=r"no volumes in .*labelsTr'; expected \.mha \(its data"):
        find_dataset(data=tmp_path)
    describe(tmp_path, NNUNET, file_ending=".tif")
    with pytest.raises(SpecError, match=r"not read; got file_ending '\.tif'; expected \.nii\.gz"):
        find_dataset(data=tmp_path)


def test_decathlon(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz", "imagesTr/._x.nii.gz")
    describe(tmp_path, DECATHLON)
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.names) == ("decathlon", ("liver_1",))
    assert found.class_names == ("background", "liver")


def test_nnunet_v1(tmp_path: Path) -> None:
    """Its dataset.json lists the files without the channel that their names have."""
    names = ("la_003", "la_004")
    for name in names:
        touch(tmp_path, f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz")
        touch(tmp_path, f"imagesTr/._{name}_0000.nii.gz", f"labelsTr/._{name}.nii.gz")
    touch(tmp_path, "imagesTs/la_001_0000.nii.gz", "._dataset.json", "imagesTr/.DS_Store")
    describe(
        tmp_path,
        DECATHLON,
        name="Heart",
        tensorImageSize="4D",
        numTraining=2,
        numTest=1,
        training=[
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
        test=["./imagesTs/la_001.nii.gz"],
    )
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.names) == ("decathlon", names)
    assert found.class_names == ("background", "liver")
    assert found.cases[0].image.name == "la_003_0000.nii.gz"
    assert found.summary == "layout: Decathlon or nnU-Net v1, 2 volumes"
    assert found.root == tmp_path


def test_png_folders_named_as_in_bids(tmp_path: Path) -> None:
    for kind in ("imgs", "annotations"):
        touch(tmp_path, f"{kind}/sub-01_ED/0.png", f"{kind}/sub-01/0.png")
    found = find_dataset(tmp_path / "imgs", tmp_path / "annotations")
    assert (found.layout, found.names) == ("png", ("sub-01", "sub-01_ED"))
    assert [case.patient for case in found.cases] == ["sub-01", "sub-01"]
    assert found.summary == "layout: folders of PNG slices, 1 patient, 2 volumes"


def test_images_and_labels_come_before_other_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "b.nii.gz", "b_seg.nii.gz")
    assert find_dataset(data=tmp_path).names == ("a",)


def test_known_layouts_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "x/y.nii.gz")
    with pytest.raises(
        UsageError,
        match=r"got 'x'; expected one of imagesTr/ and labelsTr/, .*, ACDC \(patient001/.*, M&Ms "
        r"\(.*, M&Ms-2 \(.*, BIDS with derivatives/ .*, pairs such as x\.nii\.gz and x_seg\.nii",
    ):
        find_dataset(data=tmp_path)


@pytest.fixture
def two_channels(tmp_path: Path) -> Path:
    touch(tmp_path, *(f"imagesTr/{case}_000{n}.nii.gz" for case in "ab" for n in range(2)))
    touch(tmp_path, "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    describe(tmp_path, NNUNET, channel_names={"0": "T2", "1": "ADC"})
    return tmp_path


def test_several_channels_want_a_choice(two_channels: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"several channels; got 0 \(T2\), 1 \(ADC\); expected one grey .* --channel N",
    ):
        find_dataset(data=two_channels)
    found = find_dataset(data=two_channels, channel=1)
    assert [case.image.name for case in found.cases] == ["a_0001.nii.gz", "b_0001.nii.gz"]
    with pytest.raises(UsageError, match=r"no such channel .* got 2; expected 0 \(T2\), 1 \(ADC\)"):
        find_dataset(data=two_channels, channel=2)


def test_several_channels_without_dataset_json(two_channels: Path) -> None:
    (two_channels / "dataset.json").unlink()
    with pytest.raises(UsageError, match=r"several channels; got 0, 1; expected"):
        find_dataset(data=two_channels)
    assert find_dataset(data=two_channels, channel=0).layout == "folders"


def test_channel_missing_from_a_case(two_channels: Path) -> None:
    (two_channels / "imagesTr" / "b_0001.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"not every case .* channel 1; got 'b' without it"):
        find_dataset(data=two_channels, channel=1)
    (two_channels / "imagesTr" / "a_0001.nii.gz").unlink()
    # The files left are of one channel, but dataset.json says that the set has two.
    with pytest.raises(UsageError, match="several channels"):
        find_dataset(data=two_channels)
    assert find_dataset(data=two_channels, channel=0).names == ("a", "b")


def test_unpaired_case_among_channels(two_channels: Path) -> None:
    (two_channels / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(VolumeError, match="got 'b' without labels"):
        find_dataset(data=two_channels, channel=0)


def test_channels_inside_one_file(tmp_path: Path) -> None:
    """The decathlon stores several modalities as one 4-D file."""
    touch(tmp_path, "imagesTr/prostate_00.nii.gz", "labelsTr/prostate_00.nii.gz")
    describe(tmp_path, DECATHLON, modality={"0": "T2", "1": "ADC"})
    for channel in (None, 0):
        with pytest.raises(
            UsageError, match=r"several channels each; got 0 \(T2\), 1 \(ADC\).* split them into"
        ):
            find_dataset(data=tmp_path, channel=channel)


def test_names_may_end_in_four_digits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/patient_000{n}.nii.gz" for n in range(3)))
    touch(tmp_path, *(f"labels/patient_000{n}.nii.gz" for n in range(3)))
    assert find_dataset(data=tmp_path).names == tuple(f"patient_000{n}" for n in range(3))
    (tmp_path / "labels" / "patient_0002.nii.gz").unlink()
    with pytest.raises(VolumeError, match="got 'patient_0002' without labels"):
        find_dataset(data=tmp_path)


def test_equal_names_pair_whatever_they_look_like(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        touch(tmp_path, f"{kind}/scan_0001.nii.gz", f"{kind}/scan_0001_0002.nii.gz")
    assert find_dataset(data=tmp_path).names == ("scan_0001", "scan_0001_0002")


def test_channel_of_a_set_with_one(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    assert find_dataset(data=tmp_path, channel=0).names == ("a",)
    with pytest.raises(UsageError, match=r"no such channel .* got 1; expected 0"):
        find_dataset(data=tmp_path, channel=1)


def test_folders_of_png_slices(tmp_path: Path) -> None:
    for kind in ("imgs", "annotations"):
        touch(tmp_path, f"{kind}/p1_frame01/frame01_000.png", f"{kind}/p2/x_0.PNG")
        (tmp_path / kind / "empty").mkdir()
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.names) == ("png", ("p1_frame01", "p2"))
    assert found.cases[1].image == tmp_path / "imgs" / "p2"
    describe(tmp_path, NNUNET, file_ending=".png")
    assert find_dataset(data=tmp_path).class_names == ("background", "liver")
    with pytest.raises(UsageError, match="no such channel"):
        find_dataset(data=tmp_path, channel=2)
    shutil.rmtree(tmp_path / "imgs" / "p2")
    with pytest.raises(VolumeError, match="'p2' without an image; expected a folder of PNG slices"):
        find_dataset(data=tmp_path)


def test_png_files_outside_folders(tmp_path: Path) -> None:
    touch(tmp_path, "imgs/a_0.png", "annotations/a_0.png")
    with pytest.raises(VolumeError, match="holds PNG slices itself; expected a folder of them"):
        find_dataset(data=tmp_path)


def test_pictures_beside_volumes_are_not_slices(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "labels/a.png", "labels/previews/a.png")
    assert find_dataset(data=tmp_path).layout == "folders"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "a labelled data set; got nothing; expected --images and --labels, or --data"),
        (("a", None, None), "got --images; expected"),
        (("a", "b", "."), "got --images, --labels, --data; expected"),
        (("a", "none", None), "--labels: no folder '.*none'; check the path"),
        (("a", "a", None), "images and labels are one folder"),
        ((None, None, "none"), "no labelled data set in '.*none'; got no folder there"),
        ((None, None, "a"), r"got 'x\.nii\.gz'; expected one of imagesTr/ and labelsTr/, images/"),
        ((None, None, "both"), "several sets in '.*both'; got 'imagesTr/' and 'images/'"),
    ],
)
def test_folders_that_do_not_make_a_set(
    tmp_path: Path, options: tuple[str | None, ...], message: str
) -> None:
    touch(tmp_path, "a/x.nii.gz", "b/x.nii.gz")
    for name in ("imagesTr", "labelsTr", "images", "labels"):
        touch(tmp_path, f"both/{name}/x.nii.gz")
    with pytest.raises(UsageError, match=message):
        find_dataset(*(None if name is None else tmp_path / name for name in options))


def test_selection_keeps_the_order_asked_for(tmp_path: Path) -> None:
    """Training takes the last volumes for validation."""
    touch(tmp_path, *(f"{kind}/{name}.nii" for kind in ("images", "labels") for name in "abc"))
    found = find_dataset(data=tmp_path)
    assert found.select(["c", "a"]).names == ("c", "a")
    with pytest.raises(UsageError, match="volumes to select; got 'z'; expected names of 'a', 'b'"):
        found.select(["a", "z"])
