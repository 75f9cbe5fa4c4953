"""What `deploy/` holds is checked as far as it can be without a Docker daemon: files, addresses, options, secrets."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import postgres_kit
import server_kit
import store_kit

server_kit.require()

import yaml
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from heedful.cli.serve import OPTIONS, serve_command
from heedful.errors import ConfigError
from heedful.privacy import Keys
from heedful.server.config import ServeConfig, check_start
from heedful.settings import apply_overrides, check
from heedful.store import Store

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
UNIT = (ROOT / "deploy" / "heedful.service").read_text("utf-8")

TOP = {"name", "include", "services", "networks", "volumes", "secrets", "configs", "models"}
KEYS = {
    "build", "cap_add", "cap_drop", "command", "configs", "container_name", "depends_on", "deploy", "entrypoint",
    "environment", "expose", "healthcheck", "hostname", "image", "init", "labels", "logging", "mem_limit",
    "network_mode", "networks", "ports", "profiles", "read_only", "restart", "secrets", "security_opt", "shm_size",
    "stop_grace_period", "stop_signal", "sysctls", "tmpfs", "ulimits", "user", "volumes", "working_dir",
}  # fmt: skip
"""Keys of a service in the Compose Specification, those that a file of ours could want."""
DURATION = re.compile(r"(\d+(h|m|s|ms|us))+")
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.-]+)?(@sha256:[0-9a-f]{64})?")


def heedful_config(words: list[str]) -> ServeConfig:
    """The configuration that a command line of `heedful serve` makes, by heedful's own reading of it."""
    context = serve_command.make_context("serve", list(words))
    given = context.params
    values = apply_overrides({}, [word for word in given["words"] if "=" in word])
    return check(ServeConfig, values | {name: given[name] for name in OPTIONS if given[name] is not None})


# ---------------------------------------------------------------------- compose


def test_the_compose_file_has_only_keys_of_the_specification() -> None:
    assert set(COMPOSE) <= TOP
    for name, service in SERVICES.items():
        assert set(service) <= KEYS, name
        assert service.get("restart") in ("no", "always", "on-failure", "unless-stopped")
        for wait in (service["stop_grace_period"],) if "stop_grace_period" in service else ():
            assert DURATION.fullmatch(wait)
        assert isinstance(service["command"], list)
        assert all(isinstance(word, str) for word in service["command"])
        assert all(isinstance(value, str) for value in service.get("environment", {}).values()), (
            "YAML turns 1 into a number"
        )


def test_every_name_in_the_compose_file_is_defined() -> None:
    for service in SERVICES.values():
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[needed]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in COMPOSE["volumes"]
    used = {name for service in SERVICES.values() for name in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"]), "a secret that nobody reads"


def test_images_are_pinned_and_ours_is_of_this_version() -> None:
    images = [service["image"] for service in SERVICES.values()] + re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert all(PINNED.fullmatch(image) for image in images), images
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version is not None
    assert SERVICES["heedful"]["image"] == f"heedful:{version[1]}"


def test_nothing_is_published() -> None:
    """Host network with a loopback address, or no network at all; no ports, no privileges."""
    for name, service in SERVICES.items():
        assert "ports" not in service
        assert "privileged" not in service
        assert service["network_mode"] in ("host", "none")
        assert "no-new-privileges:true" in service["security_opt"]
        if service["network_mode"] == "host":
            (host,) = [word.removeprefix("--host=") for word in service["command"] if word.startswith("--host=")]
            assert ipaddress.ip_address(host).is_loopback, name
    assert "listen_addresses=" in SERVICES["postgres"]["command"]


def test_secrets_are_files_and_stand_in_no_variable() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASS|SECRET|TOKEN", name):
                assert name.endswith("_FILE")
                assert value.startswith("/run/secrets/")
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert "secrets/" in (ROOT / "deploy" / ".gitignore").read_text("utf-8").splitlines()


def test_heedful_takes_the_command_of_the_compose_file() -> None:
    config = heedful_config(SERVICES["heedful"]["command"])
    check_start(config)
    assert (config.host, config.port) == ("127.0.0.1", 8765)
    assert config.database is not None
    assert urlsplit(config.database).password is None, "the password stands in a file"
    hint = re.search(r"uses it with: (.+)", (ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
    assert hint is not None
    remote = heedful_config([*SERVICES["heedful"]["command"], *shlex.split(hint[1])])
    command = SERVICES["vllm"]["command"]
    assert f"--port={urlsplit(remote.model).port}" in command
    assert f"--served-model-name={remote.model_name}" in command


def test_an_address_on_all_interfaces_would_be_refused() -> None:
    with pytest.raises(ConfigError, match="without encryption"):
        check_start(heedful_config(["--host=0.0.0.0"]))


def test_the_address_of_the_database_works(postgres: str, keys: Keys, tmp_path: Path) -> None:
    """The driver knows `host` as a folder with a socket, and `passfile`."""
    (address,) = [w.removeprefix("--database=") for w in SERVICES["heedful"]["command"] if w.startswith("--database=")]
    passfile = tmp_path / "pgpass"
    passfile.write_text("*:*:heedful:heedful:not asked for here\n", "utf-8")
    passfile.chmod(0o600)
    there, folder = re.fullmatch(r"postgresql://heedful@/(\w+)\?host=(.+)", postgres).groups()  # type: ignore[union-attr]
    real = address.replace("@/heedful?", f"@/{there}?").replace("/run/postgresql", folder)
    store = Store.open(real.replace("/run/secrets/pgpass", str(passfile)), keys)
    assert store.id
    store.close()


def test_the_account_of_the_compose_file_is_no_superuser_and_the_store_works_with_it(
    postgres_server: str, keys: Keys, tmp_path: Path
) -> None:
    """Its script, run by a real PostgreSQL; `heedful` is somebody else there, so another name."""
    service = SERVICES["postgres"]
    assert service["environment"]["POSTGRES_USER"] != "heedful"
    (mount,) = [v for v in service["volumes"] if ":/docker-entrypoint-initdb.d/" in v]
    script = (ROOT / "deploy" / mount.split(":")[0]).read_text("utf-8")
    assert "/run/secrets/db_password" in script
    assert "db_password" in service["secrets"]
    (tmp_path / "db_password").write_text("it's a secret\n", "utf-8")
    name = f"role_{uuid.uuid4().hex}"
    here = script.replace("/run/secrets/", f"{tmp_path}/").replace(" heedful", f" {name}")
    folder = postgres_kit.programs()
    assert folder is not None
    made = subprocess.run(
        [str(folder / "psql"), "-X", "-v", "ON_ERROR_STOP=1", postgres_server.format(name="postgres")],
        input=here, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    store = Store.open(postgres_server.format(name=name).replace("//heedful@", f"//{name}@"), keys)
    store_kit.cast(store)
    store.backend.scrub()
    with store.backend.engine.connect() as connection:
        assert connection.execute(text("SELECT usesuper FROM pg_user WHERE usename = current_user")).scalar() is False
        with pytest.raises(ProgrammingError, match="permission denied"):
            connection.execute(text("SET session_replication_role = replica"))
    store.close()


def test_people_behind_the_proxy_are_let_in() -> None:
    """Without its name every page would be a 400, and without the proxy all people would share one limit."""
    config = heedful_config(SERVICES["heedful"]["command"])
    assert config.names == ("clinic.example",)
    assert config.trusted_proxy == "127.0.0.1"


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0,
    reason="needs docker with its compose plugin: apt-get install docker-compose-plugin",
)
def test_docker_compose_reads_it() -> None:
    command = ["docker", "compose", "-f", str(ROOT / "deploy" / "compose.yaml"), "--profile", "vllm", "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------- Dockerfile


def test_the_image_is_built_from_what_the_builder_gets_and_runs_as_nobody_special() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    let_in = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"
    }
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
        assert name in let_in, f".dockerignore keeps {name} from the builder"
    user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)[-1]
    assert user == SERVICES["heedful"]["user"]
    assert not user.startswith("0")


def test_the_image_has_the_versions_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    pins = re.findall(r"[\w-]+==[\d.]+", DOCKERFILE)
    assert len(pins) == 3
    assert all(pin in makefile for pin in pins)


# ---------------------------------------------------------------------- systemd


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here: systemd looks for it."""
    path = tmp_path / "heedful.service"
    path.write_text(UNIT.replace("/opt/heedful/bin/heedful", sys.executable), "utf-8")
    return path


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


@needs_systemd
def test_systemd_takes_the_unit(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mine = [line for line in done.stderr.splitlines() if "heedful" in line]
    assert not mine, "an unknown key is only a warning there"


@needs_systemd
def test_the_unit_is_hardened(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr or "Unknown" in done.stderr:
        pytest.skip("this systemd-analyze judges no files")
    assert done.returncode == 0, f"exposure above 2.0 of 10: {done.stdout[-300:]}"


def test_the_unit_starts_heedful_with_files_for_secrets_and_without_core_files() -> None:
    pairs = re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE)
    values = dict(pairs)
    variables = dict(value.split("=", 1) for key, value in pairs if key == "Environment")
    assert values["ExecStart"].split()[1] == "serve"
    assert variables["HEEDFUL_PASSPHRASE_FILE"].startswith("/")
    assert variables["HEEDFUL_HOME"] == f"/var/lib/{values['StateDirectory']}"
    assert not [name for name in variables if re.search("PASS|SECRET|TOKEN", name) and not name.endswith("_FILE")]
    assert values["LimitCORE"] == "0"
    assert values["User"] != "root"


# ---------------------------------------------------------------------- the page


def test_the_configuration_of_the_page_is_one() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text("utf-8")
    found = re.search(r"^```yaml\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    config = check(ServeConfig, yaml.safe_load(found[1]))
    assert config.trusted_proxy == "127.0.0.1"
