// The passes for channels_last, over the rows of a tile; the arithmetic is in pixels.h. Sums have
// one order, every element is written once.
#pragma once
#include <algorithm>
#include <vector>

#include "activate.h"
#include "kernels.h"
#include "pixels.h"

namespace dynfilters::cpu {

// A source of an output pixel: tap `k` at phase `cell`, its window or pixel (dy, dx) away.
struct Source {
  int64_t k, cell, dy, dx;
};

// The sources of one kind of output pixel (a phase, or a place within a stride), with their
// channel taps packed as (groups, vectors of a group, n, lanes).
template <class A>
struct Pattern {
  std::vector<Source> sources;
  std::vector<A> channel;
};

template <class T>
class PixelRows {
 public:
  using A = Accumulator<T>;
  const Problem& p;
  const Operands& o;
  std::vector<T> no_pixel;  // zeros
  std::vector<A> no_taps;   // zeros, for a window that does not exist

  PixelRows(const Problem& problem, const Operands& operands, int64_t rows_held)
      : p(problem),
        o(operands),
        no_pixel(p.channels),
        no_taps(1),
        across(p.cols * p.scale),
        pitch(round_up(across, lanes)) {
    held.assign(rows_held, -1);
    if (p.has_spatial() && !in_place()) lines.resize(rows_held * p.taps() * p.groups * pitch);
    zeros();
  }

  void begin_sample(int64_t b) {
    sample = b;
    std::fill(held.begin(), held.end(), -1);
  }
  // The channel taps of a pattern's sources. Lanes beyond a group's channels are zero.
  void pack_channel(Pattern<A>& pattern) const {
    if (!p.has_channel()) return;
    const int64_t n = int64_t(pattern.sources.size()), width = p.group_channels();
    pattern.channel.assign(p.groups * round_up(width, lanes) * n, A(0));
    const A* from = static_cast<const A*>(o.channel) + sample * p.cs[0];
    A* to = pattern.channel.data();
    for (int64_t g = 0; g < p.groups; ++g)
      for (int64_t c = g * width, end = c + width; c < end; c += lanes)
        for (const Source& source : pattern.sources) {
          const A* tap = from + c * p.cs[1] + source.k * p.cs[2] + (p.phases > 1 ? source.cell : 0) * p.cs[3];
          for (int64_t i = 0, some = std::min(lanes, end - c); i < some; ++i) to[i] = tap[i * p.cs[1]];
          to += lanes;
        }
  }
  // Makes the spatial taps of a row of windows (at its grid of y) readable.
  void need_taps(int64_t row) {
    int64_t& slot = held[row % int64_t(held.size())];
    if (!p.has_spatial() || in_place() || slot == row) return;
    slot = row;
    load_row(row, lines.data() + line(row, 0), pitch);
    for (int64_t g = 0; g < p.groups; ++g)
      activate(o.activation, lines.data() + line(row, 0) + g * pitch, p.taps(), p.groups * pitch, pitch);
  }
  // Raw taps of a row of windows: (taps, groups, to_pitch).
  void load_row(int64_t row, A* to, int64_t to_pitch) const {
    for (int64_t k = 0; k < p.taps(); ++k)
      for (int64_t g = 0; g < p.groups; ++g, to += to_pitch)
        read_block<T>(spatial() + g * p.ss[1] + k * p.ss[2] + row * p.ss[3], 1, 0, across, p.ss[4], to, 0);
  }
  const A* taps_at(int64_t row, int64_t column, int64_t k) const {
    if (!p.has_spatial()) return no_taps.data();
    if (in_place()) return reinterpret_cast<const A*>(spatial() + k * p.ss[2] + row * p.ss[3] + column * p.ss[4]);
    return lines.data() + line(row, k) + column;
  }
  int64_t taps_step() const { return in_place() ? p.ss[1] : pitch; }

  // Pointers to the sources of one output pixel after the other along a row. Sources that do not
  // exist are zeros.
  struct Row {
    std::vector<const T*> pixel, row;  // of the column; of the whole row, null: outside the image
    std::vector<const A*> s, s_row;
    std::vector<int64_t> dx, pixel_steps;  // from a column asked for to the next one asked for
    int64_t pixel_step, s_step, stride, width, every, s_steps;
    int64_t inside, outside;  // columns [inside, outside) have all their sources, but for missing rows
    int64_t column;
    bool own_taps;  // the taps are the output pixel's, not the source's
  };
  // Row y of windows (at its grid of y) reads x, by its own taps. every: columns asked for.
  void begin_reads(const Pattern<A>& pattern, int64_t y, int64_t every, Row& row) {
    const T* x = static_cast<const T*>(o.x) + sample * p.xs[0];
    row.stride = p.stride, row.width = p.width, row.every = every, row.own_taps = true, row.pixel_step = p.xs[3];
    begin_row(pattern, row);
    for (const Source& source : pattern.sources) {
      const int64_t h = y / p.scale * p.stride + source.dy;
      add_source(row, source, h >= 0 && h < p.height ? x + h * p.xs[2] : nullptr, taps_at(y, 0, source.k));
    }
  }
  // Row i (by the stride) of x is read by windows, with theirs.
  void begin_readers(const Pattern<A>& pattern, int64_t i, Row& row) {
    const T* grad = static_cast<const T*>(o.grad) + sample * p.ys[0];
    row.stride = 1, row.width = p.cols, row.every = 1, row.own_taps = false, row.pixel_step = p.scale * p.ys[3];
    begin_row(pattern, row);
    for (const Source& source : pattern.sources) {
      const int64_t h = i + source.dy, y = h * p.scale + source.cell / p.scale, z = source.cell % p.scale;
      const bool inside = h >= 0 && h < p.rows;
      add_source(row, source, inside ? grad + y * p.ys[2] + z * p.ys[3] : nullptr,
                 inside ? taps_at(y, z, source.k) : nullptr);
    }
  }
  // For column j; taps of column z, if they are the output pixel's own.
  void at(Row& row, int64_t j, int64_t z) const {
    const size_t n = row.dx.size();
    if (j == row.column + row.every && row.column >= row.inside && j < row.outside) {
      for (size_t t = 0; t < n; ++t) row.pixel[t] += row.pixel_steps[t];
      for (size_t t = 0; t < n; ++t) row.s[t] += row.own_taps || row.pixel_steps[t] ? row.s_steps : 0;
    } else {
      for (size_t t = 0; t < n; ++t) {
        const int64_t w = j * row.stride + row.dx[t];
        const bool inside = row.row[t] && w >= 0 && w < row.width;
        row.pixel[t] = inside ? row.row[t] + w * row.pixel_step : no_pixel.data();
        row.s[t] = row.own_taps ? row.s_row[t] + z * row.s_step
                   : inside     ? row.s_row[t] + w * row.s_step
                                : no_taps.data();
      }
    }
    row.column = j;
  }
  static constexpr int64_t lanes = kLanes<A>;

 private:
  const int64_t across, pitch;
  int64_t sample = 0;
  std::vector<int64_t> held;
  std::vector<A> lines;

  // Not with groups: zeros as far apart as theirs would take a plane of memory for each.
  bool in_place() const { return sizeof(T) == sizeof(A) && o.activation.is_identity() && p.groups == 1; }
  const T* spatial() const { return static_cast<const T*>(o.spatial) + sample * p.ss[0]; }
  int64_t line(int64_t row, int64_t k) const { return (row % int64_t(held.size()) * p.taps() + k) * p.groups * pitch; }
  void begin_row(const Pattern<A>& pattern, Row& row) const {
    const size_t n = pattern.sources.size();
    row.row.clear(), row.s_row.clear(), row.dx.clear(), row.pixel_steps.clear();
    row.pixel.resize(n), row.s.resize(n);
    const int64_t column = !p.has_spatial() ? 0 : in_place() ? p.ss[4] : 1;
    row.s_step = p.scale * column, row.s_steps = row.every * row.s_step;
    if (row.own_taps) row.s_step = column;
    row.inside = 0, row.outside = row.width, row.column = -2 * row.every - row.width;
  }
  void add_source(Row& row, const Source& source, const T* pixels, const A* taps) const {
    row.row.push_back(pixels), row.s_row.push_back(taps), row.dx.push_back(source.dx);
    row.pixel_steps.push_back(pixels ? row.every * row.stride * row.pixel_step : 0);
    // Columns j with 0 ≤ j·stride + dx < width.
    row.inside = std::max(row.inside, (std::max<int64_t>(-source.dx, 0) + row.stride - 1) / row.stride);
    const int64_t room = row.width - source.dx;
    row.outside = std::min(row.outside, room > 0 ? (room + row.stride - 1) / row.stride : 0);
  }
  // Zeros a group step apart, for as many groups as there are.
  const A* zeros() {
    if (p.has_spatial() && no_taps.size() == 1) no_taps.resize((p.groups - 1) * taps_step() + 1);
    return no_taps.data();
  }
};

// The sources of y at each phase.
template <class A>
std::vector<Pattern<A>> patterns_of_y(const Problem& p) {
  std::vector<Pattern<A>> patterns(p.cells());
  for (int64_t cell = 0; cell < p.cells(); ++cell)
    for (int64_t k = 0; k < p.taps(); ++k)
      patterns[cell].sources.push_back({k, cell, k / p.kw * p.dilation - p.pad_h(), k % p.kw * p.dilation - p.pad_w()});
  return patterns;
}
// The sources of the gradient of x at each place within a stride: the windows that read it.
template <class A>
std::vector<Pattern<A>> patterns_of_x(const Problem& p) {
  std::vector<Pattern<A>> patterns(p.stride * p.stride);
  for (int64_t place = 0; place < p.stride * p.stride; ++place)
    for (int64_t cell = 0; cell < p.cells(); ++cell)
      for (int64_t k = 0; k < p.taps(); ++k) {
        const int64_t y = place / p.stride + p.pad_h() - k / p.kw * p.dilation;
        const int64_t x = place % p.stride + p.pad_w() - k % p.kw * p.dilation;
        if (y % p.stride == 0 && x % p.stride == 0)
          patterns[place].sources.push_back({k, cell, y / p.stride, x / p.stride});
      }
  return patterns;
}

template <class T>
void forward_rows(const Problem& p, const Operands& o, Weigh<T, Accumulator<T>> weigh, const Tiles& tiles,
                  int64_t begin, int64_t end) {
  using A = Accumulator<T>;
  PixelRows<T> rows(p, o, 1);
  typename PixelRows<T>::Row row;
  auto patterns = patterns_of_y<A>(p);
  int64_t sample = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / tiles.count();
    if (b != sample) {
      rows.begin_sample(sample = b);
      for (auto& pattern : patterns) rows.pack_channel(pattern);
    }
    const Tile tile = tiles.at(p, task % tiles.count());
    for (int64_t y = tile.row * p.scale; y < (tile.row + tile.rows) * p.scale; ++y) {
      rows.need_taps(y);
      for (int64_t v = 0; v < p.scale; ++v) {
        const auto& pattern = patterns[y % p.scale * p.scale + v];
        rows.begin_reads(pattern, y, 1, row);
        for (int64_t j = 0; j < p.cols; ++j) {
          const int64_t z = j * p.scale + v;
          rows.at(row, j, z);
          weigh(p, p.taps(), row.pixel.data(), row.s.data(), rows.taps_step(), pattern.channel.data(),
                static_cast<T*>(o.y) + b * p.ys[0] + y * p.ys[2] + z * p.ys[3]);
        }
      }
    }
  }
}

}  // namespace dynfilters::cpu
