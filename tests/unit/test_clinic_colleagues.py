"""An admin makes accounts and resets them, and still reads nothing: a colleague has to confirm who may read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

import pyotp
from clinic_kit import Clinic, make_clinic, say, send
from test_server_access import cases

from heedful.errors import ConflictError, TransitionError
from heedful.server import access
from heedful.store import audit
from server_kit import PASSWORD, csrf, post
from store_kit import Clock

OTHER = "seven lazy yellow kites"
EARLY = {"/account", "/account/password", "/account/sign-out-everywhere", "/api/session", "/"}
"""What an account may call before it is confirmed: its own affairs. Nothing else joins without a talk about it."""
WORDS = "everything is grey since march"


@pytest.fixture
def clinic(tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    made = make_clinic(tmp_path, clock=clock)
    anna = made.begun()
    say(anna, WORDS, "m1")
    yield made
    made.store.close()


def link_of(page: str) -> str:
    found = re.search(r"http://[^/]+(/invitation/[\w.-]+)", page)
    assert found
    return found[1]


def enter(clinic: Clinic, link: str, name: str, clock: Clock) -> Any:
    """What anybody can do who has the link: choose a password, enrol a phone."""
    client = clinic.site.client()
    assert send(client, link, {"password": OTHER}).status_code == 303
    assert post(client, "/sign-in", {"name": name, "password": OTHER}).status_code == 303
    secret = re.search(r'class="secret">([A-Z2-7]+)<', client.get("/second-factor/enrol").text)
    assert secret
    code = pyotp.TOTP(secret[1]).at(int(clock().timestamp()))
    assert post(client, "/second-factor/enrol", {"code": code}).status_code == 200
    return client


def invited(clinic: Clinic, clock: Clock, *, role: str = "clinician", name: str = "Dana") -> Any:
    root = clinic.client("admin")
    page = send(root, "/admin/users", {"name": name, "role": role}, page="/admin")
    with clinic.store.read() as unit:
        clinic.site.ids[name] = unit.users.by_name(name).id
    return enter(clinic, link_of(page.text), name, clock)


def refused_everywhere(clinic: Clinic, client: Any, role: str) -> None:
    """Every route of the role, by address and method, says no; nothing of a conversation is in any answer."""
    headers = {"X-CSRF-Token": client.get("/api/session").json()["csrf"]}
    thread = clinic.thread().id
    rows = {(row.path, method): row for row in access.read().rows for method in row.methods}
    asked = 0
    for path, address, method in cases(clinic.site):
        who = rows[path, method].who
        if isinstance(who, str) or path in EARLY or role not in who or path == "/sign-out":
            continue
        answer = client.request(method, address.replace("0" * 32, thread), headers=headers)
        assert answer.status_code == 403, (method, path, answer.status_code)
        assert WORDS not in answer.text
        asked += 1
    assert asked > 5


@pytest.mark.parametrize("role", ["clinician", "supervisor", "annotator"])
def test_a_new_account_reads_nothing_by_any_route(clinic: Clinic, clock: Clock, role: str) -> None:
    client = invited(clinic, clock, role=role)
    refused_everywhere(clinic, client, role)
    assert client.get("/").headers["location"] == "/account"
    page = client.get("/account").text
    assert "not confirmed yet" in page
    assert 'href="/inbox"' not in page
    clinic.site.confirm("Dana")
    if role != "annotator":
        assert client.get("/inbox").status_code == 200  # the same session: nobody has to sign in again


def test_the_rows_for_accounts_that_wait_are_few_and_explicit() -> None:
    assert {row.path for row in access.read().rows if row.unconfirmed} == EARLY


@pytest.mark.parametrize("what", ["reset", "reset-factor"])
def test_a_reset_account_reads_nothing_until_it_is_confirmed_again(clinic: Clinic, clock: Clock, what: str) -> None:
    dana = invited(clinic, clock)
    clinic.site.confirm("Dana")
    assert dana.get(f"/inbox/{clinic.thread().id}").status_code == 200
    root = clinic.client("admin")
    user = clinic.site.ids["Dana"]
    page = send(root, f"/admin/users/{user}/{what}", page="/admin")
    assert dana.get("/inbox").status_code == 303  # the old session is gone
    if what == "reset":
        # The admin opens the link, and resets the phone as well: everything that the owner had.
        send(root, f"/admin/users/{user}/reset-factor", page="/admin")
        thief = enter(clinic, link_of(page.text), "Dana", clock)
        refused_everywhere(clinic, thief, "clinician")
    with clinic.store.read() as unit:
        assert unit.users.get(user).confirmed_at is None


def test_a_colleague_sees_the_notice_and_confirms(clinic: Clinic, clock: Clock) -> None:
    dana = invited(clinic, clock)
    user = clinic.site.ids["Dana"]
    for role in ("clinician", "supervisor"):
        assert 'href="/colleagues">Accounts of colleagues that wait to be confirmed: 1' in (
            clinic.client(role).get("/inbox").text
        )
    clara = clinic.client("clinician")
    assert "Dana" in clara.get("/colleagues").text
    assert send(clara, f"/colleagues/{user}/confirm", page="/colleagues").status_code == 303
    assert dana.get("/inbox").status_code == 200
    assert "wait to be confirmed" not in clara.get("/inbox").text
    assert "clara" in clara.get("/colleagues").text
    with clinic.store.read() as unit:
        said = [(e.actor, e.action) for e in unit.audit.of(f"user:{user}")]
        assert (clinic.site.ids["clinician"], "user.confirmed") in said
    assert audit.verify(clinic.store).state == "ok"


def test_neither_the_admin_nor_the_account_itself_confirms(clinic: Clinic, clock: Clock) -> None:
    dana, user = invited(clinic, clock), ""
    user = clinic.site.ids["Dana"]
    for client in (clinic.client("admin"), dana):
        token = csrf(client.get("/account").text)
        assert client.post(f"/colleagues/{user}/confirm", data={"csrf": token}).status_code == 403
    confirm: Callable[[str], Any] = lambda by: clinic.store.run(lambda unit: unit.users.confirm(user, by=by))  # noqa: E731
    for by in (user, clinic.site.ids["admin"], clinic.site.ids["annotator"], clinic.site.ids["help_seeker"]):
        with pytest.raises(TransitionError):
            confirm(by)


def test_two_accounts_that_wait_do_not_confirm_each_other(clinic: Clinic, clock: Clock) -> None:
    invited(clinic, clock, name="Dana")
    erin = invited(clinic, clock, name="Erin")
    token = csrf(erin.get("/account").text)
    answer = erin.post(f"/colleagues/{clinic.site.ids['Dana']}/confirm", data={"csrf": token})
    assert answer.status_code == 403
    with pytest.raises(TransitionError):
        clinic.store.run(lambda u: u.users.confirm(clinic.site.ids["Dana"], by=clinic.site.ids["Erin"]))


def test_an_account_whose_link_was_not_opened_cannot_be_confirmed_in_advance(clinic: Clinic) -> None:
    """Else the admin could open the link after a colleague had said yes to the name."""
    send(clinic.client("admin"), "/admin/users", {"name": "Dana", "role": "clinician"}, page="/admin")
    with clinic.store.read() as unit:
        user = unit.users.by_name("Dana").id
    clara = clinic.client("clinician")
    answer = send(clara, f"/colleagues/{user}/confirm", page="/colleagues")
    assert answer.status_code == 409
    assert "not set a password and a second factor yet" in answer.text
    with pytest.raises(ConflictError):
        clinic.store.run(lambda u: u.users.confirm(user, by=clinic.site.ids["clinician"]))


def test_an_account_that_nobody_knows_is_closed(clinic: Clinic, clock: Clock) -> None:
    dana = invited(clinic, clock)
    user = clinic.site.ids["Dana"]
    susan = clinic.client("supervisor")
    assert send(susan, f"/colleagues/{user}/refuse", page="/colleagues").status_code == 303
    assert dana.get("/account").status_code == 303
    # The admin can open it again; it waits again.
    send(clinic.client("admin"), f"/admin/users/{user}/enable", page="/admin")
    with clinic.store.read() as unit:
        assert unit.users.get(user).confirmed_at is None
        assert "user.refused" in [e.action for e in unit.audit.of(f"user:{user}")]
    # Who is confirmed is not closed this way: that is no weapon among colleagues.
    clara = clinic.site.ids["clinician"]
    assert send(susan, f"/colleagues/{clara}/refuse", page="/colleagues").status_code == 409


def test_an_admin_who_closes_everybody_does_not_become_the_first_one_again(clinic: Clinic, clock: Clock) -> None:
    root = clinic.client("admin")
    for role in ("clinician", "supervisor"):
        send(root, f"/admin/users/{clinic.site.ids[role]}/reset", page="/admin")
    dana = invited(clinic, clock)
    refused_everywhere(clinic, dana, "clinician")
    with pytest.raises(TransitionError, match="first account of all"):
        clinic.store.run(lambda u: u.users.confirm(clinic.site.ids["Dana"], by="setup", way="setup"))


def test_the_first_clinician_of_the_set_up_reads_at_once(tmp_path: Path) -> None:
    site = server_kit.make_site(tmp_path, people=False)
    with site.client() as client:
        form = {"code": "aaaa-bbbb", "admin_name": "Root", "admin_password": PASSWORD}
        form |= {"clinician_name": "Clara", "clinician_password": OTHER}
        assert post(client, "/setup", form).status_code == 303
    with site.store.read() as unit:
        assert unit.users.by_name("Clara").confirmed_by == "setup"
        assert unit.users.by_name("Root").confirmed_at is None  # an admin reads nothing anyway
    site.store.close()


def test_an_own_new_password_or_phone_changes_nothing(clinic: Clinic) -> None:
    user = clinic.site.ids["clinician"]
    clinic.site.accounts.change_password(user, old=PASSWORD, new=OTHER)
    clinic.site.accounts.enrol(user)
    with clinic.store.read() as unit:
        assert unit.users.get(user).confirmed_at is not None


def test_another_role_given_by_somebody_else_has_to_be_confirmed(clinic: Clinic) -> None:
    user = clinic.site.ids["annotator"]
    clinic.store.run(lambda unit: unit.users.change(user, by=clinic.site.ids["admin"], role="supervisor"))
    assert clinic.client("annotator").get("/inbox").status_code == 403


@pytest.mark.parametrize(("language", "words"), [("de", "noch nicht bestätigt"), ("es", "aún no está confirmada")])
def test_who_waits_is_told_in_their_language(clinic: Clinic, clock: Clock, language: str, words: str) -> None:
    dana = invited(clinic, clock)
    user = clinic.site.ids["Dana"]
    clinic.store.run(lambda unit: unit.users.change(user, by=user, language=language))
    assert words in dana.get("/account").text
    assert words in dana.get("/inbox").text


def test_one_account_whose_second_factor_is_damaged_closes_no_page(clinic: Clinic) -> None:
    """The inbox opens, and the admin can see and reset the account."""
    with clinic.store.begin() as unit:
        unit.users.add(
            role="clinician", name="Nils", by=clinic.site.ids["admin"], password_hash="-", totp_secret="{broken"
        )
    assert clinic.client("clinician").get("/inbox").status_code == 200
    page = clinic.client("clinician").get("/colleagues")
    assert page.status_code == 200
    assert "Nils" in page.text
    assert clinic.client("admin").get("/admin").status_code == 200
