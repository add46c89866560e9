from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autosam_deploy.errors import UsageError, VolumeError
from autosam_deploy.training.datasets.choosing import split_dataset
from autosam_deploy.training.datasets.layouts.mnms import CLASSES
from autosam_deploy.training.datasets.loading import load_dataset
from autosam_deploy.training.datasets.pairs import find_dataset

Write = Callable[..., Path]

HEADER = ",External code,VendorName,Vendor,Centre,ED,ES,Pathology\n"
TABLE = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"


@pytest.fixture
def cine(write: Write) -> Callable[..., None]:
    """Factory: a patient of M&Ms with five frames, of which some have labels."""

    def call(code: str, below: str, *, labelled: tuple[int, ...] = (0, 3)) -> None:
        frames = np.arange(5)[:, None, None, None] * 100 + np.arange(60).reshape(3, 4, 5)
        truth = np.zeros((5, 3, 4, 5), int)
        for frame in labelled:
            truth[frame, 1, 2] = [0, 1, 2, 3, frame % 4]
        write(f"{below}/{code}/{code}_sa.nii.gz", frames)
        if labelled:
            write(f"{below}/{code}/{code}_sa_gt.nii.gz", truth)

    return call


def table(root: Path, *rows: str) -> None:
    text = HEADER + "".join(f"{number},{row}\n" for number, row in enumerate(rows))
    (root / TABLE).write_text(text, "utf-8")


def test_labelled_frames_become_volumes(tmp_path: Path, cine: Callable[..., None]) -> None:
    cine("A0S9V9", "Training/Labeled")
    cine("B2F4K5", "Training/Labeled", labelled=(1, 4))
    cine("C1K2P5", "Training/Unlabeled", labelled=())
    cine("D3H9V5", "Validation")
    cine("E4H9V5", "Testing")
    table(
        tmp_path,
        "A0S9V9,Siemens,A,1,0,3,HCM",
        "B2F4K5,Philips,B,2,4,1,NOR",
        "D3H9V5,GE,C,4,0,3,NOR",
        "E4H9V5,GE,C,4,0,3,NOR",
    )
    found = find_dataset(data=tmp_path)
    assert found.layout == "mnms"
    assert found.class_names == CLASSES
    assert CLASSES[1:] == ("left_ventricle", "myocardium", "right_ventricle")
    assert found.names[:4] == ("A0S9V9_ED", "A0S9V9_ES", "B2F4K5_ED", "B2F4K5_ES")
    assert [case.frame for case in found.cases[:4]] == [0, 3, 4, 1]
    assert found.notes == ("left out: 1 patient in Unlabeled/",)
    assert found.summary == ("layout: M&Ms, 4 patients (1 HCM, 3 NOR), 8 volumes (4 ED, 4 ES)")
    chosen = split_dataset(found)
    assert chosen.validation == ("D3H9V5_ED", "D3H9V5_ES")
    assert chosen.test == ("E4H9V5_ED", "E4H9V5_ES")
    volumes = load_dataset(found, num_classes=4).volumes
    assert volumes[2].slices[1, 2].tolist() == [430, 431, 432, 433, 434]
    assert volumes[2].labels[1, 2].tolist() == [0, 1, 2, 3, 0]
    assert volumes[2].spacing_mm == (8.0, 1.25, 1.5)


def test_table_above_the_folder(tmp_path: Path, cine: Callable[..., None]) -> None:
    cine("A0S9V9", "Training/Labeled")
    table(tmp_path, "A0S9V9 ,Siemens,A,1,0, 3,HCM", "short,row")
    with (tmp_path / TABLE).open("ab") as stream:
        stream.write("9,B2F4K5,Philips,B,Málaga,4,1,NOR\n".encode("latin-1"))
    found = find_dataset(data=tmp_path / "Training" / "Labeled")
    assert found.names == ("A0S9V9_ED", "A0S9V9_ES")
    assert split_dataset(found).validation == ()


def test_tables_that_do_not_do(tmp_path: Path, cine: Callable[..., None]) -> None:
    cine("A0S9V9", "a/b/dataset")
    cine("B2F4K5", "a/b/dataset")
    root = tmp_path / "a" / "b" / "dataset"
    (root / "other.csv").write_text("code,ED\nA0S9V9,0\n", "utf-8")
    (root / "empty.csv").touch()
    (root / "folder.csv").mkdir()
    with pytest.raises(
        UsageError,
        match=r"no table says which frames .* have labels; expected a CSV file with columns "
        r"'External code', 'ED', 'ES', there or above; copy the challenge's",
    ):
        find_dataset(data=root)
    table(root, "A0S9V9,Siemens,A,1,0,3,HCM")
    with pytest.raises(UsageError, match="does not name all patients; got 'B2F4K5' without"):
        find_dataset(data=root)
    table(root, "A0S9V9,Siemens,A,1,0,,HCM", "B2F4K5,Philips,B,2,4,1,NOR")
    with pytest.raises(UsageError, match=r"no frame for ES of 'A0S9V9'; got ''; expected a number"):
        find_dataset(data=root)
    (root / "second.csv").write_text((root / TABLE).read_text("utf-8"), "utf-8")
    with pytest.raises(UsageError, match=r"several tables in .* got '211230_.*', 'second\.csv'"):
        find_dataset(data=root)


def test_frames_that_are_wrong(tmp_path: Path, cine: Callable[..., None]) -> None:
    cine("A0S9V9", "Training")
    table(tmp_path, "A0S9V9,Siemens,A,1,0,2,HCM")
    with pytest.raises(VolumeError, match=r"_sa_gt\.nii\.gz' \(frame 2\) holds no foreground"):
        load_dataset(find_dataset(data=tmp_path))
    table(tmp_path, "A0S9V9,Siemens,A,1,0,5,HCM")
    with pytest.raises(VolumeError, match=r"no such time point in .* got frame 5; expected 0\.\.4"):
        load_dataset(find_dataset(data=tmp_path))


def test_series_that_do_not_pair_up(tmp_path: Path, cine: Callable[..., None]) -> None:
    cine("A0S9V9", "Training/Labeled")
    cine("B2F4K5", "Training/Labeled", labelled=())
    with pytest.raises(VolumeError, match=r"series and labels .* got 'B2F4K5' without labels"):
        find_dataset(data=tmp_path)
    cine("A0S9V9", "Copy")
    with pytest.raises(VolumeError, match="holds patient 'A0S9V9' twice"):
        find_dataset(data=tmp_path)


def test_frames_cut_out_by_somebody_are_pairs(tmp_path: Path, write: Write) -> None:
    for name in ("a/a_sa", "a/a_sa_gt", "b/b_sa", "b/b_sa_gt"):
        write(f"{name}.nii.gz")
    found = find_dataset(data=tmp_path)
    assert (found.layout, found.names) == ("suffixes", ("a_sa", "b_sa"))
    assert [case.patient for case in found.cases] == ["a", "b"]


@pytest.fixture
def second(tmp_path: Path, write_pair: Callable[..., None], write: Write) -> Path:
    for number in (1, 2):
        for view in ("SA", "LA"):
            for phase in ("ED", "ES"):
                stem = f"dataset/{number:03d}/{number:03d}_{view}_{phase}"
                write_pair(stem, f"{stem}_gt", 10 * number + (phase == "ES"))
            write(f"dataset/{number:03d}/{number:03d}_{view}_CINE.nii.gz")
    (tmp_path / "dataset_information.csv").write_text(
        "SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD\n1,NOR,SIEMENS,Symphony,1.5\n2,LV,GE,X,3\n"
    )
    return tmp_path


def test_second_challenge(second: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"several views; got 0 \(short axis\), 1 \(long axis\); .*--channel N",
    ):
        find_dataset(data=second)
    found = find_dataset(data=second, channel=0)
    assert (found.layout, found.class_names) == ("mnms2", CLASSES)
    assert found.names == ("001_SA_ED", "001_SA_ES", "002_SA_ED", "002_SA_ES")
    assert found.summary == (
        "layout: M&Ms-2 (short axis), 2 patients (1 LV, 1 NOR), 4 volumes (2 ED, 2 ES)"
    )
    volumes = load_dataset(found, num_classes=4).volumes
    assert volumes[3].slices[0, 0].tolist() == [21, 22, 23, 24, 25]
    long = find_dataset(data=second / "dataset", channel=1)
    assert long.names[0] == "001_LA_ED"
    assert [case.group for case in long.cases] == ["NOR", "NOR", "LV", "LV"]


def test_second_challenge_without_some(second: Path) -> None:
    for path in second.rglob("*_LA_*_gt.nii.gz"):
        path.unlink()
    assert len(find_dataset(data=second).cases) == 4
    (second / "dataset" / "001" / "001_SA_ED_gt.nii.gz").unlink()
    with pytest.raises(VolumeError, match="got '001_SA_ED' without labels; expected 001_SA_ED_gt"):
        find_dataset(data=second)
