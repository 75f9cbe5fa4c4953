"""What the server is told, and what it refuses to start with.

Secrets are not in here: the passphrase is asked for on the terminal, or lies in the file that HEEDFUL_PASSPHRASE_FILE
names, or the keychain opens the keys.
"""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from heedful.errors import ConfigError, NotFoundError, UnlockError
from heedful.models.embedded import DEFAULT_MODEL
from heedful.settings import Settings, home

EngineName = Literal["xllamacpp", "transformers", "openai"]
KIB: Final = 1024
KNOWN_SECRETS: Final = (
    "changeme", "change-me", "changethis", "default", "example", "heedful", "letmein", "passphrase", "password",
    "postgres", "qwerty", "root", "secret", "test", "admin",
)  # fmt: skip
"""What manuals and compose files ship with, and what is tried first."""
SHORTEST_SECRET: Final = 12


class ServeConfig(Settings):
    """Settings of `heedful serve`.

    Args:
        host, port: where it listens. Another interface than loopback needs `tls_cert` and `tls_key`.
        names: host names that people type; other names are refused (DNS rebinding). IP addresses always work.
        home_folder: keys and store; None = HEEDFUL_HOME, else `~/.heedful`.
        database: `sqlite:///...` or `postgresql://...`; None = `store.db` in the home folder.
        model: a GGUF file, a run folder, an embedded or Hugging Face name, or for `openai` the URL of a server.
        model_name: what an `openai` back end calls its model.
        engine: `xllamacpp` (in a process of its own), `transformers`, or `openai` (vLLM, Ollama, llama.cpp, ...).
        guard: who looks at every prompt and reply: a name of the table in `guard.py`, or `module:function`.
        profiles: jurisdiction profiles; the strictest of them wins.
        country: whose crisis lines are shown; None = that of `clinic.toml` (see `directory.country_of`).
        languages: in which languages.
        tls_cert, tls_key: PEM files.
        session_idle, session_absolute: seconds until a login ends without use, and in any case.
        token_days: how long an API token lasts.
        requests_per_minute: of one account, or of one address without an account.
        generations_per_minute: of one account on /v1.
        max_body: bytes of a request.
        header_seconds, body_seconds: how long a client may take to send them.
        queue_length: requests that may wait for the model; more are answered 503 with Retry-After.
        streams: replies written at the same time.
        context: tokens of a prompt and its reply together.
        threads: of the engine; None = as many as there are cores.
        cache_mib: memory for conversations that are not being answered now (they stay warm); taken at the start.
        time_limit: seconds that writing one reply may take.
        wait_limit: seconds that a request may wait before that.
        plan: how a run with strategies chooses one: `argmax` (default), `sample`, a strategy, or the folder of a mix.
        belief: folder of `heedful train method=belief`: a second reader of messages, which can only raise.
        emotion, strategy: folders of scorers that read emotions, and the strategy that usually follows.
        knowledge: name or folder of an index of `heedful knowledge build`.
        belief_seconds, reading_seconds: how long one message, and one reading beside a draft, may take.
        trusted_proxy: address of the reverse proxy whose X-Forwarded-For is believed; None = nobody's.
    """

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65535)
    names: tuple[str, ...] = ()
    home_folder: Path | None = None
    database: str | None = Field(None, repr=False)
    model: str = DEFAULT_MODEL
    model_name: str | None = None
    engine: EngineName = "xllamacpp"
    guard: str | None = "crisis"
    profiles: tuple[str, ...] = ("strict",)
    country: str | None = Field(None, pattern=r"^[A-Z]{2}$")
    languages: tuple[str, ...] = ("en",)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    session_idle: float = Field(30 * 60, gt=0)
    session_absolute: float = Field(12 * 3600, gt=0)
    token_days: float = Field(90, gt=0, le=366)
    requests_per_minute: int = Field(600, ge=1)
    generations_per_minute: int = Field(60, ge=1)
    max_body: int = Field(64 * KIB, ge=KIB, le=64 * KIB * KIB)
    header_seconds: float = Field(10, gt=0)
    body_seconds: float = Field(20, gt=0)
    queue_length: int = Field(64, ge=1)
    streams: int = Field(2, ge=1, le=256)
    context: int = Field(4096, ge=256)
    threads: int | None = Field(None, ge=1)
    cache_mib: int = Field(1024, ge=0)
    time_limit: float = Field(120, gt=0)
    wait_limit: float = Field(300, gt=0)
    plan: str | None = None
    belief: str | None = None
    emotion: str | None = None
    strategy: str | None = None
    knowledge: str | None = None
    belief_seconds: float = Field(20, gt=0)
    reading_seconds: float = Field(30, gt=0)
    trusted_proxy: str | None = None

    @model_validator(mode="after")
    def _together(self) -> ServeConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both or neither")
        if self.session_idle > self.session_absolute:
            raise ValueError("session_idle must not be longer than session_absolute")
        if self.trusted_proxy is not None and not _is_address(self.trusted_proxy):
            raise ValueError("trusted_proxy is the IP address of the proxy")
        if not self.profiles or not self.languages:
            raise ValueError("profiles and languages need at least one entry")
        return self

    @property
    def folder(self) -> Path:
        """Where keys and the embedded store lie."""
        return self.home_folder or home()

    @property
    def keys_path(self) -> Path:
        """The key file."""
        return self.folder / "keys.json"

    @property
    def database_url(self) -> str:
        """The store's address."""
        return self.database or f"sqlite:///{self.folder / 'store.db'}"

    @property
    def tls(self) -> bool:
        """Whether it speaks HTTPS itself."""
        return self.tls_cert is not None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("clinic.example")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def check_start(config: ServeConfig) -> None:
    """Refuse what must not be served.

    Raises:
        ConfigError: another interface than loopback without TLS, a secret that everybody knows, or a key file that
            other accounts can read.
        NotFoundError: a TLS file that is not there.
    """
    if not is_loopback(config.host) and not config.tls:
        raise ConfigError(
            f"The server would listen on {config.host}, which other machines reach, without encryption. Give "
            "--tls-cert and --tls-key, or let it listen on 127.0.0.1 behind a proxy that has them."
        )
    for path in (config.tls_cert, config.tls_key):
        if path is not None and not path.is_file():
            raise NotFoundError(f"There is no TLS file '{path}'.")
    if config.tls_key is not None:
        check_private(config.tls_key)
    if config.keys_path.exists():
        check_private(config.keys_path)
    _check_database(config.database)


def check_private(path: Path) -> None:
    """Refuse a secret file that other accounts of this machine can read or write.

    Raises:
        ConfigError: they can.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            f"'{path}' is open to other accounts of this machine (mode {mode:04o}); close it: chmod 600 '{path}'"
        )


def check_secret(secret: str, *, what: str) -> None:
    """Refuse an empty, short or well-known secret.

    Raises:
        UnlockError: it is one; the message does not hold it.
    """
    if len(secret) < SHORTEST_SECRET:
        raise UnlockError(f"{what} is too short: it needs at least {SHORTEST_SECRET} characters.")
    plain = secret.casefold().strip("0123456789!?.#-_ ")
    repeated = any(plain == known * (len(plain) // len(known)) for known in KNOWN_SECRETS if plain)
    if not plain or repeated or len(set(secret)) < 4:
        raise UnlockError(f"{what} is one that everybody tries first; choose four or five unrelated words.")


def _check_database(url: str | None) -> None:
    if url is None or not url.startswith("postgres"):
        return
    parts = urlsplit(url)
    if parts.password is not None and parts.password.casefold() in ("", *KNOWN_SECRETS):
        raise ConfigError("The password in the address of the database is a default one; give the account another.")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
