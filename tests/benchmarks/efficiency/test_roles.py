from __future__ import annotations

from itertools import pairwise

import pytest

from autosam_deploy.benchmarks.efficiency.roles import Roles, choose_roles
from autosam_deploy.errors import UsageError
from autosam_deploy.training.datasets.splits import SplitFile

TEN = tuple(f"v{n}" for n in range(10))


def named(numbers: str) -> tuple[str, ...]:
    return tuple(f"v{n}" for n in numbers)


SPLIT = SplitFile(train=named("0347"), validation=named("5"), test=named("19"))


@pytest.mark.parametrize(
    ("val", "test", "roles"),
    [
        (None, None, ("0123", "4567", "89")),
        ("1", "3", ("012345", "6", "789")),
        ("0", "1", ("012345678", "", "9")),
        ("v8,v1", "v9, v3", ("024567", "18", "39")),
        ("2", "v0", ("1234567", "89", "0")),
    ],
)
def test_counts_come_from_the_end(
    val: str | None, test: str | None, roles: tuple[str, str, str]
) -> None:
    found = choose_roles(tuple(reversed(TEN)), val=val, test=test)
    assert (found.pool, found.validation, found.test) == tuple(named(part) for part in roles)


@pytest.mark.parametrize(
    ("split", "val", "test", "roles"),
    [
        (SPLIT, None, None, ("0347", "5", "19")),
        (SPLIT, "2", None, ("034", "57", "19")),
        (SPLIT, "v0", None, ("3457", "0", "19")),
        (SPLIT, "0", None, ("03457", "", "19")),
        (SplitFile(SPLIT.train, (), SPLIT.test), "1", None, ("034", "7", "19")),
        # Without test volumes in the file some of its others test, but not those that validate.
        (SplitFile(named("034"), named("79"), ()), None, "1", ("03", "79", "4")),
        (SplitFile(TEN[:8], ("v9",), ()), None, None, ("0123456", "9", "7")),
    ],
)
def test_a_split_gives_the_roles(
    split: SplitFile, val: str | None, test: str | None, roles: tuple[str, str, str]
) -> None:
    found = choose_roles(TEN, split=split, val=val, test=test)
    assert (found.pool, found.validation, found.test) == tuple(named(part) for part in roles)


@pytest.mark.parametrize(
    ("split", "val", "test", "message"),
    [
        (
            None,
            "8",
            None,
            "no volume is left to learn from; got 10 in all, 8 for validation, 2 for",
        ),
        (None, "9", None, "--val; got 9; expected at most 8"),
        (None, None, "11", "--test; got 11; expected at most 10"),
        (None, None, "7", "--val; got 4; expected at most 3"),
        (None, None, "0", "--test; got 0; expected at least 1"),
        (None, None, "v1,v77", "--test names volumes that are not in the set, .* got 'v77'"),
        (None, "v9", "1", "--val names volumes .* have another role; got 'v9'; expected names"),
        (None, "v8,,v9", None, "--val holds an empty name"),
        (SPLIT, None, "1", "volumes for testing; got --test, and a split .* one of the two"),
        (SPLIT, "v1", None, "--val names volumes .* another role; got 'v1'; expected names such"),
        (SPLIT, "5", None, "no volume is left to learn from; got 7 in all"),
    ],
)
def test_roles_that_cannot_be(
    split: SplitFile | None, val: str | None, test: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose_roles(TEN, split=split, val=val, test=test)


def test_draws_are_nested_and_from_the_pool_alone() -> None:
    roles = choose_roles([f"{n:02d}" for n in range(30)], val="5", test="7")
    first = set()
    for seed in range(200):
        draws = [roles.draw(count, seed=seed) for count in range(1, 19)]
        for small, large in pairwise(draws):
            assert large[: len(small)] == small
        assert sorted(draws[-1]) == sorted(roles.pool)  # each once, and no other
        assert not set(draws[-1]) & {*roles.validation, *roles.test}
        first.add(draws[0])
    assert len(first) == len(roles.pool)  # every volume is once the only one


def test_draw_depends_on_seed_and_pool_alone() -> None:
    roles = Roles(named("2345"), named("6"), named("789"))
    assert roles.draw(3, seed=4) == Roles(named("2345"), (), named("0")).draw(3, seed=4)
    assert len({roles.draw(4, seed=seed) for seed in range(20)}) > 5


@pytest.mark.parametrize("count", [0, 5])
def test_more_than_the_pool_cannot_be_drawn(count: int) -> None:
    roles = Roles(named("2345"), named("6"), named("789"))
    message = f"--volumes; got {count}; expected 1 to 4, .* 1 for validation and 3 for testing"
    with pytest.raises(UsageError, match=message):
        roles.draw(count, seed=0)


@pytest.mark.parametrize(
    ("pool", "expected"), [(1, (1,)), (3, (1, 2)), (4, (1, 2, 4)), (20, (1, 2, 4, 8, 16))]
)
def test_doublings_reach_as_far_as_the_pool(pool: int, expected: tuple[int, ...]) -> None:
    assert Roles(tuple(map(str, range(pool))), (), ("t",)).doublings() == expected
