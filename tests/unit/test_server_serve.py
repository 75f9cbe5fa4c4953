"""`heedful serve`: what it refuses, what it makes at the first start, and how it stops."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()
httpx = pytest.importorskip("httpx")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from conftest import Call
from heedful.errors import ConfigError, HeedfulError, NotFoundError, UnlockError, UserError
from heedful.server.config import ServeConfig, check_secret, check_start
from heedful.server.guard import Guard, checked, make
from heedful.server.serve import bound, engine_of, make_server, open_keys, serve
from server_kit import make_site, post
from store_kit import PHRASE, make_keys


def certificate(folder: Path, *, mode: int = 0o600) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    cert, secret = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    secret.chmod(mode)
    return cert, secret


# ---------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "clinic.example", ""])
def test_other_machines_are_not_served_without_encryption(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="without encryption"):
        check_start(ServeConfig(host=host, home_folder=tmp_path))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_is(tmp_path: Path, host: str) -> None:
    check_start(ServeConfig(host=host, home_folder=tmp_path))


def test_keys_that_other_accounts_can_read_are_refused(tmp_path: Path) -> None:
    cert, secret = certificate(tmp_path, mode=0o640)
    config = ServeConfig(host="0.0.0.0", home_folder=tmp_path, tls_cert=cert, tls_key=secret)
    with pytest.raises(ConfigError, match="chmod 600"):
        check_start(config)
    secret.chmod(0o600)
    check_start(config)
    make_keys(tmp_path).close()
    check_start(config)
    (tmp_path / "keys.json").chmod(0o604)
    with pytest.raises(ConfigError, match=r"open to other accounts of this machine \(mode 0604\)"):
        check_start(config)


def test_tls_files_have_to_be_there_and_be_pem(tmp_path: Path) -> None:
    cert, secret = certificate(tmp_path)
    with pytest.raises(NotFoundError, match="no TLS file"):
        check_start(ServeConfig(home_folder=tmp_path, tls_cert=tmp_path / "none.pem", tls_key=secret))
    cert.write_text("no certificate")
    site = make_site(tmp_path)
    with pytest.raises(ConfigError, match="have to be PEM"):
        make_server(site.app, host="127.0.0.1", port=0, tls_cert=str(cert), tls_key=str(secret))
    site.store.close()


KNOWN = [
    "",
    "abcdefg",
    "changeme",
    "passwordpassword",
    "heedfulheedful",
    "secret-123456",
    "aaaaaaaaaaaaaaaa",
    "1234" * 3,
]


@pytest.mark.parametrize("secret", KNOWN)
def test_secrets_that_everybody_tries_first_are_refused(secret: str) -> None:
    with pytest.raises(UnlockError) as caught:
        check_secret(secret, what="This passphrase")
    assert not secret or secret not in str(caught.value)


def test_good_secrets_pass() -> None:
    check_secret("correct horse battery staple", what="x")
    check_secret("k3jh45kj3h4k5jh3", what="x")


@pytest.mark.parametrize("password", ["", "postgres", "changeme"])
def test_databases_with_a_default_password_are_refused(tmp_path: Path, password: str) -> None:
    config = ServeConfig(home_folder=tmp_path, database=f"postgresql://heedful:{password}@db.example/heedful")
    with pytest.raises(ConfigError, match="default one"):
        check_start(config)
    assert "db.example" not in repr(config)


@pytest.mark.parametrize(
    "bad",
    [
        {"tls_cert": "x.pem"},
        {"session_idle": 10, "session_absolute": 5},
        {"trusted_proxy": "proxy.example"},
        {"profiles": []},
        {"country": "Germany"},
        {"port": 70_000},
        {"engine": "vllm"},
        {"hots": "127.0.0.1"},
    ],
)
def test_settings_are_checked(call: Call, tmp_path: Path, bad: dict[str, Any]) -> None:
    code, _, err = call("serve", *(f"{key}={value}" for key, value in bad.items()))
    assert code == 2
    assert err.count("\n") == 1


def test_without_a_guard_it_does_not_start(call: Call) -> None:
    with pytest.raises(ConfigError, match="No guard is configured"):
        make(None)
    with pytest.raises(ConfigError, match="needs a guard"):
        checked(object())
    code, _, err = call("serve", "guard=server_kit:Nothing", "--port", "0")
    assert code == 2
    assert "server_kit" in err


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("hours = [", {}, "clinic.toml"),
        ('responsable = "y"', {}, "responsible"),
        ('timezone = "Europe/Berln"', {}, "tz database"),
        ('[hours]\nmon = ["8-12"]', {}, "hours of 'mon' look like"),
        ("", {"profiles": ("us-tx",)}, "us-tx"),
        ("", {"model": "/nowhere/at/all"}, "no such folder"),
        ("", {"model": "EMPTY"}, "holds no model"),
        ("", {"model": "UNFINISHED"}, "has not finished"),
    ],
)
def test_a_mistake_ends_the_start_before_anything_is_made(
    tmp_path: Path, text: str, more: dict[str, Any], said: str
) -> None:
    (tmp_path / "clinic.toml").write_text(text, "utf-8")
    for name in ("EMPTY", "UNFINISHED"):
        (tmp_path / name).mkdir()
    (tmp_path / "UNFINISHED" / "config.resolved.yaml").write_text("method: sft\n", "utf-8")
    if "model" in more and not more["model"].startswith("/"):
        more = {"model": str(tmp_path / more["model"])}
    told: list[str] = []
    with pytest.raises(UserError, match=said):
        serve(ServeConfig(home_folder=tmp_path, port=0, **more), ask=lambda kind: PHRASE, say=told.append)
    assert told == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "UNFINISHED", "clinic.toml"]


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1, port {port}"):
            bound("127.0.0.1", port)
    with pytest.raises(ConfigError, match="cannot listen"):
        bound("no.such.host.invalid", 0)


# ---------------------------------------------------------------------- keys


def never(what: str) -> str:
    raise AssertionError("nobody should be asked")


def test_keys_are_made_at_the_first_start_and_opened_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_PASSPHRASE_FILE", raising=False)
    config = ServeConfig(home_folder=tmp_path)
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        return PHRASE if len(asked) != 2 else "another phrase that is wrong"

    made = open_keys(config, ask)
    opened = open_keys(config, ask)
    assert asked == ["create", "open", "open"]  # the second answer was wrong
    assert made.id == opened.id
    with pytest.raises(UnlockError):
        open_keys(config, lambda what: "always the wrong passphrase")


def test_the_passphrase_may_lie_in_a_private_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, file = ServeConfig(home_folder=tmp_path), tmp_path / "phrase"
    monkeypatch.setenv("HEEDFUL_PASSPHRASE_FILE", str(file))
    with pytest.raises(NotFoundError):
        open_keys(config, never)
    file.write_text(f"{PHRASE}\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_keys(config, never)
    file.chmod(0o600)
    first = open_keys(config, never)
    assert open_keys(config, never).id == first.id
    file.write_text("changeme")
    with pytest.raises(UnlockError, match="too short"):
        open_keys(config, never)


def test_without_a_terminal_it_says_how_to_give_the_passphrase(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEEDFUL_PASSPHRASE_FILE", raising=False)
    code, _, err = call("serve", "guard=server_kit:OpenGuard", "--port", "0")
    assert code == 2
    assert "HEEDFUL_PASSPHRASE_FILE" in err


# ---------------------------------------------------------------------- engines


def test_the_engine_follows_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine_of(ServeConfig(model="runs/demo", streams=3))
    assert (plain.model, plain._options["streams"]) == ("demo", 3)
    remote = engine_of(ServeConfig(engine="openai", model="http://127.0.0.1:8000/v1", model_name="llama"))
    assert remote.model == "llama"
    with pytest.raises(ConfigError, match="not this machine"):
        engine_of(ServeConfig(engine="openai", model="http://192.0.2.1:8000/v1"))


# ---------------------------------------------------------------------- TLS


def test_over_tls_cookies_are_bound_to_the_host(tmp_path: Path) -> None:
    cert, secret = certificate(tmp_path)
    site = make_site(tmp_path, tls_cert=cert, tls_key=secret)
    with server_kit.running(site.app, tls_cert=str(cert), tls_key=str(secret)) as url:
        secure = url.replace("http:", "https:")
        with httpx.Client(base_url=secure, verify=False, trust_env=False) as client:
            page = client.get("/sign-in")
            assert page.headers["strict-transport-security"] == "max-age=31536000"
            answer = post(client, "/sign-in", {"name": "anna", "password": server_kit.PASSWORD})
            cookies = answer.headers.get_list("set-cookie")
            assert all(c.startswith("__Host-heedful") and "; Secure" in c for c in cookies)
            assert client.get("/account").status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{url}/health", trust_env=False)  # no plain HTTP beside it
    site.store.close()


# ---------------------------------------------------------------------- the whole of it


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    file = tmp_path / "phrase"
    file.write_text(PHRASE)
    file.chmod(0o600)
    (tmp_path / "my_guard.py").write_text(
        "from heedful.server.guard import Verdict\n"
        "class Guard:\n"
        "    def before(self, messages): return Verdict()\n"
        "    def after(self, text): return Verdict()\n"
    )
    environment = {
        **os.environ,
        "HEEDFUL_HOME": str(tmp_path / "home"),
        "HEEDFUL_PASSPHRASE_FILE": str(file),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "heedful", "serve", "--port", "0", "guard=my_guard:Guard", *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_first_start_from_the_command_line(tmp_path: Path) -> None:
    process = start(tmp_path, "engine=openai", "model=http://127.0.0.1:9/v1")
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        code = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
            end = time.monotonic() + 30
            while True:
                try:
                    health = client.get("/health")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < end
                    time.sleep(0.1)
            # There is no model at that address: everything else works all the same.
            assert health.json()["status"] == "ok"
            form = {"code": code, "admin_name": "root", "admin_password": "three quiet green boats"}
            form |= {"clinician_name": "clara", "clinician_password": "seven lazy yellow kites"}
            assert post(client, "/setup", form).headers["location"] == "/sign-in"
            signed = post(client, "/sign-in", {"name": "clara", "password": "seven lazy yellow kites"})
            assert signed.headers["location"].startswith("/second-factor")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=40)
        assert process.returncode in (0, 130)
        assert "/setup" not in out  # said once
        assert '"route": "/setup"' in err
        assert "kites" not in err
        assert "Traceback" not in err
        assert (tmp_path / "home" / "keys.json").stat().st_mode & 0o077 == 0
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


def test_guards_are_named_by_path() -> None:
    assert isinstance(make("server_kit:OpenGuard"), Guard)
    with pytest.raises(HeedfulError):
        make("server_kit:Nothing")


def test_the_second_half_of_an_answer_does_not_wait_for_the_first_to_be_acknowledged() -> None:
    """Headers and body are two small writes; with Nagle's algorithm each answer took 40 ms longer."""

    async def accepted() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bound("127.0.0.1", 0) as listening:
            server = await asyncio.start_server(greet, sock=listening)
            async with server:
                _, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
                try:
                    return await asyncio.wait_for(found, 5)
                finally:
                    writer.close()

    assert asyncio.run(accepted()) != 0
