"""Replaces convolutions of any model by any filter of the zoo."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dynfilters.checks import check_choice, check_kernel_size, is_positive
from dynfilters.cost import count_macs
from dynfilters.filters import create_filter, filter_info
from dynfilters.nn import DepthwiseFilter
from dynfilters.registry import UnknownNameError
from dynfilters.surgery.geometry import CannotReplaceError, geometry, meta_twin
from dynfilters.surgery.replacements import Replacement, Replacements, Skipped, put
from dynfilters.surgery.selection import Chosen, Sizes, Types, Where, choose

IMAGE_CHANNELS = 3
KEPT = ("in_channels", "out_channels", "stride", "dilation")


class ChannelBias(nn.Module):
    """y[b,c] = x[b,c] + bias[c], with a bias of zeros at first.

    Shapes: x (B, channels, H, W) to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None].to(x.dtype)

    def extra_repr(self) -> str:
        return str(len(self.bias))


def swap_filters(
    model: nn.Module,
    filter: str,
    where: Where | None = None,
    *,
    types: Types | None = None,
    sizes: Sizes | None = None,
    kernel_size: int | tuple[int, int] | None = None,
    bias: bool | None = None,
    dry_run: bool = False,
    input_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    **options: Any,
) -> Replacements:
    """Replaces convolutions of a model by filters, in place, all of them or none.

    A filter keeps the channels, stride, dilation and kernel size of the convolution, its device,
    dtype, and training or evaluation mode; and its groups, if the filter's `groups` are those of
    a convolution (set other groups, such as DDF's, by `options`). All other modules and weights
    stay. The filter's weights are new and require gradients, even if the old ones were frozen. So
    make a new optimizer: an older one holds parameters that are no longer in the model.

    A module at several paths gets one filter for all of them. Convolutions that share only a
    weight get a filter each.

    Args:
        model: any module that contains `torch.nn.Conv2d`s or filters of the zoo. Filters are
            replaced as a whole.
        filter: the name of a registered filter that keeps the grid.
        where: selects by path in the model: a glob ("layer3.*"), several (each must match
            something), a compiled regular expression (searched for), or a function
            (path, module) → bool. None for all but those that read an image (at most 3 channels).
        types: only modules of this class, or of a tuple of classes; None for `torch.nn.Conv2d`
            and filters. Other classes need the attributes in_channels, out_channels, kernel_size,
            and those of a convolution that differ from its defaults.
        sizes: only these kernel sizes, such as [3, (1, 7)]; None for all but 1×1.
        kernel_size: of the filter, odd; None for that of the convolution.
        bias: whether a bias is added to the output; None for as before. If the filter has no bias
            of its own, it starts at zero: as `project.bias` of a depth-wise filter, in a sequence
            with any other.
        dry_run: leaves the model as it is; the result has the new modules on the meta device.
        input_size: the shape of the model's input, (B, C, H, W), or several for several inputs,
            to count multiply-accumulates. The model runs on the meta device for it.
        options: of the filter, `activation` among them, see `create_filter`.

    Returns:
        The replacements, with the change in parameters and MACs, and `undo()`.

    Some convolutions cannot be replaced: a filter cannot keep their grid (padding other than
    dilation·(k//2) zeros, two strides, an even kernel, upsampling), something attached to them
    would be lost (hooks, parametrizations, submodules of a subclass), or the filter refuses their
    channels. With `where`, these are an error; without, they are left and listed in `.skipped`.

    Raises:
        UnknownNameError: no such filter; the message names the closest.
        ValueError: there is nothing to replace; a module that `where` selects cannot be replaced
            (the message lists paths and reasons); or an argument is wrong. The model is unchanged.
        TypeError: the filter has no such option.

    >>> import dynfilters
    >>> model = dynfilters.create_model("resnet18", filter="conv", num_classes=10)
    >>> dynfilters.swap_filters(model, "ddf", "layer4.*", kernel_size=5)[0].path
    'layer4.0.conv1'
    """
    _check(filter, kernel_size, bias, options)
    inputs = _inputs(model, input_size)
    chosen = choose(model, where, types, sizes)
    make = partial(_filter_for, filter=filter, kernel_size=kernel_size, bias=bias, options=options)
    made, reasons = _make_all(chosen, partial(make, meta=dry_run), stems=where is not None)
    skipped = [Skipped(*one, reasons[one.module]) for one in chosen if one.module in reasons]
    if skipped and (where is not None or not made):
        listed = "".join(f"\n  {path}: {reason}" for path, _, reason in skipped)
        raise ValueError(f"where: expected modules that {filter!r} can replace, got{listed}")
    replaced = [Replacement(*one, made[one.module]) for one in chosen if one.module in made]
    macs = (None, None) if inputs is None else _macs(model, replaced, inputs)
    result = Replacements(model, filter, replaced, skipped, dry_run, macs)
    if not dry_run:
        result.place()
    return result


def _check(
    filter: str, kernel_size: object, bias: bool | None, options: Mapping[str, object]
) -> None:
    if filter_info(filter).upsamples:
        raise ValueError(f"filter: expected one that keeps the grid, got the upsampler {filter!r}")
    if kernel_size is not None:
        check_kernel_size(kernel_size)
    check_choice("bias", bias, (None, True, False))
    if given := [name for name in KEPT if name in options]:
        raise ValueError(f"options: expected none that a filter keeps, got {', '.join(given)}")


def _inputs(model: nn.Module, size: Sequence | None) -> list[Tensor] | None:
    """Makes inputs of the given size or sizes, on the meta device, in the model's dtype."""
    if size is None:
        return None
    several = isinstance(size, Sequence) and all(isinstance(one, Sequence) for one in size)
    sizes = size if several else [size]
    whole = all(isinstance(one, Sequence) and all(is_positive(n) for n in one) for one in sizes)
    if not sizes or not whole or not all(sizes):
        raise ValueError(f"input_size: expected a shape such as (1, 3, 224, 224), got {size!r}")
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return [torch.empty(*one, device="meta", dtype=dtype) for one in sizes]


def _make_all(
    chosen: list[Chosen], make: Callable[[nn.Module], nn.Module], stems: bool
) -> tuple[dict[nn.Module, nn.Module], dict[nn.Module, str]]:
    """Makes a filter for each module; returns the filters, and why other modules have none."""
    made, reasons = {}, {}
    for module in dict.fromkeys(one.module for one in chosen):
        try:
            channels = getattr(module, "in_channels", None)
            if not stems and isinstance(channels, int) and channels <= IMAGE_CHANNELS:
                raise CannotReplaceError(f"reads {channels} channel(s), as an image has")
            made[module] = make(module)
        except UnknownNameError:  # an activation's, wrong for all modules
            raise
        except ValueError as error:
            reasons[module] = str(error)
    return made, reasons


def _filter_for(
    old: nn.Module,
    filter: str,
    kernel_size: int | tuple[int, int] | None,
    bias: bool | None,
    options: Mapping[str, object],
    meta: bool,
) -> nn.Module:
    """Makes the filter that replaces `old`; `ValueError` if it cannot be replaced."""
    kept, info, options = geometry(old), filter_info(filter), dict(options)
    size = kept.kernel_size if kernel_size is None else kernel_size
    biased = kept.bias if bias is None else bias
    if info.grouped and kept.groups > 1:
        options.setdefault("groups", kept.groups)
    if "bias" in info.options:
        options["bias"] = biased
    weight = next((p for p in old.parameters() if p.is_floating_point()), torch.empty(0))
    with torch.device("meta" if meta else weight.device):
        new = create_filter(
            filter,
            kept.in_channels,
            kept.out_channels,
            size,
            kept.stride,
            kept.dilation,
            **options,
        )
        if biased and "bias" not in info.options:
            new = _with_bias(new, kept.out_channels)
    return new.to(weight.dtype).train(old.training)


def _with_bias(layer: nn.Module, channels: int) -> nn.Module:
    """Adds a bias after a filter that has none of its own."""
    if not isinstance(layer, DepthwiseFilter):
        return nn.Sequential(OrderedDict(filter=layer, bias=ChannelBias(channels)))
    if isinstance(layer.project, nn.Conv2d):
        layer.project.bias = nn.Parameter(torch.zeros(channels))
    else:
        layer.project = ChannelBias(channels)
    return layer


def _macs(model: nn.Module, replaced: list[Replacement], inputs: list[Tensor]) -> tuple[int, int]:
    """Counts multiply-accumulates before and after, of a copy on the meta device."""
    twin = meta_twin(model)
    try:
        before = count_macs(twin, *inputs)
        put(twin, {one.path: meta_twin(one.new) for one in replaced})
        return before, count_macs(twin, *inputs)
    except Exception as error:  # a user's model may raise anything
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"input_size: expected one that the model takes, on the meta device; with {shapes}: "
            f"{type(error).__name__}: {error}"
        ) from error
