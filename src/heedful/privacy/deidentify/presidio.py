"""Presidio as one more recogniser, where it and a spaCy model are installed. It stays off the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from heedful.errors import MissingExtraError
from heedful.privacy.deidentify.recognisers import Finding

KINDS = {
    "PERSON": "name",
    "LOCATION": "place",
    "EMAIL_ADDRESS": "mail",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "account",
    "IBAN_CODE": "account",
    "US_SSN": "id",
    "IP_ADDRESS": "link",
}
"""What is taken over. Dates and nationalities are not: "last Friday" tells nobody's name."""
LEAST = 0.5
MODEL = "en_core_web_sm"


class Presidio:
    """Names and places that no list has, in English.

    Raises:
        MissingExtraError: it, or the spaCy model, is not installed.
    """

    def __init__(self) -> None:
        try:
            from presidio_analyzer import AnalyzerEngine
            from presidio_analyzer.nlp_engine import NlpEngineProvider
            from spacy.util import is_package
        except ImportError as err:
            raise MissingExtraError("This needs presidio-analyzer and spaCy: pip install presidio-analyzer.") from err
        if not is_package(MODEL):  # Presidio would fetch it from the network
            raise MissingExtraError(f"Presidio needs the spaCy model {MODEL}; install it as a wheel.")
        settings = {"nlp_engine_name": "spacy", "models": [{"lang_code": "en", "model_name": MODEL}]}
        engine = NlpEngineProvider(nlp_configuration=settings).create_engine()
        self.engine: Any = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
        # Its e-mail recogniser asks the network for a list of domain endings; ours finds addresses without.
        self.engine.registry.remove_recognizer("EmailRecognizer")

    def find(self, text: str) -> Iterator[Finding]:
        """What Presidio is at least half sure of."""
        wanted = [name for name in KINDS if name != "EMAIL_ADDRESS"]
        for hit in self.engine.analyze(text=text, language="en", entities=wanted, score_threshold=LEAST):
            yield Finding(kind=KINDS[hit.entity_type], start=hit.start, end=hit.end, by="presidio")
