// Kernels for planes (NCHW, and any other layout that is not channels_last): vectors run along
// the columns of a row.
//
// A task is a block of window rows of one sample. Its operands are packed into small padded
// buffers of the accumulation type first: x with the zero border around it and, where the stride
// is above 1, its columns sorted by their place within the stride, so that every tap of a row of
// windows is one run of memory; spatial taps once for all channels of a group.
#pragma once
#include <algorithm>
#include <vector>

#include "../combine.h"
#include "../filter2d.h"
#include "kernels.h"
#include "simd.h"

namespace dynfilters::cpu {

template <class A>
struct Planar {
  const Problem& p;
  int64_t lanes, run;          // run: packed columns of a row of windows, rounded up
  int64_t residue, line, pad_h, pad_w;

  explicit Planar(const Problem& problem) : p(problem), lanes(kLanes<A>) {
    run = round_up(p.cols, lanes);
    residue = run + ((p.kw - 1) * p.dilation) / p.stride + 1;
    line = residue * p.stride;
    pad_h = p.dilation * (p.kh / 2);
    pad_w = p.dilation * (p.kw / 2);
  }
  int64_t cells() const { return p.scale * p.scale; }
  int64_t window_rows(int64_t rows) const { return (rows - 1) * p.stride + (p.kh - 1) * p.dilation + 1; }
  int64_t tap_offset(int64_t kx) const {
    int64_t column = kx * p.dilation;
    return (column % p.stride) * residue + column / p.stride;
  }
  // Where tap (ky, kx) of the windows in block row i starts in the packed plane.
  int64_t offset(int64_t i, int64_t ky, int64_t kx) const {
    return (i * p.stride + ky * p.dilation) * line + tap_offset(kx);
  }
  int64_t plane_size(int64_t rows) const { return window_rows(rows) * line + lanes; }
  int64_t taps_size(int64_t rows) const { return p.has_spatial() ? p.taps() * rows * cells() * run : 0; }
  // Packed taps: [k][row][phase row][phase column][column].
  int64_t taps_index(int64_t rows, int64_t k, int64_t i, int64_t cell) const {
    return p.has_spatial() ? ((k * rows + i) * cells() + cell) * run : 0;
  }

  template <class T>
  void pack_plane(const T* x, int64_t first, int64_t rows, A* out) const {
    std::fill(out, out + plane_size(rows), A(0));
    for (int64_t r = 0, n = window_rows(rows); r < n; ++r) {
      int64_t row = first * p.stride + r - pad_h;
      if (row < 0 || row >= p.height) continue;
      const T* source = x + row * p.xs[2];
      A* target = out + r * line;
      if (p.stride == 1) {
        int64_t width = std::min(p.width, line - pad_w);
        for (int64_t j = 0; j < width; ++j) target[pad_w + j] = widen(source[j * p.xs[3]]);
      } else {
        for (int64_t j = 0; j < p.width; ++j) {
          int64_t column = pad_w + j, place = column / p.stride;
          if (place < residue) target[(column % p.stride) * residue + place] = widen(source[j * p.xs[3]]);
        }
      }
    }
  }
  template <class T>
  void pack_taps(const T* spatial, int64_t b, int64_t channel, int64_t first, int64_t rows, A* out) const {
    if (!p.has_spatial()) return;
    spatial += b * p.ss[0] + channel / p.group_channels() * p.ss[1];
    for (int64_t k = 0; k < p.taps(); ++k)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t cell = 0; cell < cells(); ++cell) {
          int64_t u = cell / p.scale, v = cell % p.scale;
          const T* source = spatial + k * p.ss[2] + ((first + i) * p.scale + u) * p.ss[3] + v * p.ss[4];
          A* target = out + taps_index(rows, k, i, cell);
          int64_t step = p.scale * p.ss[4];
          for (int64_t j = 0; j < p.cols; ++j) target[j] = widen(source[j * step]);
          std::fill(target + p.cols, target + run, A(0));
        }
  }
  // The reverse, into a contiguous (batch, groups, taps, rows·scale, cols·scale).
  template <class T>
  void unpack_taps(const A* sums, int64_t b, int64_t channel, int64_t first, int64_t rows, T* out) const {
    const int64_t height = p.rows * p.scale, width = p.cols * p.scale;
    out += (b * p.groups + channel / p.group_channels()) * p.taps() * height * width;
    for (int64_t k = 0; k < p.taps(); ++k)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t cell = 0; cell < cells(); ++cell) {
          const A* source = sums + taps_index(rows, k, i, cell);
          T* target = out + (k * height + (first + i) * p.scale + cell / p.scale) * width + cell % p.scale;
          for (int64_t j = 0; j < p.cols; ++j) narrow(source[j], target + j * p.scale);
        }
  }
  // A row of y, or of its gradient, at one phase.
  template <class T>
  void pack_output_row(const T* y, int64_t row, int64_t cell, A* out) const {
    const T* source = y + (row * p.scale + cell / p.scale) * p.ys[2] + (cell % p.scale) * p.ys[3];
    int64_t step = p.scale * p.ys[3];
    for (int64_t j = 0; j < p.cols; ++j) out[j] = widen(source[j * step]);
    std::fill(out + p.cols, out + run, A(0));
  }
  template <class T>
  void unpack_output_row(const A* row_values, int64_t row, int64_t cell, T* y) const {
    T* target = y + (row * p.scale + cell / p.scale) * p.ys[2] + (cell % p.scale) * p.ys[3];
    int64_t step = p.scale * p.ys[3];
    if (step == 1)
      for (int64_t j = 0; j < p.cols; ++j) narrow(row_values[j], target + j);
    else
      for (int64_t j = 0; j < p.cols; ++j) narrow(row_values[j], target + j * step);
  }
  template <class T>
  void pack_channel(const T* channel, int64_t b, int64_t ch, A* out) const {  // out: [cell][k]
    if (!p.has_channel()) return;
    channel += b * p.cs[0] + ch * p.cs[1];
    for (int64_t cell = 0; cell < cells(); ++cell)
      for (int64_t k = 0; k < p.taps(); ++k)
        out[cell * p.taps() + k] = widen(channel[k * p.cs[2] + (p.phases > 1 ? cell : 0) * p.cs[3]]);
  }
};

}  // namespace dynfilters::cpu
