"""Questionnaires and exercises are data; their arithmetic, translations and the clinic's own files are checked here."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.errors import ConfigError, DataError
from heedful.review import exercises, instruments

LANGUAGES = {"en", "de", "es"}


@pytest.mark.parametrize("id", instruments.known())
def test_every_instrument_speaks_every_language(id: str) -> None:
    assert set(instruments.get(id).wordings) == LANGUAGES


@pytest.mark.parametrize(
    ("total", "band"),
    [
        (0, "minimal"),
        (4, "minimal"),
        (5, "mild"),
        (9, "mild"),
        (10, "moderate"),
        (15, "moderately-severe"),
        (20, "severe"),
        (27, "severe"),
    ],
)
def test_bands_of_phq9_begin_where_the_paper_says(total: int, band: str) -> None:
    phq9 = instruments.get("phq9")
    answers = [min(3, max(0, total - 3 * i)) for i in range(9)]
    assert phq9.score(answers).band == band
    assert phq9.highest == 27


@pytest.mark.parametrize(
    ("total", "band"), [(4, "minimal"), (5, "mild"), (10, "moderate"), (15, "severe"), (21, "severe")]
)
def test_bands_of_gad7(total: int, band: str) -> None:
    assert instruments.get("gad7").score([min(3, max(0, total - 3 * i)) for i in range(7)]).band == band


@given(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=9, max_size=9))
def test_item_nine_goes_to_a_person_whatever_else_was_answered(answers: list[int | None]) -> None:
    found = instruments.get("phq9").score(answers)
    assert ("item-9" in found.triggers) == bool(answers[8])
    assert (found.total is None) == (None in answers), "a part is no sum"
    assert (found.band is None) == (found.total is None)


@pytest.mark.parametrize("answers", [[0] * 8, [0] * 10, [4] + [0] * 8, [True] + [0] * 8, [-1] + [0] * 8])
def test_answers_off_the_form_are_refused(answers: list[int]) -> None:
    with pytest.raises(DataError, match="PHQ-9"):
        instruments.get("phq9").score(answers)


def test_an_unknown_language_falls_back_to_english() -> None:
    assert instruments.get("gad7").wording("fr")[0] == "en"
    assert instruments.get("gad7").wording("de")[0] == "de"


@pytest.mark.parametrize("id", exercises.known())
def test_every_exercise_speaks_every_language(id: str) -> None:
    exercise = exercises.get(id)
    assert set(exercise.title) == set(exercise.intro) == LANGUAGES
    for step in exercise.steps:
        assert set(step.text) == LANGUAGES
        assert all(text.title for text in step.text.values())


def test_answers_to_an_exercise_are_checked_and_never_quoted() -> None:
    record = exercises.get("thought-record")
    kept = record.check(
        {"situation": "  A letter. ", "evidence_for": ["one", "  "], "feeling": " ", "belief_before": 0}
    )
    assert kept == {"situation": "A letter.", "evidence_for": ["one"], "belief_before": 0}
    for wrong in (
        {"situation": 3},
        {"belief_before": 101},
        {"belief_before": True},
        {"evidence_for": "SECRET"},
        {"SECRET": "x"},
    ):
        with pytest.raises(DataError) as caught:
            record.check(wrong)
        assert "SECRET" not in str(caught.value)
    with pytest.raises(DataError, match="has no such step"):
        exercises.get("grounding").check({"start": "x"})


def test_a_clinic_edits_and_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))
    folder = tmp_path / "exercises"
    folder.mkdir()
    own = """
    id = "walk"
    version = "1"
    source = "our clinic"
    [steps]
    where = "text"
    [text.en]
    title = "A walk"
    intro = "Ten minutes."
    [text.en.steps]
    where = "Where to?"
    """
    (folder / "walk.toml").write_text(own)
    assert exercises.get("walk").steps[0].text["en"].title == "Where to?"
    (folder / "values.toml").write_text(own.replace('"walk"', '"values-card"'))
    assert exercises.get("values-card").source == "our clinic", "the clinic's own stands in for ours"
    (folder / "again.toml").write_text(own)
    with pytest.raises(ConfigError, match="is there twice"):
        exercises.known()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('id = "phq9"', 'id = "../x"'), "'id' must be letters"),
        (("scale = [0, 1, 2, 3]", "scale = [3, 2, 1, 0]"), "ascending"),
        (("item = 9", "item = 10"), "an item from 1 to 9"),
        (("{ from = 0, id", "{ from = 1, id"), "begin with the lowest sum"),
        (('title = "PHQ-9"', 'tilte = "PHQ-9"'), "'title' is missing"),
        (('version = "1"', 'version = "1"\ncolour = "red"'), "unknown key 'colour'"),
        (("[text.en]", "[text.fr]"), "no \\[text.en\\]"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    change: tuple[str, str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))
    (tmp_path / "instruments").mkdir()
    ours = Path(instruments.__file__).with_name("phq9.toml").read_text("utf-8")
    assert change[0] in ours
    (tmp_path / "instruments" / "own.toml").write_text(ours.replace(*change, 1), "utf-8")
    with pytest.raises(ConfigError, match=says) as caught:
        instruments.known()
    assert "own.toml" in str(caught.value)


def test_files_are_read_again_only_when_a_file_of_the_clinic_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEEDFUL_HOME", str(tmp_path))
    before = instruments.get("phq9")
    assert instruments.get("phq9") is before, "nothing changed"
    instruments.known().clear()
    assert "phq9" in instruments.known(), "what a caller does with the table stays with the caller"
    (tmp_path / "instruments").mkdir()
    ours = Path(instruments.__file__).with_name("phq9.toml").read_text("utf-8")
    own = tmp_path / "instruments" / "own.toml"
    own.write_text(ours.replace('version = "1"', 'version = "clinic"', 1), "utf-8")
    assert instruments.get("phq9").version == "clinic"
    own.unlink()
    assert instruments.get("phq9").version == before.version
