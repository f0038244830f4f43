"""The parent of the serving processes: it starts them, replaces those that end or hang, and stops them together.

It knows neither settings nor models: a `Plan` says what to run. It imports what workers run and runs none of it: they
are forked from it, begin in a tenth of the time that the imports take, and share the memory that these have filled.
To a worker it speaks by one socket, the worker's line: a beat comes in every second, and its end tells the worker to
stop, whether this process wishes so or is gone itself.
"""

import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FORCED = 1  # the exit code when a worker had to be killed

_TICK_SECONDS = 1.0
_REPEAT_SECONDS = 0.1  # `timeout` and a terminal may send one order as several signals
_SOON_SECONDS = 10.0  # a worker that ends before that, and did so before, is not replaced at once
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to supervise.

    Attributes:
        app: what makes a worker's application, as "module:function".
        address: where it is served, for the log.
        listeners: the descriptors of the listening sockets.
        workers: how many processes serve.
        stop_seconds: how long a worker may take to stop; then it is killed.
        log_level: the least severity that is logged.
        stuck_seconds: how long a worker's event loop may give no sign; then it is killed and replaced.
    """

    app: str
    address: str
    listeners: Sequence[int]
    workers: int
    stop_seconds: float
    log_level: str = "info"
    stuck_seconds: float = 30.0


@contextmanager
def holding_signals() -> Iterator[None]:
    """Keep signals to stop back; what is started meanwhile keeps them back until it can act on them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class Worker:
    """A serving process."""

    pid: int
    line: socket.socket
    started: float
    serves: bool = False
    silent_seconds: float = 0.0
    killed: bool = False

    def kill(self) -> None:
        """End it at once."""
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)


@dataclass
class Place:
    """A place that a worker is to hold, and how the last ones fared there."""

    worker: Worker | None = None
    quick_ends: int = 0
    due: float = field(default_factory=time.monotonic)


class Supervisor:
    """Keeps a plan's workers running."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._places = [Place() for _ in range(plan.workers)]
        self._selector = selectors.DefaultSelector()
        self._wakers: tuple[socket.socket, ...] = ()
        self._serving = False  # whether a worker ever has
        self._stopped_at: float | None = None
        self._exit_code = 0

    def run(self) -> int:
        """Supervise until told to stop, and return the exit code."""
        self._listen_to_signals()
        _log.info("listening on %s with %d worker(s)", self._plan.address, self._plan.workers)
        with tempfile.TemporaryDirectory(prefix="hubel-") as folder:
            self._share(Path(folder))
            _import_what_workers_run(self._plan.app)
            looked = time.monotonic()
            while self._stopped_at is None or self._workers():
                self._fill()
                heard = self._selector.select(self._pause())
                looked, before = time.monotonic(), looked
                for worker in self._workers():  # less than it was, if this process was stopped
                    worker.silent_seconds += min(looked - before, 2 * _TICK_SECONDS)
                for key, _ in heard:
                    key.data()
                self._bury()
                self._watch()
        _log.info("all workers have ended")
        return self._exit_code

    def _workers(self) -> list[Worker]:
        return [place.worker for place in self._places if place.worker is not None]

    def _share(self, folder: Path) -> None:
        """Give several workers folders where they meet; one alone keeps its metrics to itself."""
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        if self._plan.workers > 1:
            for variable, name in (("PROMETHEUS_MULTIPROC_DIR", "metrics"), ("HUBEL_WORKER_FOLDER", "workers")):
                (folder / name).mkdir()
                os.environ[variable] = str(folder / name)

    # ---- signals

    def _listen_to_signals(self) -> None:
        heard, woken = socket.socketpair()
        for end in (heard, woken):
            end.setblocking(False)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the number is read from the socket
        self._wakers = (heard, woken)
        self._selector.register(heard, selectors.EVENT_READ, lambda: self._on_signals(heard.recv(256)))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in SIGNALS:
                self._on_order(signal.Signals(number))

    def _on_order(self, number: signal.Signals) -> None:
        if self._stopped_at is None:
            _log.info("stopping: %s", number.name)
            self._stop()
        elif time.monotonic() - self._stopped_at > _REPEAT_SECONDS:
            _log.warning("killing the workers: a second %s", number.name)
            self._exit_code = 128 + number
            for worker in self._workers():
                worker.kill()

    def _stop(self) -> None:
        self._stopped_at = time.monotonic()
        for listener in self._plan.listeners:
            os.close(listener)
        for worker in self._workers():
            worker.line.shutdown(socket.SHUT_WR)

    # ---- workers

    def _pause(self) -> float:
        now = time.monotonic()
        due = [place.due - now for place in self._places if place.worker is None and self._stopped_at is None]
        return max(0.0, min([_TICK_SECONDS, *due]))

    def _fill(self) -> None:
        for place in self._places:
            if place.worker is None and self._stopped_at is None and place.due <= time.monotonic():
                try:
                    place.worker = self._start()
                except OSError as error:  # no process, descriptor or memory to be had: those that serve go on
                    self._on_no_start(place, error)

    def _on_no_start(self, place: Place, error: OSError) -> None:
        if not self._serving:
            _log.error("no worker can be started: %s", error)
            self._exit_code = FORCED
            self._stop()
            return
        pause = self._pause_after(place, 0.0)
        _log.error("a worker cannot be started, and is tried again in %.1f s: %s", pause, error)
        place.due = time.monotonic() + pause

    def _start(self) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            return self._start_with(ours, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()

    def _start_with(self, ours: socket.socket, theirs: socket.socket) -> Worker:
        with holding_signals():
            pid = os.fork()
            if not pid:
                self._become_worker(ours, theirs)
        worker = Worker(pid, ours, time.monotonic())
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_beat(worker))
        return worker

    def _become_worker(self, ours: socket.socket, theirs: socket.socket) -> NoReturn:
        """Serve, in a process that was just forked, and end it; what is the parent's is let go of."""
        code = FORCED
        try:
            signal.set_wakeup_fd(-1)
            for number in (*SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            for end in (*self._wakers, ours, *(worker.line for worker in self._workers())):
                end.close()
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, sys.stdin.fileno() if sys.stdin else 0)
            os.close(nothing)

            from service.server import run_worker

            code = run_worker(self._plan.app, self._plan.listeners, theirs.detach())
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else FORCED
        except BaseException:
            _log.exception("a worker has failed")
        finally:
            logging.shutdown()
            os._exit(code)  # without what the parent would do at its end

    def _on_beat(self, worker: Worker) -> None:
        try:
            beats = worker.line.recv(256)
        except ConnectionError:
            beats = b""
        if not beats:  # it has closed its end, and will be gone soon
            self._selector.unregister(worker.line)
            return
        if not worker.serves:
            _log.info("worker %d serves after %.2f s", worker.pid, time.monotonic() - worker.started)
        worker.serves = self._serving = True
        worker.silent_seconds = 0.0

    def _bury(self) -> None:
        """Note which children have ended; as the first process of a container, this one has others' children, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for place in self._places:
                if place.worker is not None and place.worker.pid == pid:
                    self._on_end(place, place.worker, os.waitstatus_to_exitcode(status))

    def _on_end(self, place: Place, worker: Worker, code: int) -> None:
        if worker.line in self._selector.get_map():
            self._selector.unregister(worker.line)
        worker.line.close()
        place.worker = None
        if self._stopped_at is not None:
            if code != 0:
                _log.error("worker %d ended with %d", worker.pid, code)
                self._exit_code = self._exit_code or FORCED
        elif not self._serving:
            _log.error("worker %d ended with %d before it served: there is no use in another one", worker.pid, code)
            self._exit_code = code if code > 0 else FORCED
            self._stop()
        else:
            pause = self._pause_after(place, time.monotonic() - worker.started)
            _log.error("worker %d ended with %d; another one is started in %.1f s", worker.pid, code, pause)
            place.due = time.monotonic() + pause

    @staticmethod
    def _pause_after(place: Place, lived_seconds: float) -> float:
        """At once, but not for one that ends soon again and again."""
        place.quick_ends = place.quick_ends + 1 if lived_seconds < _SOON_SECONDS else 0
        pauses = place.quick_ends - 2
        return 0.0 if pauses < 0 else min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(pauses, 10))

    def _watch(self) -> None:
        """Kill workers that do not stop in time, or give no sign."""
        plan = self._plan
        for worker in [worker for worker in self._workers() if not worker.killed]:
            if self._stopped_at is not None:
                if time.monotonic() - self._stopped_at > plan.stop_seconds:
                    _log.error("worker %d is killed: it did not stop in %.0f s", worker.pid, plan.stop_seconds)
                    worker.kill()
            elif worker.serves and worker.silent_seconds > plan.stuck_seconds:
                _log.error("worker %d is killed: no sign of it for %.0f s", worker.pid, worker.silent_seconds)
                worker.kill()


def _import_what_workers_run(app: str) -> None:
    """Import it once for all workers; what cannot be imported is told by the worker that needs it."""
    module, _, _ = app.partition(":")
    gc.disable()  # what is imported stays: to look through all of it takes a twentieth of a second
    with suppress(Exception):
        importlib.import_module("service.server")
        importlib.import_module(module)
    gc.freeze()  # a collection in a worker would write to all that is shared
    gc.enable()


def become(plan: Plan, environment: dict[str, str]) -> NoReturn:
    """Turn this process into a supervisor, and end it when the workers have ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the supervisor listens
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(Supervisor(plan).run())
