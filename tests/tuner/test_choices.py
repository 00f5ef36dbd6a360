"""Names and sizes that a user gives: read, or said to be wrong with the nearest right one."""

from __future__ import annotations

import pytest

from a2sf_core.errors import A2SFError
from tuner.choices import FAMILIES, check_choice, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("64MiB", 2**26), ("123", 123)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "8 apples", "-1GB", "0", "GiB", "nan"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(A2SFError, match=r"--memory is .* expected a size above 0 such as 8GiB"):
        parse_bytes(text)


def test_a_name_that_is_known_passes_and_another_is_told_the_nearest() -> None:
    check_choice("--family", "groups", FAMILIES)
    with pytest.raises(A2SFError, match=r"--family is 'prfile'; did you mean 'profile'\?"):
        check_choice("--family", "prfile", FAMILIES)
    with pytest.raises(A2SFError, match="--family is 'x'; expected one of uniform, slope"):
        check_choice("--family", "x", FAMILIES)
