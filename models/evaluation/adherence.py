"""Whether clips show what their prompts say: subject, direction, background, and how they flicker.

The checkers prove themselves first, on rendered clips of the very prompts and on the same clips
after the model's autoencoder.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from models.evaluation.bench import Bench, task_of
from models.evaluation.checker import heading, shows_motion
from models.evaluation.prompts import PROMPTS, Prompt
from models.evaluation.sheet import Strip
from models.evaluation.suite import GATE, Reading, Scores, check_gate, measure, read
from models.evaluation.truth import round_trip, truths
from models.protocol import Frames

NAMES = ("subject_r1", "subject_auc", "direction", "background", "flicker")
COUNT = 200


def adherence(bench: Bench) -> dict[str, Any]:
    """Rows of the report, the gates they stand on, and what was asked and seen, clip by clip.

    raises GateError if a checker misreads clips whose truth is known, unless ungated
    """
    prompts = bench.counted(bench.prompts, COUNT)
    gates = _gates(bench, prompts)
    if not bench.ungated:
        for what, known in gates.items():
            check_gate(known, what)
    fps = task_of(bench.model, prompts[0]).fps
    readings = []
    for prompt in bench.watched("generated", prompts):
        frames = bench.default_clip(prompt)
        reading = read(bench.gallery, frames, fps)
        readings.append(reading)
        bench.strips.append(strip(frames, prompt, reading, bench.gallery.concepts))
    scores = measure(readings, prompts, bench.gallery.concepts)
    flickers = {what: known.flicker for what, known in gates.items()}
    return {
        **asdict(scores),
        "flicker": {"value": scores.flicker, "control": flickers, "n": len(prompts)},
        "all_three_right": sum(shown.right for shown in bench.strips) / len(prompts),
        "gate": GATE,
        "gates": {what: asdict(known) for what, known in gates.items()},
        "prompts_sha256": hashlib.sha256(PROMPTS.read_bytes()).hexdigest(),
        "clips": [{"asked": shown.asked, "seen": shown.seen} for shown in bench.strips],
    }


def _gates(bench: Bench, prompts: Sequence[Prompt]) -> dict[str, Scores]:
    """How the checkers read clips whose truth is known."""
    task = task_of(bench.model, prompts[0])
    known = list(truths(bench.world, prompts, task.num_frames, task.fps))
    gates = {"real": _read(bench, known, prompts, "real")}
    autoencoder = bench.autoencoder
    if autoencoder is not None:
        again = [round_trip(autoencoder, clip) for clip in known]
        gates["round_trip"] = _read(bench, again, prompts, "round trip")
    return gates


def _read(bench: Bench, clips: Sequence[Frames], prompts: Sequence[Prompt], what: str) -> Scores:
    fps = task_of(bench.model, prompts[0]).fps
    readings = [read(bench.gallery, clip, fps) for clip in bench.watched(what, clips)]
    return measure(readings, prompts, bench.gallery.concepts)


def strip(frames: Frames, prompt: Prompt, reading: Reading, concepts: Sequence[str]) -> Strip:
    """The clip with what the checker saw in it, as a person would compare it."""
    subject = concepts[int(reading.similarities.argmax())]
    right = (
        subject == prompt.concept
        and reading.scene == prompt.scene
        and shows_motion(reading.velocity, prompt.motion)
    )
    seen = f"seen: {subject}, {heading(reading.velocity)}, {reading.scene}"
    return Strip(frames, prompt.text, seen, right)
