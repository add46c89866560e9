"""Compile every kernel without a GPU, and see what it costs: registers, spills, shared memory.

    python -m autosam_deploy.kernels.ahead --sm 80,86,89,90,120

Triton compiles to a cubin for any architecture on any machine, and the `ptxas` in its wheel says
how many registers a thread takes and what it had to spill. A kernel that spills, or that takes more
shared memory than the architecture has, is a mistake of its tile sizes: the command ends in 1 then.
It says nothing about speed.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from autosam_deploy.errors import AutosamError, BackendError, UsageError
from autosam_deploy.files import write_json
from autosam_deploy.kernels.launch import interpreted, require_triton

#: Every module with kernels; each has `ahead_cases(capability) -> tuple[Case, ...]`.
MODULES = (
    "autosam_deploy.kernels.relpos_triton",
    "autosam_deploy.kernels.tokens_triton",
    "autosam_deploy.kernels.labels_triton",
    "autosam_deploy.kernels.norm_triton",
)
#: A100, RTX 30, RTX 40 and L4, H100, RTX 50.
CAPABILITIES = (80, 86, 89, 90, 120)
#: Bytes of shared memory that one program may take (CUDA C++ Programming Guide, technical
#: specifications per compute capability); what is not listed is held to the smallest.
SHARED_LIMITS = {80: 163 << 10, 87: 163 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10}
LEAST_SHARED_LIMIT = 99 << 10
#: Triton's wheel has a second assembler for what is newer than Hopper.
_BLACKWELL = 100
#: What the runtime assumes of a value that 16 divides, as it does of every tensor's address.
_ALIGNED = [["tt.divisibility", 16]]
#: Triton assembles with it, so registers are counted with it.
_PTXAS_OPTIONS = ("--regAllocOptLevel=2",)


@dataclass(frozen=True)
class Case:
    """One specialisation of one kernel.

    Attributes:
        name: unique among all kernels ("tokens-fp16-minmax").
        function: the `@triton.jit` function.
        signature: parameter -> Triton type of every parameter that is no constant ("*fp16", "i32",
            "fp32"). Addresses count as divisible by 16; an integer is when written "i32:16".
        constants: values of constexpr parameters, and of those the runtime would fold (strides 1).
        num_warps: warps of a program.
        num_stages: depth of software pipelines.
    """

    name: str
    function: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        case: its name.
        capability: 10 x major + minor of the target.
        registers: 32-bit registers of a thread.
        spill_stores: bytes a thread writes to local memory for want of registers.
        spill_loads: bytes it reads back.
        shared_bytes: shared memory of a program, static and dynamic.
        cubin_bytes: size of the machine code.
    """

    case: str
    capability: int
    registers: int
    spill_stores: int
    spill_loads: int
    shared_bytes: int
    cubin_bytes: int

    @property
    def spilled(self) -> int:
        """Bytes that go through local memory for want of registers."""
        return self.spill_stores + self.spill_loads

    @property
    def fault(self) -> str:
        """What makes the kernel slow or impossible to launch; empty if nothing does."""
        limit = SHARED_LIMITS.get(self.capability, LEAST_SHARED_LIMIT)
        if self.spilled:
            return f"spills {self.spilled} bytes"
        if self.shared_bytes > limit:
            return f"takes {self.shared_bytes} bytes of shared memory of {limit}"
        return ""


def all_cases(capability: int) -> tuple[Case, ...]:
    """Collect the cases of every module in `MODULES` for one architecture.

    Raises:
        BackendError: two cases have one name.
        MissingExtraError: Triton is not installed.
    """
    require_triton("compiling kernels")
    cases: list[Case] = []
    for module in MODULES:
        cases.extend(importlib.import_module(module).ahead_cases(capability))
    names = [case.name for case in cases]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BackendError(
            "cases repeat", got=", ".join(twice), expected="distinct names", todo="rename one"
        )
    return tuple(cases)


def compile_case(case: Case, capability: int) -> Resources:
    """Compile a kernel for an architecture and read what the assembler says of it.

    Args:
        case: the specialisation.
        capability: 10 x major + minor; no GPU is needed.

    Raises:
        BackendError: it does not compile, parameters are missing from the case or are not the
            kernel's, or Triton runs as an interpreter.
        MissingExtraError: Triton is not installed.
    """
    require_triton("compiling kernels")
    if interpreted():
        raise BackendError(
            "Triton interprets kernels in this process",
            expected="a process that compiles them",
            todo="unset TRITON_INTERPRET",
        )
    # Triton needs seconds to load and the command's help does not need it.
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=case.function,
        signature=_full_signature(case),
        constexprs=case.constants,
        attrs=_attributes(case),
    )
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    try:
        kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        raise BackendError(
            f"kernel '{case.name}' does not compile for compute capability {capability}",
            got=f"{type(error).__name__}: {error}",
        ) from error
    log = _assembler_log(kernel.asm["ptx"], capability)
    return Resources(
        case=case.name,
        capability=capability,
        registers=_number(r"Used (\d+) registers", log),
        spill_stores=_number(r"(\d+) bytes spill stores", log),
        spill_loads=_number(r"(\d+) bytes spill loads", log),
        shared_bytes=kernel.metadata.shared + _number(r"(\d+) bytes smem", log, absent=0),
        cubin_bytes=len(kernel.asm["cubin"]),
    )


def _full_signature(case: Case) -> dict[str, str]:
    """Return types in the kernel's order, constants marked as such."""
    wanted, given = set(case.function.arg_names), {*case.signature, *case.constants}
    if wanted != given or set(case.signature) & set(case.constants):
        raise BackendError(
            f"the parameters of case '{case.name}' are not those of its kernel",
            got=", ".join(sorted(given - wanted)) or "none beyond",
            expected=f"each once; missing: {', '.join(sorted(wanted - given)) or 'none'}",
        )
    return {
        name: "constexpr" if name in case.constants else case.signature[name].partition(":")[0]
        for name in case.function.arg_names
    }


def _attributes(case: Case) -> dict[tuple[int], list[list[Any]]]:
    return {
        (index,): _ALIGNED
        for index, name in enumerate(case.function.arg_names)
        if (kind := case.signature.get(name, "")).startswith("*") or kind.endswith(":16")
    }


def _assembler_log(ptx: str, capability: int) -> str:
    """Assemble once more, since Triton keeps what `ptxas -v` says to itself."""
    # Imported by its full name, as Triton may load before its back end does.
    folder = Path(str(importlib.import_module("triton.backends.nvidia").__file__)).parent / "bin"
    assembler = folder / "ptxas"
    if capability >= _BLACKWELL and (newer := folder / "ptxas-blackwell").exists():
        assembler = newer
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    if target is None:
        raise BackendError("PTX without a target", got=repr(ptx[:80]))
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "kernel.ptx"
        source.write_text(ptx, "utf-8")
        files = (str(source), "-o", str(source.with_suffix(".cubin")))
        done = subprocess.run(
            (str(assembler), "-v", *_PTXAS_OPTIONS, f"--gpu-name={target[1]}", *files),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    if done.returncode:
        raise BackendError("ptxas refuses what Triton made", got=(done.stdout + done.stderr)[:400])
    return done.stdout + done.stderr


def _number(pattern: str, log: str, *, absent: int | None = None) -> int:
    found = re.findall(pattern, log)
    if not found and absent is not None:
        return absent
    if not found:
        raise BackendError(
            "ptxas did not say what was asked", got=repr(log[:200]), expected=f"'{pattern}'"
        )
    # One kernel may bring functions of its own; they are called, not inlined, and add up.
    return sum(map(int, found))


def parse_capabilities(text: str) -> tuple[int, ...]:
    """Read "80,86,120".

    Raises:
        UsageError: not numbers between commas, or an architecture before 80.
    """
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < CAPABILITIES[0]:
        raise UsageError(
            "--sm is not a list of compute capabilities",
            got=f"'{text}'",
            expected=f"for example {','.join(map(str, CAPABILITIES))}",
        )
    return found


def show(console: Console, found: list[Resources]) -> None:
    """Print one row a kernel and architecture."""
    table = Table(
        title="registers a thread; spilled, shared and code in bytes", title_justify="left"
    )
    table.add_column("kernel", overflow="fold")
    for column in ("sm", "registers", "spilled", "shared", "code"):
        table.add_column(column, justify="right")
    for one in found:
        table.add_row(
            one.case,
            str(one.capability),
            str(one.registers),
            str(one.spilled),
            str(one.shared_bytes),
            str(one.cubin_bytes),
            style="red" if one.fault else None,
        )
    console.print(table)


@click.command()
@click.option(
    "--sm",
    default=",".join(map(str, CAPABILITIES)),
    show_default=True,
    help="Compute capabilities to compile for, without a dot.",
)
@click.option("--json", "target", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--table/--no-table", default=True, show_default=True, help="Print the figures.")
@click.option("--only", default="", help="Only kernels whose name contains this.")
@click.pass_context
def main(ctx: click.Context, sm: str, target: Path | None, table: bool, only: str) -> None:
    """Compile all kernels ahead of time; exit code 1 if one wants more than a GPU has."""
    try:
        found = [
            compile_case(case, capability)
            for capability in parse_capabilities(sm)
            for case in all_cases(capability)
            if only in case.name
        ]
        if not found:
            raise UsageError("no kernel has such a name", got=f"--only '{only}'")
        if target is not None:
            version = require_triton("compiling kernels").__version__
            write_json(target, {"triton": version, "kernels": [asdict(one) for one in found]})
    except AutosamError as error:
        click.echo(f"error: {error}", err=True)
        ctx.exit(error.exit_code)
    if table:
        show(Console(), found)
    faulty = [one for one in found if one.fault]
    for one in faulty:
        click.echo(f"{one.case} on compute capability {one.capability}: {one.fault}", err=True)
    if faulty:
        ctx.exit(1)


if __name__ == "__main__":
    sys.exit(main())
