"""Signing in, as a browser meets it, and as somebody who guesses does."""

from __future__ import annotations

import html
import re
import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import server_kit

server_kit.require()

import pyotp

from heedful.errors import ConfigError, ConflictError, NotFoundError, TamperError, UnlockError
from heedful.server.auth.accounts import Login, Refusal
from heedful.server.auth.limits import RULES, Backoff, Buckets
from heedful.server.auth.passwords import Cost, Passwords, check_password
from heedful.server.auth.second_factor import Factor
from heedful.server.routes.sign_in import HOME
from server_kit import PASSWORD, PEOPLE, Site, csrf, make_site, post
from store_kit import Clock

OTHER = "seven lazy yellow kites"


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Iterator[Site]:
    made = make_site(tmp_path, clock=clock)
    yield made
    made.store.close()


def secret_of(page: str) -> str:
    found = re.search(r'class="secret">([A-Z2-7]+)<', page)
    assert found
    return found[1]


def code(secret: str, clock: Clock) -> str:
    return pyotp.TOTP(secret).at(int(clock().timestamp()))


# ---------------------------------------------------------------------- the way in


def test_a_clinician_signs_in_for_the_first_time(site: Site, clock: Clock) -> None:
    with site.client() as client:
        answer = post(client, "/sign-in", {"name": "Clara ", "password": PASSWORD})
        assert answer.headers["location"] == "/second-factor/enrol"
        halfway = client.cookies["heedful"]
        assert client.get("/account").headers["location"].startswith("/second-factor")
        enrol = client.get("/second-factor/enrol").text
        assert 'src="data:image/svg+xml;base64,' in enrol
        secret = secret_of(enrol)
        done = client.post("/second-factor/enrol", data={"csrf": csrf(enrol), "code": code(secret, clock)})
        codes = re.findall(r"<code>([a-z0-9-]+)</code>", done.text)
        assert len(set(codes)) == 10
        assert client.cookies["heedful"] != halfway  # another token for other rights
        assert client.get("/account").status_code == 200
        assert site.accounts.by_session(halfway) is None

        # The next time: the code, and not the same one twice.
        post(client, "/sign-out", {}, page="/account")
        assert post(client, "/sign-in", {"name": "clara", "password": PASSWORD}).headers["location"] == "/second-factor"
        assert post(client, "/second-factor", {"code": code(secret, clock)}).status_code == 401
        clock.forward(seconds=30)
        assert post(client, "/second-factor", {"code": code(secret, clock)}).headers["location"] == HOME

        # And without the phone.
        post(client, "/sign-out", {}, page="/account")
        post(client, "/sign-in", {"name": "clara", "password": PASSWORD})
        assert post(client, "/second-factor", {"code": codes[0].upper()}).status_code == 303
        post(client, "/sign-out", {}, page="/account")
        post(client, "/sign-in", {"name": "clara", "password": PASSWORD})
        assert post(client, "/second-factor", {"code": codes[0]}).status_code == 401  # each works once


def test_a_help_seeker_needs_a_password_only_and_lands_where_they_wanted(site: Site) -> None:
    with site.client() as client:
        sent = client.get("/account")
        assert sent.headers["location"] == "/sign-in?next=/account"
        page = sent.headers["location"]
        answer = post(client, "/sign-in", {"name": "anna", "password": PASSWORD, "next": "/account"}, page=page)
        assert answer.headers["location"] == "/account"
        for evil in ("//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"):
            other = post(client, "/sign-in", {"name": "anna", "password": PASSWORD, "next": evil})
            assert other.headers["location"] == HOME


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    with site.client() as client:
        cookies = post(client, "/sign-in", {"name": "anna", "password": PASSWORD}).headers.get_list("set-cookie")
        assert len(cookies) == 2
        for cookie in cookies:
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert "Domain" not in cookie


def test_unknown_name_wrong_password_and_disabled_account_look_the_same(site: Site) -> None:
    site.store.run(lambda unit: unit.users.change(site.ids["annotator"], by="root", disabled=True))
    answers = []
    for name, password in (("nobody", PASSWORD), ("anna", OTHER), (PEOPLE["annotator"], PASSWORD)):
        with site.client() as client:
            answer = post(client, "/sign-in", {"name": name, "password": password})
            assert answer.status_code == 401
            text = re.sub(r'value="[0-9a-f]{64}"', "", answer.text)
            answers.append(text.replace(f'value="{name}"', ""))  # what was typed is not the server's
    assert len(set(answers)) == 1


def test_unknown_names_cost_as_much_work_as_wrong_passwords() -> None:
    passwords = Passwords(Cost(memory_kib=4096, passes=2, lanes=1))
    stored = passwords.hash(PASSWORD)

    def seconds(known: str | None) -> float:
        times = []
        for _ in range(15):
            begun = time.perf_counter()
            assert not passwords.verify(OTHER, known)
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    assert 0.4 < seconds(None) / seconds(stored) < 2.5


def test_a_store_that_was_stolen_holds_no_token_and_no_password(site: Site) -> None:
    login = site.accounts.sign_in("anna", PASSWORD, address="x")
    token = site.token("clinician", "generate")
    with site.store.read() as unit:
        kept = [s.token_hash for user in site.ids.values() for s in unit.sessions.of(user)]
        user = unit.users.get(site.ids["help_seeker"])
    assert login.token not in "".join(kept)
    assert token.rpartition("_")[2] not in "".join(kept)
    assert user.password_hash.startswith("$argon2id$")
    assert login.token not in repr(login)


# ---------------------------------------------------------------------- the way out


def test_sessions_end_when_nobody_uses_them_and_in_any_case(tmp_path: Path, clock: Clock) -> None:
    site = make_site(tmp_path, clock=clock, session_idle=600, session_absolute=3600)
    token = site.accounts.sign_in("anna", PASSWORD, address="x").token
    for _ in range(5):
        clock.forward(seconds=590)
        assert site.accounts.by_session(token) is not None
    clock.forward(seconds=601)
    assert site.accounts.by_session(token) is None
    again = site.accounts.sign_in("anna", PASSWORD, address="x").token
    for _ in range(7):
        clock.forward(seconds=590)
        last = site.accounts.by_session(again)
    assert last is None  # used all the time, and over all the same
    site.store.close()


def test_halfway_sessions_last_ten_minutes(site: Site, clock: Clock) -> None:
    token = site.accounts.sign_in("clara", PASSWORD, address="x").token
    clock.forward(minutes=9)
    assert site.accounts.by_session(token).stage == "password"
    clock.forward(minutes=2)
    assert site.accounts.by_session(token) is None


def test_signing_out_everywhere_ends_sessions_and_leaves_scripts_alone(site: Site) -> None:
    key = site.bearer("clinician")
    with site.signed_in("clinician") as here, site.signed_in("clinician") as there:
        assert post(here, "/account/sign-out-everywhere", {}, page="/account").status_code == 303
        assert there.get("/account").status_code == 303
        assert there.get("/v1/models", headers=key).status_code == 200


def test_another_password_ends_all_other_sessions_and_renews_this_one(site: Site) -> None:
    with site.signed_in("clinician") as here, site.signed_in("clinician") as there:
        before = here.cookies["heedful"]
        assert post(here, "/account/password", {"old": OTHER, "new": OTHER}, page="/account").status_code == 400
        assert post(here, "/account/password", {"old": PASSWORD, "new": "short"}, page="/account").status_code == 400
        assert post(here, "/account/password", {"old": PASSWORD, "new": OTHER}, page="/account").status_code == 303
        assert here.cookies["heedful"] != before
        assert here.get("/account").status_code == 200
        assert there.get("/account").status_code == 303
    assert isinstance(site.accounts.sign_in("clara", PASSWORD, address="x"), Refusal)
    assert isinstance(site.accounts.sign_in("clara", OTHER, address="x"), Login)


def test_disabled_people_are_out_at_once_with_all_they_had(site: Site) -> None:
    key = site.bearer("clinician")
    with site.signed_in("clinician") as client:
        site.store.run(lambda unit: unit.users.change(site.ids["clinician"], by="root", disabled=True))
        assert client.get("/account").status_code == 303
        client.cookies.clear()
        assert client.get("/v1/models", headers=key).status_code == 401


def test_who_becomes_staff_needs_a_second_factor_at_once(site: Site) -> None:
    with site.signed_in("help_seeker") as client:
        site.store.run(lambda unit: unit.users.change(site.ids["help_seeker"], by="root", role="clinician"))
        assert client.get("/account").headers["location"].startswith("/second-factor")


def test_an_admin_resets_password_and_phone(site: Site, clock: Clock) -> None:
    user, accounts = site.ids["clinician"], site.accounts
    caller = accounts.by_session(accounts.sign_in("clara", PASSWORD, address="x").token)
    secret = accounts.enrol(user)[0].secret
    login, codes = accounts.confirm(caller, code(secret, clock))
    assert login.next == "nothing"
    assert len(codes) == 10
    with pytest.raises(ConflictError, match="already"):
        accounts.enrol(user)
    key = site.token("clinician", "generate")
    accounts.reset_factor(user, by="root")
    assert accounts.by_session(login.token) is None
    assert accounts.by_token(key) is None
    accounts.set_password(user, new=OTHER, by="root")
    assert accounts.sign_in("clara", OTHER, address="x").next == "enrolment"


# ---------------------------------------------------------------------- who guesses


def test_guessing_is_slowed_down_and_said_so(site: Site) -> None:
    with site.client() as client:
        for _ in range(RULES["account"].free):
            assert post(client, "/sign-in", {"name": "anna", "password": OTHER}).status_code == 401
        held = post(client, "/sign-in", {"name": "anna", "password": PASSWORD})
        assert held.status_code == 429
        assert 1 <= int(held.headers["retry-after"]) <= RULES["account"].longest


class Ticking:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_strangers_cannot_lock_somebody_out_for_ever(tmp_path: Path) -> None:
    ticking = Ticking()
    site = make_site(tmp_path, backoff=Backoff(clock=ticking))
    accounts = site.accounts
    known = accounts.sign_in("anna", PASSWORD, address="home")
    for n in range(300):  # from ever new addresses, as fast as allowed
        accounts.sign_in("anna", OTHER, address=f"bot-{n}")
        ticking.now += 1
    # From the browser that was here before: at once.
    assert isinstance(accounts.sign_in("anna", PASSWORD, address="home", device=known.device), Login)
    for n in range(300):
        accounts.sign_in("anna", OTHER, address=f"bot-{n}")
    # From a new one: after half a minute at most.
    refused = accounts.sign_in("anna", PASSWORD, address="away")
    assert refused.why == "wait"
    assert refused.seconds <= RULES["account"].longest
    ticking.now += RULES["account"].longest
    assert isinstance(accounts.sign_in("anna", PASSWORD, address="away"), Login)
    site.store.close()


def test_one_account_has_one_limit_however_its_name_is_spelt(tmp_path: Path) -> None:
    """The store finds a name in wide letters; guesses at it count for the same account."""
    site = make_site(tmp_path, backoff=Backoff(clock=Ticking()))
    spelt = [
        "anna",
        "\uff41nna",
        "a\uff4ena",
        "an\uff4ea",
        "ann\uff41",
        "\uff41\uff4e\uff4e\uff41",
        " ANNA",
        "anna\u3000",
    ]
    tried = [site.accounts.sign_in(name, "wrong", address=f"a{n}") for n, name in enumerate(spelt)]
    assert tried[-1].why == "wait"


def test_a_known_browser_is_known_for_its_own_account_and_its_own_failures(tmp_path: Path) -> None:
    ticking = Ticking()
    site = make_site(tmp_path, backoff=Backoff(clock=ticking))
    accounts = site.accounts
    device = accounts.sign_in("anna", PASSWORD, address="a").device
    for n in range(20):
        accounts.sign_in("anna", OTHER, address=f"n{n}", device=device)
    assert accounts.sign_in("anna", PASSWORD, address="a", device=device).why == "wait"
    assert isinstance(accounts.sign_in("anna", PASSWORD, address="b"), Login)  # others are not punished for it
    for n in range(20):
        accounts.sign_in("clara", OTHER, address=f"m{n}")
    assert accounts.sign_in("clara", PASSWORD, address="c", device=device).why == "wait"  # somebody else's cookie
    accounts.change_password(site.ids["help_seeker"], old=PASSWORD, new=OTHER)
    with site.store.read() as unit:
        assert not accounts._knows(device, unit.users.get(site.ids["help_seeker"]))
    site.store.close()


def test_one_address_cannot_try_all_names(tmp_path: Path) -> None:
    site = make_site(tmp_path, backoff=Backoff(clock=Ticking()))
    tried = [site.accounts.sign_in(f"name{n}", OTHER, address="one") for n in range(40)]
    assert [found.why for found in tried].count("wrong") == RULES["address"].free
    site.store.close()


def test_guessing_the_second_factor_is_slowed_down(site: Site, clock: Clock) -> None:
    accounts = site.accounts
    caller = accounts.by_session(accounts.sign_in("clara", PASSWORD, address="x").token)
    secret = accounts.enrol(site.ids["clinician"])[0].secret
    tried = [accounts.confirm(caller, "000000") for _ in range(8)]
    assert tried[-1].why == "wait"
    assert accounts.confirm(caller, code(secret, clock)).why == "wait"  # the right one has to wait too


def test_the_memory_of_failures_is_bounded() -> None:
    backoff = Backoff(most=100)
    for n in range(1000):
        backoff.failed("account", str(n))
    assert len(backoff._known.entries) == 100


def test_buckets_let_bursts_pass_and_then_the_rate() -> None:
    ticking = Ticking()
    buckets = Buckets(60, clock=ticking)
    assert [buckets.take("a") for _ in range(15)] == [0.0] * 15
    assert 0 < buckets.take("a") <= 1
    assert buckets.take("b") == 0  # others are not affected
    ticking.now += 2
    assert [buckets.take("a") for _ in range(2)] == [0.0, 0.0]
    assert buckets.take("a") > 0


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path) -> None:
    site = make_site(tmp_path, requests_per_minute=8)
    with site.client() as client:
        answers = [client.get("/health") for _ in range(4)]
    assert [a.status_code for a in answers[:2]] == [200, 200]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    site.store.close()


# ---------------------------------------------------------------------- forged forms


def test_forms_from_elsewhere_are_refused(site: Site) -> None:
    with site.signed_in("clinician") as client:
        good = csrf(client.get("/account").text)
        path = "/account/sign-out-everywhere"
        for data, headers in (
            ({}, {}),
            ({"csrf": "0" * 64}, {}),
            ({"csrf": good}, {"Sec-Fetch-Site": "cross-site"}),
            ({"csrf": good}, {"Sec-Fetch-Site": "same-site"}),
            ({"csrf": good}, {"Origin": "https://evil.example"}),
        ):
            assert client.post(path, data=data, headers=headers).status_code == 403, (data, headers)
        assert client.get("/account").status_code == 200
        assert client.post(path, data={"csrf": good}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_the_token_of_one_session_is_worth_nothing_in_another(site: Site) -> None:
    with site.signed_in("clinician") as one, site.signed_in("supervisor") as other:
        taken = csrf(one.get("/account").text)
        assert other.post("/sign-out", data={"csrf": taken}).status_code == 403


def test_signing_in_needs_our_own_form_too(site: Site) -> None:
    """Else a stranger's page could sign somebody in to the stranger's account and read what they write there."""
    with site.client() as client:
        assert client.post("/sign-in", data={"name": "anna", "password": PASSWORD}).status_code == 403


def test_requests_with_a_token_need_no_form(site: Site) -> None:
    with site.client() as client:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        assert client.post("/v1/chat/completions", json=body, headers=site.bearer()).status_code == 200


# ---------------------------------------------------------------------- tokens for scripts


def test_tokens_are_made_listed_used_and_ended(site: Site, clock: Clock) -> None:
    with site.signed_in("supervisor") as client:
        headers = {"X-CSRF-Token": client.get("/api/session").json()["csrf"]}
        made = client.post("/api/tokens", json={"scopes": ["generate", "metrics"], "days": 2}, headers=headers)
        assert made.status_code == 201
        token = made.json()["token"]
        assert token.startswith("hfd_generate+metrics_")
        listed = client.get("/api/tokens").json()
        assert [entry["scopes"] for entry in listed] == [["generate", "metrics"]]
        assert "token" not in listed[0]
        key = {"Authorization": f"Bearer {token}"}
        with site.client() as script:
            assert script.get("/metrics", headers=key).status_code == 200
            clock.forward(days=2)
            assert script.get("/metrics", headers=key).status_code == 401


def test_tokens_are_ended_by_their_owner_only(site: Site) -> None:
    key = site.token("clinician", "generate")
    made = site.accounts.tokens(site.ids["clinician"])[0]
    with pytest.raises(NotFoundError):
        site.accounts.revoke(site.ids["supervisor"], made.id)
    site.accounts.revoke(site.ids["clinician"], made.id)
    assert site.accounts.by_token(key) is None
    assert site.accounts.tokens(site.ids["clinician"]) == ()


def test_tokens_never_have_more_than_their_owner(site: Site) -> None:
    with pytest.raises(ConfigError, match="needs scopes out of: generate"):
        site.token("clinician", "metrics")
    with pytest.raises(ConfigError, match="out of: none"):
        site.token("help_seeker", "generate")
    with pytest.raises(ConfigError, match="at most 90 days"):
        site.accounts.issue(site.ids["clinician"], scopes=["generate"], days=91)
    key = site.token("supervisor", "generate", "metrics")
    site.store.run(lambda unit: unit.users.change(site.ids["supervisor"], by="root", role="clinician"))
    assert site.accounts.by_token(key).scopes == {"generate"}  # what the owner may do today


# ---------------------------------------------------------------------- the first start


def fill(**changes: str) -> dict[str, str]:
    return {
        "code": "aaaa-bbbb",
        "admin_name": "Root",
        "admin_password": PASSWORD,
        "clinician_name": "Clara",
        "clinician_password": OTHER,
        **changes,
    }


def test_the_first_start_makes_an_admin_and_a_clinician_once(tmp_path: Path) -> None:
    site = make_site(tmp_path, people=False)
    with site.client() as client:
        assert post(client, "/setup", fill(code="cccc-dddd")).status_code == 403
        assert post(client, "/setup", fill(clinician_name="root")).status_code == 400
        assert post(client, "/setup", fill(admin_password="short")).status_code == 400
        assert site.store.run(lambda unit: unit.users.all()) == ()  # all or nothing
        assert post(client, "/setup", fill(code=" AAAA-bbbb ")).headers["location"] == "/sign-in"
        assert client.get("/setup").status_code == 404
        assert {u.role for u in site.store.run(lambda unit: unit.users.all())} == {"admin", "clinician"}
    site.store.close()


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"code": "cccc-dddd"}, 403), ({"admin_password": "short"}, 400), ({"clinician_name": "root"}, 400)],
)
def test_a_mistake_at_the_first_start_keeps_the_names_and_nothing_else(
    tmp_path: Path, changes: dict[str, str], status: int
) -> None:
    site = make_site(tmp_path, people=False)
    typed = fill(admin_name='Root "<q>"', clinician_name="Clara Miller") | changes
    if "clinician_name" in changes:
        typed["admin_name"] = "Root"
    with site.client() as client:
        answer = post(client, "/setup", typed)
        assert answer.status_code == status
        kept = html.unescape(" ".join(re.findall(r'value="([^"]*)"', answer.text)))
        assert typed["admin_name"] in kept
        assert typed["clinician_name"] in kept
        assert "<q>" not in answer.text
        for secret in ("code", "admin_password", "clinician_password"):
            assert typed[secret] not in answer.text
    site.store.close()


def test_a_wrong_password_keeps_the_name_and_no_password(site: Site) -> None:
    with site.client() as client:
        answer = post(client, "/sign-in", {"name": "clara", "password": OTHER})
        assert answer.status_code == 401
        assert 'value="clara"' in answer.text
        assert OTHER not in answer.text


def test_the_first_start_is_for_this_machine_only(tmp_path: Path) -> None:
    site = make_site(tmp_path, people=False)
    with site.client(client=("192.0.2.7", 40000)) as other:
        assert other.get("/setup").status_code == 404
    with site.client() as client:  # a proxy on this machine passes on what comes from elsewhere
        for header in ("X-Forwarded-For", "Forwarded", "Via"):
            assert client.get("/setup", headers={header: "for=192.0.2.7"}).status_code == 404
        assert client.get("/setup").status_code == 200
    site.store.close()


def test_a_store_with_an_admin_has_no_setup(site: Site) -> None:
    with site.client() as client:
        assert client.get("/setup").status_code == 404


# ---------------------------------------------------------------------- small parts


@pytest.mark.parametrize(
    "bad", ["short", "x" * 257, "passwordpassword", "Password!!1234", "aaaaaaaaaaaaaaa", "123412341234"]
)
def test_passwords_that_are_tried_first_are_refused(bad: str) -> None:
    with pytest.raises(UnlockError):
        check_password(bad)


def test_passwords_need_no_signs_or_capitals() -> None:
    check_password("three quiet green boats")
    check_password("дванадцять тихих човнів")
    with pytest.raises(UnlockError, match="tried first"):
        check_password("clara-miller1", name="clara-miller")


def test_letters_may_be_composed_in_either_way() -> None:
    passwords = Passwords(Cost(memory_kib=64, passes=1, lanes=1))
    assert passwords.verify("cafe\u0301 au lait noir", passwords.hash("caf\u00e9 au lait noir"))


def test_a_second_factor_that_was_changed_from_outside_is_noticed() -> None:
    for text in ("{}", "no json", '{"secret": 1, "recovery": 3}', '{"secret": "A", "recovery": [], "more": 1}'):
        with pytest.raises(TamperError):
            Factor.read(text)
    assert Factor.read(None) is None
    assert Factor.new().secret not in repr(Factor.new())


def test_codes_of_the_neighbouring_half_minutes_count(clock: Clock) -> None:
    factor = Factor.new()
    at = clock()
    late = pyotp.TOTP(factor.secret).at(int((at - timedelta(seconds=30)).timestamp()))
    too_late = pyotp.TOTP(factor.secret).at(int((at - timedelta(seconds=90)).timestamp()))
    assert factor.accept(f" {late[:3]} {late[3:]}", at) is not None
    assert factor.accept(too_late, at) is None
    assert factor.accept("", at) is None
    assert factor.accept("ünfug!", at) is None


def test_keys_for_scripts_are_made_and_ended_on_a_page(site: Site) -> None:
    with site.signed_in("clinician") as client:
        made = post(client, "/account/tokens", {"scope": "generate"})
        token = re.search(r'class="token">(hfd_generate_[\w-]+)<', made.text)
        assert token
        assert token[1] not in client.get("/account/tokens").text  # shown once
        with site.client() as script:
            key = {"Authorization": f"Bearer {token[1]}"}
            assert script.get("/v1/models", headers=key).status_code == 200
            ends = re.search(r'action="(/account/tokens/[0-9a-f]+/end)"', client.get("/account/tokens").text)
            assert ends
            assert post(client, ends[1], {}, page="/account/tokens").status_code == 303
            assert script.get("/v1/models", headers=key).status_code == 401
        refused = post(client, "/account/tokens", {"scope": "metrics"})
        assert refused.status_code == 400
        assert "hfd_" not in refused.text
    with site.signed_in("help_seeker") as client:
        assert client.get("/account/tokens").status_code == 403
        assert "/account/tokens" not in client.get("/account").text
