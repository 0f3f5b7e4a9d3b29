"""The child side: IPython in a process of its own, and what connects it with its session."""
