"""Which candidates meet on which case: what the targets need, or everything, or what is asked."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.candidates import CANDIDATES
from benchmarks.cases import DTYPES, LAYOUTS, PASSES, Case

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
        "fp32": ("op", "dwconv", "unfold"),
        "bf16": ("op", "dwconv", "unfold"),
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
SLOW_ABOVE = {"conv": 14}
# Compiling takes longer than measuring; at 224 the copies of `unfold` take a hundred gigabytes.
COMPILED_LAYOUT = "nchw"
UNFOLDED_GRID = 112


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

    @property
    def is_default(self) -> bool:
        """Whether nothing but the device was asked for."""
        return self == Selection(self.device)

    def passes_of(self, candidate: str, case: Case) -> tuple[str, ...]:
        """Those of `candidate` to time."""
        asked = tuple(self.passes or PASSES)
        if not CANDIDATES[candidate].differentiable:
            return tuple(p for p in asked if p == "forward")
        chosen = self.full or self.device != "cpu" or self.passes or self.candidates
        slow = candidate in SLOW or case.grid > SLOW_ABOVE.get(candidate, case.grid)
        return ("forward",) if slow and not chosen else asked


def settings(cases: list[Case], selection: Selection) -> list[Setting]:
    """What to run; what the targets need first, and the layouts next to each other."""
    found = []
    for case in cases:
        plan = (CPU if selection.device == "cpu" else GPU)[case.kind]
        types = [d for d in DTYPES if selection.device != "cpu" or d != "tf32"]
        dtypes = selection.dtypes or (types if selection.full else list(plan))
        layouts = selection.layouts or (["nchw"] if case.kind == "dense" else list(LAYOUTS))
        for dtype in dtypes:
            for layout in layouts:
                if names := _names(case, dtype, layout, selection):
                    found.append(Setting(case, dtype, layout, names))
    if selection.device == "cpu":
        found.sort(key=lambda s: s.dtype != "fp32")  # that of all targets
    return found


def _names(case: Case, dtype: str, layout: str, selection: Selection) -> tuple[str, ...]:
    applicable = tuple(n for n, c in CANDIDATES.items() if case.kind in c.operands)
    if selection.candidates:
        return tuple(n for n in applicable if n in selection.candidates)
    if selection.full:
        return applicable
    plan = (CPU if selection.device == "cpu" else GPU)[case.kind]
    left_out = {"compile"} if layout != COMPILED_LAYOUT else set()
    left_out |= {"unfold"} if case.grid > UNFOLDED_GRID else set()
    return tuple(n for n in plan.get(dtype, applicable) if n not in left_out)
