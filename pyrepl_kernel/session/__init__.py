"""The host side of a worker: a session, its process, and the pool that keeps spares."""
