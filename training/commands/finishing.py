"""What every command that publishes has in common: its destination, its end, and being stopped."""

import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from safetensors import SafetensorError

from model.errors import AliasNotMoved, RegistryUnavailable
from model.registry import Registry, StoredVersion
from model.types import check_alias
from training.errors import Interrupted

if TYPE_CHECKING:
    from training.publish import Release

_USAGE = 2
_STOPPED = 130


def check_destination(store: Registry, name: str, alias: str | None) -> None:
    """Find out before the work, not after it, whether its result can be published."""
    if alias is not None:
        check_alias(alias)
    with store.staging(name):
        pass
    store.forget_empty(name)


def require_torch(command: str, package: str = "torch") -> None:
    """End a command that needs torch, or what comes with it, where that is not installed, with the line to type."""
    if importlib.util.find_spec(package) is None:
        typer.echo(f"hubel: '{command}' needs {package}, which is not installed: pip install 'hubel[torch]'", err=True)
        raise typer.Exit(_USAGE)


@contextmanager
def stoppable(left: Callable[[], str]) -> Iterator[None]:
    """Let SIGTERM tidy up as Ctrl-C does, and end both with a line instead of a traceback.

    Args:
        left: says what there is of the work that was stopped.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as error:
        if (rank := os.environ.get("RANK", "0")) == "0":
            typer.echo(f"hubel: {str(error) or 'stopped'}; {left()}", err=True)
        else:
            typer.echo(f"hubel: process {rank}: {str(error) or 'stopped'}", err=True)
        raise typer.Exit(_STOPPED) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def publish_release(store: Registry, release: "Release", alias: str | None, otherwise: str = "") -> None:
    """Publish and say so; `otherwise` ends the message of a failure.

    Raises:
        RegistryUnavailable: the version cannot be written.
    """
    from training.publish import publish

    try:
        with Console().status(f"exporting and checking {release.name}"):
            version = publish(store, release, alias)
    except AliasNotMoved:
        raise
    except (OSError, SafetensorError, RegistryUnavailable) as error:
        raise RegistryUnavailable(
            f"the version cannot be written into {store.address}: {error}; nothing was published{otherwise}"
        ) from error
    announce(store, version)


def announce(
    store: Registry,
    version: StoredVersion,
    console: Console | None = None,
    what: str = "its held-out test images",
) -> None:
    """Say which version there is now, under which aliases, and how often it is right."""
    aliases = [alias for alias, number in store.state(version.name).aliases.items() if number == version.number]
    accuracy = version.manifest.metrics.get("test_accuracy")
    measured = f", right on {accuracy:.1%} of {what}" if accuracy is not None else ""
    (console or Console()).print(
        f"published {version} ({', '.join(aliases) or 'no alias'}){measured}", highlight=False, soft_wrap=True
    )
