"""A stream of items on threads: order, how many run at once, how many are made ahead, errors."""

import threading

import pytest

from wsssjax.core import threads


@pytest.fixture(autouse=True)
def three_cores(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)


def test_all_cores_work_and_the_order_stays():
    together = threading.Barrier(3, timeout=20)  # passed only where three are at work at once

    def one(i):
        together.wait()
        return i * i

    assert list(threads.each_of(one, iter(range(9)))) == [i * i for i in range(9)]
    assert list(threads.each_of(one, iter(()))) == []


def test_few_items_are_made_ahead():
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    for done, _ in enumerate(threads.each_of(lambda i: i, items()), 1):
        assert len(made) <= done + 3


def test_the_first_error_ends_it():
    def one(i):
        if i >= 4:
            raise ValueError(f"item {i}")
        return i

    found = []
    with pytest.raises(ValueError, match="item 4"):
        for x in threads.each_of(one, iter(range(10**6))):
            found.append(x)
    assert found == [0, 1, 2, 3]
