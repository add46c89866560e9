"""The JSON Schema of a report, for whoever reads one elsewhere.

Regenerate the published copy, from the root of the checkout:

    python -m autosam_deploy.benchmarks.report.schema
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autosam_deploy.benchmarks.harness.record import Report
from autosam_deploy.files import write_json

PUBLISHED = Path("docs/bench.schema.json")


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `autosam-bench --json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Report.model_json_schema(mode="serialization"),
    }


if __name__ == "__main__":
    write_json(Path(sys.argv[1]) if len(sys.argv) > 1 else PUBLISHED, report_schema())
