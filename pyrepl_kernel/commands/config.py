"""``pyrepl-kernel config``: which options are in force for a kernel, and where they come from."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from pyrepl_kernel.commands import CommandError
from pyrepl_kernel.kernel.options import OPTIONS, Options, UsageError, config_files, parse

__all__ = ["add_to"]

_WIDEST = 48  # characters of a value that are shown


def add_to(commands: Any) -> None:
    """Add the command to the command line."""
    config = commands.add_parser(
        "config",
        help="show which options are in force, and where they come from",
        description="Show which options a kernelspec's kernels run with, and where each comes "
        "from: the kernelspec's command line, the environment, a pyrepl_kernel.toml, the default.",
    )
    config.add_argument("--name", default="pyrepl", metavar="N", help="kernelspec (%(default)s)")
    config.set_defaults(run=_show)


def _show(args: argparse.Namespace) -> int:
    argv, env, place = _kernelspec(args.name)
    environ = os.environ | env
    try:
        options = parse(argv, environ)
    except UsageError as error:
        raise CommandError(f"{place}: {error}") from error
    print(f"kernelspec  {place}")
    for path in config_files(environ):
        print(f"config file {path}{'' if os.path.isfile(path) else ' (not there)'}")
    print()
    _print_table(options)
    for notice in options.notices:
        print(f"\nNot in force: {notice}")
    return 1 if options.notices else 0


def _kernelspec(name: str) -> tuple[list[str], dict[str, str], str]:
    """The options on a kernelspec's command line, its environment, and where it lies."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager(ensure_native_kernel=False).get_kernel_spec(name)
    except NoSuchKernel as error:
        raise CommandError(
            f"there is no kernelspec {name}; 'jupyter kernelspec list' shows what there is"
        ) from error
    if "pyrepl_kernel" not in spec.argv:
        raise CommandError(f"the kernelspec {name} in {spec.resource_dir} starts another kernel")
    return spec.argv[spec.argv.index("pyrepl_kernel") + 1 :], dict(spec.env), spec.resource_dir


def _print_table(options: Options) -> None:
    rows: list[Sequence[str]] = [("option", "value", "from")]
    for option in OPTIONS:
        value = getattr(options, option.attribute)
        text = " ".join(str(value).split()) if value not in (None, "") else "-"
        if len(text) > _WIDEST:
            text = text[: _WIDEST - 3] + "..."
        rows.append((option.name, text, options.origin[option.name]))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for row in rows:
        print(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}")
