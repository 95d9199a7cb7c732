// Spatial taps, row by row, for the kernels of pixels.h.
#pragma once
#include "activate.h"
#include "channel_lanes.h"
#include "lines.h"

namespace dynfilters::cpu {

// How many outputs are computed side by side: as many as there are registers for, and as leave fewest over.
// Rows have room for whole blocks.
inline int64_t block_for(int64_t columns) { return (columns + 6) / 7 * 7 <= round_up(columns, 8) ? 7 : 8; }

// Rows of activated spatial taps, one for each row of y: (taps, groups, phases of a row, columns).
template <class A>
class TapLines {
 public:
  static constexpr int64_t lanes = kLanes<A>;
  TapLines(const Filter2dParams& p, const Operands& o, const Access<A>& io, const RowRing& ring)
      : p(p),
        o(o),
        io(io),
        ring(one_by_one() ? RowRing{1, 1} : ring),
        held(p.taps() * this->ring.rows, -1),
        across(p.taps()) {}

  // wanted: columns of windows.
  void begin(int64_t b, const Columns& wanted) {
    sample = b, columns = wanted;
    std::fill(held.begin(), held.end(), -1);
    pitch = round_up(columns.inside(), lanes);
    if (p.has_spatial() && !in_place()) lines.resize(ring.rows * p.taps() * tap_step());
  }
  // Tap k of row y, at its phase v: its first column that exists, for the first group. Null: not there.
  const A* line(int64_t y, int64_t k, int64_t v) {
    if (!p.has_spatial() || y < 0 || y >= p.rows * p.scale) return nullptr;
    if (in_place())
      return static_cast<const A*>(o.spatial) + sample * p.ss[0] + k * p.ss[2] + y * p.ss[3] + first() * p.ss[4];
    const int64_t slot = ring.slot(y);
    if (held[slot * p.taps() + k] != y) one_by_one() ? fill(y, k, 1) : fill(y, 0, p.taps());
    return lines.data() + (slot * p.taps() + k) * tap_step() + v * pitch;
  }
  int64_t group_step() const { return in_place() ? p.ss[1] : line_step(); }
  // Whether lines are where the taps lie in memory: any may be asked for at any time.
  bool in_place() const {
    return io.bytes == sizeof(A) && o.activation.is_identity() && p.scale == 1 && p.ss[4] == 1;
  }
  int64_t first() const { return columns.first + columns.from(); }
  int64_t count() const { return columns.inside(); }
  // Those of a group in the rows [y, y + count), of taps that are in place.
  void bound(int64_t group, int64_t y, int64_t count, Bound<A>& all) const {
    // Whole rows of an image are most often one behind the other.
    const bool together = p.ss[3] == columns.inside();
    const int64_t n = columns.inside() * (together ? count : 1);
    for (int64_t k = 0; k < p.taps(); ++k)
      for (int64_t i = 0; i < (together ? 1 : count); ++i) {
        const int64_t from = sample * p.ss[0] + group * p.ss[1] + k * p.ss[2] + (y + i) * p.ss[3] + first();
        all.see(static_cast<const A*>(o.spatial) + from, n);
      }
  }
  // All taps of a tile, of `count` groups, to be read later; if those of a row lie side by side.
  void fetch(Prefetcher& prefetcher, int64_t b, int64_t group, int64_t count, const Tile& t) const {
    if (p.ss[4] != 1) return;
    for (int64_t y = t.row * p.scale; y < (t.row + t.rows) * p.scale; ++y)
      for (int64_t g = group; g < group + count; ++g)
        for (int64_t k = 0; k < p.taps(); ++k) {
          const int64_t from = b * p.ss[0] + g * p.ss[1] + k * p.ss[2] + y * p.ss[3] + t.col * p.scale;
          prefetcher.add(at(o.spatial, from * io.bytes), t.cols * p.scale * io.bytes);
        }
  }
  // Raw taps of row y, count of them from k on: (taps, groups, phases, to_pitch).
  void load_row(int64_t y, int64_t k, int64_t count, A* to, int64_t to_pitch) {
    if (innermost() && count == p.taps()) return load_positions(y, to, to_pitch);
    for (int64_t end = k + count; k < end; ++k)
      for (int64_t g = 0; g < p.groups; ++g)
        for (int64_t v = 0; v < p.scale; ++v, to += to_pitch) {
          const int64_t z = first() * p.scale + v;
          const int64_t from = sample * p.ss[0] + g * p.ss[1] + k * p.ss[2] + y * p.ss[3] + z * p.ss[4];
          io.read(at(o.spatial, from * io.bytes), 1, 0, columns.inside(), p.scale * p.ss[4], to, 0);
        }
  }

 private:
  const Filter2dParams& p;
  const Operands& o;
  const Access<A>& io;
  const RowRing ring;  // of every tap
  int64_t sample = 0, pitch = 0;
  Columns columns{};
  std::vector<int64_t> held;
  Buffer<A> lines;

  ChannelLanes<A> across;
  Buffer<A> row, few;  // of load_positions

  // Whether a row of one tap is filled without its neighbours.
  bool one_by_one() const {
    const auto kind = o.activation.kind;
    return kind != ActivationKind::kSoftmax && kind != ActivationKind::kFilterNorm && !innermost();
  }
  // Whether the taps of each position lie side by side, and the positions too.
  bool innermost() const { return p.ss[2] == 1 && p.ss[4] == p.taps() && p.groups == 1 && p.scale == 1; }
  // Then all raw taps of row y are read at once.
  void load_positions(int64_t y, A* to, int64_t to_pitch) {
    const int64_t n = columns.inside(), K = p.taps();
    row.resize(n * K), few.resize(K * lanes);
    io.read(at(o.spatial, (sample * p.ss[0] + y * p.ss[3] + first() * K) * io.bytes), 1, 0, n * K, 1, row.data(), 0);
    for (int64_t j = 0; j < n; j += lanes) {
      across.read(row.data() + j * K, std::min(lanes, n - j), K, 1, few.data(), (n - j) * K);
      for (int64_t k = 0; k < K; ++k) store(to + k * to_pitch + j, load(few.data() + k * lanes));
    }
  }
  int64_t line_step() const { return p.scale * pitch; }
  int64_t tap_step() const { return p.groups * line_step(); }
  void fill(int64_t y, int64_t k, int64_t count) {
    const int64_t slot = ring.slot(y) * p.taps();
    A* target = lines.data() + (slot + k) * tap_step();
    load_row(y, k, count, target, pitch);
    std::fill_n(held.begin() + slot + k, count, y);
    if (o.activation.is_identity()) return;
    for (int64_t i = 0; i < p.groups * p.scale; ++i)
      activate(o.activation, target + i * pitch, count, tap_step(), pitch);
  }
};

// Where the block begins that would begin at `begin`: the last one ends with the row, if that has room
// for it, and repeats outputs of the one before.
inline int64_t block_at(int64_t begin, int64_t count, int64_t block) {
  return std::max<int64_t>(0, std::min(begin, count - block));
}

// The spatial taps of a row of outputs as the kernels take them: (blocks, sources, B).
template <class A>
struct BlockTaps {
  // One source of n: its tap of output j is taps[j], for j from first to last. Others, and all if there are
  // none, are zero. to: its place in the first block.
  static void pack(const A* taps, int64_t first, int64_t last, int64_t n, int64_t count, int64_t block, A* to) {
    (block == 8 ? pack_blocks<8> : pack_blocks<7>)(taps, first, last, n, count, to);
  }

 private:
  template <int B>
  static void pack_blocks(const A* taps, int64_t first, int64_t last, int64_t n, int64_t count, A* to) {
    const int64_t there = taps && first <= 0 ? std::min(count, last) : 0;
    int64_t begin = 0;
    for (; begin + B <= there; begin += B, to += n * B) std::memcpy(to, taps + begin, B * sizeof(A));
    for (; begin < count; begin += B, to += n * B) {
      const int64_t j = block_at(begin, count, B);
      if (taps && j >= first && j + B <= last) {
        std::memcpy(to, taps + j, B * sizeof(A));
      } else {
        for (int64_t i = 0; i < B; ++i) to[i] = taps && j + i >= first && j + i < last ? taps[j + i] : A(0);
      }
    }
  }
};

}  // namespace dynfilters::cpu
