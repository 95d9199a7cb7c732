"""The base of all backbones: stages, feature maps, and a head that can be changed.

Methods have timm's names (`forward_features`, `reset_classifier`, …).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from dynfilters.checks import check_choice, check_positive, check_share
from dynfilters.models.pretrained import PretrainedMixin

POOLS = {
    "avg": lambda: nn.AdaptiveAvgPool2d(1),
    "max": lambda: nn.AdaptiveMaxPool2d(1),
    "": nn.Identity,  # the feature map itself
}


class Stage(NamedTuple):
    """A part of a backbone: submodules that run one after the other, and their feature map.

    Attributes:
        names: of the submodules; the last one names the feature map.
        channels: of the feature map.
        reduction: pixels of the image per position of the feature map, along each axis.
    """

    names: tuple[str, ...]
    channels: int
    reduction: int


class FeatureInfo(tuple[Stage, ...]):
    """The stages whose feature maps a network returns, in order."""

    def channels(self) -> list[int]:
        """Returns the channels of each feature map."""
        return [stage.channels for stage in self]

    def reduction(self) -> list[int]:
        """Returns the image pixels per position of each feature map, along each axis."""
        return [stage.reduction for stage in self]

    def module_name(self) -> list[str]:
        """Returns the name of the submodule that makes each feature map."""
        return [stage.names[-1] for stage in self]


class Backbone(PretrainedMixin, nn.Module):
    """A network for images: stages, pooling, dropout, a linear classifier.

    A subclass makes its submodules, then calls `_add_head` with the stages they form.

    Args:
        num_classes: outputs of the classifier; 0 for none: the network returns its features.
        in_chans: channels of the image.
        global_pool: "avg", "max", or "" for none, which needs num_classes=0.
        drop_rate: of the dropout before the classifier, at least 0, below 1.
        image_size: pixels per side of training images, for `input_size`. Any size runs.
        test_image_size: pixels per side of test images; None for the same.

    Shapes: x (B, in_chans, H, W) → (B, num_classes); (B, num_features) without classifier;
        (B, num_features, ⌈H/r⌉, ⌈W/r⌉) without pooling either, r the last stage's reduction.

    Attributes:
        num_classes, num_features: outputs and inputs of the classifier.
        input_size, test_input_size: (in_chans, height, width).
        feature_info: the stages; see `FeatureInfo`.

    Raises:
        ValueError: an argument is out of range.
    """

    classifier = "fc"  # the name of the submodule

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        *,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        image_size: int = 224,
        test_image_size: int | None = None,
    ) -> None:
        super().__init__()
        _check_head(num_classes, global_pool)
        check_positive("in_chans", in_chans)
        check_share("drop_rate", drop_rate)
        side = check_positive("image_size", image_size)
        test_side = side if test_image_size is None else test_image_size
        check_positive("test_image_size", test_side)
        self.num_classes = num_classes
        self.input_size = in_chans, side, side
        self.test_input_size = in_chans, test_side, test_side
        self.pool_name = global_pool
        self.drop_rate = drop_rate

    def _add_head(self, stages: Iterable[Stage]) -> None:
        self.feature_info = FeatureInfo(stages)
        self.num_features = self.feature_info[-1].channels
        self.dropout = nn.Dropout(self.drop_rate)
        self._set_head(self.num_classes, self.pool_name)

    def _set_head(self, num_classes: int, global_pool: str) -> None:
        self.global_pool = POOLS[global_pool]()
        head: nn.Module = nn.Identity()
        if num_classes:
            like = next(self.parameters())
            head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        setattr(self, self.classifier, head)
        self.num_classes, self.pool_name = num_classes, global_pool

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the feature map of the last stage."""
        for stage in self.feature_info:
            x = _run(self, stage, x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classifies a feature map; with `pre_logits`, returns the classifier's input instead."""
        x = self.global_pool(x)
        if self.pool_name:
            x = x.flatten(1)
        x = self.dropout(x)
        return x if pre_logits else self.get_classifier()(x)

    @property
    def head_kwargs(self) -> dict[str, object]:
        """The constructor's arguments that `reset_classifier` can change, with present values."""
        return {"num_classes": self.num_classes, "global_pool": self.pool_name}

    def feature_maps(self, out_indices: Sequence[int] | None = None) -> FeatureMaps:
        """Returns the stages as a `FeatureMaps`, which shares the backbone's submodules."""
        return FeatureMaps(self, out_indices)

    def get_classifier(self) -> nn.Module:
        """Returns the linear layer, or an `nn.Identity` if there are no classes."""
        return getattr(self, self.classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Puts in a new, untrained classifier, with the network's device and dtype.

        Args:
            num_classes: 0 for none.
            global_pool: as in the constructor; None keeps the present one.
        """
        global_pool = self.pool_name if global_pool is None else global_pool
        _check_head(num_classes, global_pool)
        self._set_head(num_classes, global_pool)


class FeatureMaps(PretrainedMixin, nn.Module):
    """A network that returns the feature maps of some stages of a backbone.

    It has the backbone's submodules under the same names; so its state dict is the backbone's
    without the classifier, and without the stages after the last one asked for.

    Args:
        backbone: its submodules are shared, not copied.
        out_indices: of the stages; negative ones count from the end. None for all.

    Shapes: x (B, in_chans, H, W) → a list of (B, channels, ⌈H/reduction⌉, ⌈W/reduction⌉), from
        the finest to the coarsest; `feature_info` has channels and reduction of each.

    Raises:
        ValueError: no stage, or an index out of range.
    """

    def __init__(self, backbone: Backbone, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        stages = backbone.feature_info
        if out_indices is None:
            out_indices = range(len(stages))
        self.out_indices = _checked_indices(out_indices, len(stages))
        self.feature_info = FeatureInfo(stages[i] for i in self.out_indices)
        self.input_size, self.test_input_size = backbone.input_size, backbone.test_input_size
        self.stages = stages[: self.out_indices[-1] + 1]
        for stage in self.stages:
            for name in stage.names:
                self.add_module(name, getattr(backbone, name))
        self.training = backbone.training

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, stage in enumerate(self.stages):
            x = _run(self, stage, x)
            if i in self.out_indices:
                maps.append(x)
        return maps


def _run(module: nn.Module, stage: Stage, x: Tensor) -> Tensor:
    for name in stage.names:
        x = getattr(module, name)(x)
    return x


def _check_head(num_classes: int, global_pool: str) -> None:
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
        raise ValueError(f"num_classes: expected an integer of at least 0, got {num_classes!r}")
    check_choice("global_pool", global_pool, list(POOLS))
    if num_classes and not global_pool:
        raise ValueError(
            f"global_pool: expected pooling before a classifier of {num_classes} classes, got ''"
        )


def _checked_indices(indices: Sequence[int], stages: int) -> tuple[int, ...]:
    """Returns the indices from 0 up, each once; `ValueError` for none or one out of range."""
    try:
        given = [operator.index(i) for i in indices]
    except TypeError:
        given = []
    if not given or not all(-stages <= i < stages for i in given):
        raise ValueError(
            f"out_indices: expected some of {list(range(stages))}, or negative ones from the "
            f"end, got {indices!r}"
        )
    return tuple(sorted({i % stages for i in given}))
