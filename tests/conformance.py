"""Requests made from the OpenAPI document, against the application in this process: what it does not keep of it.

Schemathesis makes them: the document's examples, what lies at its bounds and beyond them, random ones, and sequences
in which values of one answer go into the next request. Every check that it has is on.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, FatalError, NonFatalError, ScenarioFinished
from schemathesis.python import asgi

from model.archive import MEDIA_TYPE, archive_blocks
from model.registry import Registry
from model.types import ModelRef
from service.app import create_app
from service.settings import Settings

KEY = "the key of the tests"
ADMIN_KEY = {"admin_key": KEY}
API_KEY = {"api_keys": f"operator admin sha256:{hashlib.sha256(KEY.encode()).hexdigest()}", "metrics_key": "m" * 16}
# Right answers to a request that keeps to the schema: what it names is not there, its If-Match is old, and so on.
_ANSWERS = ["2xx", "404", "409", "412", "503"]
# No schema can say of bytes that they are an image or an archive; a short time limit of a caller is kept.
_ANSWERS_TO_BYTES = [*_ANSWERS, "413", "415", "422", "504"]
# Nor can it name the layers and classes that a network has.
_TAKE_BYTES = (
    "/v1/predict",
    "/v1/models",
    *(f"/v1/models/{{ref}}/{what}" for what in ("predict", "diff", "activations", "explain", "neuron")),
)


@dataclass
class Findings:
    """What a run saw: how many answers of each status, and each kind of what is not as documented."""

    answers: Counter[int] = field(default_factory=Counter)
    defects: dict[tuple[str | None, str, str], str] = field(default_factory=dict)

    def note(self, event: EngineEvent) -> None:
        """Take in what happened."""
        match event:
            case FatalError():
                self.defects[None, "fatal", ""] = str(event.exception)
            case NonFatalError():
                self.defects[event.label, "error", ""] = str(event.value)
            case ScenarioFinished():
                for interaction in event.recorder.interactions.values():
                    if interaction.response is not None:
                        self.answers[interaction.response.status_code] += 1
                for check in (check for checks in event.recorder.checks.values() for check in checks):
                    if check.failure_info is not None:
                        failure = check.failure_info.failure
                        text = f"{failure}\n{check.failure_info.code_sample}"
                        self.defects.setdefault((failure.operation, check.name, failure.title), text)

    def __str__(self) -> str:
        """List the defects, each with a command that repeats it."""
        return "\n\n".join(f"{operation}: {name}: {text}" for (operation, name, _), text in self.defects.items())


def try_document(root: Path, *, max_examples: int, seed: int, **settings: object) -> Findings:
    """Run all that the document of a service with the model `tiny` offers whoever has KEY."""
    app = create_app(Settings.model_validate({"registry": root, "default_model": "tiny", "device": "cpu", **settings}))
    archive = b"".join(archive_blocks(Registry(root).version(ModelRef.parse("tiny"))))
    schemathesis.openapi.media_type(MEDIA_TYPE, st.sampled_from([archive, archive[:-1000], b""]))
    findings = Findings()
    with _lifespan():
        document = schemathesis.openapi.from_asgi("/openapi.json", app, config=_config(max_examples, seed))
        for event in from_schema(document).execute():
            findings.note(event)
    return findings


def _config(max_examples: int, seed: int) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": {"Authorization": f"Bearer {KEY}"},
            "generation": {"max-examples": max_examples, "database": "none"},
            "checks": {
                "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
                "positive_data_acceptance": {"expected-statuses": _ANSWERS},
            },
            "operations": [
                {
                    "include-path": path,
                    "include-method": "POST",
                    "checks": {"positive_data_acceptance": {"expected-statuses": _ANSWERS_TO_BYTES}},
                }
                for path in _TAKE_BYTES
            ],
        }
    )


@contextmanager
def _lifespan() -> Iterator[None]:
    """End the application that schemathesis has started."""
    try:
        yield
    finally:
        asgi.shutdown_lifespans()
