"""What of the measurement on a GPU can be proved without one."""

from pathlib import Path

import pytest
import torch

from tests.gpubench import NO_GPU, SHAPES, TEXT, WORDS, Clock, main, parameters, pass_flops, tokens
from tests.models.wilds import denoiser_of
from tests.openbench import Scale

# Wan's parameters, of the network alone: 1.3B and 14B in the models' names.
BILLIONS = {"wan-1.3b": 1.42, "wan-14b": 14.29}
TINY = Scale(2, 3, 16, 80, "64x32", 9, 1)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_those_of_the_released_networks(name: str) -> None:
    with torch.device("meta"):
        network = denoiser_of(SHAPES[name], TEXT)
    assert parameters(network) / 1e9 == pytest.approx(BILLIONS[name], rel=0.005)


def test_operations_are_those_that_a_pass_is_made_of() -> None:
    """By hand: each product of an (a, b) and a (b, c) matrix is 2abc."""
    text = 24
    n, d, ffn, l = tokens(TINY), TINY.heads * TINY.head_width, TINY.ffn, WORDS  # noqa: E741
    assert n == 3 * 4 * 2
    own = 2 * n * d * d * 4 + 2 * 2 * n * n * d  # queries, keys, values, output; attention
    other = 2 * n * d * d * 2 + 2 * l * d * d * 2 + 2 * 2 * n * l * d  # with words
    block = own + other + 2 * 2 * n * d * ffn
    ends = 2 * n * d * 16 * 4 * 2  # patches of 2x2 latents of 16 channels, in and out
    words = 2 * l * d * (text + d)
    times = 2 * d * (256 + d + 6 * d)
    assert pass_flops(TINY, text) == 2 * block + ends + words + times


def test_without_a_gpu_it_says_so_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["--json", str(tmp_path / "gpu.json")]) == NO_GPU
    assert "needs a CUDA device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_first_step_is_not_timed() -> None:
    assert Clock([0.0, 9.0, 10.0, 11.0]).step_s == 1.0
    assert Clock([0.0, 9.0]).step_s == 9.0
