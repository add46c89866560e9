"""The JSON Schema of the manifest, for hosts in other languages.

Regenerate the published copy, from the root of the checkout:

    python -m autosam_deploy.bundle.schema
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autosam_deploy.bundle.manifest import Manifest
from autosam_deploy.files import write_json

PUBLISHED = Path("docs/manifest.schema.json")


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `manifest.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="validation"),
    }


if __name__ == "__main__":
    write_json(Path(sys.argv[1]) if len(sys.argv) > 1 else PUBLISHED, manifest_schema())
