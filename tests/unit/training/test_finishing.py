"""Being stopped: a stop is not lost, wherever in the program it comes."""

import os
import signal

import pytest
import typer

from training.commands.finishing import stoppable


class Dropped:
    """Something whose destructor takes a while, in which a signal comes."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_python_drops_stops_before_anything_is_published(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    reached = []

    def publish_something() -> None:
        with stoppable(lambda: "nothing was published") as go_on:
            go_on()
            Dropped(number)
            reached.append("the end of the work")
            go_on()
            reached.append("what is published")

    with pytest.raises(typer.Exit) as end:
        publish_something()
    assert end.value.exit_code == 130
    assert reached == ["the end of the work"]
    assert "hubel: stopped; nothing was published" in capfd.readouterr().err
    assert signal.getsignal(number) is before


def test_a_stop_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable(lambda: "") as go_on:
            os.kill(os.getpid(), signal.SIGINT)
            go_on()
    finally:
        signal.signal(signal.SIGINT, before)
