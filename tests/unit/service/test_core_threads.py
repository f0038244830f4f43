import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from service.core_threads import CoreThreads


@pytest.fixture
def threads() -> Iterator[CoreThreads]:
    pool = CoreThreads(2)
    yield pool
    pool.shutdown()


def held(threads: CoreThreads) -> tuple["Future[str]", Callable[[], None]]:
    """Work that goes on until it is let go, and tells on which thread."""
    begun, go_on = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go_on.wait(10)
        return threading.current_thread().name

    run = threads.submit(work)
    assert begun.wait(10)
    return run, go_on.set


def test_what_comes_one_after_the_other_is_done_by_one_thread(threads: CoreThreads) -> None:
    assert len({threads.submit(threading.get_ident).result() for _ in range(20)}) == 1


def test_the_thread_that_was_the_last_to_become_idle_is_taken(threads: CoreThreads) -> None:
    (first, end_first), (second, end_second) = held(threads), held(threads)
    end_second()
    other = second.result()
    end_first()
    one = first.result()
    assert one != other
    for _ in range(5):
        run, end = held(threads)
        end()
        assert run.result() == one


def test_who_asks_while_all_are_at_work_waits_for_nobody(threads: CoreThreads) -> None:
    runs = [held(threads) for _ in range(4)]
    for _, end in runs:
        end()
    assert len({run.result() for run, _ in runs}) == 4


def test_a_thread_on_which_work_failed_takes_more(threads: CoreThreads) -> None:
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            threads.submit(lambda: 1 // 0).result()
    assert threads.submit(lambda: 7).result() == 7


def test_what_is_given_up_before_it_begins_leaves_its_thread_to_others(threads: CoreThreads) -> None:
    runs = [held(threads) for _ in range(4)]
    waiting = threads.submit(lambda: 7)
    assert waiting.cancel()
    for run, end in runs:
        end()
        run.result()
    assert threads.submit(lambda: 8).result(10) == 8


def test_after_the_end_nothing_is_taken(threads: CoreThreads) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError):
        threads.submit(lambda: 7)
