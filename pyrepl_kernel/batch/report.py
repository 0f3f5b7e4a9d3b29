"""A report of a batch as one HTML file that needs nothing else: no script, no style from afar."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from pyrepl_kernel.batch.progress import size_text
from pyrepl_kernel.batch.results import BatchResult, NotebookResult, plain

__all__ = ["html_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1c2733; background: #fff }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #dde3e9;
         vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f4f6f8; padding: .7rem; overflow-x: auto; font-size: 13px }
.ok { color: #18794e } .failed { color: #c62a2f } .interrupted, .not-run { color: #8a6500 }
svg text { font: 12px system-ui, sans-serif; fill: #1c2733 }
svg .cell { fill: #3b82c4 } svg .cell:nth-of-type(even) { fill: #82b4dd }
svg .cell.bad { fill: #c62a2f } svg .rest { fill: #dde3e9 }
@media (prefers-color-scheme: dark) {
  body { color: #dde3e9; background: #14191f } pre { background: #1e252d }
  td, th { border-color: #303a45 } svg text { fill: #dde3e9 } svg .rest { fill: #303a45 }
  .ok { color: #4cc38a } .failed { color: #ff6369 } .interrupted, .not-run { color: #e2b33c }
}
"""
_ROW, _LABEL, _WIDTH = 22, 220, 1000  # pixels of the chart


def html_report(result: BatchResult) -> str:
    """A batch as an HTML page: the time of each notebook and cell as a chart, a table, and the
    failures with their tracebacks."""
    counts = [
        f'<span class="{_css(status)}">{count} {status}</span>'
        for status in ("ok", "failed", "interrupted", "not run")
        if (count := sum(each.status == status for each in result.notebooks))
    ]
    body = [
        "<h1>Notebooks</h1>",
        f"<p>{', '.join(counts)}, in {result.seconds:.1f} s, started {escape(result.started)}</p>",
        "<h2>Time by notebook and cell</h2>",
        _chart(result),
        "<h2>All notebooks</h2>",
        _table(result),
    ]
    if result.failed:
        body.append("<h2>Failures</h2>")
        body += [_failure(each) for each in result.failed]
    content = "\n".join(body)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Notebooks: {len(result.notebooks)} run</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n{content}\n</body>\n</html>\n"
    )


def _css(status: str) -> str:
    return status.replace(" ", "-")


def _chart(result: BatchResult) -> str:
    """A bar for each notebook; in it a part for each cell, with its time as a tooltip."""
    longest = max((each.seconds for each in result.notebooks), default=0.0) or 1.0
    scale = (_WIDTH - _LABEL - 70) / longest
    height = _ROW * len(result.notebooks) + 4
    parts = [
        f'<svg role="img" aria-label="Time of each notebook" width="100%" '
        f'viewBox="0 0 {_WIDTH} {height}" xmlns="http://www.w3.org/2000/svg">'
    ]
    for row, notebook in enumerate(result.notebooks):
        parts += _bar(notebook, row * _ROW, scale)
    parts.append("</svg>")
    return "\n".join(parts)


def _bar(notebook: NotebookResult, top: float, scale: float) -> Iterator[str]:
    name = notebook.output.stem
    shown = name if len(name) <= 34 else f"{name[:33]}…"
    yield f'<g><title>{escape(name)}</title><text x="0" y="{top + 15}">{escape(shown)}</text></g>'
    width = notebook.seconds * scale
    yield '<g class="notebook">'
    yield (
        f'<rect class="rest" x="{_LABEL}" y="{top + 4}" width="{max(width, 1):.2f}" height="14">'
        f"<title>{escape(name)}: {notebook.seconds:.2f} s</title></rect></g><g>"
    )
    # What is left of the bar is the way to a fresh worker and the saving.
    left = _LABEL + max(0.0, notebook.seconds - sum(c.seconds for c in notebook.cells)) * scale
    for cell in notebook.cells:
        part = cell.seconds * scale
        label = f"cell {cell.index + 1}: {cell.seconds:.3f} s: {cell.source}"
        yield (
            f'<rect class="cell{"" if cell.ok else " bad"}" x="{left:.2f}" y="{top + 4}" '
            f'width="{part:.2f}" height="14"><title>{_clean(label)}</title></rect>'
        )
        left += part
    end = _LABEL + width + 6
    yield f'<text x="{end:.2f}" y="{top + 15}">{notebook.seconds:.2f} s</text></g>'


def _table(result: BatchResult) -> str:
    head = (
        "<tr><th>Notebook</th><th>Output</th><th>Parameters</th><th>Status</th>"
        '<th class="number">Cells</th><th class="number">Time</th>'
        '<th class="number">Memory</th><th>Slowest cell</th></tr>'
    )
    rows = [_row(each) for each in result.notebooks]
    return f"<table>\n<thead>{head}</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def _row(notebook: NotebookResult) -> str:
    slowest = max(notebook.cells, key=lambda cell: cell.seconds, default=None)
    slow = "" if slowest is None else f"{slowest.seconds:.2f} s: {slowest.source}"
    parameters = ", ".join(f"{name}={value!r}" for name, value in notebook.parameters.items())
    earlier = " (earlier run)" if notebook.resumed else ""
    node = f" on {notebook.node}" if notebook.node else ""
    cells = [
        f"<td>{_clean(str(notebook.source))}</td>",
        f"<td>{_clean(str(notebook.output))}</td>",
        f"<td>{_clean(parameters)}</td>",
        f'<td class="{_css(notebook.status)}">{notebook.status}{earlier}{_clean(node)}</td>',
        f'<td class="number">{len(notebook.cells)}</td>',
        f'<td class="number">{notebook.seconds:.2f} s</td>',
        f'<td class="number">{size_text(notebook.peak_memory)}</td>',
        f"<td>{_clean(slow)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _failure(notebook: NotebookResult) -> str:
    error = notebook.error
    assert error is not None
    where = "" if error.cell is None else f", cell {error.cell + 1}"
    parts = [f"<h3>{_clean(str(notebook.source))}{where}</h3>"]
    parts.append(f'<p class="failed">{_clean(error.message)}</p>')
    parts += [f"<pre>{_clean(text)}</pre>" for text in (error.source, error.traceback) if text]
    return "\n".join(parts)


def _clean(text: str) -> str:
    return escape(plain(text))
