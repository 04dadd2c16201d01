"""How many of the equal places of a batch each of several training sets gets."""

from collections.abc import Sequence


def places(count: int, share: Sequence[float]) -> list[int]:
    """How many of `count` places each set gets: its share, rounded by the largest remainder.

    All shares are rounded down, and the places that are left go to the largest remainders, the first set of equals
    first.
    """
    exact = [count * part / sum(share) for part in share]
    given = [int(number + 1e-9) for number in exact]
    by_remainder = sorted(range(len(share)), key=lambda number: given[number] - exact[number])
    for number in by_remainder[: count - sum(given)]:
        given[number] += 1
    return given
