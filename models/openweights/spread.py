"""A checkpoint's denoisers over several ranks: each computes attention and layers for its share.

Ulysses (Jacobs et al. 2023, arXiv:2309.14509): every rank holds a share of the tokens; for
attention they are exchanged, so that each has all tokens of a share of the heads. Ring (Liu et al.
2023, arXiv:2310.01889): each keeps its queries and sees all keys and values, share by share;
answers are put together by their log-sum-exp. All other parts, text encoders and autoencoders, work
whole on every rank.

The collectives are diffusers'; which tokens are split where is said here for networks that
diffusers says nothing of, or nothing that works.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from models.catalog import ModelCard
from models.openweights.memory import denoisers_of

ULYSSES, RING = WAYS = ("ulysses", "ring")
AXES = ("ring", "ulysses")  # of the mesh, in diffusers' order
# diffusers' names of hooks
FIRST_BLOCK_HOOK = "fbc_leader_block_hook"
SPLIT_HOOK = "cp_input---"


@dataclass(frozen=True)
class Split:
    """How one class of networks is spread.

    tokens  of a network and what it is given first: how many there are
    plan    where they are split and gathered, in diffusers' terms; None: as the class says itself
    words   attention from tokens to words, by the end of the module's name: words are whole on
            every rank, so nothing is exchanged
    """

    tokens: Callable[[Any, Tensor], int]
    plan: Callable[[], dict[str, Any]] | None = None
    words: str | None = None


def patches(network: Any, latents: Tensor) -> int:
    """Of Wan's networks, which are given latents (b, c, t, h, w)."""
    sides = zip(latents.shape[2:], network.config.patch_size, strict=True)
    return math.prod(side // patch for side, patch in sides)


def rows(_: Any, tokens: Tensor) -> int:
    """Of LTX-Video's, which are given tokens (b, n, d)."""
    return tokens.shape[1]


def vace_plan() -> dict[str, Any]:
    """As Wan's, with the blocks that read the control frames beside the others."""
    from diffusers import WanTransformer3DModel
    from diffusers.models._modeling_parallel import ContextParallelInput

    tokens = ContextParallelInput(split_dim=1, expected_dims=3)
    control = {"hidden_states": tokens, "control_hidden_states": tokens}
    return {**WanTransformer3DModel._cp_plan, "vace_blocks.0": control}


def ltx_plan() -> dict[str, Any]:
    """Differs from diffusers' own: words stay whole, for a share of them is masked as if it had
    all heads; times of tokens are split with them."""
    from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput

    turned = ContextParallelInput(split_dim=1, expected_dims=3, split_output=True)
    return {
        "": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3),
            "timestep": ContextParallelInput(split_dim=1, expected_dims=2),
        },
        "rope": {0: turned, 1: turned},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }


SPLITS = {
    "WanTransformer3DModel": Split(patches),
    "WanVACETransformer3DModel": Split(patches, vace_plan),
    "LTXVideoTransformer3DModel": Split(rows, ltx_plan, ".attn2"),
}


def check(pipe: Any, card: ModelCard, ranks: int, way: str) -> None:
    """Refuse what cannot be spread. raises ValueError with both numbers"""
    if way not in WAYS:
        raise ValueError(f"ranks share networks by {way!r}: {list(WAYS)}")
    for name in denoisers_of(pipe):
        network = getattr(pipe, name)
        kind = type(network).__name__
        if kind not in SPLITS:
            raise ValueError(f"{card.id} runs on one rank only: {kind} is none of {list(SPLITS)}")
        heads = network.config.num_attention_heads
        if way == ULYSSES and heads % ranks:
            raise ValueError(f"{card.id} has {heads} heads of attention: {ranks} cannot share them")


def spread(pipe: Any, device: str, way: str) -> None:
    """Have a pipeline's denoisers compute one share each in all ranks of the process group, for
    good. Every rank must call this, after `check`."""
    # Of diffusers' own making: it calls a collective by an older name.
    warnings.filterwarnings("ignore", ".*all_gather_tensor", FutureWarning)
    shape = tuple(dist.get_world_size() if axis == way else 1 for axis in AXES)
    mesh = init_device_mesh(torch.device(device).type, shape, mesh_dim_names=AXES)
    from diffusers.hooks import context_parallel

    context_parallel._all_gather_anything = put_together
    for name in denoisers_of(pipe):
        share(getattr(pipe, name), mesh, way)


def put_together(share: Tensor, dim: int, group: Any) -> Tensor:
    """Shares of tokens, some with one more than others, as one tensor in all ranks. Differs from
    diffusers' own: they are sent at one length, for gloo gathers no others."""
    from diffusers.models._modeling_parallel import gather_size_by_comm

    lengths = gather_size_by_comm(share.shape[dim], group)
    lacking = list(share.shape)
    lacking[dim] = max(lengths) - share.shape[dim]
    even = torch.cat([share, share.new_zeros(lacking)], dim)
    shares = [torch.empty_like(even) for _ in lengths]
    dist.all_gather(shares, even, group=group)
    return torch.cat([one.narrow(dim, 0, n) for one, n in zip(shares, lengths, strict=True)], dim)


def share(network: Any, mesh: Any, way: str) -> None:
    """Spread one network over a mesh."""
    from diffusers import ContextParallelConfig

    split = SPLITS[type(network).__name__]
    degrees = {f"{axis}_degree": size for axis, size in zip(AXES, mesh.shape, strict=True)}
    if way == RING:
        tell_sums(network, mesh.device_type)
    with one_accelerator():
        network.enable_parallelism(
            config=ContextParallelConfig(**degrees, mesh=mesh),
            cp_plan=split.plan() if split.plan else None,
        )
    for name, module in network.named_modules():
        if split.words and name.endswith(split.words):
            module.processor._parallel_config = None
    network.register_forward_pre_hook(prepare, with_kwargs=True)


def prepare(network: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Before each pass: whether tokens come out even, or ranks have to tell each other how many
    they hold; and one time for all tokens, (b, 1), as (b,), for there is nothing to split."""
    config = network._parallel_config.context_parallel_config
    first = given[0] if given else named["hidden_states"]
    uneven = SPLITS[type(network).__name__].tokens(network, first) % config._flattened_mesh.size()
    config.ulysses_anything = bool(uneven) and config.ulysses_degree > 1
    config.ring_anything = bool(uneven) and config.ring_degree > 1
    time = named.get("timestep")
    if isinstance(time, Tensor) and time.ndim == 2 and time.shape[1] == 1:
        named = named | {"timestep": time.flatten()}
    return given, named


@contextmanager
def one_accelerator() -> Iterator[None]:
    """diffusers divides by the number of accelerators, also where there is none."""
    count = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: max(1, count())
    try:
        yield
    finally:
        torch.accelerator.device_count = count


def tell_sums(network: Any, device_type: str) -> None:
    """Have a network's attention tell the log-sum-exp that the ring wants, as the plain one does
    not."""
    if device_type == "cuda":
        network.set_attention_backend("_native_flash")
        return
    from diffusers.models import attention_dispatch

    attention_dispatch._native_attention_forward_op = attention_with_sums


def attention_with_sums(
    _: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    **__: Any,
) -> Any:
    """Attention on a CPU, as diffusers' ring calls it.

    query, key, value  (b, n, k, d)
    returns            (b, n, k, d), and with `return_lse` also log-sum-exp (b, n, k)
    """
    assert not enable_gqa  # diffusers refuses it before
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    answer, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *heads_first, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    answer = answer.transpose(1, 2)
    return (answer, sums.transpose(1, 2)) if return_lse else answer


def leave_out_blocks(network: Any, config: Any) -> None:
    """Switch a network's first-block cache on; if it is spread, all ranks leave blocks out at the
    same steps, or they would wait for each other in the others."""
    spread_over = getattr(network, "_parallel_config", None)
    if spread_over is None:
        network.enable_cache(config)
        return
    # The cache compares what a block is given and answers: tokens are to be split before it looks.
    splits = [
        (module._diffusers_hook, name, hook)
        for module in network.modules()
        if module is not network and hasattr(module, "_diffusers_hook")
        for name, hook in module._diffusers_hook.hooks.items()
        if name.startswith(SPLIT_HOOK)
    ]
    for registry, name, _ in splits:
        registry.remove_hook(name, recurse=False)
    network.enable_cache(config)
    for registry, name, hook in splits:
        registry.register_hook(hook, name)
    group = spread_over.context_parallel_config._flattened_mesh.get_group()
    for module in network.modules():
        hooks = getattr(module, "_diffusers_hook", None)
        first = hooks and hooks.get_hook(FIRST_BLOCK_HOOK)
        if first:
            first._should_compute_remaining_blocks = functools.partial(has_changed, first, group)


def has_changed(hook: Any, group: Any, added: Tensor) -> bool:
    """Whether what the first block adds differs by more than the threshold from when all blocks
    were last computed: mean of |difference| to mean of |added|, over the tokens of all ranks.

    added  (b, n, d)  to this rank's tokens
    """
    before = hook.state_manager.get_state().head_block_residual
    if before is None:
        return True
    sums = torch.stack([(added - before).float().abs().sum(), before.float().abs().sum()])
    dist.all_reduce(sums, group=group)
    return bool(sums[0] / sums[1] > hook.threshold)
