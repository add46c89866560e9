from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema

from autosam_deploy.bundle.schema import PUBLISHED, manifest_schema


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(manifest_schema())


def test_no_object_is_open() -> None:
    """A key that is not known is an error in every host."""
    definitions = manifest_schema()["$defs"]
    assert len(definitions) > 10
    assert all(d["additionalProperties"] is False for d in definitions.values())


def test_command_writes_it(tmp_path: Path) -> None:
    (tmp_path / PUBLISHED.parent).mkdir()
    subprocess.run([sys.executable, "-m", "autosam_deploy.bundle.schema"], cwd=tmp_path, check=True)
    assert json.loads((tmp_path / PUBLISHED).read_text("utf-8")) == manifest_schema()
