"""The pages on families: what their Python puts together can be registered as they say."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import typer

from models.catalog import read_card
from models.openweights.__main__ import main
from service.cli import app
from tests.models import wilds

DOCS = Path(__file__).parents[2] / "docs" / "models"


ORDERS = [
    pytest.param(order, id=f"{page.stem}: {order}")
    for page in sorted(DOCS.glob("*.md"))
    for order in re.findall(r"^\$ praxino (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("order", ORDERS)
def test_every_command_on_a_page_is_one_of_ours(order: str) -> None:
    words, command = shlex.split(order), typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert command.name in ("add", "up", "generate")
    command.make_context("praxino", words)  # fails for options that there are not


def published_framepack(folder: Path) -> None:
    """What the page begins with: HunyuanVideo, the network, and the image encoder."""
    wilds.build("hunyuan", folder / "HunyuanVideo")
    whole = wilds.hunyuan_framepack()
    whole.transformer.save_pretrained(folder / "FramePackI2V_HY")
    for part in ("image_encoder", "feature_extractor"):
        getattr(whole, part).save_pretrained(folder / "flux_redux_bfl" / part)


def published_animatediff(folder: Path) -> None:
    """What the page begins with: an image model, the module, an IP-Adapter's image encoder."""
    still = wilds.animatediff_subject()
    still.motion_adapter.save_pretrained(folder / "animatediff-motion-adapter-v1-5-2")
    tower = folder / "IP-Adapter" / "models" / "image_encoder"
    still.image_encoder.save_pretrained(tower)
    image_model = diffusers.StableDiffusionPipeline(
        unet=wilds.image_network(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        **{name: getattr(still, name) for name in ("vae", "text_encoder", "tokenizer")},
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    wilds.save(image_model, folder / "Realistic_Vision_V5.1_noVAE")


@pytest.mark.parametrize(
    ("page", "publish", "kinds"),
    [
        ("framepack", published_framepack, {"image", "first_last_frame", "extend"}),
        ("animatediff", published_animatediff, {"text"}),
    ],
)
def test_what_a_page_puts_together_can_be_registered_as_it_says(
    page: str, publish: Callable[[Path], None], kinds: set[str], tmp_path: Path
) -> None:
    publish(tmp_path)
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8").replace("/srv/", f"{tmp_path}/")
    scope: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, scope)
    order = re.findall(rf"^\$ praxino models add ({page} .*)$", text, re.MULTILINE)[0]
    assert main([*shlex.split(order), "--models-dir", str(tmp_path / "models")]) == 0
    assert read_card(tmp_path / "models" / page / "card.json").tasks == kinds
