from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autosam_deploy.training.datasets.dataset import Dataset, Pair
from autosam_deploy.training.datasets.pairs import find_dataset
from autosam_deploy.training.datasets.patients import patient_in_name, patients_of, with_patients


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient001_frame01", "patient001"),
        ("patient001_frame12", "patient001"),
        ("patient_0001", "patient_0001"),
        ("SC-HF-I-01_ED", "SC-HF-I-01"),
        ("SC-HF-NI-34_ES", "SC-HF-NI-34"),
        ("sub-01_ses-2_T1w", "sub-01"),
        ("sub-amu02_T2w", "sub-amu02"),
        ("Subject12-a", "Subject12"),
        ("A0S9V9_ED", "A0S9V9"),
        ("001_SA_ED", "001"),
        ("case_7_visit2", "case_7"),
        ("case_7_visit_2", "case_7"),
        ("case_7_baseline", "case_7"),
        ("case_7_followup", "case_7"),
        ("case_7_follow-up", "case_7"),
        ("case_7_ses2_t03", "case_7"),
        ("anna_ED", "anna"),
        ("9001104_LEFT", "9001104"),
        ("TCGA_CS_4941_19960909", "TCGA_CS_4941"),
        ("TCGA-CS-4941_1996-09-09", "TCGA-CS-4941"),
        ("BRATS_001_flair", "BRATS_001"),
        ("hippocampus_001", None),
        ("heart_000", None),
        ("la_003", None),
        ("case_00012", None),
        ("mri_t001", None),
        ("heart_frame03", None),
        ("x_19969999", None),
        ("ED", None),
        ("_ED", None),
        ("bed", None),
        ("patient", None),
        ("patients12", None),
        ("subtle_1", None),
    ],
)
def test_patient_in_name(name: str, patient: str | None) -> None:
    assert patient_in_name(name) == patient


def dataset(*names: str, layout: str = "folders", image: Path | None = None) -> Dataset:
    cases = [Pair(name, image or Path(name), Path(name)) for name in names]
    return with_patients(Dataset(layout, tuple(cases)))


def test_patients_and_their_volumes_in_name_order() -> None:
    found = dataset("b_ES", "a_ED", "c1", "b_ED", "a_ES")
    assert list(patients_of(found).items()) == [
        ("a", ("a_ED", "a_ES")),
        ("b", ("b_ED", "b_ES")),
        ("c1", ("c1",)),
    ]
    assert [case.patient_id for case in found.cases] == ["b", "a", None, "b", "a"]
    assert [case.patient for case in found.cases] == ["b", "a", "c1", "b", "a"]


def test_a_first_visit_without_an_ending() -> None:
    found = dataset("case1", "case1_followup", "case2")
    assert patients_of(found) == {"case1": ("case1", "case1_followup"), "case2": ("case2",)}
    assert [case.patient_id for case in found.cases] == ["case1", "case1", None]


def test_what_the_layout_tells_is_kept() -> None:
    case = Pair("a_ED", Path("a"), Path("a"), patient_id="somebody")
    assert with_patients(Dataset("x", (case,))).cases == (case,)


def write_series(folder: Path, patient_id: str | None) -> None:
    folder.mkdir(parents=True)
    (folder / "a_note.txt").write_text("fasting", "utf-8")
    writer = SimpleITK.ImageFileWriter()
    for number in range(2):
        image = SimpleITK.GetImageFromArray(np.full((1, 4, 6), number, np.int16))
        for tag, text in {
            "0008|0060": "MR",
            "0010|0020": patient_id or "",
            "0020|0032": f"0\\0\\{5 * number}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(tag, text)
        writer.SetFileName(str(folder / f"b{number}.dcm"))
        writer.Execute(image)


def series(root: Path, ids: dict[str, str | None]) -> Dataset:
    for name, patient_id in ids.items():
        write_series(root / "images" / name, patient_id)
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.nii.gz").touch()
    return find_dataset(data=root)


def test_patient_id_of_dicom(tmp_path: Path) -> None:
    found = series(tmp_path, {"x1": "P7", "x2": "P8 ", "x3_ED": "P7", "x4_ES": None, "x5": None})
    assert [case.patient_id for case in found.cases] == ["P7", "P8", "P7", "x4", None]
    assert found.notes == ()
    assert patients_of(found)["P7"] == ("x1", "x3_ED")


def test_one_patient_id_for_all_is_an_anonymisers(tmp_path: Path) -> None:
    found = series(tmp_path, {"a_ED": "ANON", "a_ES": "ANON", "b_ED": "ANON"})
    assert [case.patient_id for case in found.cases] == ["a", "a", "b"]
    assert found.notes == ("all 3 DICOM series have one PatientID: names tell patients",)


def test_one_series_has_its_patient_id(tmp_path: Path) -> None:
    assert [case.patient for case in series(tmp_path, {"x": "P7"}).cases] == ["P7"]


def test_png_folders_are_not_asked_for_dicom(tmp_path: Path) -> None:
    write_series(tmp_path / "a_ED", "P7")
    assert [case.patient for case in dataset("a_ED", layout="png").cases] == ["a"]


@pytest.mark.data
def test_sunnybrook(shared_data: Path) -> None:
    found = find_dataset(data=shared_data / "sunnybrook_lv")
    patients = patients_of(found)
    assert (len(found.cases), len(patients)) == (76, 38)
    assert patients["SC-HF-I-01"] == ("SC-HF-I-01_ED", "SC-HF-I-01_ES")
    assert {len(names) for names in patients.values()} == {2}
    assert found.summary == "layout: two folders with equal names, 38 patients, 76 volumes"
    hippocampus = find_dataset(data=shared_data / "hippocampus")
    assert {case.patient_id for case in hippocampus.cases} == {None}
    assert len(patients_of(hippocampus)) == 32
