"""`hubel keys`: the keys that callers have, as lines of a file that a service may follow."""

import fcntl
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from model.checkpoint import write_temporary
from service.commands.tables import make_table
from service.errors import SettingsError
from service.keys import KeyRing, Role, make_key, read_keys, strip_comment
from service.settings import variable_of

_HEAD = "# name role digest [requests_per_second=5] [concurrent_requests=2]\n"
_FILE = variable_of("api_keys_file")

NameArgument = Annotated[str, typer.Argument(help="What log and metrics call the key's owner.")]
FileOption = Annotated[Path, typer.Option("--file", envvar=_FILE, dir_okay=False, help="The file of keys.")]

keys_app = typer.Typer(help="Make, list and remove API keys.", no_args_is_help=True)


@keys_app.command("new")
def new_key(
    name: NameArgument,
    *,
    role: Annotated[Literal["predict", "admin"], typer.Option(help="What it may do; admin is everything.")] = "predict",
    file: Annotated[
        Path | None,
        typer.Option("--file", envvar=_FILE, dir_okay=False, help="Add the key here; else its line is printed."),
    ] = None,
    requests_per_second: Annotated[
        float | None, typer.Option(min=0, help="Requests a second; 0 for no limit.", show_default="as the settings say")
    ] = None,
    concurrent_requests: Annotated[
        int | None, typer.Option(min=0, help="Requests at once; 0 for no limit.", show_default="as the settings say")
    ] = None,
) -> None:
    """Make a key and print it, this once: only its digest is kept."""
    try:
        secret, key = make_key(name, Role(role), requests_per_second, concurrent_requests)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if file is None:
        print(secret)
        print(key)
        typer.echo(f"The first line is the key; the second belongs into {variable_of('api_keys')} or a file.", err=True)
        return
    _edit(file, lambda lines: [*(lines or [_HEAD]), f"{key}\n"])
    print(secret)
    typer.echo(f"{file} has its digest; the key itself is shown this once.", err=True)


@keys_app.command("list")
def list_keys(file: FileOption) -> None:
    """List names, roles and limits."""
    table = make_table("name", "role", "requests a second", "at once")
    for key in read_keys(_read(file), str(file)):
        limits = (key.requests_per_second, key.concurrent_requests)
        table.add_row(key.name, key.role, *map(_tell, limits))
    Console().print(table)


@keys_app.command("remove")
def remove_key(name: NameArgument, file: FileOption) -> None:
    """Take a key away; a service that follows the file refuses it within two seconds."""

    def without(lines: list[str]) -> list[str]:
        kept = [line for line in lines if strip_comment(line).split()[:1] != [name]]
        if len(kept) == len(lines):
            raise SettingsError(f"{file} has no key of the name {name!r}")
        return kept

    _edit(file, without)
    typer.echo(f"{name} is removed from {file}")


def _tell(limit: float | None) -> str:
    if limit is None:
        return "as the settings say"
    return f"{limit:g}" if limit else "no limit"


def _edit(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Replace a file of keys at once by what `change` makes of its lines; two at a time wait for each other."""
    file = file.resolve()  # a link stays one
    try:
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            before = file.stat() if file.exists() else None
            text = _read(file) if before else ""
            lines = [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]
            changed = "".join(change(lines) or [_HEAD])  # an empty file would change nothing
            KeyRing(read_keys(changed, str(file)))
            written = write_temporary(file.parent, changed)
            written.chmod(0o600 | (stat.S_IMODE(before.st_mode) & 0o040 if before else 0))
            if before:
                with suppress(PermissionError):  # whoever may not do this owned the file, or left it to a group
                    os.chown(written, before.st_uid, before.st_gid)
            written.replace(file)
        finally:
            os.close(folder)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from error


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is not text") from error
