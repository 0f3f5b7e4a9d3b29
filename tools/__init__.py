"""What the project itself works with: JupyterLab in a browser, and the pictures of it."""
