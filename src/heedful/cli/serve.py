"""`heedful serve`: the clinic's server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from heedful.errors import ConfigError, MissingExtraError, UnlockError
from heedful.settings import apply_overrides, check, read_yaml

try:
    from heedful.server.config import ServeConfig
    from heedful.server.serve import serve
except ImportError as err:
    if isinstance(err, MissingExtraError):
        raise
    raise MissingExtraError(f"The server needs {err.name}; run: pip install 'heedful[serve]'") from err

OPTIONS = ("model", "engine", "database", "host", "port", "tls_cert", "tls_key", "country")
"""Options that are keys of the configuration."""


@click.command(name="serve")
@click.argument("words", nargs=-1, metavar="[FILE.yaml] [KEY=VALUE]...")
@click.option("--model", help="A GGUF file, a run folder, a name, or for --engine openai an address.")
@click.option("--engine", type=click.Choice(["xllamacpp", "transformers", "openai"]), help="What runs the model.")
@click.option("--profile", "profiles", multiple=True, help="Jurisdiction profile; several give the strictest of each.")
@click.option("--country", help="Whose crisis lines come first, as two letters.")
@click.option("--database", help="sqlite:///FILE or postgresql://...; default: store.db in the home folder.")
@click.option("--host", help="Where to listen; other interfaces than loopback need TLS.")
@click.option("--port", type=click.IntRange(0, 65535), help="Default: 8765.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its key (PEM, mode 0600).")
@click.option("--open", "browser", is_flag=True, help="Open a browser when it is there.")
def serve_command(words: tuple[str, ...], profiles: tuple[str, ...], browser: bool, **options: Any) -> None:
    """Serve the clinic and the OpenAI-compatible API; Ctrl-C stops it when running replies are done.

    The passphrase of the keys is asked for, unless the keychain has it or HEEDFUL_PASSPHRASE_FILE names a file with it.

    \b
    heedful serve
    heedful serve --profile eu --country DE --model runs/demo
    heedful serve clinic.yaml port=9000 streams=4
    """
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"One configuration file at most, but there are {len(files)}.")
    values = read_yaml(files[0]) if files else {}
    values = apply_overrides(values, [word for word in words if "=" in word])
    values |= {name: options[name] for name in OPTIONS if options[name] is not None}
    if profiles:
        values["profiles"] = list(profiles)
    config = check(ServeConfig, values, where=files[0] if files else "serve")
    serve(config, ask=ask, say=click.echo, browser="open" if browser else "leave")


def ask(what: Literal["open", "create"]) -> str:
    """The passphrase, from the terminal.

    Raises:
        UnlockError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise UnlockError(
            "There is no terminal to ask for the passphrase; put it into a file of mode 0600 and name that file in "
            "HEEDFUL_PASSPHRASE_FILE."
        )
    if what == "open":
        return str(click.prompt("Passphrase", hide_input=True, err=True))
    click.echo(
        "New keys are made. Without their passphrase and the key file nobody can read the data again, we neither: "
        "keep copies of both in two places.",
        err=True,
    )
    return str(click.prompt("New passphrase (four or five words)", hide_input=True, confirmation_prompt=True, err=True))
