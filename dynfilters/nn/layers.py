"""The base of every filter, and the two ways to apply what its branches generated."""

from __future__ import annotations

from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from dynfilters.checks import (
    check_choice,
    check_flag,
    check_kernel_size,
    check_like,
    check_positive,
    check_tensor,
)
from dynfilters.nn import fusion
from dynfilters.ops import conv2d_per_sample, ddf_generate, filter2d, filter2d_activated
from dynfilters.ops.reference import COMBINE


class Taps(NamedTuple):
    """The filters that branches generated, each a tensor or None.

    | field | shape | applied by |
    | --- | --- | --- |
    | spatial | (B, G, K, H_out, W_out) | `ops.filter2d` |
    | channel | (B, C, K) or (B, C, K, scale²) | `ops.filter2d` |
    | weight | (B, C_out, C_in/groups, kh, kw) | `ops.conv2d_per_sample` |
    | bias | (B, C_out) | added to the output |

    K = kh·kw, row-major. The tap axis of spatial and channel is axis 2.
    """

    spatial: Tensor | None = None
    channel: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


def _with_own_code(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__.replace(),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,  # of a `forward` that calls super()
    )
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, function.__annotations__
    copy.__doc__, copy.__qualname__ = function.__doc__, function.__qualname__
    return copy


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    """Returns the first of `module.parameters()`, without the cost of its generators."""
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    found = (_first_parameter(child) for child in module._modules.values() if child is not None)
    return next((parameter for parameter in found if parameter is not None), None)


class DynamicFilter(nn.Module):
    """A filter in two halves: `taps = generate(x, guide)`, then `apply_taps(x, taps)`.

    Subclasses fill `branches` (any of "spatial", "channel", "weight": modules guide → taps) and
    inherit `apply_taps` from `DepthwiseFilter` or `DenseFilter`.

    Args:
        in_channels, out_channels: None for as many out as in.
        kernel_size: odd, an integer or (kh, kw).
        stride, dilation: as in `torch.nn.Conv2d`, with padding dilation·(k//2).
        scale: how much finer the output's grid is.
        guide_channels: the channels of a guide, as many as x has unless given.

    Shapes: x (B, C_in, H, W), guide (B, C_guide, H, W) →
        (B, C_out, H_out, W_out), H_out = ((H−1)//stride + 1)·scale.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        dilation: int = 1,
        scale: int = 1,
        guide_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_positive("in_channels", in_channels)
        out_channels = in_channels if out_channels is None else out_channels
        self.out_channels = check_positive("out_channels", out_channels)
        self.kernel_size = check_kernel_size(kernel_size)
        self.stride = check_positive("stride", stride)
        self.dilation = check_positive("dilation", dilation)
        self.scale = check_positive("scale", scale)
        if stride > 1 and scale > 1:
            raise ValueError(f"stride: expected 1 with scale={scale}, got {stride}")
        guide_channels = in_channels if guide_channels is None else guide_channels
        self.guide_channels = check_positive("guide_channels", guide_channels)
        self.branches = nn.ModuleDict()

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        # torch.compile keeps a few variants per code object: one `forward` shared by the whole
        # zoo would run out of them as soon as several kinds are compiled in one process.
        for name in ("__call__", "forward"):
            function = getattr(cls, name)
            if name not in vars(cls) and isinstance(function, FunctionType):
                setattr(cls, name, _with_own_code(function))

    @property
    def taps(self) -> int:
        """K, the taps of one filter."""
        return self.kernel_size[0] * self.kernel_size[1]

    def __call__(self, x: Tensor, *args, **kwargs) -> Tensor:
        if isinstance(x, Proxy):  # torch.fx: a leaf, because checks of x would end the tracing
            path = x.tracer.path_of_module(self)
            return x.tracer.create_proxy("call_module", path, (x, *args), kwargs)
        return super().__call__(x, *args, **kwargs)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return self.apply_taps(x, self.generate(x, guide))

    def generate(self, x: Tensor, guide: Tensor | None = None) -> Taps:
        """The taps for x, generated from `guide` if given, else from x itself."""
        return Taps(**{n: self.branches[n](seen) for n, seen in self.guides(x, guide).items()})

    def guides(self, x: Tensor, guide: Tensor | None = None) -> dict[str, Tensor]:
        """Returns what each branch generates from, once x and the guide have been checked."""
        self.check_x(x)
        guide = x if guide is None else guide
        self.check_guide(x, guide)
        return {name: guide for name in self.branches}

    def apply_taps(self, x: Tensor, taps: Taps) -> Tensor:
        """Filters x with `taps`; a linear map of x for given taps."""
        raise NotImplementedError(f"{type(self).__name__} applies no taps")

    def check_x(self, x: Tensor) -> None:
        """`ValueError` unless x is (B, in_channels, H, W) on the layer's device, in its dtype."""
        check_tensor("x", x)
        if x.dim() != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            expected = f"(B, {self.in_channels}, H, W)"
            raise ValueError(f"x: expected {expected}, got {tuple(x.shape)}")
        self._check_like_parameters("x", x)

    def check_guide(self, x: Tensor, guide: Tensor) -> None:
        """`ValueError` unless the guide has the batch and grid of x, and guide_channels."""
        if guide is x and self.guide_channels == self.in_channels:
            return  # it is checked already
        check_tensor("guide", guide)
        expected = (x.shape[0], self.guide_channels, *x.shape[2:])
        if tuple(guide.shape) != expected:
            what = "guide" if guide is not x else "guide: needed, because x cannot stand in for it"
            raise ValueError(
                f"{what}: expected (B, C_guide, H, W)={expected}, got {tuple(guide.shape)}"
            )
        self._check_like_parameters("guide", guide)

    def _check_like_parameters(self, name: str, tensor: Tensor) -> None:
        parameter = _first_parameter(self)
        if parameter is not None:
            check_like(name, tensor, "the layer", parameter)

    def extra_repr(self) -> str:
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        for name in ("stride", "dilation", "scale"):
            if getattr(self, name) != 1:
                shown += f", {name}={getattr(self, name)}"
        return shown


class DepthwiseFilter(DynamicFilter):
    """Applies taps.spatial and taps.channel through `filter2d`, a channel at a time.

    out_channels other than in_channels is honoured by `project`, a 1×1 convolution behind.
    """

    combine = "mul"

    def __init__(self, *args, combine: str = "mul", **kwargs) -> None:
        super().__init__(*args, **kwargs)
        check_choice("combine", combine, COMBINE)
        self.combine = combine
        changes = self.out_channels != self.in_channels
        self.project = (
            nn.Conv2d(self.in_channels, self.out_channels, 1, bias=False)
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """`generate`, then `apply_taps`; or both at once, where that makes no difference."""
        fused = None
        if not torch.compiler.is_compiling():
            if found := fusion.find(self, _HALVES, _INPUTS):
                if (y := found.run(self, x, guide)) is not None:
                    return y
                fused = found.current_options()
        elif fusion.is_not_overridden(self, *_HALVES):
            fused = fusion.options(self.branches)
        if fused is None:
            return self.apply_taps(x, self.generate(x, guide))
        logits = self.logits(x, guide)
        if fusion.would_round(x, logits):
            taps = {name: self.branches[name].activation(logits[name]) for name in logits}
            return self.apply_taps(x, Taps(**taps))
        return self.project(filter2d_activated(x, **logits, **fused, **self._geometry()))

    def logits(self, x: Tensor, guide: Tensor | None = None) -> dict[str, Tensor]:
        """The taps of each branch before their activation; all must be a `TapsBranch`."""
        guides = self.guides(x, guide)
        if not fusion.generates_at_once(self.branches, guides):
            return {name: self.branches[name].raw(seen) for name, seen in guides.items()}
        spatial, channel = self.branches["spatial"], self.branches["channel"]
        conv, squeeze, expand = spatial.conv, channel.squeeze, channel.expand
        logits, taps = ddf_generate(
            guides["spatial"],
            conv.weight.flatten(1),
            conv.bias,
            squeeze.weight.flatten(0, 1),
            squeeze.bias,
            expand.weight.flatten(0, 1),
            expand.bias,
        )
        return {"spatial": spatial.arrange(logits), "channel": taps}

    def _geometry(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in fusion.GEOMETRY}

    def apply_taps(self, x: Tensor, taps: Taps) -> Tensor:
        y = self.project(filter2d(x, taps.spatial, taps.channel, **self._geometry()))
        return y if taps.bias is None else y + taps.bias[:, :, None, None].to(y.dtype)


_HALVES = DynamicFilter.generate, DepthwiseFilter.apply_taps
_INPUTS = (
    DynamicFilter.guides,
    DynamicFilter.check_x,
    DynamicFilter.check_guide,
    DepthwiseFilter.logits,
)


class DenseFilter(DynamicFilter):
    """Applies taps.weight, a dense filter per sample, through `conv2d_per_sample`.

    With `bias` there is a static one, the same for every sample, unless a subclass generates it.
    """

    def __init__(
        self,
        *args,
        groups: int = 1,
        padding: str | None = None,
        bias: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_choice("padding", padding, (None, "same"))
        self.groups, self.padding = groups, padding
        given = check_flag("bias", bias)
        self.bias = nn.Parameter(torch.zeros(self.out_channels)) if given else None

    def generate(self, x: Tensor, guide: Tensor | None = None) -> Taps:
        taps = super().generate(x, guide)
        if self.bias is None:
            return taps
        return taps._replace(bias=self.bias.expand(x.shape[0], -1))

    def apply_taps(self, x: Tensor, taps: Taps) -> Tensor:
        return conv2d_per_sample(
            x,
            taps.weight,
            taps.bias,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups,
            padding=self.padding,
        )
