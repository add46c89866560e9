"""What all cells of a study share: volumes, embeddings of the frozen encoder, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch

from autosam_deploy.benchmarks.baselines.contrastive import ContrastiveConfig
from autosam_deploy.benchmarks.baselines.network import choose_size
from autosam_deploy.benchmarks.baselines.unet import UnetConfig
from autosam_deploy.benchmarks.efficiency.plan import Cell, Plan, uses_encoder, whole_epochs
from autosam_deploy.benchmarks.efficiency.roles import Roles
from autosam_deploy.benchmarks.efficiency.sam import Sam
from autosam_deploy.errors import UsageError
from autosam_deploy.models.image_size import ImageSize
from autosam_deploy.sizes import show_bytes
from autosam_deploy.spec import HeadKind, ModelSpec, default_classes
from autosam_deploy.training.datasets.loading import LabelledSlices
from autosam_deploy.training.embedding.prepare import Caching, prepare_embeddings
from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version, Views, keys_of
from autosam_deploy.training.embedding.views import ViewRecipe
from autosam_deploy.training.fitting.recipe import FitConfig
from autosam_deploy.training.fitting.start import head_spec
from autosam_deploy.training.watch import Watch

_VERSIONS = ("autosam-deploy", "torch", "monai", "numpy")


@dataclass(frozen=True, eq=False)
class StudyData:
    """Volumes with their roles and classes.

    name: of the data set, for people. volumes: those of all roles, by name.
    """

    name: str
    roles: Roles
    class_names: tuple[str, ...]
    volumes: Mapping[str, LabelledSlices]

    def of(self, names: Iterable[str]) -> list[LabelledSlices]:
        """Return volumes by name."""
        return [self.volumes[name] for name in names]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Hash of every volume: its slices, labels and spacing."""
        return {name: _volume_sha256(volume) for name, volume in self.volumes.items()}

    def fingerprint(self, names: Sequence[str]) -> str:
        """Return how many volumes, and a hash of their names and contents in this order."""
        joined = "\n".join(f"{name} {self.hashes[name]}" for name in names)
        return f"{len(names)} ({hashlib.sha256(joined.encode()).hexdigest()[:16]})"


def _volume_sha256(volume: LabelledSlices) -> str:
    digest = hashlib.sha256(f"{volume.slices.shape} {volume.spacing_mm}".encode())
    digest.update(np.ascontiguousarray(volume.slices, "<f4").data)
    digest.update(np.ascontiguousarray(volume.labels, np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Material:
    """Data, plan and encoder of a study; from them follow the recipe and fingerprint of each cell.

    sam: None where no method is a head. embedded: versions of the slices of every volume that a
    head needs, by image size and the volume's name; filled by `embed`.
    """

    data: StudyData
    plan: Plan
    sam: Sam | None
    embedded: dict[tuple[ImageSize, str], EmbeddedSlices] = field(default_factory=dict)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Volumes of the pool that any cell learns from, in name order."""
        most = max(self.plan.volumes)
        draws = (self.data.roles.draw(most, seed=seed) for seed in range(self.plan.seeds))
        return tuple(sorted({name for draw in draws for name in draw}))

    @property
    def views(self) -> Views | None:
        """The augmented copies that heads learn from: the same for all seeds."""
        return Views(self.plan.views) if self.plan.views else None

    def model_spec(self, kind: HeadKind, image_size: ImageSize) -> ModelSpec:
        """Return the segmenter that a head makes with the encoder at a size."""
        encoder = self._sam.at(image_size)
        names = self.data.class_names
        return ModelSpec(
            encoder=encoder.spec,
            head=head_spec(
                kind,
                num_classes=len(names),
                embed_dim=encoder.spec.out_chans,
                cnn_channels=self.plan.cnn_channels,
            ),
            classes=default_classes(len(names), names),
            preprocess=encoder.preprocess,
        )

    @property
    def _sam(self) -> Sam:
        if self.sam is None:
            raise LookupError("a study without heads has no encoder")
        return self.sam

    def refuse_too_many(self, sizes: Iterable[ImageSize], caching: Caching) -> None:
        """Refuse embeddings of several sizes that the cache cannot hold at a time.

        Raises:
            UsageError: more than the cache's limit.
        """
        roles = self.data.roles
        keys = {
            *keys_of(self.data.of(self.drawn), self.views),
            *keys_of(self.data.of((*roles.validation, *roles.test)), None),
        }
        needed = len(keys) * sum(self._sam.embedding_bytes(one, caching.dtype) for one in sizes)
        if needed > caching.limit_bytes:
            raise UsageError(
                "the embeddings of all image sizes do not fit the cache's limit",
                got=show_bytes(needed),
                expected=f"at most {show_bytes(caching.limit_bytes)}",
                todo="raise --cache-limit, or use fewer sizes, --views or volumes",
            )

    def embed(
        self,
        image_size: ImageSize,
        *,
        caching: Caching,
        device: torch.device | None = None,
        watch: Watch | None = None,
    ) -> dict[str, Any]:
        """Embed all slices that heads need at a size, once for all cells.

        Returns:
            What it took (see `prepare_embeddings`), with the `image_size`.

        Raises:
            UsageError: more than the cache's limit.
            OutputError: the disk is full; embeddings that were stored stay.
            TrainingError: an embedding is not finite.
        """
        roles, encoder = self.data.roles, self._sam.at(image_size)
        learning, others = self.drawn, (*roles.validation, *roles.test)
        prepared = prepare_embeddings(
            self.data.of(learning),
            self.data.of(others),
            encoder,
            caching=caching,
            views=self.views,
            device=device,
            watch=watch,
        )
        kept: list[tuple[tuple[str, ...], Iterable[tuple[Version, ...]]]] = [
            (learning, prepared.train.slices),
            (others, ((one,) for one in prepared.validation)),
        ]
        for names, slices in kept:
            row = iter(slices)
            for name in names:
                count = len(self.data.volumes[name].slices)
                self.embedded[image_size, name] = EmbeddedSlices(tuple(islice(row, count)))
        return {"image_size": list(image_size), **prepared.record}

    def slices_of(self, names: Iterable[str], image_size: ImageSize) -> EmbeddedSlices:
        """Return the embedded slices of some volumes."""
        held = (self.embedded[image_size, name] for name in names)
        return EmbeddedSlices(tuple(one for slices in held for one in slices.slices))

    def draw(self, cell: Cell) -> tuple[str, ...]:
        """Return the volumes that a cell learns from."""
        return self.data.roles.draw(cell.volumes, seed=cell.seed)

    def fit_config(self, cell: Cell) -> FitConfig:
        """Return the recipe of a cell: whole epochs, and none of them left out."""
        plan = self.plan
        slices = sum(len(volume.slices) for volume in self.data.of(self.draw(cell)))
        return FitConfig(
            epochs=whole_epochs(plan.steps, slices=slices, batch=plan.batch),
            batch=plan.batch,
            learning_rate=plan.learning_rate,
            patience=0,
            seed=cell.seed,
        )

    @cached_property
    def unet_size(self) -> tuple[int, int]:
        """The U-Net's input (height, width), one for all cells; test volumes have no say in it."""
        roles = self.data.roles
        volumes = self.data.of((*roles.pool, *roles.validation))
        return choose_size(one for volume in volumes for one in volume.slices)

    def unet_config(self, cell: Cell) -> UnetConfig:
        """Return the recipe of a cell whose method is a U-Net."""
        config = self.fit_config(cell)
        shared = {name: getattr(config, name) for name in FitConfig.__dataclass_fields__}
        return UnetConfig(
            **shared,
            channels=self.plan.unet_channels or UnetConfig.channels,
            size=self.unet_size,
            views=ViewRecipe() if self.plan.views else None,
        )

    def contrastive_config(self, seed: int) -> ContrastiveConfig:
        """Return the recipe of the pretraining."""
        return ContrastiveConfig(
            epochs=self.plan.pretrain_epochs,
            channels=self.plan.unet_channels or ContrastiveConfig.channels,
            size=self.unet_size,
            seed=seed,
        )

    def fingerprint(self, cell: Cell) -> dict[str, str]:
        """Return everything that decides a cell's scores and its time."""
        data, roles, config = self.data, self.data.roles, self.fit_config(cell)
        return {
            "training volumes": data.fingerprint(self.draw(cell)),
            "validation volumes": data.fingerprint(roles.validation),
            "test volumes": data.fingerprint(roles.test),
            "classes": ", ".join(data.class_names),
            "steps": str(self.plan.steps),
            "recipe": str(config),
            **(
                self._head_fingerprint(cell.method, cell.encoder_size)
                if uses_encoder(cell.method)
                else {"U-Net": str(self.unet_config(cell))}
            ),
            **(self._pretraining(cell.seed) if cell.method == "unet-pretrained" else {}),
            **_environment(),
        }

    def _head_fingerprint(self, kind: HeadKind, image_size: ImageSize) -> dict[str, str]:
        spec = self.model_spec(kind, image_size)
        return {
            "encoder": f"{self._sam.encoder.sha256} {spec.encoder.model_dump_json()}",
            "preprocessing": spec.preprocess.model_dump_json(),
            "head": spec.head.model_dump_json(),
            "views": "0" if self.views is None else f"{self.plan.views} {self.views.name(0)}",
        }

    def _pretraining(self, seed: int) -> dict[str, str]:
        return {
            "pretraining": str(self.contrastive_config(seed)),
            "pool": self.data.fingerprint(self.data.roles.pool),
        }

    def pretraining_fingerprint(self, seed: int) -> dict[str, str]:
        """Return everything that decides a pretrained encoder."""
        return {**self._pretraining(seed), **_environment()}


def _environment() -> dict[str, str]:
    """Return what decides the last bits of a sum: versions and threads."""
    return {
        **{name: version(name) for name in _VERSIONS},
        "threads": str(torch.get_num_threads()),
    }
