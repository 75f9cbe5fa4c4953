"""The server: sign-in, the OpenAI-compatible API, and the worker process that holds the model.

    config.py   what `heedful serve` is told, and what it refuses to start with
    app.py      create_app: everything below, put together
    access.toml who may call what; a path that stands in no row is closed
    gate.py     the one place where a request is let in
    auth/       passwords, second factor, sessions, tokens, rate limits
    routes/     sign-in pages, /v1, /health, /metrics
    engine/     generation in a process of its own

Nothing is imported here: the worker process and `heedful.testing` use parts of this package without a web framework.
"""
