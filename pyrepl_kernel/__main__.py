"""``python -m pyrepl_kernel -f CONNECTION_FILE``: the kernel, as kernelspecs start it."""

from pyrepl_kernel.kernel.launch import main

if __name__ == "__main__":
    main()
