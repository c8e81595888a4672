"""Laws of the distilled base, on a tiny random network."""

import pytest
import torch

from models.videoldm.conditioning import Conditions, Kind, frame_times, text_only
from models.videoldm.config import StudentConfig
from models.videoldm.student import Student, StudentUNet, instructed
from models.videoldm.unet import UNet
from tests.models.presets import TINY, stirred


@pytest.fixture(scope="module")
def teacher() -> UNet:
    torch.manual_seed(0)
    return stirred(UNet(TINY.unet)).eval().requires_grad_(False)  # type: ignore[return-value]


def told() -> Conditions:
    text = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(1))
    return text_only(text, torch.ones(1, 3, dtype=torch.bool), frame_times(4, 6), 6.0, (4, 8, 8))


def noise() -> torch.Tensor:
    return torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_a_fresh_student_is_its_teacher_whatever_it_is_told(teacher: UNet) -> None:
    student = StudentUNet(TINY.unet).taught_by(teacher).eval()
    expected = teacher(noise(), torch.zeros(1), told())
    for scale, steps in ((1.0, 4), (5.0, 8)):
        given = instructed(told(), scale, steps)
        assert torch.equal(student(noise(), torch.zeros(1), given), expected)


@torch.no_grad()
def test_a_student_listens_to_scale_and_steps(teacher: UNet) -> None:
    student = StudentUNet(TINY.unet).taught_by(teacher).eval()
    stirred(student.embedder)
    results = [
        student(noise(), torch.zeros(1), instructed(told(), scale, steps))
        for scale, steps in ((3.0, 8), (3.0, 4), (2.0, 8))
    ]
    assert (results[0] - results[1]).abs().max() > 1e-5
    assert (results[0] - results[2]).abs().max() > 1e-5


@torch.no_grad()
def test_a_step_is_one_forward(teacher: UNet) -> None:
    student = Student(StudentConfig(), StudentUNet(TINY.unet).taught_by(teacher).eval())
    calls: list[None] = []
    handle = student.unet.register_forward_hook(lambda *_: calls.append(None))
    clean = student.sample(told(), noise(), 3.0, 4)
    handle.remove()
    assert len(calls) == 4
    assert clean.shape == noise().shape


@torch.no_grad()
def test_a_clip_of_a_student_begins_with_the_frame_that_binds(teacher: UNet) -> None:
    student = Student(StudentConfig(), StudentUNet(TINY.unet).taught_by(teacher).eval())
    first = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    bound = told().with_frame(0, first, Kind.FIRST)
    rough = told().with_frame(0, first, Kind.FIRST, sigma=0.1)
    torch.testing.assert_close(student.sample(bound, noise(), 3.0, 4)[:, :, 0], first)
    assert (student.sample(rough, noise(), 3.0, 4)[:, :, 0] - first).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("scale", "steps", "limit"), [(3.0, 5, r"\[8, 4\]"), (9.0, 8, r"1\.0\.\.6")]
)
def test_what_was_not_distilled_is_refused(
    teacher: UNet, scale: float, steps: int, limit: str
) -> None:
    student = Student(StudentConfig(), StudentUNet(TINY.unet).taught_by(teacher))
    with pytest.raises(ValueError, match=limit):
        student.sample(told(), noise(), scale, steps)


def test_a_teacher_of_another_shape_is_refused() -> None:
    other = UNet(TINY.unet)
    del other.null_text
    with pytest.raises(ValueError, match="null_text"):
        StudentUNet(TINY.unet).taught_by(other)
