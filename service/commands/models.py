"""`hubel models`: what is in the registry, and what is wanted of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from model.errors import ModelError
from model.registry import DEFAULT_ROOT, Registry
from model.state import Canary, PromotionRule, Shadow, State, Traffic
from model.types import PRODUCTION, ModelRef
from service.commands.options import RegistryOption
from service.commands.tables import make_table
from service.settings import load_settings

_FAILED = 1
_SHARE = 10.0  # percent, where none is given
_KEPT_SHARE = f"as it is, or {_SHARE:g}"
_KEPT = {name: f"as it is, or {field.default}" for name, field in Canary.model_fields.items()}

NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
AliasOption = Annotated[str, typer.Option(help="The alias to move.")]

models_app = typer.Typer(help="List, show, promote, compare and remove versions.", no_args_is_help=True)


@models_app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """List the models, their versions and their aliases."""
    store = Registry(registry)
    rows = [_describe(store, name, number) for name in store.names() for number in store.numbers(name)]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_versions(rows)
    if any(row["error"] for row in rows):
        raise typer.Exit(_FAILED)


def _print_versions(rows: list[dict[str, Any]]) -> None:
    table = make_table("model", "version", "aliases and traffic", "architecture", "accuracy", "created")
    for row in rows:
        accuracy = row["metrics"].get("test_accuracy")
        table.add_row(
            row["model"],
            str(row["version"]),
            ", ".join([*row["aliases"], *row["traffic"]]),
            Text(row["error"], style="red") if row["error"] else row["architecture"],
            f"{accuracy:.4f}" if accuracy is not None else "",
            row["created"][: len("2026-01-31")],
        )
    Console().print(table)


def _describe(store: Registry, name: str, number: int) -> dict[str, Any]:
    """Return a version's row; what cannot be read of it is its `error`."""
    row: dict[str, Any] = {
        "model": name, "version": number, "aliases": [], "traffic": [], "architecture": "", "classes": 0, "created": "",
        "metrics": {}, "error": "",
    }  # fmt: skip
    try:
        state = store.state(name)
        row["aliases"] = sorted(alias for alias, target in state.aliases.items() if target == number)
        row["traffic"] = [
            f"{share.percent:g} % {kind}"
            for kind, share in (("canary", state.traffic.canary), ("shadow", state.traffic.shadow))
            if share is not None and share.version == number
        ]
        manifest = store.manifest(name, number)
    except ModelError as error:
        return {**row, "error": str(error)}
    return {
        **row,
        "architecture": manifest.architecture.name,
        "classes": len(manifest.labels),
        "created": manifest.provenance.created.isoformat(),
        "metrics": manifest.metrics,
    }


@models_app.command("show")
def show_model(
    ref: Annotated[str, typer.Argument(help="name, name:3 or name@alias")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Show a version's card, or its manifest with --json."""
    from rich.markdown import Markdown

    from model.checkpoint import read_card

    version = Registry(registry).version(ModelRef.parse(ref))
    if as_json:
        print(version.manifest.model_dump_json(indent=1))
        return
    console = Console()
    console.print(f"{version} in {version.folder}")
    console.print(Markdown(read_card(version.folder)))


@models_app.command("promote")
def promote(
    ref: Annotated[str, typer.Argument(help="name, name:3 or name@alias")],
    alias: AliasOption = PRODUCTION,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Let an alias mean a version, after loading the version and checking its golden outputs."""
    store = Registry(registry)
    number = store.resolve(ModelRef.parse(ref))
    name = ModelRef.parse(ref).name
    store.state(name).with_alias(alias, number)  # what will be refused is not loaded first
    _check_loads(store, name, number)
    store.change(name, lambda state: state.with_alias(alias, number))
    typer.echo(f"{name}@{alias} is now version {number}")


@models_app.command("rollback")
def roll_back(
    name: NameArgument,
    alias: AliasOption = PRODUCTION,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Let an alias mean again what it meant before, after loading that version."""
    store = Registry(registry)
    store.numbers(name)
    number = store.state(name).rolled_back_to_previous(alias).aliases[alias]
    _check_loads(store, name, number)
    store.change(name, lambda state: state.rolled_back_to_previous(alias, to=number))
    typer.echo(f"{name}@{alias} is version {number} again")


@models_app.command("unalias")
def drop_alias(
    ref: Annotated[str, typer.Argument(help="name@alias")],
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Take an alias away; production cannot be."""
    parsed = ModelRef.parse(ref)
    if parsed.alias is None:
        raise typer.BadParameter(f"{ref!r} names no alias: write name@alias", param_hint="REF")
    store = Registry(registry)
    store.numbers(parsed.name)
    store.change(parsed.name, lambda state: state.without_alias(parsed.alias or PRODUCTION))
    typer.echo(f"{parsed} is no alias any more")


@models_app.command("remove")
def remove(
    ref: Annotated[str, typer.Argument(help="name:3")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    last: Annotated[bool, typer.Option("--last", help="Also if it is the only one: the model goes with it.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Remove a version that no alias and no traffic needs; its number is never given again."""
    parsed = ModelRef.parse(ref)
    store = Registry(registry)
    number = store.resolve(parsed)
    if not yes:
        typer.confirm(f"remove {parsed.name}:{number} from {store.address} for good?", abort=True)
    store.remove(ModelRef(parsed.name, version=number), last=last)
    typer.echo(f"{parsed.name}:{number} is removed")


@models_app.command("traffic")
def divide_traffic(
    name: NameArgument,
    *,
    canary: Annotated[int | None, typer.Option(min=1, help="Version that answers a share of the requests.")] = None,
    percent: Annotated[
        float | None, typer.Option(min=0, max=100, help="The canary's share.", show_default=_KEPT_SHARE)
    ] = None,
    header: Annotated[
        str | None,
        typer.Option(
            help="Header whose value decides the side; without it the request's id does.",
            show_default=_KEPT["header"],
        ),
    ] = None,
    max_error_rate: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="How much greater than that of production its share of 5xx answers may be.",
            show_default=_KEPT["max_error_rate"],
        ),
    ] = None,
    max_latency_ratio: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="How many times the mean time of production it may take.",
            show_default=_KEPT["max_latency_ratio"],
        ),
    ] = None,
    min_requests: Annotated[
        int | None,
        typer.Option(min=1, help="Answers that it must have given to be judged.", show_default=_KEPT["min_requests"]),
    ] = None,
    shadow: Annotated[int | None, typer.Option(min=1, help="Version that is asked as well, unnoticed.")] = None,
    shadow_percent: Annotated[
        float | None, typer.Option(min=0, max=100, help="The shadow's share.", show_default=_KEPT_SHARE)
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="Take canary and shadow out first.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Give a share of the requests for production to a canary, or copies of them to a shadow; show both."""
    asked = _given(
        percent=percent, header=header, max_error_rate=max_error_rate, max_latency_ratio=max_latency_ratio,
        min_requests=min_requests,
    )  # fmt: skip
    copied = _given(percent=shadow_percent)
    if (asked and canary is None) or (copied and shadow is None):
        raise typer.BadParameter(
            "a share needs its version: --percent goes with --canary, as do --header, --max-error-rate, "
            "--max-latency-ratio and --min-requests, --shadow-percent with --shadow"
        )
    store = Registry(registry)
    store.numbers(name)
    with _told_as_usage():  # before anything is changed
        Canary.model_validate({"version": canary or 1, "percent": _SHARE, **asked})

    def divide(state: State) -> State:
        kept = Traffic() if end else state.traffic
        changes: dict[str, Canary | Shadow] = {}
        if canary is not None:
            changes["canary"] = Canary.model_validate(_laid_over(kept.canary, canary, asked))
        if shadow is not None:
            changes["shadow"] = Shadow.model_validate(_laid_over(kept.shadow, shadow, copied))
        return state.with_traffic(kept.model_copy(update=changes))

    versions = [number for number in (canary, shadow) if number is not None]
    for number in versions:
        store.resolve(ModelRef(name, version=number))
    divide(store.state(name))  # what will be refused is not loaded first
    for number in versions:
        _check_loads(store, name, number)
    state = store.change(name, divide) if versions or end else store.state(name)
    typer.echo(f"production: version {state.aliases.get(PRODUCTION)}")
    if (trial := state.traffic.canary) is not None:
        typer.echo(f"canary: version {trial.version}, {trial.percent:g} % by {trial.header} or the request's id")
    if (copy := state.traffic.shadow) is not None:
        typer.echo(f"shadow: version {copy.version}, {copy.percent:g} %")
    if (failed := state.rolled_back) is not None:
        typer.echo(f"taken out at {failed.at:%Y-%m-%d %H:%M:%S}: version {failed.version}: {failed.reason}")


def _given(**options: object) -> dict[str, object]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _laid_over(share: Canary | Shadow | None, version: int, given: dict[str, object]) -> dict[str, object]:
    """Return what a version's share is to be: what is given, and for the rest what it is."""
    kept = share.model_dump() if share is not None and share.version == version else {"percent": _SHARE}
    return {**kept, "version": version, **given}


@models_app.command("protect")
def protect(
    name: NameArgument,
    min_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Agreement that 'hubel models diff' must have found.")
    ] = None,
    min_images: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Images that it must have looked at.  [default: {PromotionRule.model_fields['min_images'].default}]",
        ),
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Ask for nothing.")] = False,
    registry: RegistryOption = DEFAULT_ROOT,
) -> None:
    """Let production move only to versions that were compared with the one it means."""
    if (min_agreement is None) != off or (off and min_images is not None):
        raise typer.BadParameter("give --min-agreement, with or without --min-images, or --off")
    rule = None
    if min_agreement is not None:
        with _told_as_usage():
            rule = PromotionRule(min_agreement=min_agreement)
            if min_images is not None:
                rule = rule.model_copy(update={"min_images": min_images})
    Registry(registry).set_promotion_rule(name, rule)
    wanted = (
        "no diff"
        if rule is None
        else f"a diff with an agreement of {rule.min_agreement:.1%} on {rule.min_images:,} images or more"
    )
    typer.echo(f"{name}@{PRODUCTION} asks for {wanted} before it moves")


@contextmanager
def _told_as_usage() -> Iterator[None]:
    """Tell of a value that a record does not take as of any other option."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
        raise typer.BadParameter(f"{option}: {first['msg']}") from error


def _check_loads(store: Registry, name: str, number: int) -> None:
    """Load a version as the service would, golden outputs included."""
    from model.classifier import load_classifier

    settings = load_settings(os.environ)
    version = store.version(ModelRef(name, version=number))
    load_classifier(version, settings.engine_choice)
