"""What may go wrong in the CUDA kernels, one line each; see `mutants.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """In csrc/cuda/`file`, the one place that reads `old` is to read `new`."""

    file: str
    what: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "generic.cuh",
        "a bound of x dropped",
        "if (iy < 0 || ix < 0 || iy >= p.height || ix >= p.width) return A(0);",
        "if (iy < 0 || ix < 0 || iy >= p.height) return A(0);",
    ),
    Mutation(
        "generic.cuh",
        "stride forgotten in the backward window",
        "return start < 0 || start % p.stride || window >= windows ? -1 : window;",
        "return start < 0 || window >= windows ? -1 : window;",
    ),
    Mutation(
        "generic.cuh",
        "phase by row only",
        "oy % p.scale * p.scale + ox % p.scale",
        "oy % p.scale * p.scale",
    ),
    Mutation(
        "generic.cuh",
        "no barrier before the next sum",
        "  sync_block();  // the last sum has been read\n",
        "",
    ),
    Mutation(
        "generic.cuh",
        "no barrier before the warps' sums are read",
        "warps[threadIdx.x / 32] = value;\n  sync_block();",
        "warps[threadIdx.x / 32] = value;",
    ),
    Mutation(
        "generic.cuh",
        "half a butterfly",
        "for (int mask = 16; mask; mask /= 2) value",
        "for (int mask = 8; mask; mask /= 2) value",
    ),
    Mutation(
        "work.cuh",
        "too many channels in the last block",
        "left < work.range ? left : work.range",
        "work.range",
    ),
    Mutation(
        "work.cuh",
        "taps of the wrong phase",
        "to[(c * phases + phase) * padded(Taps) + k]",
        "to[(c * phases) * padded(Taps) + k]",
    ),
    Mutation(
        "direct_forward.cuh",
        "no barrier behind the channel taps",
        "channel_taps);\n    sync_block();",
        "channel_taps);",
    ),
    Mutation(
        "direct_forward.cuh",
        "threads past the plane",
        "|| position >= height * width) return;",
        ") return;",
    ),
    Mutation(
        "direct_forward.cuh",
        "halo one column too wide",
        "left + k * step) < unsigned(p.width)",
        "left + k * step) <= unsigned(p.width)",
    ),
    Mutation(
        "direct_forward.cuh", "a slice skipped", "x += work.slices * p.xs[1], y", "x += p.xs[1], y"
    ),
    Mutation(
        "direct_forward.cuh",
        "shared memory one row of taps short",
        "size_t(work.range) * p.phases * padded(K * K)",
        "(size_t(work.range) * p.phases * padded(K * K) - padded(K * K))",
    ),
    Mutation(
        "direct_backward.cuh",
        "no barrier behind the channel taps",
        "channel_taps);\n    sync_block();",
        "channel_taps);",
    ),
    Mutation(
        "direct_backward.cuh",
        "one buffer for the rounds",
        "sums + round % 2 * warps * taps",
        "sums",
    ),
    Mutation(
        "direct_backward.cuh",
        "no barrier between a round's sums and their reader",
        "      sync_block();\n      put_channel",
        "      put_channel",
    ),
    Mutation(
        "direct_backward.cuh",
        "no barrier before slices are stored",
        "  sync_block();\n  if (slice)\n",
        "  if (slice)\n",
    ),
    Mutation(
        "direct_backward.cuh",
        "no barrier before slices are added",
        "  sync_block();\n  if (slice) return;",
        "  if (slice) return;",
    ),
    Mutation(
        "direct_backward.cuh",
        "zeros of taps that read nothing left out",
        "to.spatial.put(block.split, first + at, 0.f);",
        ";",
    ),
    Mutation(
        "direct_backward.cuh",
        "channels past the last one",
        "if (c >= block.channels) continue;",
        "",
    ),
    Mutation(
        "direct_backward.cuh",
        "grad x in the wrong layout",
        "c0 * gx_strides.at[1] +",
        "c0 * p.xs[1] +",
    ),
    Mutation(
        "direct_backward.cuh",
        "window mirrored",
        "unsigned(qx - step * (k - K / 2))",
        "unsigned(qx + step * (k - K / 2))",
    ),
    Mutation(
        "reduce.cuh",
        "a partial sum forgotten",
        "for (int part = 0; part < parts; ++part)",
        "for (int part = 1; part < parts; ++part)",
    ),
    Mutation(
        "reduce.cuh",
        "workspaces overlap",
        "free += splits * to.spatial.elements;",
        "free += to.spatial.elements;",
    ),
    Mutation(
        "reduce.cuh",
        "halves not exchanged",
        "upper ? values[i] : values[i + half]",
        "upper ? values[i + half] : values[i]",
    ),
    Mutation(
        "memory.cuh",
        "pairs of halves swapped",
        "narrow_pair<T>(values[2 * i], values[2 * i + 1])",
        "narrow_pair<T>(values[2 * i + 1], values[2 * i])",
    ),
]
