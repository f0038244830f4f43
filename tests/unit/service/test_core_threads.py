import threading
from collections.abc import Iterator
from unittest import mock

import pytest

from service.core_threads import CoreThreads


@pytest.fixture
def threads() -> Iterator[CoreThreads]:
    pool = CoreThreads(2)
    yield pool
    pool.shutdown()


class Held:
    """Work that goes on until it is let go."""

    def __init__(self, threads: CoreThreads) -> None:
        self._go_on, self._is_over, begun = threading.Event(), threading.Event(), threading.Event()

        def work() -> int:
            begun.set()
            self._go_on.wait(10)
            return threading.get_ident()

        self._run = threads.submit(work)
        self._run.add_done_callback(lambda _: self._is_over.set())  # after its thread has become idle
        assert begun.wait(10)

    def end(self) -> int:
        """Let it go; returns the thread that it was on."""
        self._go_on.set()
        assert self._is_over.wait(10)
        return self._run.result()


def test_what_comes_one_after_the_other_is_done_by_one_thread(threads: CoreThreads) -> None:
    assert len({Held(threads).end() for _ in range(20)}) == 1


def test_the_thread_that_was_the_last_to_become_idle_is_taken(threads: CoreThreads) -> None:
    first, second = Held(threads), Held(threads)
    assert second.end() != (one := first.end())
    assert {Held(threads).end() for _ in range(5)} == {one}


def test_who_asks_while_all_are_at_work_waits_for_nobody(threads: CoreThreads) -> None:
    runs = [Held(threads) for _ in range(4)]
    assert len({run.end() for run in runs}) == 4


def test_a_thread_on_which_work_failed_takes_more(threads: CoreThreads) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            threads.submit(lambda: 1 // 0).result()
    assert threads.submit(lambda: 7).result() == 7


def test_what_is_given_up_before_it_begins_leaves_its_thread_to_others(threads: CoreThreads) -> None:
    runs = [Held(threads) for _ in range(4)]
    waiting = threads.submit(lambda: 7)
    assert waiting.cancel()
    for run in runs:
        run.end()
    assert threads.submit(lambda: 8).result(10) == 8


def test_a_thread_that_cannot_begin_is_not_lost(threads: CoreThreads) -> None:
    with (
        mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")),
        pytest.raises(RuntimeError, match="can't start"),
    ):
        threads.submit(lambda: 7)
    runs = [Held(threads) for _ in range(4)]
    assert len({run.end() for run in runs}) == 4


def test_after_the_end_nothing_is_taken(threads: CoreThreads) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 7)
