"""Small files, small functions, no assert outside tests, an expected message in every `raises`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE, MAX_POSITIONAL = 400, 5
#: Lines of a function's body, and of all of it with signature and docstring.
MAX_FUNCTION, MAX_WHOLE_FUNCTION = 60, 100


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function behind its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def too_long(source: str) -> list[str]:
    return [
        node.name
        for node in functions(ast.parse(source))
        if body_lines(node) > MAX_FUNCTION
        or (node.end_lineno or 0) - node.lineno >= MAX_WHOLE_FUNCTION
    ]


def too_many_positional(source: str) -> list[str]:
    """Functions that take more than five arguments by position.

    Kernels may: Triton compiles no keyword-only arguments.
    """
    return [
        node.name
        for node in functions(ast.parse(source))
        if "triton.jit" not in {ast.unparse(one) for one in node.decorator_list}
        and len(
            [
                one
                for one in (*node.args.posonlyargs, *node.args.args)
                if one.arg not in ("self", "cls")
            ]
        )
        > MAX_POSITIONAL
    ]


def asserts(source: str) -> list[int]:
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]


def raises_without_match(source: str) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("pytest.raises", "raises")
        and not any(keyword.arg == "match" for keyword in node.keywords)
    ]


@pytest.mark.parametrize(
    "path",
    list(python_files("autosam_deploy", "export", "benchmarks")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_source(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= MAX_FILE
    assert too_long(source) == []
    assert too_many_positional(source) == []
    assert asserts(source) == []


@pytest.mark.parametrize(
    "path", list(python_files("tests")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_tests(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= MAX_FILE
    assert too_long(source) == []
    assert raises_without_match(source) == []


def test_checkers_find_what_they_look_for() -> None:
    long = "def f():\n" + "    x = 1\n" * (MAX_FUNCTION + 1)
    assert too_long(long) == ["f"]
    assert too_long(long.replace("    x = 1\n", "", 1)) == []
    documented = 'def f():\n    """Do.\n' + "\n" * MAX_WHOLE_FUNCTION + '    """\n    x = 1\n'
    assert too_long(documented) == ["f"]
    assert too_many_positional("def f(a, b, c, d, e, g): ...") == ["f"]
    assert too_many_positional("def _f(a, b, /, c, d, e, g): ...") == ["_f"]
    assert too_many_positional("def f(a, b, c, d, e, *, g): ...") == []
    assert too_many_positional("@triton.jit\ndef f(a, b, c, d, e, g): ...") == []
    assert asserts("assert True") == [1]
    assert raises_without_match("with pytest.raises(ValueError):\n    f()") == [1]
    assert raises_without_match("with raises(ValueError):\n    f()") == [1]
    assert raises_without_match("with pytest.raises(ValueError, match='x'):\n    f()") == []
