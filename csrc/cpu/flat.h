// Dense planes of the accumulation type, without stride and scale, read in place as flat memory. Positions run over
// whole rows of the image with its own width as pitch, so nothing is packed but the spatial taps, once for all channels
// of a group.
//
// A tap that would reach beyond the left or right edge reads a pixel of the neighbouring row instead; its spatial tap
// is set to zero, which drops it. That is exact unless the pixel or the tap is not finite. So each pass reports whether
// a result, or what it dropped, was not finite, and the caller then runs the planar pass, which reads zeros there.
#pragma once
#include "activate.h"
#include "kernels.h"
#include "rows.h"

namespace dynfilters::cpu {

template <class A>
class Flat {
 public:
  const Filter2dParams& p;
  const Operands& o;
  int64_t row = 0, rows = 0, N = 0;
  A dropped = 0;                   // NaN once something not finite was dropped
  std::vector<TapOffset> reads;    // of a window: the pixel under each tap
  std::vector<TapOffset> readers;  // of a pixel: the window that reads it by each tap, the last tap first

  Flat(const Filter2dParams& params, const Operands& operands) : p(params), o(operands) {
    for (int64_t k = 0, last = p.taps() - 1; k <= last; ++k) {
      const int64_t offset = shift_y(k) * p.width + shift_x(k);
      reads.push_back({k, offset}), readers.push_back({last - k, offset});
    }
  }

  void begin(const Tile& tile) {
    row = tile.row, rows = tile.rows, N = rows * p.width;
    line.resize(N);
  }
  int64_t tap_size() const { return vectors<A>(N) * lanes * p.taps(); }

  // Finds the channel taps of a sample; packs them only if they are not side by side.
  void begin_sample(int64_t b) {
    const int64_t K = p.taps();
    if (!p.has_channel()) return;
    const A* from = static_cast<const A*>(o.channel) + b * p.cs[0];
    channel = from, channel_step = p.cs[1];
    if (p.cs[2] == 1) return;
    packed.resize(p.channels * K);
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t k = 0; k < K; ++k) packed[c * K + k] = from[c * p.cs[1] + k * p.cs[2]];
    channel = packed.data(), channel_step = K;
  }
  const A* channel_taps(int64_t ch) const { return channel + ch * channel_step; }

  // Finds the spatial taps that the tile's positions and their readers use, and activates them if need be.
  void begin_group(int64_t b, int64_t group) {
    if (!p.has_spatial()) return;
    spatial = static_cast<const A*>(o.spatial) + b * p.ss[0] + group * p.ss[1];
    std::copy(p.ss + 2, p.ss + 5, steps);
    first_row = 0;
    if (o.activation.is_identity()) return;
    first_row = std::max<int64_t>(0, row - p.pad_h());
    load_planes(first_row, std::min(p.height, row + rows + p.pad_h()), planes);
    activate(o.activation, planes.data(), p.taps(), steps[0], steps[0]);
    spatial = planes.data();
  }
  // Packs the taps of the tile's positions as windows, out: (vectors, taps, lanes). Taps that reach outside the image
  // are zero. once: those of lanes that repeat positions are zero too.
  void pack_windows(bool once, A* out) {
    for (int64_t k = 0; k < p.taps(); ++k) {
      fill_line(k, 0, 0, shift_y(k), shift_x(k));
      over_outside(shift_y(k), shift_x(k), [&](int64_t i, int64_t from, int64_t to) {
        const A* tap = spatial + k * steps[0] + (row + i - first_row) * steps[1];
        for (int64_t j = from; j < to && p.has_spatial(); ++j) drop(tap[j * steps[2]]);
      });
      interleave(k, out);
    }
    const int64_t repeated = vectors<A>(N) * lanes - N;
    A* last = out + tap_size() - lanes * p.taps();
    for (int64_t k = 0; once && k < p.taps(); ++k) std::fill(last + k * lanes, last + k * lanes + repeated, A(0));
  }
  // Packs the taps by which the readers read the tile's positions.
  void pack_readers(A* out) {
    for (int64_t t = 0; t < p.taps(); ++t) {
      const int64_t k = p.taps() - 1 - t;
      fill_line(k, shift_y(t), shift_x(t), shift_y(t), shift_x(t));
      interleave(t, out);
    }
  }
  // Writes the gradient of spatial, from the sums for each tap.
  void write_spatial(const A* sums, int64_t b, int64_t group) {
    const int64_t K = p.taps(), size = round_up(N, lanes);
    grads.assign(K * size, A(0));
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t v = 0; v < vectors<A>(N); ++v)
        store(line.data() + std::min(v * lanes, N - lanes), load(sums + (v * K + k) * lanes));
      over_outside(shift_y(k), shift_x(k), [&](int64_t i, int64_t from, int64_t to) {
        for (int64_t j = from; j < to; ++j) drop(line[i * p.width + j]);
      });
      over_inside(shift_y(k), shift_x(k), [&](int64_t i, int64_t from, int64_t to) {
        std::copy(line.data() + i * p.width + from, line.data() + i * p.width + to,
                  grads.data() + k * size + i * p.width + from);
      });
    }
    if (!o.activation.is_identity()) {
      spatial = static_cast<const A*>(o.spatial) + b * p.ss[0] + group * p.ss[1];
      load_planes(row, row + rows, planes);
      activate_backward(o.activation, planes.data(), grads.data(), K, size, size);
    }
    A* target = static_cast<A*>(o.grad_spatial) + ((b * p.groups + group) * K * p.height + row) * p.width;
    for (int64_t k = 0; k < K; ++k) std::copy_n(grads.data() + k * size, N, target + k * p.height * p.width);
  }

  // The tile's first position in a plane. Taps reach beyond the tile, in the outermost planes beyond the tensor: those
  // are copied to where there is room; slot: one for each of two channels at once.
  const A* source(const void* tensor, int64_t b, int64_t ch, int slot = 0) {
    const int64_t plane = p.height * p.width, total = p.batch * p.channels * plane;
    const int64_t start = (b * p.channels + ch) * plane + row * p.width, margin = p.pad_h() * p.width + p.pad_w();
    const A* all = static_cast<const A*>(tensor);
    if (start >= margin && start + N + margin <= total) return all + start;
    std::vector<A>& room = rooms[slot];
    room.assign(N + 2 * margin, A(0));
    const int64_t from = std::max<int64_t>(start - margin, 0), to = std::min(start + N + margin, total);
    std::copy(all + from, all + to, room.data() + from - (start - margin));
    return room.data() + margin;
  }
  A* target(void* tensor, int64_t b, int64_t ch) const {
    return static_cast<A*>(tensor) + ((b * p.channels + ch) * p.height + row) * p.width;
  }

 private:
  static constexpr int64_t lanes = kLanes<A>;
  std::vector<A> line, packed, planes, grads, rooms[2];
  const A* spatial = nullptr;  // taps of the group, steps apart (k, row, column), from first_row on
  int64_t steps[3] = {}, first_row = 0;
  const A* channel = nullptr;
  int64_t channel_step = 0;

  int64_t shift_y(int64_t k) const { return k / p.kw * p.dilation - p.pad_h(); }
  int64_t shift_x(int64_t k) const { return k % p.kw * p.dilation - p.pad_w(); }

  // Calls f(row of the tile, first column, end) where (row + dy, column + dx) is in the image.
  template <class F>
  void over_inside(int64_t dy, int64_t dx, const F& f) const {
    const int64_t from = std::max<int64_t>(0, -dx), to = std::min(p.width, p.width - dx);
    for (int64_t i = 0; i < rows; ++i)
      if (row + i + dy >= 0 && row + i + dy < p.height && from < to) f(i, from, to);
  }
  // Calls it where that is not in the image.
  template <class F>
  void over_outside(int64_t dy, int64_t dx, const F& f) const {
    const int64_t from = std::clamp<int64_t>(-dx, 0, p.width), to = std::clamp<int64_t>(p.width - dx, from, p.width);
    for (int64_t i = 0; i < rows; ++i) {
      const bool inside = row + i + dy >= 0 && row + i + dy < p.height;
      f(i, 0, inside ? from : p.width);
      if (inside) f(i, to, p.width);
    }
  }
  void drop(A value) { dropped += value - value; }
  // line[i, j] = taps[k, i + sy, j + sx] where (i + dy, j + dx) is in the image, else 0.
  void fill_line(int64_t k, int64_t sy, int64_t sx, int64_t dy, int64_t dx) {
    std::fill(line.begin(), line.end(), A(0));
    over_inside(dy, dx, [&](int64_t i, int64_t first, int64_t last) {
      A* to = line.data() + i * p.width;
      if (!p.has_spatial()) return std::fill(to + first, to + last, A(1));
      const A* from = spatial + k * steps[0] + (row + i + sy - first_row) * steps[1] + (first + sx) * steps[2];
      read_block<A>(from, 1, 0, last - first, steps[2], to + first, 0);
    });
  }
  // Raw rows [from, to) of all taps of a group: (taps, size), size a multiple of the lanes.
  void load_planes(int64_t from, int64_t to, std::vector<A>& out) {
    const int64_t size = round_up((to - from) * p.width, lanes);
    out.assign(p.taps() * size, A(0));
    for (int64_t k = 0; k < p.taps(); ++k)
      read_block<A>(spatial + k * p.ss[2] + from * p.ss[3], to - from, p.ss[3], p.width, p.ss[4], out.data() + k * size,
                    p.width);
    steps[0] = size, steps[1] = p.width, steps[2] = 1;
  }
  void interleave(int64_t k, A* out) const {
    for (int64_t v = 0; v < vectors<A>(N); ++v)
      store(out + (v * p.taps() + k) * lanes, load(line.data() + std::min(v * lanes, N - lanes)));
  }
};

}  // namespace dynfilters::cpu
