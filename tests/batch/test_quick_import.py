"""A grammar that takes a second to build is not built for a batch."""

from __future__ import annotations

import subprocess
import sys


def test_nbformat_comes_without_the_grammar_and_validates() -> None:
    code = (
        "import sys\n"
        "from pyrepl_kernel.batch.quick_import import import_nbformat\n"
        "import_nbformat()\n"
        "assert 'rfc3987_syntax' not in sys.modules, 'it was built, or is blocked for good'\n"
        "import nbformat\n"
        "nbformat.validate(nbformat.v4.new_notebook())\n"
        "bad = nbformat.v4.new_notebook(); bad.metadata = 3\n"
        "try: nbformat.validate(bad)\n"
        "except nbformat.ValidationError: print('fine')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "fine\n"), ran.stderr
