"""The doors: a Flask application, one folder per dialect, and the server that runs it."""
