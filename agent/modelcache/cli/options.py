"""Options that several commands have. Their help is the settings' own description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from modelcache.api.meta import NAME_MAX, NAME_PATTERN
from modelcache.cli.output import Format
from modelcache.errors import StoreDamaged, UsageError
from modelcache.service.opening import store_of
from modelcache.settings import AgentSettings, StoreSettings
from modelcache.store import Store

Settings = TypeVar("Settings", bound=BaseSettings)

_flags: dict[tuple[type[BaseSettings], str], str] = {}
"""How the flag of a field of some settings is called, where it has one."""


def flag(
    field: str, metavar: str = "TEXT", *names: str, kind: type[BaseSettings] = AgentSettings
) -> Any:
    """A typer option for a field of the settings. None, its default, leaves the setting alone."""
    description = kind.model_fields[field].description or ""
    variable = f"MODELCACHE_{field.upper()}"
    default = kind.model_fields[field].default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    elif isinstance(default, float):
        default = f"{default:g}"
    shown = f"default: {default}; " if isinstance(default, str | int | Path) and default else ""
    names = names or (f"--{field.replace('_', '-')}",)
    _flags[kind, field] = next(name for name in names if name.startswith("--"))
    return typer.Option(
        *names,
        help=f"{description} [{shown}{variable}]",
        metavar=metavar,
        show_default=False,
    )


Root = Annotated[Path | None, flag("root", "DIRECTORY")]
KeepFreeOption = Annotated[str | None, flag("keep_free", "SIZE")]
CapacityOption = Annotated[str | None, flag("capacity", "SIZE")]
SecretsDir = Annotated[Path | None, flag("secrets_dir", "DIRECTORY")]
Connections = Annotated[int | None, flag("connections", "NUMBER")]
BandwidthOption = Annotated[str | None, flag("bandwidth", "SIZE")]
OriginBandwidth = Annotated[str | None, flag("origin_bandwidth", "ORIGIN=SIZE,...")]
HostConnections = Annotated[int | None, flag("host_connections", "NUMBER")]
IoPriority = Annotated[str | None, flag("io_priority", "PRIORITY")]
MirrorsOption = Annotated[str | None, flag("mirrors", "ORIGIN=URL,...")]
PrivateRedirects = Annotated[str | None, flag("private_redirects", "NETWORK|HOST,...")]
CaBundle = Annotated[Path | None, flag("ca_bundle", "FILE")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print.")]


def settings(kind: type[Settings], **given: Any) -> Settings:
    """Settings from the environment, with the flags that were given.

    Raises:
        UsageError: naming the setting that is wrong.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).lower().removeprefix("modelcache_") if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        flag_name = _flags.get((kind, name), f"--{name.replace('_', '-')}")
        where = f"{flag_name} (or MODELCACHE_{name.upper()}): " if name else ""
        raise UsageError(f"{where}{message}") from error


def open_store(
    root: Path | None,
    keep_free: str | None = None,
    capacity: str | None = None,
    *,
    create: bool = False,
    looking: bool = False,
) -> Store:
    """The store at the root that is asked for; `looking`: on a read-only file system too.

    Raises:
        UsageError: nothing is there, and `create` is false: a mistyped root is told, not made.
        StoreDamaged
    """
    found = settings(StoreSettings, root=root, keep_free=keep_free, capacity=capacity)
    try:
        if not create and not (found.root / "layout.json").exists():
            raise UsageError(
                f"{found.root} is not a model cache: give --root, or fill it with modelcache"
                " prefetch"
            )
        return store_of(found, looking=looking)
    except OSError as error:
        raise StoreDamaged(
            f"{found.root} can't be opened: {error.strerror or error}; run it as the user that"
            " the agent runs as"
        ) from error


def check_name(name: str) -> None:
    """Whether a model can be called so.

    Raises:
        UsageError
    """
    if not re.fullmatch(NAME_PATTERN, name) or len(name) > NAME_MAX:
        raise UsageError(
            f"--name {name!r}: lower-case letters, digits and hyphens, at most {NAME_MAX}"
        )
