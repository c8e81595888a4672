"""Laws of the sentence encoder, on the weights that ship."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cosine_similarity

from models.videoldm.config import TextConfig
from models.videoldm.packing import unpacked
from models.videoldm.text import SentenceEncoder, TextEncoder, open_tokenizer
from tests.models.presets import POCKET


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.set_num_threads(1)
    module = SentenceEncoder(TextConfig()).eval()
    module.load_state_dict(unpacked(load_file(POCKET / "text.safetensors")))
    return TextEncoder(open_tokenizer(POCKET / "tokenizer.json"), module, 64)


def meanings(encoder: TextEncoder, *prompts: str) -> torch.Tensor:
    vectors, mask = encoder(prompts)
    return vectors.sum(1) / mask.sum(1, keepdim=True)


def test_a_paraphrase_lies_nearer_than_another_subject(encoder: TextEncoder) -> None:
    said, meant, other = meanings(
        encoder,
        "a cat moving left over a sunset",
        "a kitten travelling to the left at dusk",
        "stock prices fell sharply on Monday",
    )
    near = cosine_similarity(said, meant, dim=0)
    assert near > 0.6 > 0.3 > cosine_similarity(said, other, dim=0)


def test_company_in_the_batch_changes_nothing(encoder: TextEncoder) -> None:
    alone, _ = encoder(["a red bus"])
    together, mask = encoder(["a red bus", "a long sentence about a penguin in the winter snow"])
    torch.testing.assert_close(alone[0], together[0][mask[0]], atol=1e-5, rtol=0)


def test_an_empty_prompt_is_all_masked(encoder: TextEncoder) -> None:
    vectors, mask = encoder(["", "  ", "a cat"])
    assert mask.sum(1).tolist() == [0, 0, 4]
    assert vectors[0].abs().sum() == 0
    assert torch.isfinite(vectors).all()


def test_all_of_a_prompt_is_counted_and_nothing_of_it_cut_off(encoder: TextEncoder) -> None:
    long = "cat " * 100
    _, mask = encoder([long])
    assert mask.sum().item() == encoder.count(long) == 102  # with its beginning and its end
