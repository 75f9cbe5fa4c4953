"""Each role's main path in a real browser: with and without script, by keyboard, on a phone, in the dark, enlarged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import browser_kit
import pytest

import server_kit
from conftest import needs

server_kit.require()

from clinic_kit import Clinic, make_clinic

from server_kit import PASSWORD, running

pytestmark = pytest.mark.slow  # a minute: real windows, real waiting

DANGER = "I am going to kill myself tonight."
PHONE = {"width": 320, "height": 640}
DESK = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    needs(browser_kit.here(), browser_kit.HINT)
    with browser_kit.chromium() as found:
        yield found


@dataclass
class Visit:
    """Somebody at a browser. `wrong` collects what its console calls an error."""

    page: Any
    address: str
    wrong: list[str] = field(default_factory=list)

    def go(self, path: str) -> Any:
        self.page.goto(self.address + path)
        return self.page

    def see(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=45_000)


@dataclass
class House:
    """A running clinic."""

    clinic: Clinic
    address: str
    browser: Any

    @contextlib.contextmanager
    def visit(self, role: str | None = None, **options: Any) -> Iterator[Visit]:
        """A browser window, signed in as `role`. At its end the console must have had no error."""
        context = self.browser.new_context(**{"viewport": DESK, "locale": "en-GB", **options})
        if role is not None:
            cookie = self.clinic.site.signed_in(role).cookies["heedful"]
            context.add_cookies([{"name": "heedful", "value": cookie, "url": self.address}])
        visit = Visit(context.new_page(), self.address)
        visit.page.on("console", lambda m: visit.wrong.append(m.text) if m.type in ("error", "warning") else None)
        visit.page.on("pageerror", lambda err: visit.wrong.append(str(err)))
        yield visit
        context.close()
        assert visit.wrong == []

    def drafted(self) -> str:
        """Wait for a draft and say where its conversation is."""
        import time

        end = time.monotonic() + 15
        while not self.clinic.drafts("drafted"):
            assert time.monotonic() < end, "no draft came"
            time.sleep(0.05)
        return f"/inbox/{self.clinic.thread().id}"


@pytest.fixture
def house(tmp_path: Path, browser: Any) -> Iterator[House]:
    clinic = make_clinic(tmp_path)
    with running(clinic.site.app) as address:
        yield House(clinic, address, browser)
    clinic.store.close()


def begin(visit: Visit, *, text: str | None = None) -> None:
    """Past what is said before first use, and a first message."""
    visit.go("/talk")
    visit.page.get_by_role("button", name="I have read it. Begin").click()
    visit.page.get_by_label("Your message").wait_for()
    visit.page.wait_for_load_state()  # the script is there: before that a form is sent as a plain one
    if text is not None:
        visit.page.get_by_label("Your message").fill(text)
        visit.page.get_by_role("button", name="Send").click()


def test_from_a_message_to_an_approved_reply_by_keyboard_alone(house: House) -> None:
    with house.visit() as anna, house.visit("clinician") as clara:
        anna.go("/sign-in")
        anna.page.get_by_label("Name").fill("anna")
        anna.page.get_by_label("Password").fill(PASSWORD)
        anna.page.get_by_role("button", name="Sign in").click()
        begin(anna, text="I slept badly, and everything is grey.")
        anna.see("Your message has arrived.")
        path = house.drafted()

        clara.go("/inbox")
        for _ in range(30):  # by tabs to the conversation
            clara.page.keyboard.press("Tab")
            if clara.page.evaluate("document.activeElement.getAttribute('href')") == path:
                break
        clara.page.keyboard.press("Enter")
        clara.see("Why this draft")
        clara.page.keyboard.press("r")
        assert clara.page.evaluate("document.activeElement.id") == "reject-reason"
        clara.page.keyboard.type("a e r")  # keys are off while somebody types
        assert clara.page.get_by_label("Reason").first.input_value() == "a e r"
        assert house.clinic.drafts("drafted")
        clara.page.evaluate("document.activeElement.blur()")
        clara.page.keyboard.press("a")
        clara.see("There is no draft.")
        anna.see(house.clinic.writer.reply)  # without a reload: the page looks for news


def test_the_keys_can_be_switched_off_and_are_shown(house: House) -> None:
    with house.visit("help_seeker") as anna:
        begin(anna, text="Hello")
        anna.see("Your message has arrived.")
    path = house.drafted()
    with house.visit("clinician") as clara:
        page = clara.go(path)
        assert page.locator("kbd").all_inner_texts() == ["a", "e", "r"]
        assert page.locator("#approve").get_attribute("aria-keyshortcuts") == "a"
        page.get_by_role("button", name="Keys are on").click()
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("a")
        page.reload()
        page.get_by_role("button", name="Keys are off").wait_for()
        assert house.clinic.drafts("drafted")


def test_everything_works_without_script(house: House) -> None:
    with house.visit("help_seeker", java_script_enabled=False) as anna:
        begin(anna, text="I slept badly.")
        anna.see("I slept badly.")
        path = house.drafted()
        with house.visit("clinician", java_script_enabled=False) as clara:
            page = clara.go(path)
            page.get_by_text("Edit", exact=False).locator("visible=true").first.click()
            page.get_by_label("Words to send").fill("What were the nights like?")
            page.get_by_role("button", name="Send the edited words").click()
            clara.see("Draft edited")
        anna.page.get_by_role("link", name="Look for new messages").click()
        anna.see("What were the nights like?")


def test_danger_shows_the_card_first_and_a_person_takes_over(house: House) -> None:
    with house.visit("help_seeker") as anna, house.visit("clinician") as clara:
        begin(anna, text=DANGER)
        anna.see("Please talk to somebody now")
        assert anna.page.get_by_label("Your message").count() == 0
        anna.page.get_by_role("button", name="I have seen this").click()
        anna.see("a person is being told about it now")
        clara.go("/inbox")
        clara.see("Immediate")
        clara.page.get_by_role("link", name="anna").click()
        clara.page.get_by_role("button", name="Take over").click()
        clara.page.get_by_label("Write as yourself").fill("I am Clara. I am here with you.")
        clara.page.get_by_role("button", name="Send").click()
        anna.see("I am Clara. I am here with you.")
        anna.see("clara answers you now, not a program.")


def test_who_asks_for_a_person_is_answered_and_the_owners_window_says_so(house: House) -> None:
    with house.visit("help_seeker") as anna, house.visit("clinician") as clara:
        begin(anna, text="I slept badly.")
        anna.see("Your message has arrived.")
        clara.go(f"/inbox/{house.clinic.thread().id}")
        clara.page.get_by_role("button", name="Take over").click()
        clara.page.get_by_label("Write as yourself").fill("half a sentence")
        anna.go("/talk").get_by_role("button", name="I want to reach a person").click()
        anna.see("A person of our team has this conversation")
        clara.see("anna asks for a person.")  # without a reload
        assert clara.page.title().startswith("(1) anna")
        assert clara.page.get_by_label("Write as yourself").input_value() == "half a sentence"


def test_a_draft_that_comes_later_comes_by_itself(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    may, write = threading.Event(), house.clinic.writer.propose

    def slow(conversation: Any, *, key: str) -> Any:
        assert may.wait(60)
        return write(conversation, key=key)

    monkeypatch.setattr(house.clinic.writer, "propose", slow)
    with house.visit("help_seeker") as anna, house.visit("clinician") as clara:
        begin(anna, text="I slept badly.")
        anna.see("Your message has arrived.")
        clara.go(f"/inbox/{house.clinic.thread().id}")
        clara.see("A draft is being written.")
        may.set()
        clara.see("Why this draft")  # without a reload
        assert clara.page.locator("#approve").is_visible()


def test_a_message_that_cannot_be_sent_stays_and_is_sent_once(house: House) -> None:
    with house.visit("help_seeker") as anna:
        begin(anna)
        anna.page.route(
            "**/api/talk/turns", lambda route: route.abort() if route.request.method == "POST" else route.continue_()
        )
        anna.page.get_by_label("Your message").fill("Are you still there?")
        anna.page.get_by_role("button", name="Send").click()
        anna.see("This message is not sent yet.")
        assert anna.page.get_by_label("Your message").input_value() == "Are you still there?"
        anna.page.unroute("**/api/talk/turns")
        anna.page.get_by_role("button", name="Send").click()
        anna.see("Your message has arrived.")
        assert [text for _, text in house.clinic.turns()] == ["Are you still there?"]
        anna.wrong.clear()  # the browser reports the request that the test broke


def test_a_message_that_was_kept_although_the_answer_failed_is_not_kept_twice(house: House) -> None:
    with house.visit("help_seeker") as anna:
        begin(anna)

        def answered_wrongly(route: Any) -> None:
            if route.request.method == "POST":
                assert route.fetch().status == 201  # kept, but the page never hears of it
                route.fulfill(status=502, body="bad gateway")
            else:
                route.continue_()

        anna.page.route("**/api/talk/turns*", answered_wrongly)
        anna.page.get_by_label("Your message").fill("I slept badly.")
        anna.page.get_by_role("button", name="Send").click()
        anna.page.wait_for_url("**/talk#write")
        assert house.clinic.turns() == [("user", "I slept badly.")]
        anna.wrong.clear()  # the browser reports the answer that the test made up


def test_a_card_that_comes_while_somebody_types_is_shown_when_the_field_is_empty(house: House) -> None:
    with house.visit("help_seeker") as anna:
        begin(anna, text="I slept badly.")
        anna.see("Your message has arrived.")
        anna.page.get_by_label("Your message").fill("half a sent")
        house.clinic.desk.clinic.raise_risk(
            house.clinic.thread().id, "thoughts", by=house.clinic.site.ids["clinician"], reason="what she says"
        )
        anna.page.wait_for_timeout(6_000)  # a look comes every four seconds
        assert anna.page.get_by_label("Your message").input_value() == "half a sent"
        anna.page.get_by_label("Your message").fill("")
        anna.page.locator("#card").wait_for(timeout=10_000)


def test_a_check_in_draws_a_course_and_hands_over(house: House) -> None:
    with house.visit("help_seeker") as anna:
        begin(anna)
        for answer in (0, 1):
            page = anna.go("/check-ins/phq9")
            for n in range(1, 10):
                page.locator(f"#q{n}-{answer}").check()
            page.get_by_role("button", name="Keep my answers").click()
            anna.see("Thank you")
        anna.see("You are not alone with this")
        assert anna.go("/check-ins").locator("svg.curve").count() == 1
    with house.visit("clinician") as clara:
        clara.go("/tasks")
        clara.see("Look")


def test_supervisor_and_admin_find_their_pages(house: House) -> None:
    with house.visit("supervisor") as susan:
        susan.go("/")
        susan.see("Response clocks")
    with house.visit("admin") as admin:
        admin.go("/")
        admin.page.get_by_role("button", name="Verify the chain").click()
        admin.see("The chain holds")
        admin.page.get_by_role("link", name="988 Suicide & Crisis Lifeline").click()
        admin.page.get_by_label("Day of the check").fill("2026-01-02")
        admin.page.get_by_role("button", name="Save").click()
        admin.see("days ago:")


PAGES = {
    None: ("/sign-in", "/resources", "/protocol", "/nothing"),
    "help_seeker": (
        "/talk",
        "/check-ins",
        "/check-ins/phq9",
        "/exercises",
        "/exercises/thought-record",
        "/me",
        "/me/delete",
        "/consents",
        "/consents/training",
        "/report",
    ),
    "clinician": (
        "/inbox",
        "{thread}",
        "{thread}/notes",
        "/tasks",
        "/people",
        "/colleagues",
        "/account",
        "/account/tokens",
    ),
    "supervisor": ("/supervision", "/problems", "/reports"),
    "admin": ("/admin", "/admin/resources/us-988", "/reports"),
}


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": PHONE, "has_touch": True},
        {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2},  # 1280 x 900 at 200 %
        {"viewport": PHONE, "color_scheme": "dark"},
    ],
    ids=["phone", "200 %", "dark"],
)
def test_no_page_scrolls_sideways_and_every_field_has_a_name(house: House, options: dict[str, Any]) -> None:
    with house.visit("help_seeker") as anna:
        begin(anna, text="I slept badly. " + "Donaudampfschifffahrtsgesellschaft" * 8)
        anna.see("Your message has arrived.")
    thread = house.drafted()
    for role, paths in PAGES.items():
        with house.visit(role, **options) as visit:
            for path in paths:
                page = visit.go(path.format(thread=thread))
                assert browser_kit.sideways(page) == 0, (role, path)
                assert unnamed(page) == [], (role, path)
                assert contrast(page) >= 4.5, (role, path)
                visit.wrong[:] = [text for text in visit.wrong if "404" not in text and "403" not in text]


def unnamed(page: Any) -> list[str]:
    """Fields and buttons without a name for somebody who cannot see them."""
    found = page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=hidden]), textarea, select, button")]
        .filter(e => !(e.labels && e.labels.length) && !e.getAttribute("aria-label") && !e.textContent.trim())
        .map(e => e.outerHTML.slice(0, 80))"""
    )
    return list(found)


def contrast(page: Any) -> float:
    """Of the page's letters against its ground, as WCAG counts."""
    colours = page.evaluate("(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))")
    lights = sorted(light([int(n) for n in c[c.index("(") + 1 : -1].split(",")[:3]]) for c in colours)
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def light(rgb: list[int]) -> float:
    parts = [c / 255 for c in rgb]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_dark_page_is_dark(house: House) -> None:
    with house.visit(color_scheme="dark") as visit:
        page = visit.go("/resources")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(int(n) for n in colour[4:-1].split(",")) < 150
