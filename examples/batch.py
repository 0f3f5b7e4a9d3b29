"""Run a notebook 20 times with different parameters, each in a fresh worker, and report.

    python examples/batch.py [--output DIR]

The executed notebooks and ``report.html`` are written to ``build/batch``, unless ``--output`` names
another folder. Run it a second time: nothing is executed again, since it resumes.
"""

import argparse
import sys
from pathlib import Path

from pyrepl_kernel import batch
from pyrepl_kernel.batch.report import html_report

NOTEBOOK = Path(__file__).with_name("population.ipynb")
SWEEP = [{"growth": round(2.1 + 0.1 * step, 1)} for step in range(20)]


def main() -> int:
    """Run the batch; 0 when all notebooks ran."""
    parser = argparse.ArgumentParser(description="Run a batch of 20 notebooks.")
    parser.add_argument("--output", type=Path, default=Path("build", "batch"))
    folder = parser.parse_args().output

    # The cell tagged `parameters` has the defaults; what is swept over is injected behind it.
    done = batch.run(
        [NOTEBOOK],
        parameters=SWEEP,
        output_dir=folder,
        warmup="import statistics",
        timeout=60,
        resume=True,
        progress=True,
    )
    (folder / "report.html").write_text(html_report(done), encoding="utf-8")
    for notebook in done.failed:
        assert notebook.error is not None
        print(f"{notebook.output}: {notebook.error.message}", file=sys.stderr)
    again = sum(notebook.resumed for notebook in done.notebooks)
    print(f"{len(done.notebooks)} notebooks in {done.seconds:.1f} s, {again} of them done before;")
    print(f"see {folder / 'report.html'}")
    return done.exit_status


if __name__ == "__main__":
    sys.exit(main())
