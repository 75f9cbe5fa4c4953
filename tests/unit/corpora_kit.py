"""Invented records in the form of each corpus, for tests that write a small folder and load it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def esconv_record(situation: str, *, strategy: str = "Question") -> dict[str, Any]:
    return {
        "emotion_type": "anger",
        "problem_type": "job crisis",
        "situation": situation,
        "dialog": [
            {"text": "The van broke down again.", "speaker": "usr"},
            {"text": f"On the way to {situation}?", "speaker": "sys", "strategy": strategy},
            {"text": "Halfway, in the rain.", "speaker": "usr"},
        ],
    }


def original(split: str, place: str, final: str | None) -> dict[str, Any]:
    """The same talk as in the other release: other keys, other white space."""
    return {
        "orig_index": 7,
        "split_zcj_seed13": split,
        "situation": f" {place}",
        "survey_score": {
            "seeker": {
                "initial_emotion_intensity": "5",
                "empathy": final and "4",
                "relevance": None,
                "final_emotion_intensity": final,
            }
        },
        "dialog": [
            {"speaker": "seeker", "annotation": {}, "content": "The van broke  down again."},
            {"speaker": "supporter", "annotation": {"strategy": "Question"}, "content": f"On the way to {place}?"},
            {"speaker": "seeker", "annotation": {"feedback": "3"}, "content": "Halfway, in the rain.\n"},
        ],
    }


def mesc_row(id: int, i: int, speaker: str, text: str, emotion: str, strategy: str, season: int = 1) -> dict[str, str]:
    return {
        "Utterance": text,
        "Speaker": speaker,
        "Emotion": emotion,
        "Strategy": strategy,
        "Dialogue_ID": str(id),
        "Utterance_ID": str(i),
        "Season": str(season),
        "Episode": "4",
        "StartTime": "00:00:01,000",
        "EndTime": "00:00:02,000",
    }


MESC_ROWS = [
    mesc_row(0, 0, "Client", "I kept the key.", "fear", "undefined"),
    mesc_row(0, 1, "Client", 'To "his" shed.', "anger", "undefined"),
    mesc_row(0, 2, "Therapist", "Go on.", "neutral", "Communication Skills"),
    mesc_row(0, 3, "Therapist", "What is in it?", "joy", "open question"),
    mesc_row(1, 0, "Therapist", "You are early.", "neutral", "Others", 3),
    mesc_row(1, 1, "Client", "The bus was.", "neutral", "undefined", 3),
    mesc_row(2, 0, "Client", "No news.", "sadness", "undefined", 2),
    mesc_row(2, 1, "Therapist", "None at all?", "neutral", "Open question", 2),
]


def mesc_json(id: int, problem: str) -> dict[str, Any]:
    rows = [r for r in MESC_ROWS if r["Dialogue_ID"] == str(id)]
    return {
        "problem_type": problem,
        "situation": "She found an old shed.",
        "dialog": [
            {
                # Quotes and blanks differ from the CSV, as in the released files.
                "text": r["Utterance"].replace('"', "'").replace(" ", "  ") + " The lamp is low.",
                "speaker": "user" if r["Speaker"] == "Client" else "sys",
                "emotion": r["Emotion"],
            }
            for r in rows
        ],
    }


def hope_rows(session: int, acts: list[str], column: str = "Dialog_Act") -> list[dict[str, str]]:
    texts = ["Shall we begin?", "Yes, please.", "Nope.", "Maybe on Monday."]
    return [
        {"ID": f"{session}_{i}", "Type": "T" if i == 0 else "P", "Utterance": texts[i], column: act}
        for i, act in enumerate(acts)
    ]


COUNSEL_ROW = {
    "row": "4",
    "questionID": "2",
    "questionTitle": "Is it late?",
    "questionText": "I\u00a0never  learned to swim.",
    "topic": "fear",
    "therapist_id": "9",
    "answerText": "It is not late. Write to me at [email].\nMany learn at sixty!\n\nWarmly,\n[therapist], LMFT",
    "upvotes": "3",
    "split": "val",
}


def annomi_row(id: int, i: int, who: str, text: str, behaviour: str, talk: str, **more: str) -> dict[str, str]:
    return {
        "transcript_id": str(id),
        "mi_quality": "high" if id == 0 else "low",
        "video_title": "An invented talk",
        "video_url": "https://example.org/v1",
        "topic": "more exercise",
        "utterance_id": str(i),
        "interlocutor": who,
        "timestamp": "00:00:01",
        "utterance_text": text,
        "main_therapist_behaviour": behaviour,
        "client_talk_type": talk,
        **more,
    }


def psydef_row(**change: Any) -> dict[str, Any]:
    return {
        "id": "train_1",
        "dialogue_id": "D1",
        "dialogue": [
            {"speaker": "supporter", "text": "And then?"},
            {"speaker": "seeker", "text": " Nothing. "},
        ],
        "current_text": "Nothing.",
        "label": 3,
    } | change
