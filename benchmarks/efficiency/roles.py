"""Which volumes a study learns from, which choose epochs, which test; and what each seed draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.splits import SplitFile
from autosam_deploy.training.datasets.texts import listed, names_from

#: Of all volumes, one in this many tests unless the user says otherwise.
_ONE_IN = 5
#: Volumes that choose the epoch unless the user says otherwise.
VALIDATING = 4


@dataclass(frozen=True)
class Roles:
    """Names of volumes in name order: the pool that is drawn from, validation, test."""

    pool: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    def draw(self, count: int, *, seed: int) -> tuple[str, ...]:
        """Draw volumes to learn from.

        Draws of one seed are nested: those of 4 volumes hold those of 2. Curves are then paired,
        and a step from 2 to 4 adds volumes instead of exchanging them.

        Args:
            count: how many.
            seed: another seed, other volumes.

        Raises:
            UsageError: more than the pool holds.
        """
        if not 1 <= count <= len(self.pool):
            raise UsageError(
                "--volumes",
                got=str(count),
                expected=f"1 to {len(self.pool)}, which is what {len(self.validation)} for "
                f"validation and {len(self.test)} for testing leave",
            )
        order = np.random.default_rng(seed).permutation(len(self.pool))
        return tuple(self.pool[index] for index in order[:count])

    def doublings(self) -> tuple[int, ...]:
        """Return 1, 2, 4, 8 and so on, as far as the pool goes."""
        return tuple(2**power for power in range(len(self.pool).bit_length()))


def choose_roles(
    names: Sequence[str],
    *,
    split: SplitFile | None = None,
    val: str | None = None,
    test: str | None = None,
) -> Roles:
    """Give every volume its role.

    Counts are taken from the end of the names in name order, first for testing, then for
    validation; what is left is the pool.

    Args:
        names: of all volumes.
        split: volumes by role; its test volumes test, and its validation volumes validate unless
            `val` says otherwise. Volumes that it does not name have no role.
        val: a count, names by comma, or a text file with one a line; None is 4. 0 lets the volumes
            of each cell choose their own epoch.
        test: likewise; None is a fifth, at least one.

    Raises:
        UsageError: no volume for testing or none in the pool; a count beyond what is there; a name
            that is unknown or has another role; test volumes from both the split and `test`.
    """
    known = sorted(names) if split is None else sorted([*split.train, *split.validation])
    reserved: tuple[str, ...] = () if split is None else split.validation
    if split is not None and split.test:
        if test is not None:
            raise UsageError(
                "volumes for testing",
                got="--test, and a split that names them",
                expected="one of the two",
            )
        testing = sorted(split.test)
    else:
        free = [name for name in known if name not in reserved]
        testing = _take(test, "--test", free, default=max(1, len(known) // _ONE_IN))
    if not testing:
        raise UsageError("--test", got="0", expected="at least 1: scores need volumes of their own")
    left = [name for name in known if name not in testing]
    if val is None and reserved:
        validating = sorted(reserved)
    else:
        validating = _take(val, "--val", left, default=VALIDATING)
    pool = [name for name in left if name not in validating]
    if not pool:
        raise UsageError(
            "no volume is left to learn from",
            got=f"{len(left) + len(testing)} in all, {len(validating)} for validation, "
            f"{len(testing)} for testing",
            expected="at least 1",
            todo="lower --val or --test",
        )
    return Roles(tuple(pool), tuple(validating), tuple(testing))


def _take(text: str | None, option: str, free: list[str], *, default: int) -> list[str]:
    """Return the volumes that an option asks for, in name order."""
    if text is None or text.strip().isdecimal():
        count = default if text is None else int(text)
        if count > len(free):
            raise UsageError(option, got=str(count), expected=f"at most {len(free)}")
        return free[len(free) - count :]
    wanted = names_from(text, option)
    if unknown := [name for name in wanted if name not in free]:
        raise UsageError(
            f"{option} names volumes that are not in the set, or have another role",
            got=listed(unknown),
            expected=f"names such as {listed(free)}",
        )
    return sorted(wanted)
