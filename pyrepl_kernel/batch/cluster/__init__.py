"""Notebooks on the workers of a Dask cluster.

    client                    Dask worker                        pool process (exec)
    DaskRunner ── task ─────▶ run_on_node ── NotebookPool ─────▶ Node: lanes, kernels
       ▲   ▲                     (a coroutine)   a plugin           │
       │   └── events: cells, memory ◀──────────┴──── frames ◀──────┤
       └────── result, executed notebook ◀──────────────────────────┘

The Dask worker itself neither forks nor runs kernels: it has threads, and memory that is counted by
others. The pool process ends when its Dask worker is gone, by whatever signal, and its kernels end
with it.
"""
