"""Which kernel computes the attention of denoisers in the quality `fast`.

Kernels that lie on this machine only: those that diffusers would fetch from a hub are refused. A
network is given its kernel for one film; what other networks use is never touched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

AUTO, NATIVE = "auto", "native"
HUB = "_hub"  # how the names of kernels end that would be fetched
# What "auto" tries on CUDA, in this order: FlashAttention 3 and 2 (Dao 2023, arXiv:2307.08691), if
# those packages are there, cuDNN's where it is known to be faster than PyTorch's own choice.
BEST = ("_flash_3", "flash", "_native_cudnn", NATIVE)
CUDNN = "_native_cudnn"
HOPPER = 9  # major compute capability from which on cuDNN's is tried


def choose(wanted: str, device: str, network: Any, *, masked: bool) -> str:
    """The kernel for a network: the one that is wanted, or for "auto" the best that is here.

    masked  it is told which words count
    raises  ValueError for a kernel that is not known, would be fetched, or does not work here
    """
    if wanted == NATIVE or (wanted == AUTO and not device.startswith("cuda")):
        return NATIVE
    if wanted == AUTO:
        return next((name for name in BEST if fits(name, device, network, masked=masked)), NATIVE)
    if wanted.endswith(HUB):
        raise ValueError(f"attention {wanted!r} would be fetched from a hub: local kernels only")
    known = [name for name in names() if not name.endswith(HUB)]
    if wanted not in known:
        raise ValueError(f"attention {wanted!r} is none of {[AUTO, *known]}")
    if reason := fault(wanted, device, network, masked=masked):
        raise ValueError(f"attention {wanted!r} does not work here: {reason}")
    return wanted


def fits(name: str, device: str, network: Any, *, masked: bool) -> bool:
    """Whether "auto" may take a kernel."""
    import torch

    if name == CUDNN and torch.cuda.get_device_capability(device)[0] < HOPPER:
        return False
    return not fault(name, device, network, masked=masked)


def fault(name: str, device: str, network: Any, *, masked: bool) -> str:
    """Why a kernel cannot answer a small question of this network's kind; "" if it can."""
    import torch
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    given: dict[str, Any] = {"device": device, "dtype": network.dtype}
    try:
        shape = (1, 128, 2, network.config.attention_head_dim)  # films, tokens, heads, numbers
        numbers = torch.ones(shape, **given)
        mask = torch.zeros((1, 1, 1, 128), **given) if masked else None
        backend = AttentionBackendName(name)
        with only_for(network, name), torch.no_grad():
            dispatch_attention_fn(numbers, numbers, numbers, attn_mask=mask, backend=backend)
    except Exception as error:  # whatever a kernel that is not for this machine does
        return f"{type(error).__name__}: {error}"
    return ""


def names() -> list[str]:
    """All that diffusers knows."""
    from diffusers.models.attention_dispatch import AttentionBackendName

    return [str(each.value) for each in AttentionBackendName]


@contextmanager
def only_for(network: Any, name: str) -> Iterator[None]:
    """Have one network use a kernel while this is entered.

    Differs from diffusers' own setting, which also becomes that of the process and stays so when
    the network's is reset: networks that were given none would use it too.
    """
    from diffusers.models.attention_dispatch import attention_backend

    with attention_backend(NATIVE):  # puts the process's own back
        network.set_attention_backend(name)
    try:
        yield
    finally:
        network.reset_attention_backend()
