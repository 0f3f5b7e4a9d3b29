"""Jupyter kernels measured side by side, through jupyter_client.

::

    python -m benchmarks                                  # python3 against pyrepl, everything
    python -m benchmarks --kernels python3 pyrepl xpython --only pass print --runs 15
    python -m benchmarks --list

In each round every kernel takes its turn, and the order rotates from round to round, so that
whatever else the machine does meets all of them alike. A first round is a rehearsal: it fills
the page cache and is not counted. What each measurement returned is checked, and a kernel that
answers wrongly, incompletely or not at all is shown as failed with the reason.

Times are the client's: from before the request is built until the answer is unpacked.
"""
