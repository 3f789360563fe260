"""modelcache prepare-root: the init container that makes a directory of the node the agent's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modelcache.cli.options import Output, Root, flag, settings
from modelcache.cli.output import Format, print_json
from modelcache.errors import UsageError
from modelcache.host.mounts import OWN_MOUNTS, Mount, read_mounts
from modelcache.host.rootdir import check_mount, take_over
from modelcache.settings import PrepareSettings


def prepare_root(
    root: Root = None,
    require_mount: Annotated[
        Path | None, flag("require_mount", "DIRECTORY", kind=PrepareSettings)
    ] = None,
    host_mountinfo: Annotated[
        Path | None, flag("host_mountinfo", "FILE", kind=PrepareSettings)
    ] = None,
    agent_id: Annotated[int | None, flag("agent_id", "NUMBER", kind=PrepareSettings)] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check that the root lies on a local disk, and let the agent write in it.

    Runs as root, which needs no capability for it but the agent's group among its own. Whatever is
    in the root stays as it is. Run again, it changes nothing.
    """
    found = settings(
        PrepareSettings,
        root=root,
        require_mount=require_mount,
        host_mountinfo=host_mountinfo,
        agent_id=agent_id,
    )
    own = _mounts(OWN_MOUNTS)
    host = _mounts(found.host_mountinfo) if found.host_mountinfo else None
    mount = check_mount(found.root, own, found.require_mount, host)
    changed = take_over(found.root, found.agent_id)
    if output is Format.JSON:
        place = {"root": str(found.root), "filesystem": mount.fs_type, "source": mount.source}
        print_json("PreparedRoot", {**place, "changed": list(changed)})
    else:
        done = f"changed {', '.join(changed)}" if changed else "nothing to change"
        print(f"{found.root} is on {mount.fs_type} ({mount.source}): {done}")


def _mounts(file: Path) -> tuple[Mount, ...]:
    try:
        return read_mounts(file)
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}") from error
