"""Crisis lines: the bundled table, a clinic's changes, ages and pairs."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from heedful.errors import ConfigError, NotFoundError
from heedful.safety.resources import OLD_DAYS, load, with_changes

TODAY = date(2026, 11, 22)
OWN = {
    "id": "own", "country": "US", "languages": ["en"], "name": "Our night desk", "number": "555 0100", "hours": "20-8",
    "audience": "anyone", "source": "us", "checked": "2026-11-01",
}  # fmt: skip


@pytest.mark.parametrize(
    ("country", "number"),
    [
        ("US", "988"), ("CA", "988"), ("GB", "116 123"), ("IE", "116 123"), ("AT", "142"), ("CH", "143"), ("ES", "024"),
        ("AU", "13 11 14"), ("NZ", "1737"),
    ],
)  # fmt: skip
def test_national_lines(country: str, number: str) -> None:
    assert load().first(country).number == number


def test_nobody_is_left_without_a_line() -> None:
    table = load()
    assert table.of("XX")[0].web == "https://findahelpline.com"
    assert table.emergency("XX") == "112"
    assert table.emergency("au") == "000"
    for country in {line.country for line in table.lines}:
        assert table.of(country)
        assert table.of(country, language="sw", audience="young")


def test_audience_and_language_decide_the_order() -> None:
    table = load()
    assert table.first("US", audience="harm-from-others").id == "us-dv"
    assert table.of("US", audience="harm-from-others")[1].id == "us-988", "the others follow"
    assert "us-dv" not in [line.id for line in table.of("US")]
    changed = with_changes(table, [{**OWN, "languages": ["vi"]}])
    assert changed.first("US", language="vi-VN").id == "own"


def test_pairs_are_shown_both_or_none() -> None:
    table = load()
    assert [line.number for line in table.of("DE", language="de")[:2]] == ["0800 1110111", "0800 1110222"]
    with pytest.raises(ConfigError, match="shown together"):
        with_changes(table, [], removed=["de-telefonseelsorge-1"])
    without = with_changes(table, [], removed=["de-telefonseelsorge-1", "de-telefonseelsorge-2"])
    assert not [line for line in without.lines if line.pair]
    # A line of another audience never stands between them.
    wedge = {**OWN, "country": "DE", "languages": ["de"], "audience": "anyone"}
    ids = [line.id for line in with_changes(table, [wedge]).of("DE", language="de")]
    first, second = ids.index("de-telefonseelsorge-1"), ids.index("de-telefonseelsorge-2")
    assert second - first == 1
    with pytest.raises(ConfigError, match="one country"):
        with_changes(table, [{**OWN, "pair": "x"}, {**OWN, "id": "own2", "country": "CA", "pair": "x"}])


def test_what_nobody_checked_says_so() -> None:
    """The bundled table was written without calling anybody, so all of it carries the warning."""
    table = load()
    assert table.old(TODAY) == table.lines
    changed = with_changes(table, [OWN])
    own = next(line for line in changed.lines if line.id == "own")
    assert not own.old(TODAY)
    assert own.days_old(TODAY) == 21
    assert own.old(date(2026, 11, 1) + timedelta(days=OLD_DAYS + 1))
    assert own.old(date(2026, 10, 1)), "a check in the future is none"


def test_a_clinic_replaces_removes_and_adds(tmp_path: Path) -> None:
    path = tmp_path / "lines.toml"
    path.write_text(
        'remove = ["us-crisis-text"]\n[emergency]\nUS = "112"\n[[lines]]\nid = "us-988"\ncountry = "US"\n'
        'languages = ["en"]\nname = "988"\nnumber = "988"\nhours = "24/7"\naudience = "anyone"\nsource = "x"\n'
        "checked = 2026-11-20\n"
    )
    table = load(path)
    assert table.version.endswith("+clinic")
    assert [line.id for line in table.of("US")] == ["us-988"]
    assert not table.first("US").old(TODAY)
    assert table.emergency("US") == "112"
    assert load().emergency("US") == "911", "the bundled table stays as it is"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": ""}, "needs a number"),
        ({"audience": "all"}, "'audience' must be one of"),
        ({"checked": "last week"}, "as a day like"),
        ({"nmber": "1"}, "unknown key 'nmber'"),
        ({"languages": None}, "needs id, country"),
    ],
)
def test_a_damaged_entry_is_one_sentence(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_changes(load(), [{**OWN, **change}])


def test_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file of crisis lines"):
        load(tmp_path / "absent.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("lines =")
    with pytest.raises(ConfigError, match="cannot be used"):
        load(bad)
    bad.write_text("line = 1")
    with pytest.raises(ConfigError, match="unknown key 'line'"):
        load(bad)
    with pytest.raises(ConfigError, match="to remove"):
        with_changes(load(), [], removed=["us-989"])
    with pytest.raises(ConfigError, match="'default'"):
        with_changes(load(), [], removed=["international"])
