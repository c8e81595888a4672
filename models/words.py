"""How long a prompt may be. Encoders cut off what is longer; here it is refused, as any other input
that would be ignored.

A card tells callers a length in characters beyond which no prompt is read whole, or hardly one; how
many tokens a shorter one has, only the model's tokenizer knows.
"""

from collections.abc import Callable

from models.protocol import LongPrompt, Shot, Task


def check_words(count: Callable[[str], int], most: int, task: Task) -> None:
    """See that all prompts of a task are read to their ends.

    count   tokens of a prompt
    most    tokens that are read
    raises  LongPrompt
    """
    parts: tuple[Task | Shot, ...] = (task, *task.shots)
    for part in parts:
        for name in ("prompt", "negative_prompt"):
            tokens = count(getattr(part, name))
            if tokens > most:
                raise LongPrompt(f"the {name} has {tokens} tokens, the model reads {most}")
