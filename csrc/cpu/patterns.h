// Which pixels a row of outputs reads, and by which taps: of x for y, of the gradient of y for that
// of x. Both are the same kind of sum, of other places.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "channel_lanes.h"
#include "lines.h"

namespace dynfilters::cpu {

// A source of the outputs of a window (i, j): the pixel (row, column) from (i, j)·Sum::in_step in the
// image that is read, by tap k of the window (tap_row / scale, tap_column) away, in its row tap_row of y.
struct Source {
  int64_t k, row, column, tap_row, tap_column;
};

// All sources at one phase of the windows.
template <class A>
struct Pattern {
  int64_t phase = 0;        // the phase
  int64_t taps_before = 0;  // those of the patterns before this one
  std::vector<Source> sources;
  int64_t window = 0;      // K, if they are K rows and columns of 3, 5 or 7, one apart
  Buffer<A> channel;  // their channel taps: (vectors, sources, lanes)

  int64_t size() const { return int64_t(sources.size()); }
  // Of a sample; those of lanes without a channel are zero. Returns their bound.
  Bound<A> pack_channel(const Filter2dParams& p, const void* taps, int64_t b, const ChannelVectors& vectors) {
    Bound<A> bound;
    if (!p.has_channel()) return bound;
    channel.resize(vectors.count() * size() * vectors.lanes);
    Buffer<A> columns(p.taps() * vectors.lanes);  // (taps, lanes)
    ChannelLanes<A> lanes(p.taps());
    const A* all = static_cast<const A*>(taps) + b * p.cs[0] + (p.channel_phases > 1 ? phase : 0) * p.cs[3];
    A* to = channel.data();
    for (int64_t v = 0; v < vectors.count(); ++v) {
      const int64_t some = vectors.size(v);
      lanes.read(all + vectors.first(v) * p.cs[1], some, p.cs[1], p.cs[2], columns.data(),
                 (p.channels - vectors.first(v)) * p.taps());
      for (int64_t k = 0; k < p.taps(); ++k)
        for (int64_t i = some; i < vectors.lanes; ++i) columns[k * vectors.lanes + i] = 0;
      for (const Source& source : sources) {
        const Vector<A> tap = load(columns.data() + source.k * kLanes<A>);
        bound.see(tap), store(to, tap);
        to += kLanes<A>;
      }
    }
    return bound;
  }
};

// Outputs at (row, column) of the out_step × out_step places that a window stands for. Their patterns
// add up.
template <class A>
struct Place {
  int64_t row, column;
  std::vector<Pattern<A>> patterns;
};

// How far the sources of a window reach, in one of their directions.
struct Extent {
  int64_t least = 0, most = 0;
  int64_t count() const { return most - least + 1; }
};

// All sums of a pass.
template <class A>
struct Sum {
  int64_t in_step, out_step;
  int64_t apart;  // rows of one window's sources, at most p.kh of them
  std::vector<Place<A>> places;
  Extent rows, columns, tap_rows, tap_columns;
  int64_t taps = 0;  // of all patterns
  bool padded;       // sources outside the image are zeros, which taps multiply; else there are none

  // Rows between those that are needed at once are kept for later, unless they are too many.
  RowRing row_ring(const Filter2dParams& p) const {
    return p.dilation == 1 ? RowRing{rows.count() + in_step - 1, 1} : RowRing{p.kh, apart};
  }
  RowRing tap_row_ring(const Filter2dParams& p) const {
    return p.dilation == 1 ? RowRing{tap_rows.count(), 1} : RowRing{p.kh, apart};
  }
  // Once all places are there.
  void measure() {
    rows = reach(&Source::row), columns = reach(&Source::column);
    tap_rows = reach(&Source::tap_row), tap_columns = reach(&Source::tap_column);
    for (auto& place : places)
      for (auto& pattern : place.patterns) pattern.taps_before = taps, taps += pattern.size();
  }

 private:
  Extent reach(int64_t Source::* of) const {
    bool first = true;
    Extent found;
    for (const auto& place : places)
      for (const auto& pattern : place.patterns)
        for (const Source& source : pattern.sources) {
          const int64_t at = source.*of;
          found = first ? Extent{at, at} : Extent{std::min(found.least, at), std::max(found.most, at)};
          first = false;
        }
    return found;
  }
};

// y: at each phase, the pixels under the taps.
template <class A>
Sum<A> sum_for_y(const Filter2dParams& p) {
  Sum<A> sum{p.stride, p.scale, p.dilation, {}, {}, {}, {}, {}, 0, true};
  for (int64_t phase = 0; phase < p.phases(); ++phase) {
    Pattern<A> pattern{phase, 0, {}, window_of(p), {}};
    for (int64_t k = 0; k < p.taps(); ++k)
      pattern.sources.push_back(
          {k, k / p.kw * p.dilation - p.pad_h(), k % p.kw * p.dilation - p.pad_w(), phase / p.scale, 0});
    sum.places.push_back({phase / p.scale, phase % p.scale, {pattern}});
  }
  sum.measure();
  return sum;
}

// The gradient of x: at each place within a stride, the windows that read it, at all their phases.
template <class A>
Sum<A> sum_for_x(const Filter2dParams& p) {
  Sum<A> sum{p.scale, p.stride, p.dilation / std::gcd(p.stride, p.dilation) * p.scale, {}, {}, {}, {}, {}, 0, false};
  for (int64_t place = 0; place < p.stride * p.stride; ++place) {
    const int64_t a = place / p.stride, b = place % p.stride;
    sum.places.push_back({a, b, {}});
    for (int64_t phase = 0; phase < p.phases(); ++phase) {
      const int64_t u = phase / p.scale, v = phase % p.scale;
      Pattern<A> pattern{phase, 0, {}, p.scale == 1 ? window_of(p) : 0, {}};
      for (int64_t k = p.taps() - 1; k >= 0; --k) {
        const int64_t y = a + p.pad_h() - k / p.kw * p.dilation, x = b + p.pad_w() - k % p.kw * p.dilation;
        if (y % p.stride || x % p.stride) continue;
        const int64_t dy = y / p.stride * p.scale + u, dx = x / p.stride;
        pattern.sources.push_back({k, dy, dx * p.scale + v, dy, dx});
      }
      sum.places.back().patterns.push_back(pattern);
    }
  }
  sum.measure();
  return sum;
}

}  // namespace dynfilters::cpu
