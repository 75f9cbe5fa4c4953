"""Reports that profiles ask for: numbers, times and names of rules, and nobody's words."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import server_kit

server_kit.require()

from clinic_kit import HOUSE, Clinic, make_clinic, say, send
from review_kit import Service, service

from heedful.review.reports import incidents, yearly
from heedful.safety.evaluation import recorded
from heedful.server import dossier, house
from heedful.server.clinic import profile_of
from heedful.server.config import ServeConfig
from store_kit import Clock

DANGER = "I wrote my goodbye letters. Tonight I'm going to kill myself. ZZmarkerZZ"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def at(tmp_path: Path, clock: Clock) -> Iterator[Service]:
    made = service(tmp_path, clock=clock)
    yield made
    made.store.close()


def under(folder: Path, *reports: str, **settings: Any) -> Clinic:
    """A clinic whose profile asks for these reports."""
    text = files("heedful.profiles").joinpath("strict.toml").read_text("utf-8")
    text, n = re.subn(r"(?m)^reports = .*$", f"reports = {list(reports)}", text)
    assert n == 1
    (folder / "own.toml").write_text(text, "utf-8")
    return make_clinic(folder, profiles=(str(folder / "own.toml"),), **settings)


# ---------------------------------------------------------------------- yearly counts


def test_referrals_and_protocols_are_counted_by_month_and_tier(at: Service) -> None:
    at.say("It rained today.")
    for n in range(6):
        at.say(f"{DANGER} {n}")
    found = yearly.yearly(at.store, 2026)
    by_name = {count.name: count for count in found.counts}
    assert by_name["protocols"].total == 6, "an everyday message is no protocol"
    assert by_name["protocols"].tiers == {"thoughts": 0, "immediate": 6}
    assert sum((by_name["protocols"].months or {}).values()) == 6
    assert 1 <= by_name["referrals"].total <= 6
    assert yearly.yearly(at.store, 2025).counts[0].total == 0


def test_counters_hold_a_name_a_month_and_a_number_and_survive_a_deletion(at: Service) -> None:
    from heedful.store.erasure import erase

    at.say(DANGER)
    with at.store.read() as unit:
        kept = {key for key in unit.counters.all() if "/" in key[0]}
    assert all(re.fullmatch(r"(referrals|protocols)/(thoughts|immediate)", name) for name, _ in kept)
    assert all(re.fullmatch(r"\d{4}-\d\d", period) for _, period in kept)
    before = yearly.yearly(at.store, 2026)
    erase(at.store, at.anna, by=at.anna)
    assert yearly.yearly(at.store, 2026) == before


def test_a_breakdown_with_a_small_part_is_left_out_as_a_whole(at: Service) -> None:
    for _ in range(5):
        at.store.run(lambda unit: yearly.count(unit, "referrals", "thoughts"))
    at.store.run(lambda unit: yearly.count(unit, "referrals", "none"))
    count = yearly.yearly(at.store, 2026).counts[0]
    assert (count.total, count.tiers) == (5, {"thoughts": 5, "immediate": 0})
    at.store.run(lambda unit: yearly.count(unit, "referrals", "immediate"))
    count = yearly.yearly(at.store, 2026).counts[0]
    assert (count.total, count.tiers) == (6, None), "6 and one part of 5 would tell the other"
    assert count.months is not None, "all six lie in one month"
    at.clock.forward(days=10)
    at.store.run(lambda unit: yearly.count(unit, "referrals", "thoughts"))
    assert yearly.yearly(at.store, 2026).counts[0].months is None


# ---------------------------------------------------------------------- incidents


def test_incidents_tell_what_was_done_and_no_word(at: Service) -> None:
    at.say(DANGER)
    at.clock.forward(minutes=60)
    at.clinic.tick()
    at.clinic.take_over(at.thread, by=at.clara)
    at.clinic.write(at.thread, "I am here. RETURN", by=at.clara, client_id="w-1", anyway=True)
    found = incidents.incidents(at.store)
    kinds = {one.kind for one in found}
    assert {"crisis", "fixed-text", "clock-ran-out", "gate-overruled", "state", "level-raised"} <= kinds
    first = next(one for one in found if one.kind == "crisis")
    assert first.level == 2, "immediate"
    assert any(rule.startswith("en/plan@") for rule in first.rules), "rules have their versions"
    assert {one.case for one in found if one.kind == "crisis"} == {1}
    held = next(one for one in found if one.after == "risk_held")
    assert (held.before, held.by) == ("ai_assisted", "program")
    assert next(one for one in found if one.after == "human_owned").by == "person"
    text = json.dumps(incidents.as_rows(found)) + incidents.as_csv(found)
    for secret in ("ZZmarker", "goodbye", "I am here", at.anna, at.clara, at.thread):
        assert secret not in text


def test_the_table_says_what_the_json_says_and_a_period_cuts(at: Service) -> None:
    at.say(DANGER)
    middle = at.clock() + timedelta(days=1)
    at.clock.forward(days=2)
    at.say(f"{DANGER} again")
    found = incidents.incidents(at.store)
    rows = list(csv.DictReader(io.StringIO(incidents.as_csv(found))))
    assert [row["at"] for row in rows] == [one["at"] for one in incidents.as_rows(found)]
    assert tuple(rows[0]) == incidents.COLUMNS
    early, late = incidents.incidents(at.store, until=middle), incidents.incidents(at.store, since=middle)
    assert early
    assert late
    assert len(early) + len(late) == len(found)


def test_another_kind_of_incident_is_one_row(at: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    at.store.run(lambda unit: unit.audit.add(at.anna, "problem.reported", f"thread:{at.thread}", kind="rude"))
    assert incidents.incidents(at.store) == ()
    monkeypatch.setattr(
        incidents, "KINDS", {**incidents.KINDS, "problem.reported": incidents.Kind(name="problem", did="kind")}
    )
    (one,) = incidents.incidents(at.store)
    assert (one.kind, one.did, one.case, one.by) == ("problem", "rude", 1, "person")


# ---------------------------------------------------------------------- dossier


def make_dossier(at: Service, folder: Path, text: str = "", **settings: Any) -> dict[str, Any]:
    (folder / "clinic.toml").write_text(text, "utf-8")
    config = ServeConfig(home_folder=folder, profiles=("us-ut",), **settings)
    return dossier.dossier(at.store, config, house.load(folder), profile_of(config.profiles))


def test_the_dossier_says_what_is_missing_and_makes_nothing_up(at: Service, tmp_path: Path) -> None:
    found = make_dossier(at, tmp_path, model="somewhere/unknown.gguf")
    lacking = set(dossier.missing(found))
    assert {
        "operator / responsible person",
        "model / base model",
        "model / training data",
    } <= lacking
    assert found["problems that users reported"] == {"open": 0}
    assert "profile / sources / us-ut / checked by" in lacking
    assert "papers / impact assessment" in lacking
    text = dossier.as_markdown(found)
    assert "- responsible person: missing" in text
    assert text.count("missing") > len(lacking)
    json.dumps(found)


def test_the_dossier_reads_the_run_that_the_server_uses(at: Service, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.resolved.yaml").write_text(
        "method: sft\ndataset: commons\nmodel_name_or_path: smollm2-135m-instruct\n"
    )
    summary = {"dataset": "commons", "licence": "CC0-1.0", "data_hash": "abc123", "publishable": True}
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "README.md").write_text("# card")
    found = make_dossier(at, tmp_path, HOUSE, model=str(run))
    told = found["model"]
    assert (told["base model"], told["licence of the base model"]) == ("smollm2-135m-instruct", "Apache-2.0")
    assert (told["training data"], told["licence of the training data"]) == ("commons", "CC0-1.0")
    assert (told["hash of the training data"], told["method"]) == ("abc123", "sft")
    assert "SHA-256" in told["model card"]
    assert found["operator"]["responsible person"] == "Dr. Rowan Vale"
    (run / "summary.json").write_text("no json")
    assert "model / licence of the training data" in set(dossier.missing(make_dossier(at, tmp_path, model=str(run))))


def test_the_dossier_measures_the_crisis_rules_and_names_the_files(at: Service, tmp_path: Path) -> None:
    found = make_dossier(at, tmp_path)
    floor = recorded()["rows"]["held-out/all/all/recall"]
    assert found["crisis evaluation"]["held-out, all, recall"].startswith(f"{floor['found']} of {floor['n']}")
    assert found["crisis evaluation"]["cases"] == recorded()["cases"]
    assert set(found["policy files"]) >= {"policy.toml", "gate.toml", "crisis/en.toml", "crisis/zh.toml"}
    assert found["privacy"]["audit chain"].startswith("ok, ")
    assert found["model"]["licence of the base model"] == "Apache-2.0"


# ---------------------------------------------------------------------- pages


@pytest.mark.parametrize("name", ["yearly-counts", "incidents", "dossier"])
def test_a_report_has_a_page_where_the_profile_asks_for_it_and_none_where_not(tmp_path: Path, name: str) -> None:
    paths = {
        "yearly-counts": ["/reports/yearly-counts.json"],
        "incidents": ["/reports/incidents.json", "/reports/incidents.csv"],
        "dossier": ["/reports/dossier.json", "/reports/dossier.md"],
    }
    for asked, status in (((name,), 200), ((), 404)):
        folder = tmp_path / str(status)
        folder.mkdir()
        clinic = under(folder, *asked)
        say(clinic.begun(), DANGER, "m-1")
        for role in ("supervisor", "admin"):
            client = clinic.client(role)
            page = client.get("/reports")
            assert page.status_code == 200
            assert ("asks for no report" in page.text) == (status == 404)
            assert "ZZmarker" not in page.text
            for path in paths[name]:
                answer = client.get(path)
                assert answer.status_code == status, path
                assert (path in page.text) == (status == 200)
                assert "ZZmarker" not in answer.text
        for path in (*paths[name], "/reports"):
            assert clinic.client("clinician").get(path).status_code == 403
            assert clinic.client("help_seeker").get(path).status_code == 403
        clinic.store.close()


def test_the_page_shows_all_three_and_other_years(tmp_path: Path) -> None:
    clinic = under(tmp_path, "dossier", "incidents", "yearly-counts")
    say(clinic.begun(), DANGER, "m-1")
    client = clinic.client("supervisor")
    send(client, "/language", {"language": "de"}, page="/reports")
    page = client.get("/reports").text
    assert "So oft lief der Krisenablauf: 1" in page
    assert "Nach Stufe: weggelassen." in page
    assert "risk_held" in page
    assert "<summary>crisis evaluation</summary>" in page
    assert "So oft lief der Krisenablauf: 0" in client.get("/reports?year=2020").text
    assert client.get("/reports/yearly-counts.json?year=2020").json()["year"] == 2020
    assert client.get("/reports?year=x").status_code == 422
    clinic.store.close()


# ---------------------------------------------------------------------- command line


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A clinic in the home folder, with its passphrase in a file."""
    from heedful.privacy import Keys
    from heedful.store import Store
    from store_kit import CHEAP, PHRASE

    folder, secret = tmp_path / "home", tmp_path / "passphrase"
    folder.mkdir()
    secret.write_text(PHRASE)
    secret.chmod(0o600)
    monkeypatch.setenv("HEEDFUL_HOME", str(folder))
    monkeypatch.setenv("HEEDFUL_PASSPHRASE_FILE", str(secret))
    config = ServeConfig()
    keys = Keys.create(config.keys_path, PHRASE, cost=CHEAP)
    made = service(tmp_path, store=Store.open(config.database_url, keys, clock=(clock := Clock())), clock=clock)
    made.say(DANGER)
    yield made
    made.store.close()


def test_the_command_line_makes_all_three(home: Service, call: Call) -> None:
    year = str(home.clock().year)
    code, out, _ = call("report", "yearly", "--year", year, "--json")
    assert (code, json.loads(out)["counts"]["protocols"]["total"]) == (0, 1)
    code, out, _ = call("report", "yearly", "--year", year)
    assert f"{year} protocols: 1" in out
    assert "by month: left out" in out
    code, out, _ = call("report", "incidents")
    assert out.startswith("at,kind,case")
    assert "crisis" in out
    assert "ZZmarker" not in out
    code, out, _ = call("report", "incidents", "--json", "--since", "2999-01-01")
    assert json.loads(out) == {"incidents": []}
    code, _, err = call("report", "incidents", "--since", "soon")
    assert (code, "a day like 2026-01-01" in err) == (2, True)
    code, out, err = call("report", "dossier", "--profile", "us-ut")
    assert code == 0
    assert out.startswith("# Dossier")
    assert "missing: operator / responsible person" in err
    code, out, _ = call("report", "dossier", "--json", "country=DE")
    assert json.loads(out)["software"]["name"] == "heedful"
