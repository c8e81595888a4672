"""The distilled base: the same U-Net in few steps, told the guidance scale and the step count.

Salimans & Ho 2022 (arXiv:2202.00512); guidance is part of what is distilled, so one forward a step
is all (Meng et al. 2022, arXiv:2210.03142, section 3.1). A step of pocket's base is 6.6 GFLOP for
13 frames: 8 steps cost 53 GFLOP where 16 guided ones cost 210, and 4 cost 26.

Differs: one network for all step counts it was halved through, told which of them it is run with,
so that a preset ships one file.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.videoldm.conditioning import Conditions
from models.videoldm.config import StudentConfig, UNetConfig
from models.videoldm.diffusion import denoiser, held, lambda_of, uniform_u_grid
from models.videoldm.layers import sinusoid, zeroed
from models.videoldm.samplers import OnStep, SamplerState, ignore, sample_ddim
from models.videoldm.unet import Embedder, UNet


@dataclass(frozen=True)
class StudentConditions(Conditions):
    """Conditions with what guidance and sampler would have done."""

    scale: Tensor = field(kw_only=True)  # (b,) guidance scale
    steps: Tensor = field(kw_only=True)  # (b,) of the sampler


class StudentEmbedder(Embedder):
    """Says besides the guidance scale and the number of steps."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        embed = config.embed_width
        self.scale = nn.Sequential(
            nn.Linear(embed, embed), nn.SiLU(), zeroed(nn.Linear(embed, embed))
        )
        self.steps = nn.Sequential(
            nn.Linear(embed, embed), nn.SiLU(), zeroed(nn.Linear(embed, embed))
        )

    def forward(
        self, noise_lambda: Tensor, conditions: Conditions, text: Tensor, mask: Tensor
    ) -> Tensor:
        """noise_lambda (b, f), text (b, l, d), mask (b, l) -> (b, f, embed)"""
        assert isinstance(conditions, StudentConditions)
        said = self.scale(sinusoid(conditions.scale.float() * 100, self.embed))
        said = said + self.steps(sinusoid(conditions.steps.float().log2() * 100, self.embed))
        return super().forward(noise_lambda, conditions, text, mask) + said[:, None]


class StudentUNet(UNet):
    """The base's network; fresh from its teacher it predicts what the teacher does unguided."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        self.embedder = StudentEmbedder(config)

    def taught_by(self, teacher: UNet) -> "StudentUNet":
        """Copy every weight of the teacher; what only students have keeps its silent start."""
        missing, unexpected = self.load_state_dict(teacher.state_dict(), strict=False)
        if unexpected or any(".scale." not in name and ".steps." not in name for name in missing):
            raise ValueError(
                f"the teacher is no base of this shape: {missing[:1] + unexpected[:1]}"
            )
        return self


@dataclass(frozen=True)
class Student:
    """A loaded student."""

    config: StudentConfig
    unet: StudentUNet

    def sample(
        self,
        told: Conditions,
        x: Tensor,
        scale: float,
        steps: int,
        on_step: OnStep = ignore,
        state: SamplerState | None = None,
    ) -> Tensor:
        """Clean latents (b, c, t, h, w) of noise x, one forward a step.

        state   where an earlier run stood
        raises ValueError for a step count or scale it was not distilled to
        """
        check_student(self.config, scale, steps)
        dtype = next(self.unet.parameters()).dtype
        said = instructed(told, scale, steps).to(dtype)

        def velocity(x: Tensor, sigma: float) -> Tensor:
            log_snr = lambda_of(sigma).float().expand(len(x)).to(x.device)
            return self.unet(x.to(dtype), log_snr, said).float()

        grid = uniform_u_grid(steps)
        denoise = held(denoiser(velocity), told.frames, told.bound())
        return sample_ddim(denoise, x, grid, on_step=on_step, state=state)


def instructed(told: Conditions, scale: float | Tensor, steps: int) -> StudentConditions:
    """Conditions for a student; scale is one number or (b,)."""
    b, device = len(told.times), told.times.device
    scales = torch.as_tensor(scale, dtype=torch.float32, device=device).expand(b)
    count = torch.full((b,), float(steps), device=device)
    return StudentConditions(**vars(told), scale=scales, steps=count)


def check_student(config: StudentConfig, scale: float, steps: int) -> None:
    """Raise ValueError for a step count or scale the student was not distilled to."""
    least, most = config.guidance
    if steps not in config.steps:
        raise ValueError(f"{steps} steps: the distilled network takes {list(config.steps)}")
    if not least <= scale <= most:
        raise ValueError(f"guidance scale {scale}: the distilled network takes {least}..{most}")
