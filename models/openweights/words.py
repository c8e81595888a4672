"""How long a prompt may be. Pipelines cut off what is longer, and say so in a log at most; here it
is refused, as any other input that would be ignored.

A card tells callers a length in characters beyond which no prompt is read whole; how many tokens a
shorter one has, only the checkpoint's tokenizer knows.
"""

from typing import Any

from models.protocol import LongPrompt, Shot, Task


def check_words(tokenizer: Any, most: int | None, task: Task) -> None:
    """See that all prompts of a task are read to their ends.

    most    tokens that are read; None: as many as the tokenizer says
    raises  LongPrompt
    """
    limit = tokenizer.model_max_length if most is None else most
    parts: tuple[Task | Shot, ...] = (task, *task.shots)
    for part in parts:
        for name in ("prompt", "negative_prompt"):
            count = len(tokenizer(getattr(part, name)).input_ids)
            if count > limit:
                raise LongPrompt(f"the {name} has {count} tokens, the model reads {limit}")
