from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from autosam_deploy.export.triton.textproto import Word, render


def test_every_kind_of_field() -> None:
    text = render(
        [
            ("name", "heart"),
            ("max_batch_size", 4),
            ("input", [("data_type", Word("TYPE_FP32")), ("dims", [1, -1])]),
            ("input", [("data_type", Word("TYPE_UINT8")), ("optional", True)]),
        ]
    )
    assert text == (
        'name: "heart"\n'
        "max_batch_size: 4\n"
        "input {\n  data_type: TYPE_FP32\n  dims: [1, -1]\n}\n"
        "input {\n  data_type: TYPE_UINT8\n  optional: true\n}\n"
    )
    parsed = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert [list(one.dims) for one in parsed.input] == [[1, -1], []]


@pytest.mark.parametrize(
    "text", ['a "b"', "back\\slash", "two\nlines\r", "tab\t\x00\x7f9", "Herzvorhof ♥ 'x'", ""]
)
def test_strings_come_back(text: str) -> None:
    parsed = text_format.Parse(render([("name", text)]), model_config_pb2.ModelConfig())
    assert parsed.name == text
