"""What the tests of training share: easy slices, a phantom set, an encoder's file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autosam_deploy.models.checkpoints import write_encoder
from autosam_deploy.models.encoders import seeded_encoder_state
from autosam_deploy.models.heads import Head
from autosam_deploy.spec import HeadKind, ModelSpec
from autosam_deploy.training.embedding.versions import EmbeddedSlices, Version
from autosam_deploy.volumes.phantom import write_phantom_set

EasySlices = Callable[[HeadKind], tuple[Head, EmbeddedSlices]]


@pytest.fixture
def easy_slices(model_spec: Callable[..., ModelSpec]) -> EasySlices:
    """Factory: a head, and 8 embeddings that say outright which class a token belongs to."""

    def build(kind: HeadKind) -> tuple[Head, EmbeddedSlices]:
        torch.manual_seed(0)
        spec = model_spec(kind).head
        slices = []
        for number in range(8):
            tokens = np.random.default_rng(number).integers(0, 3, (6, 6))
            embedding = np.zeros((spec.embed_dim, 6, 6), np.float32)
            embedding[:3] = 3 * np.eye(3, dtype=np.float32)[tokens].transpose(2, 0, 1)
            labels = np.kron(tokens, np.ones((4, 4))).astype(np.uint8)
            slices.append((Version(embedding, labels, f"slice {number}"),))
        return Head(spec), EmbeddedSlices(tuple(slices))

    return build


@pytest.fixture
def phantoms(tmp_path: Path) -> Path:
    """A folder with three labelled phantoms in nnU-Net's layout, and one held out."""
    folder = tmp_path / "phantoms"
    write_phantom_set(folder, train=3, test=1)
    return folder


@pytest.fixture
def sam_file(tmp_path: Path, model_spec: Callable[..., ModelSpec]) -> Path:
    """A file with the weights of a very small encoder, said to be random."""
    path = tmp_path / "encoder.safetensors"
    state = seeded_encoder_state(model_spec("linear").encoder, 0)
    write_encoder(path, state, random_seed=0)
    return path
