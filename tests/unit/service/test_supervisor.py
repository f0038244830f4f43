"""The supervisor's reckoning, and what is found before it starts; tests/e2e/test_processes.py runs it for real."""

import socket
import subprocess
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.launch import listen, plan_of
from service.settings import Settings, load_settings, variables_of
from service.supervisor import FORCED, Place, Plan, Supervisor
from service.tls import tls_context
from tests.conftest import ToolFinder
from tests.tiny_service import APP


def test_a_worker_that_ends_soon_again_and_again_is_waited_for_longer_and_longer() -> None:
    place = Place()
    pauses = [Supervisor._pause_after(place, lived_seconds=1.0) for _ in range(10)]
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert Supervisor._pause_after(place, lived_seconds=60.0) == 0.0
    assert Supervisor._pause_after(place, lived_seconds=1.0) == 0.0


def no_process(*_: object, **__: object) -> None:
    """Fail as the system does where there may be no more processes."""
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_a_worker_that_cannot_be_started_costs_none_of_those_that_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fork", no_process)
    supervisor = Supervisor(Plan(APP, "http://hubel", [], 1, 1.0))
    supervisor._serving = True
    before = len([*Path("/proc/self/fd").iterdir()])
    supervisor._fill()
    supervisor._fill()
    (place,) = supervisor._places
    assert place.worker is None
    assert (supervisor._stopped_at, place.quick_ends) == (None, 2)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_service_whose_first_worker_cannot_be_started_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fork", no_process)
    supervisor = Supervisor(Plan(APP, "http://hubel", [], 2, 1.0))
    supervisor._fill()
    assert supervisor._stopped_at is not None
    assert supervisor._exit_code == FORCED


def test_a_port_in_use_is_told_with_its_variables() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"127.0.0.1:{port} \(HUBEL_HOST, HUBEL_PORT\) .* Address already in use"
        ):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_an_address_that_is_not_here_is_told(host: str) -> None:
    with pytest.raises(SettingsError, match=host):
        listen(host, 0)


def test_a_name_of_several_addresses_is_listened_on_at_one_port() -> None:
    listeners = listen("localhost", 0)
    try:
        assert len({listener.getsockname()[1] for listener in listeners}) == 1
        for listener in listeners:
            socket.create_connection(listener.getsockname()[:2], 5).close()
        plan = plan_of(Settings(host="localhost", request_timeout_ms=1000), APP, listeners)
        assert plan.address == f"http://localhost:{listeners[0].getsockname()[1]}"
        assert plan.stop_seconds == 6.0
    finally:
        for listener in listeners:
            listener.close()


def test_settings_reach_another_process_as_they_are() -> None:
    settings = Settings.model_validate(
        {
            "admin_key": "sixteen letters, and more",
            "cache": Path("/somewhere else"),
            "port": 0,
            "registry_poll_seconds": 0.25,
            "max_image_aspect_ratio": 3,
            "preload": "",
        }
    )
    assert load_settings(variables_of(settings)) == settings


@pytest.fixture
def pair(tmp_path: Path, tool: ToolFinder) -> tuple[Path, Path]:
    """A certificate and its key."""
    return certificate(tool("openssl"), tmp_path / "one")


def certificate(openssl: str, path: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine and its key."""
    cert, key = path.with_suffix(".pem"), path.with_suffix(".key")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([openssl, "req", *kind, *subject, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


def test_a_certificate_needs_its_own_key(pair: tuple[Path, Path], tmp_path: Path, tool: ToolFinder) -> None:
    cert, key = pair
    assert tls_context(cert, key).minimum_version.name == "TLSv1_2"
    _, other = certificate(tool("openssl"), tmp_path / "two")
    with pytest.raises(SettingsError, match="is not the key of"):
        tls_context(cert, other)
    with pytest.raises(SettingsError, match=r"HUBEL_TLS_CERT is .*nowhere.*No such file"):
        tls_context(tmp_path / "nowhere", key)
    with pytest.raises(SettingsError, match="cannot be used with"):
        tls_context(key, key)
    locked = tmp_path / "locked.key"
    lock = ["pkey", "-aes256", "-passout", "pass:word", "-in", str(key), "-out", str(locked)]
    subprocess.run([tool("openssl"), *lock], check=True, capture_output=True)
    with pytest.raises(SettingsError, match="without a password"):
        tls_context(cert, locked)


def test_half_of_a_pair_is_refused() -> None:
    with pytest.raises(SettingsError, match="HUBEL_TLS_CERT is given without HUBEL_TLS_KEY"):
        load_settings({"HUBEL_TLS_CERT": "cert.pem"})
