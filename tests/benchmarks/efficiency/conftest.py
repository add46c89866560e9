"""What the tests of a study share: ten small labelled volumes, two encoders, whole studies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from autosam_deploy.benchmarks.efficiency.material import Material, StudyData
from autosam_deploy.benchmarks.efficiency.plan import Plan
from autosam_deploy.benchmarks.efficiency.roles import choose_roles
from autosam_deploy.benchmarks.efficiency.sam import Sam
from autosam_deploy.benchmarks.efficiency.study import Setting, run_study
from autosam_deploy.encoders import VitEncoder
from autosam_deploy.models.checkpoints import write_encoder
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.spec import PreprocessSpec
from autosam_deploy.training.datasets.loading import load_labelled
from autosam_deploy.training.embedding.prepare import Caching
from autosam_deploy.volumes.phantom import PHANTOM_CLASSES, make_phantom
from autosam_deploy.volumes.write import write_volume

MaterialFactory = Callable[..., Material]
SettingFactory = Callable[..., Setting]
_ENCODER = VitEncoder(
    name="tiny_study",
    embed_dim=24,
    depth=2,
    num_heads=3,
    global_attn_indexes=(1,),
    window_size=4,
    patch_size=8,
    out_chans=32,
    image_size=(48, 48),
)
#: Small enough for seconds: 2 methods x 2 numbers of volumes x 2 seeds, four steps each.
SMALL: dict[str, Any] = {
    "methods": ("linear", "unet"),
    "volumes": (1, 2),
    "seeds": 2,
    "steps": 4,
    "learning_rate": 5e-3,
    "views": 1,
    "unet_channels": (4, 4, 8, 8, 8),
    "pretrain_epochs": 1,
    "image_sizes": ((48, 48),),
}


@pytest.fixture(scope="session")
def phantom_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `hearts` with ten labelled phantoms of 3 slices: heart_000 to heart_009."""
    folder = tmp_path_factory.mktemp("sets") / "hearts"
    for seed in range(10):
        image, labels = make_phantom(seed, shape=(3, 28, 26))
        write_volume(folder / "images" / f"{image.name}.nii.gz", image)
        write_volume(folder / "labels" / f"{image.name}.nii.gz", labels)
    return folder


@pytest.fixture(scope="session")
def encoder_files(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Files with one very small encoder: under True one that says it is random, under False not."""
    folder, state = tmp_path_factory.mktemp("encoders"), seeded_encoder_state(_ENCODER, 0)
    files = {True: folder / "random.safetensors", False: folder / "sam.safetensors"}
    for random, path in files.items():
        write_encoder(path, state, random_seed=0 if random else None)
    return files


@pytest.fixture(scope="session")
def material(phantom_set: Path, encoder_files: dict[bool, Path]) -> MaterialFactory:
    """Factory: material(random=True, val="2", test="2", steps=3, ...)."""
    volumes = load_labelled(phantom_set / "images", phantom_set / "labels", num_classes=4)
    by_name = {volume.name: volume for volume in volumes}

    def build(*, random: bool = True, val: str = "2", test: str = "2", **fields: Any) -> Material:
        roles = choose_roles(tuple(by_name), val=val, test=test)
        sam = Sam.read(encoder_files[random], preprocess=PreprocessSpec())
        data = StudyData("hearts", roles, PHANTOM_CLASSES, by_name)
        return Material(data, Plan(**{**SMALL, **fields}), sam)

    return build


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory) -> SettingFactory:
    """Factory: setting(folder, resume=True, ...), all with one cache."""
    caching = Caching(tmp_path_factory.mktemp("cache"), limit_bytes=10**8)
    return partial(Setting, caching=caching)


@pytest.fixture(scope="session")
def study_folder(
    material: MaterialFactory, setting: SettingFactory, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A whole small study that nothing disturbed; not to be changed."""
    folder = tmp_path_factory.mktemp("studies") / "whole"
    run_study(material(), setting(folder))
    return folder


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny matrices gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
