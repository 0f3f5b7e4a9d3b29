"""The command line ``pyrepl-kernel``: make Jupyter know this kernel, or forget it.

Commands that do something else have a module each in ``commands/``.

``pip install`` already brings a kernelspec for the environment that it installs into.
``pyrepl-kernel install`` writes further ones: for all of a user's Jupyters, under another name,
with code to run before the first cell.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import tokenize
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pyrepl_kernel._version import __version__
from pyrepl_kernel.commands import COMMANDS, CommandError
from pyrepl_kernel.kernel.options import AUTO, OPTIONS, Option

if TYPE_CHECKING:
    from jupyter_client.kernelspec import KernelSpecManager

__all__ = ["main"]

DEFAULT_NAME = "pyrepl"

# jupyter_client replaces {words} of this shape anywhere in a kernelspec's argv.
_PLACEHOLDER = re.compile(r"\{[A-Za-z0-9_]+\}")

# As Jupyter's own rule, but a name must not begin with a dot: ".." would be a folder.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a single line."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)", status=2)


@dataclass(frozen=True)
class _Place:
    """Where kernelspecs go: below ``prefix``, or to the user's own folder when it is None."""

    prefix: str | None
    description: str

    @property
    def is_this_environment(self) -> bool:
        """Whether it is found by the Jupyter that this package is installed beside."""
        return self.prefix is not None and os.path.realpath(self.prefix) == os.path.realpath(
            sys.prefix
        )

    def kernels_dir(self, manager: KernelSpecManager) -> Path:
        if self.prefix is None:
            return Path(manager.user_kernel_dir)
        return Path(self.prefix, "share", "jupyter", "kernels")


@dataclass(frozen=True)
class _Warmup:
    """Checked warmup code: what follows ``--warmup=``, and the text to store beside kernel.json."""

    argument: str
    stored_code: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; those of the process when None.

    Returns:
        The exit status: 0 done, 1 could not be done, 2 a mistake in the arguments.
    """
    try:
        args = _parse(argv)
        status: int = args.run(args)
        return status
    except CommandError as error:
        print(f"pyrepl-kernel: {error}", file=sys.stderr)
        return error.status


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser, commands = _build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        import difflib

        options = re.findall(r"--[a-z][a-z-]*", commands.choices[args.command].format_help())
        near = difflib.get_close_matches(unknown[0].partition("=")[0], options, 1)
        raise CommandError(
            f"'pyrepl-kernel {args.command}' does not know {unknown[0]}"
            + (f"; did you mean {near[0]}?" if near else "")
            + f" (see pyrepl-kernel {args.command} --help)",
            status=2,
        )
    return args


def _build_parser() -> tuple[argparse.ArgumentParser, Any]:
    """The parser, and its subparsers, a ``choices`` of which knows each command's."""
    parser = _Parser(
        prog="pyrepl-kernel",
        description="A Jupyter kernel for Python whose restarts take milliseconds: its "
        "kernelspecs, its state, and notebooks by the hundred.",
    )
    parser.add_argument("--version", action="version", version=f"pyrepl-kernel {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    install = commands.add_parser(
        "install",
        help="write a kernelspec that starts the kernel with this Python",
        description="Write a kernelspec that starts the kernel with this Python. Without a "
        "place it goes to the virtual or conda environment that is in use, else to the user.",
    )
    _add_place_and_name(install)
    install.add_argument("--display-name", metavar="TEXT", help="the name that front ends show")
    for option in OPTIONS:
        # A warmup is looked at more closely than the kernel does, which must start all the same.
        read = str if option.name == "warmup" else partial(_checked, option)
        # A flag alone means yes, as on the kernel's own command line.
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if option.default is False else {}
        install.add_argument(
            f"--{option.name}", metavar=option.metavar, type=read, help=option.help, **alone
        )
    install.add_argument(
        "--provisioner",
        action="store_true",
        help="name our provisioner in a kernelspec that Jupyters of other environments find too, "
        "so that a restart keeps the kernel process; a Jupyter in whose environment pyrepl-kernel "
        "is not installed then does not list the kernel. In the kernelspec of this environment "
        "it is named in any case",
    )
    install.set_defaults(run=_install)

    uninstall = commands.add_parser(
        "uninstall",
        help="remove a kernelspec that starts this kernel",
        description="Remove a kernelspec that starts this kernel. Without a place, the one "
        "that Jupyter finds first.",
    )
    _add_place_and_name(uninstall)
    uninstall.set_defaults(run=_uninstall)
    for module in COMMANDS:
        importlib.import_module(f"pyrepl_kernel.commands.{module}").add_to(commands)
    return parser, commands


def _add_place_and_name(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for all Jupyters of this user")
    place.add_argument("--sys-prefix", action="store_true", help="for this Python environment")
    place.add_argument("--prefix", metavar="P", help="below P/share/jupyter/kernels")
    parser.add_argument(
        "--name", default=DEFAULT_NAME, metavar="N", help="the kernelspec's name (%(default)s)"
    )


def _checked(option: Option, text: str) -> str:
    try:
        option.read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, not {text!r}") from None
    return text


# ------------------------------------------------------------- the commands


def _install(args: argparse.Namespace) -> int:
    name = _checked_name(args.name)
    place = _requested_place(args) or _default_place()
    warmup = None if args.warmup is None else _check_warmup(args.warmup)
    manager = _spec_manager()
    destination = place.kernels_dir(manager) / name
    replaced = destination.exists()
    if warmup is not None and Path(warmup.argument).is_relative_to(destination):
        raise CommandError(
            f"--warmup {warmup.argument} lies in the folder that is replaced; keep it elsewhere",
            status=2,
        )

    spec = _kernel_json(name, args, warmup, destination)
    if not (args.provisioner or place.is_this_environment):
        # A server that cannot load the provisioner does not know the kernel.
        spec["metadata"].pop("kernel_provisioner")
    with tempfile.TemporaryDirectory(prefix="pyrepl-kernel-") as staging:
        source = Path(staging, name)
        try:
            shutil.copytree(_originals(), source)
            _write_json(source / "kernel.json", spec)
            if warmup is not None and warmup.stored_code is not None:
                (source / "warmup.py").write_text(warmup.stored_code, encoding="utf-8")
            # None would mean the whole system: without a prefix, `user` is what is meant.
            manager.install_kernel_spec(
                str(source), name, user=place.prefix is None, prefix=place.prefix
            )
        except OSError as error:
            raise CommandError(_cannot("install to", destination, error)) from error

    print(f"{'Replaced' if replaced else 'Installed'} kernelspec {name} in {destination}")
    print(f"  place: {place.description}")
    print(f"  runs:  {shlex.join(spec['argv'])}")
    if "kernel_provisioner" in spec["metadata"]:
        print("  restarts keep the kernel process (its provisioner is named)")
    else:
        print(
            "  restarts start it anew (--provisioner, if each Jupyter has pyrepl-kernel, is faster)"
        )
    if str(destination.parent) in manager.kernel_dirs:
        print(f"Next: choose {spec['display_name']!r} in JupyterLab, or type")
        print(f"  jupyter console --kernel {name}")
    else:
        print("Next: Jupyter does not search this folder by itself; start it with")
        print(f"  JUPYTER_PATH={shlex.quote(str(destination.parent.parent))}")
    return 0


def _uninstall(args: argparse.Namespace) -> int:
    name = _checked_name(args.name)
    place = _requested_place(args)
    manager = _spec_manager()
    if place is not None:
        manager.kernel_dirs = [str(place.kernels_dir(manager))]
    found = manager.find_kernel_specs().get(name)
    if found is None:
        searched = ", ".join(manager.kernel_dirs)
        raise CommandError(f"there is no kernelspec {name} to uninstall; looked in {searched}")
    if not _starts_this_kernel(Path(found)):
        raise CommandError(f"{found} starts another kernel; it is left as it is")
    try:
        manager.remove_kernel_spec(name)
    except OSError as error:
        raise CommandError(_cannot("remove", Path(found), error)) from error
    print(f"Removed kernelspec {name} from {found}")
    hidden = manager.find_kernel_specs().get(name)
    if hidden is not None:
        print(f"Jupyter now finds the kernelspec {name} in {hidden}")
    elif name == DEFAULT_NAME:
        print("'pyrepl-kernel install' writes it again")
    return 0


# -------------------------------------------------------------- their parts


def _spec_manager() -> KernelSpecManager:
    from jupyter_client.kernelspec import KernelSpecManager

    return KernelSpecManager(ensure_native_kernel=False)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CommandError(
            f"--name {name!r} is no kernel name: use letters, digits, '-', '_' and '.', "
            "the last not at the beginning",
            status=2,
        )
    return name.lower()


def _requested_place(args: argparse.Namespace) -> _Place | None:
    if args.user:
        return _Place(None, "this user, in every environment (--user)")
    if args.sys_prefix:
        return _Place(sys.prefix, "this environment (--sys-prefix)")
    if args.prefix is not None:
        prefix = os.path.abspath(os.path.expanduser(args.prefix))
        return _Place(prefix, f"below {prefix} (--prefix)")
    return None


def _default_place() -> _Place:
    if sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir():
        return _Place(
            sys.prefix, f"this environment (--sys-prefix, chosen because {sys.prefix} is one)"
        )
    return _Place(
        None, "this user (--user, chosen because this Python is in no virtual or conda environment)"
    )


def _originals() -> Path:
    """The folder of kernel.json and the logos: in the installed package, or in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "_kernelspec", package.parent / "kernelspec"):
        if (folder / "kernel.json").is_file():
            return folder
    raise CommandError("this installation lacks its kernelspec files; install pyrepl-kernel anew")


def _kernel_json(
    name: str, args: argparse.Namespace, warmup: _Warmup | None, destination: Path
) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((_originals() / "kernel.json").read_text(encoding="utf-8"))
    argv = [sys.executable, *spec["argv"][1:]]
    if warmup is not None:
        stored = destination / "warmup.py"
        value = warmup.argument if warmup.stored_code is None else str(stored)
        argv.append(f"--warmup={value}")
    for option in OPTIONS:
        text = getattr(args, option.attribute)
        if text is not None and option.name != "warmup":
            argv.append(f"--{option.name}={text}")
    spec["argv"] = argv
    if args.display_name is not None:
        spec["display_name"] = args.display_name
    elif name != DEFAULT_NAME:
        spec["display_name"] = f"Python 3 ({name})"
    return spec


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _starts_this_kernel(spec_dir: Path) -> bool:
    try:
        spec = json.loads((spec_dir / "kernel.json").read_text(encoding="utf-8"))
        return "pyrepl_kernel" in spec["argv"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _cannot(action: str, path: Path, error: OSError) -> str:
    # shutil.Error has no strerror, but a list of what failed.
    return f"cannot {action} {path}: {error.strerror or error}"


# --------------------------------------------------------------- the warmup


def _check_warmup(value: str) -> _Warmup:
    """Check the value of ``--warmup`` as far as it can be checked without running it."""
    if value == AUTO:
        return _Warmup(value)
    path = os.path.abspath(os.path.expanduser(value))
    if os.path.isfile(path):
        _check_syntax(_read_source(path), path)
        return _Warmup(path)
    if os.path.isdir(path):
        raise CommandError(f"--warmup {value}: is a folder; give a file or code", status=2)
    if value.endswith(".py") and "\n" not in value:
        raise CommandError(f"--warmup {value}: there is no such file", status=2)
    _check_syntax(value, "--warmup")
    if _PLACEHOLDER.search(value):
        return _Warmup(value, stored_code=value)
    return _Warmup(value)


def _read_source(path: str) -> str:
    try:
        with tokenize.open(path) as file:
            return file.read()
    except OSError as error:
        raise CommandError(_cannot("read", Path(path), error), status=2) from error
    except (SyntaxError, UnicodeDecodeError) as error:
        raise CommandError(f"--warmup {path}: is no Python source: {error}", status=2) from error


def _check_syntax(code: str, origin: str) -> None:
    """Compile ``code`` as IPython would, magics and top-level await included."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cell = TransformerManager().transform_cell(code)
            compile(cell, origin, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as error:
        # IPython's transformation keeps the number of lines, so this finds what the user wrote.
        lines = code.splitlines()
        number = error.lineno or 1
        text = lines[number - 1].strip() if number <= len(lines) else ""
        raise CommandError(
            f"{origin}, line {number}: {error.msg}" + (f": {text}" if text else ""), status=2
        ) from error
    except ValueError as error:
        raise CommandError(f"{origin}: {error}", status=2) from error


if __name__ == "__main__":
    sys.exit(main())
