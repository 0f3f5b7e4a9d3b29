"""The Jupyter side: sockets, signatures, requests and replies. It never runs user code."""
