"""The version, read by the build and by ``pyrepl-kernel --version``."""

__version__ = "0.1.0"
