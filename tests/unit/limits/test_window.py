from __future__ import annotations

import math

from worker.limits.window import SLOW_START, Window


def filled(window: Window) -> int:
    entered = 0
    while entered < 1000 and window.enter():
        entered += 1
    return entered


def opened(in_flight: int) -> Window:
    window = Window()
    window.open()
    for _ in range(in_flight):
        assert window.enter()
    return window


def test_few_go_before_anything_is_known_and_any_number_afterwards() -> None:
    window = Window()
    assert filled(window) == SLOW_START

    window.open()
    assert filled(window) == 1000


def test_a_call_that_ends_makes_room() -> None:
    window = Window()
    filled(window)
    window.leave()

    assert window.enter()
    assert not window.enter()


def test_an_overload_halves_what_was_in_flight() -> None:
    window = opened(100)
    window.overloaded(now=10.0)

    assert window.limit == 50
    assert not window.enter()


def test_many_failures_at_once_are_one_sign_of_overload() -> None:
    window = opened(100)
    for _ in range(50):
        window.overloaded(now=10.0)
    assert window.limit == 50

    window.overloaded(now=11.0)
    assert window.limit == 25


def test_one_call_is_always_allowed() -> None:
    window = opened(3)
    for second in range(20):
        window.overloaded(now=10.0 + second)
    for _ in range(3):
        window.leave()

    assert filled(window) == 1


def test_successes_add_a_little_at_a_time_until_the_limit_is_gone() -> None:
    window = opened(100)
    window.overloaded(now=10.0)
    limits = []
    for _ in range(10_000):
        window.succeeded(latency=1.0)
        limits.append(window.limit)
        if math.isinf(window.limit):
            break
        window.enter()

    assert limits == sorted(limits)
    assert limits[49] - 50 <= 5.1  # one window of successes: a twentieth of the peak
    assert math.isinf(limits[-1])
    assert len(limits) < 5000


def test_a_limit_that_nobody_uses_does_not_grow() -> None:
    window = opened(100)
    window.overloaded(now=10.0)
    for _ in range(90):
        window.leave()
    for _ in range(1000):
        window.succeeded(latency=1.0)

    assert window.limit == 50


def test_the_queue_is_longer_the_more_wait_in_it() -> None:
    window = Window()
    alone = window.queue_seconds()
    window.park(100)

    assert window.queue_seconds() > 50 * alone


def test_one_overload_at_low_traffic_is_made_good_by_the_calls_that_follow() -> None:
    for in_flight in (1, 2, 3, 4, 8):
        window = opened(in_flight)
        window.overloaded(now=10.0)
        for _ in range(in_flight):
            window.leave()
        for _ in range(5000):  # as many in flight as may be, one after the other
            while window.enter():
                if window.in_flight > 200:
                    break
            for _ in range(window.in_flight):
                window.leave()
                window.succeeded(1.0)
            if math.isinf(window.limit):
                break

        assert math.isinf(window.limit), in_flight
