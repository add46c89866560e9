"""The JSON Schema of the manifest, for hosts in other languages.

Regenerate the published copy:

    python -m autosam_deploy.bundle.schema docs/manifest.schema.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import Manifest
from autosam_deploy.files import write_json


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `manifest.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="validation"),
    }


if __name__ == "__main__":
    write_json(Path(sys.argv[1]), manifest_schema())
