"""What `tune` makes of what it measured."""

import pytest

from orders_api.observe.sizing import (
    Limits,
    Size,
    Trial,
    advice,
    best_of,
    choose,
    ladder,
    milliseconds,
)

TARGET = 0.1


def _size(connections: int, rate: float, p99: float, refused: int = 0, cpu: float = 0) -> Size:
    return Size(connections, [Trial(rate, p99 / 2, p99, refused, cpu)])


@pytest.mark.parametrize(
    ("sizes", "chosen", "fast", "meets"),
    [
        pytest.param([(1, 100, 0.09), (2, 194, 0.05), (4, 200, 0.04)], 2, True, True, id="near"),
        pytest.param(
            [(1, 100, 0.09), (2, 189, 0.05), (4, 200, 0.04)], 4, True, True, id="not near"
        ),
        pytest.param([(1, 199, 0.2), (2, 198, 0.09), (4, 200, 0.05)], 2, True, True, id="too slow"),
        pytest.param(
            [(2, 150, 0.1), (4, 200, 0.12)], 2, False, True, id="fast or within the target"
        ),
        pytest.param(
            [(2, 100, 0.5), (4, 200, 0.4), (8, 201, 0.3)], 4, True, False, id="none meets it"
        ),
        pytest.param([(8, 201, 0.05), (4, 200, 0.05)], 4, True, True, id="in any order"),
        pytest.param([(1, 0, 5), (2, 0, 5)], None, None, None, id="nothing answered"),
        pytest.param([], None, None, None, id="nothing tried"),
    ],
)
def test_the_smallest_pool_that_is_fast_enough(
    sizes: list[tuple[int, float, float]],
    chosen: int | None,
    fast: bool | None,
    meets: bool | None,
) -> None:
    tried = [_size(*size) for size in sizes]
    choice = choose(tried, TARGET)
    if choice is None:
        assert chosen is None
    else:
        said = (choice.connections, choice.is_near(best_of(tried)), choice.meets(TARGET))
        assert said == (chosen, fast, meets)


def test_a_size_that_refused_a_request_does_not_meet_the_target() -> None:
    """The service would have answered 503."""
    choice = choose([_size(1, 200, 0.05, refused=1), _size(2, 200, 0.05)], TARGET)
    assert choice is not None and choice.connections == 2


def test_a_trial_that_was_disturbed_does_not_count() -> None:
    size = Size(1, [Trial(rate, 0.01, p99) for rate, p99 in ((10, 3), (100, 0.04), (110, 0.05))])
    assert (size.rate, size.p99) == (100, 0.05)


@pytest.mark.parametrize(
    ("most", "also", "sizes"),
    [
        (1, (), [1]),
        (3, (10, 0), [1, 2, 3]),
        (10, (), [1, 2, 3, 4, 6, 8, 10]),
        (20, (5, 20), [1, 2, 3, 4, 5, 6, 8, 11, 16, 20]),
    ],
)
def test_sizes_end_at_the_most(most: int, also: tuple[int, ...], sizes: list[int]) -> None:
    assert ladder(most, *also) == sizes


def _advice(size: Size, best: Size | None = None, limits: Limits | None = None) -> list[str]:
    limits = limits or Limits(20, "there is no more", 100)
    return advice(size, [size, best or size], limits, 40, TARGET)


def test_the_advice_names_the_variables_and_the_budget() -> None:
    first, *_, last = _advice(_size(4, 196, 0.05), _size(8, 200, 0.05))
    assert first == (
        "Set DATABASE_POOL_SIZE=4, DATABASE_MAX_OVERFLOW=0: 196 requests/s with a p99 of 50 ms, within 5 % of "
        "the best (200/s with 8)."
    )
    assert "Replicas x workers x 4" in last and "doctor" in last


def test_what_was_measured_is_not_refused_by_the_service() -> None:
    """20 for each connection: 40 at once need 2, or the limit raised."""
    assert "REQUESTS_PER_CONNECTION" not in _advice(_size(2, 200, 0.05))[0]
    assert "DATABASE_MAX_OVERFLOW=0, REQUESTS_PER_CONNECTION=40:" in _advice(_size(1, 200, 0.05))[0]


@pytest.mark.parametrize(
    ("connections", "backends", "cpu", "limit"),
    [
        (5, 5, 0.2, "The pooler is the limit"),
        (8, 5, 0.95, "The pooler is the limit"),
        (3, 5, 0.2, None),
        (3, None, 0.95, "This process is the limit"),
        (20, None, 0.2, "More connections might be faster still, but there is no more"),
    ],
)
def test_the_advice_says_what_the_limit_is(
    connections: int, backends: int | None, cpu: float, limit: str | None
) -> None:
    limits = Limits(20, "there is no more", 100, backends)
    told = " ".join(_advice(_size(connections, 200, 0.05, cpu=cpu), limits=limits))
    for sentence in (
        "The pooler is the limit",
        "This process is the limit",
        "More connections might",
    ):
        assert (sentence in told) == (limit is not None and limit.startswith(sentence))


def test_times_are_told_as_people_read_them() -> None:
    times = (0.0042, 0.038, 1.25, 12)
    assert [milliseconds(it) for it in times] == ["4.2 ms", "38 ms", "1.25 s", "12 s"]
