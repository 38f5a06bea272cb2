"""A model that follows a script: it answers the real `claude` and `codex` programs without any account.

`create_model` in `app.py` serves both wire protocols; `script.py` says what the model does with a prompt and
documents the lines a prompt may hold to direct it.
"""
