"""Old import paths, kept for one release: pickles and programs that name them still load.

`MOVED` maps a module that is gone to the modules that have its names now, in the order in which
they are looked through; `RENAMED` maps a name that is gone to its name now.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "dynfilters.commands.exports": ("dynfilters.commands.compare",),
    "dynfilters.commands.models": ("dynfilters.commands.info",),
    "dynfilters.diagnostics.bandwidth": (
        "dynfilters.diagnostics.latency",
        "dynfilters.diagnostics.settings",
    ),
    "dynfilters.diagnostics.contrast": ("dynfilters.diagnostics.adaptivity",),
    "dynfilters.diagnostics.effective": ("dynfilters.diagnostics.adaptivity",),
    "dynfilters.diagnostics.gradients": ("dynfilters.diagnostics.probe.probe",),
    "dynfilters.diagnostics.machine": ("dynfilters.diagnostics.settings",),
    "dynfilters.diagnostics.parameters": ("dynfilters.diagnostics.probe.parameters",),
    "dynfilters.diagnostics.randomness": ("dynfilters.diagnostics.settings",),
    "dynfilters.diagnostics.recording": ("dynfilters.diagnostics.probe.recording",),
    "dynfilters.diagnostics.series": ("dynfilters.diagnostics.probe.recording",),
    "dynfilters.diagnostics.spread": ("dynfilters.diagnostics.probe.statistics",),
    "dynfilters.diagnostics.tally": ("dynfilters.diagnostics.probe.statistics",),
    "dynfilters.diagnostics.taps": ("dynfilters.diagnostics.probe.branches",),
    "dynfilters.extras": ("dynfilters._extras",),
    "dynfilters.files": ("dynfilters._files",),
    "dynfilters.filters.ddf_up": ("dynfilters.filters.ddf",),
    "dynfilters.filters.zoo": ("dynfilters.filters.registry",),
    "dynfilters.models.blocks": ("dynfilters.models.resnet",),
    "dynfilters.models.card": ("dynfilters.models.pretrained",),
    "dynfilters.models.geometry": ("dynfilters.surgery.geometry",),
    "dynfilters.models.meta": ("dynfilters.surgery.geometry",),
    "dynfilters.models.misfit": ("dynfilters.models.checkpoints",),
    "dynfilters.models.mixin": ("dynfilters.models.pretrained",),
    "dynfilters.models.official.keys": ("dynfilters.models.official.layers",),
    "dynfilters.models.recipe": ("dynfilters.models.pretrained",),
    "dynfilters.models.replacements": ("dynfilters.surgery.replacements",),
    "dynfilters.models.selection": ("dynfilters.surgery.selection",),
    "dynfilters.models.stems": ("dynfilters.models.resnet",),
    "dynfilters.models.surgery": ("dynfilters.surgery.swap",),
    "dynfilters.models.weights": ("dynfilters.models.pretrained",),
    "dynfilters.nn.attentions": ("dynfilters.nn.branches",),
    "dynfilters.nn.convolution": ("dynfilters.nn.linear",),
    "dynfilters.nn.taps": ("dynfilters.nn.layers",),
    "dynfilters.ops.activated_reference": ("dynfilters.ops.activated",),
    "dynfilters.ops.build": ("dynfilters.native.build",),
    "dynfilters.ops.cache": ("dynfilters.native.cache",),
    "dynfilters.ops.native": ("dynfilters.native.loader",),
    "dynfilters.ops.operands": ("dynfilters.ops.filter2d", "dynfilters.checks"),
    "dynfilters.ops.pool_project": ("dynfilters.ops.ddf_generate",),
    "dynfilters.ops.toolchain": ("dynfilters.native.toolchain",),
    "dynfilters.ops.transforms": ("dynfilters.ops.reference",),
    "dynfilters.printable": ("dynfilters._output",),
    "dynfilters.strict_json": ("dynfilters._output",),
}
RENAMED: dict[str, str] = {
    "Misfit": "KeyMismatch",
    "Place": "ConvFactory",
    "Recipe": "ModelConfig",
    "Tally": "DeviceAccumulator",
    "are_active": "is_transformed",
    "autocast": "to_autocast_dtype",
    "checked_place": "checked_factory",
    "checked_pointwise": "checked_pointwise_factory",
    "contrast": "pairwise_distance",
    "convolution": "static_conv",
    "damage": "integrity_error",
    "decide": "select_backend",
    "deep": "deep_stem",
    "find_misfit": "find_mismatch",
    "initialize": "init_for_relu",
    "is_garbled": "has_onednn_bf16_grad_bug",
    "keepable": "inductor_contiguous",
    "keeps": "is_not_overridden",
    "plain": "plain_stem",
    "settle": "ensure_loaded",
    "whole": "load_verified",
}


class _Moved(ModuleType):
    """Stands in for a module that is gone: looks its names up where they are now."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__"):
            for path in MOVED[self.__name__]:
                module = importlib.import_module(path)
                for known in (name, RENAMED.get(name, name)):
                    if hasattr(module, known):
                        return getattr(module, known)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name)


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of `MOVED`, after every module that exists has been looked for."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in MOVED:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in MOVED)
        return ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name, f"Moved to {', '.join(MOVED[spec.name])}.")

    def exec_module(self, module: ModuleType) -> None:
        """Leaves the module empty: names are looked up when they are asked for."""


def install() -> None:
    """Makes the old paths importable; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
