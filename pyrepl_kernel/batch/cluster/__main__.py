"""The pool process of a Dask worker: ``python -m pyrepl_kernel.batch.cluster``."""

from pyrepl_kernel.batch.quick_import import import_nbformat

if __name__ == "__main__":
    import_nbformat()  # before the rest, which would import all of it

    from pyrepl_kernel.batch.cluster.node import main

    main()
