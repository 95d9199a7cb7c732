"""Which candidates meet on which case: what the targets need, or everything, or what is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.candidates import CANDIDATES
from benchmarks.cases import LAYOUTS, PASSES, Case

# Candidates of the default run, by kind and type. bf16 on a CPU is emulated where the processor
# has none, and a dense convolution then takes minutes.
CPU = {
    "ddf": {
        "fp32": ("op", "dwconv", "conv", "module", "compile", "unfold"),
        "bf16": ("op", "dwconv", "module"),
    },
    "involution": {"fp32": ("op", "dwconv", "unfold"), "bf16": ("op", "dwconv")},
    "carafe": {"fp32": ("op", "bilinear", "module"), "bf16": ("op", "bilinear")},
    "dense": {"fp32": ("per_sample", "grouped")},
}
GPU = {
    "ddf": {
        "fp32": ("op", "dwconv", "conv", "module", "unfold", "compile"),
        "tf32": ("conv", "module"),
        "bf16": ("op", "dwconv", "conv", "module", "unfold", "compile"),
    },
    "involution": {
        "fp32": ("op", "dwconv", "unfold", "compile"),
        "bf16": ("op", "dwconv", "unfold", "compile"),
    },
    "carafe": {"fp32": ("op", "bilinear", "module"), "bf16": ("op", "bilinear", "module")},
    "dense": {
        "fp32": ("per_sample", "grouped"),
        "tf32": ("per_sample", "grouped"),
        "bf16": ("per_sample", "grouped"),
    },
}
# These take up to a hundred times as long as the op: on a CPU their forward pass has to do.
SLOW = ("unfold", "reference")


@dataclass(frozen=True)
class Setting:
    """Candidates that race against each other on the same values."""

    case: Case
    dtype: str
    layout: str
    candidates: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.case.name} {self.dtype} {self.layout}"


@dataclass(frozen=True)
class Selection:
    """What the command line asks for; None where it leaves the choice to the plan."""

    device: str = "cpu"
    dtypes: list[str] | None = None
    layouts: list[str] | None = None
    candidates: list[str] | None = None
    passes: list[str] | None = None
    full: bool = False

    def passes_of(self, candidate: str) -> tuple[str, ...]:
        """Those of `candidate` to time."""
        asked = tuple(self.passes or PASSES)
        if not CANDIDATES[candidate].differentiable:
            return tuple(p for p in asked if p == "forward")
        chosen = self.full or self.device != "cpu" or self.passes or self.candidates
        return asked if chosen or candidate not in SLOW else ("forward",)


def settings(cases: list[Case], selection: Selection) -> Iterator[Setting]:
    """What to run, the layouts of a case and type next to each other."""
    for case in cases:
        plan = (CPU if selection.device == "cpu" else GPU)[case.kind]
        applicable = [n for n, c in CANDIDATES.items() if case.kind in c.operands]
        dtypes = selection.dtypes or ([*plan, "bf16"] if selection.full else list(plan))
        layouts = selection.layouts or (["nchw"] if case.kind == "dense" else list(LAYOUTS))
        for dtype in dict.fromkeys(dtypes):
            names = applicable if selection.full else plan.get(dtype, applicable)
            if selection.candidates:
                names = [n for n in applicable if n in selection.candidates]
            for layout in layouts:
                if names:
                    yield Setting(case, dtype, layout, tuple(names))
