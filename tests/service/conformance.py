"""Schemathesis against the service's own OpenAPI document, over a real socket, and its count.

Stricter than Schemathesis in one thing: a status is documented only by its own number, not by
`default`.
"""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import schemathesis
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

CHECKS = (
    "not_a_server_error content_type_conformance response_schema_conformance "
    "response_headers_conformance unsupported_method allow_header_conformance ignored_auth"
).split()
PHASES = ("coverage", "fuzzing", "stateful")
WAIT_S = 120  # for one answer: the machine may be busy
KNOWN = 20  # things of a kind that are remembered, the newest
SHOWN = 500  # characters of a fault
ID_STARTS = {"video_": "video_id", "file-": "file_id", "char_": "character_id"}
PARTS = 4  # fields at most of a body that was made plausible
NEEDED: dict[str, dict[str, Any]] = {  # by an order of each kind, beside a prompt
    "createVideo": {},
    "editVideo": {"model": "able"},
    "extendVideo": {"model": "able", "seconds": 1},
    "interpolateVideo": {"model": "able", "frame_interpolation_factor": 2},
    "upscaleVideo": {"model": "able", "upscale_factor": 2},
}
ON_FILMS = ("editVideo", "extendVideo")  # whose body names the film


@dataclass
class Tally:
    """What a campaign has seen so far."""

    statuses: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    server_errors: list[str] = field(default_factory=list)
    undocumented: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)  # all else that a check found

    @property
    def examples(self) -> int:
        """Requests that were answered."""
        return sum(sum(counted.values()) for counted in self.statuses.values())

    @property
    def faults(self) -> list[str]:
        """Everything that must not be."""
        return [*self.server_errors, *self.undocumented, *self.mismatches]

    def count(self, case: Any, status: int) -> None:
        """Note one answer."""
        known = case.operation.definition.raw
        self.statuses[known["operationId"]][status] += 1
        said = f"{case.method} {case.formatted_path}: {status}"
        if status >= 500:
            self.server_errors.append(said)
        # What Schemathesis sends besides the operation's own method must be refused.
        wanted = known["responses"] if case.method == case.operation.method.upper() else ("405",)
        if str(status) not in wanted and not is_documented(case, status):
            self.undocumented.append(said)

    def report(self) -> dict[str, Any]:
        """The count as JSON."""
        return {
            "examples": self.examples,
            "server_errors": len(self.server_errors),
            "undocumented": len(self.undocumented),
            "mismatches": len(self.mismatches),
            "operations": {
                name: {
                    "examples": sum(counted.values()),
                    "statuses": {str(status): counted[status] for status in sorted(counted)},
                }
                for name, counted in sorted(self.statuses.items())
            },
            "faults": self.faults[:50],
        }


def is_documented(case: Any, status: int) -> bool:
    """Whether another operation of the same path documents the status for the method sent."""
    calls = case.operation.schema[case.operation.path]
    found = [calls[name] for name in calls if name.upper() == case.method]
    return any(str(status) in call.definition.raw["responses"] for call in found)


class Campaign:
    """Rounds of Schemathesis against one API, with ids of things that exist half the time."""

    def __init__(self, url: str, key: str, known: dict[str, list[str]], seed: int) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"}
        self.known = {name: list(ids) for name, ids in known.items()}
        self.seed = seed
        self.dice = Random(seed)
        self.tally = Tally()

    def run(self, phases: tuple[str, ...], each: int) -> None:
        """One round: up to so many examples of each operation in each phase that draws them."""
        self.seed += 1
        config = SchemathesisConfig(seed=self.seed)
        schema = schemathesis.openapi.from_url(
            f"{self.url}/openapi.json", config=config, timeout=WAIT_S
        )
        schema.config.update(
            headers=dict(self.headers), continue_on_failure=True, request_timeout=WAIT_S
        )
        schema.config.phases.update(phases=list(phases))
        schema.config.generation.max_examples = each
        schema.config.generation.database = "none"
        schema.config.checks.update(included_check_names=CHECKS)
        with self.hooked():
            for event in engine.from_schema(schema).execute():
                self.note(event)

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Schemathesis has these two hooks for all schemas at once only."""

        def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
            self.aim(case)

        def after_call(context: Any, case: Any, response: Any) -> None:
            self.learn(case, response)

        schemathesis.hook(before_call)
        schemathesis.hook(after_call)
        try:
            yield
        finally:
            schemathesis.hooks.unregister(before_call)
            schemathesis.hooks.unregister(after_call)

    def note(self, event: Any) -> None:
        """Count what an event tells; raises what broke Schemathesis itself."""
        if isinstance(event, FatalError):
            raise event.exception
        if isinstance(event, NonFatalError):
            self.tally.mismatches.append(f"{event.label}: {event.value!r}"[:SHOWN])
        if not isinstance(event, ScenarioFinished):
            return
        recorder = event.recorder
        for case_id, interaction in recorder.interactions.items():
            if interaction.response is not None:
                case = recorder.cases[case_id].value
                self.tally.count(case, interaction.response.status_code)
        for check in (check for checks in recorder.checks.values() for check in checks):
            if check.failure_info is not None and check.name != "not_a_server_error":
                failure = check.failure_info.failure
                said = f"{recorder.label}: {check.name}: {failure.message}"
                self.tally.mismatches.append(
                    f"{said[:SHOWN]} <- {check.failure_info.code_sample[:SHOWN]}"
                )

    def aim(self, case: Any) -> None:
        """Half the time, name what exists and order what could be made."""
        for name in case.path_parameters:
            if self.known.get(name) and self.dice.random() < 0.5:
                case.path_parameters[name] = self.dice.choice(self.known[name])
        name = case.operation.definition.raw["operationId"]
        if name in NEEDED and isinstance(case.body, dict) and self.dice.random() < 0.5:
            kept = self.dice.sample(
                sorted(case.body), min(len(case.body), self.dice.randint(0, PARTS))
            )
            drawn = {part: case.body[part] for part in kept}
            body = drawn | {"prompt": "a fox"} | NEEDED[name]
            if name in ON_FILMS:
                body["video"] = {"id": self.dice.choice(self.known["video_id"])}
            case.body = body

    def learn(self, case: Any, response: Any) -> None:
        """Remember what was made."""
        if case.method != "POST" or response.status_code != 200:
            return
        made = str(response.json().get("id", ""))
        for start, name in ID_STARTS.items():
            if made.startswith(start):
                self.known[name] = [*self.known[name], made][-KNOWN:]
