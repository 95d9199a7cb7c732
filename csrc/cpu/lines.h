// Rows of images and of spatial taps, packed to the accumulation type for the kernels of pixels.h when they are first
// needed, and results on their way back. A few rows are kept at a time; those outside the image are zeros, and so is
// the room at both ends of a row.
#pragma once
#include <algorithm>
#include <vector>

#include "activate.h"
#include "kernels.h"

namespace dynfilters::cpu {

// Channels cut into vectors: those of a group, the last one filled up with zeros.
struct ChannelVectors {
  int64_t groups, width, lanes;
  int64_t each() const { return (width + lanes - 1) / lanes; }
  int64_t count() const { return groups * each(); }
  int64_t first(int64_t v) const { return v / each() * width + v % each() * lanes; }
  int64_t size(int64_t v) const { return std::min(lanes, width - v % each() * lanes); }
  bool whole() const { return width % lanes == 0; }
};

// Columns [first, first + count) of an axis of `size`, some of which may be outside it.
struct Columns {
  int64_t first, count, size;
  int64_t from() const { return std::clamp<int64_t>(-first, 0, count); }
  int64_t inside() const { return std::clamp<int64_t>(size - first, from(), count) - from(); }
  bool operator==(const Columns&) const = default;
};

// Fetches memory into L2 in small shares, while something else is computed.
class Prefetcher {
 public:
  void clear() { pieces.clear(), bytes = 0; }
  void add(const void* from, int64_t size) {
    if (size > 0) pieces.push_back({static_cast<const char*>(from), size}), bytes += size;
  }
  // Divides what is not fetched yet into so many shares.
  void spread(int64_t shares) { share = bytes / shares + 64; }
  void fetch() {
    for (int64_t left = share; left > 0 && !pieces.empty(); left -= 64) {
      Piece& piece = pieces.back();
      __builtin_prefetch(piece.from, 0, 2);
      piece.from += 64, piece.size -= 64, bytes -= 64;
      if (piece.size <= 0) pieces.pop_back();
    }
  }

 private:
  struct Piece {
    const char* from;
    int64_t size;
  };
  std::vector<Piece> pieces;
  int64_t bytes = 0, share = 0;
};

// A tensor (batch, channels, height, width) of any strides in memory.
template <class A>
struct Image {
  const Access<A>& io;
  int64_t strides[4], height, width;
  ChannelVectors vectors;
  int64_t offset(int64_t b, int64_t c, int64_t h, int64_t w) const {
    return b * strides[0] + c * strides[1] + h * strides[2] + w * strides[3];
  }
  template <class P>
  P* at(P* base, int64_t b, int64_t c, int64_t h, int64_t w) const {
    return cpu::at(base, offset(b, c, h, w) * io.bytes);
  }
  // Adds pixels [first, end) of row h, if pixels lie one behind the other.
  void fetch(Prefetcher& prefetcher, const void* base, int64_t b, int64_t h, int64_t first, int64_t end) const {
    first = std::max<int64_t>(first, 0), end = std::min(end, width);
    if (strides[0] && strides[1] == 1 && h >= 0 && h < height)
      prefetcher.add(at(base, b, 0, h, first), (end - first) * strides[3] * io.bytes);
  }
  // Whether whole vectors of the accumulation type can be read where they are.
  bool in_place() const { return io.bytes == int64_t(sizeof(A)) && strides[1] == 1 && vectors.whole(); }
};

// On which sides of some pixels the image goes on. Pixels outside are not read, and add nothing.
struct EdgeMask {
  bool above = true, below = true, before = true, behind = true;
};

// A ring of slots for some rows. apart: from one row to the next of those that are needed at once.
struct RowRing {
  int64_t rows, apart;
  int64_t slot(int64_t row) const { return row / apart % rows; }
};

// Rows of an image as (vectors, columns, lanes), for some of its vectors, with zeros outside the image.
template <class A>
class PixelLines {
 public:
  static constexpr int64_t lanes = kLanes<A>;
  PixelLines(const Image<A>& image, const void* base, const RowRing& ring)
      : image(image), base(base), ring(ring), slot_rows(ring.rows, -1) {}

  // The vectors [first, first + count) of sample b.
  void begin(int64_t b, const Columns& wanted, int64_t first, int64_t count) {
    const bool same = wanted == columns && count <= room;
    sample = b, columns = wanted, first_vector = first, vectors = count;
    std::fill(slot_rows.begin(), slot_rows.end(), -1);
    if (same) return;
    room = count;
    lines.clear();
  }
  // The first column of row h, at the first vector.
  const A* line(int64_t h) {
    if (lines.empty()) lines.assign((slot_rows.size() + 1) * size(), A(0));  // the last one stays zero
    if (h < 0 || h >= image.height) return lines.data() + slot_rows.size() * size();
    const int64_t slot = ring.slot(h);
    A* target = lines.data() + slot * size();
    if (slot_rows[slot] != h) pack(h, target), slot_rows[slot] = h;
    return target;
  }
  // Adds row h of the columns, which is packed later.
  void fetch(Prefetcher& prefetcher, int64_t h) const {
    image.fetch(prefetcher, base, sample, h, columns.first, columns.first + columns.count);
  }
  int64_t rows() const { return int64_t(slot_rows.size()) + 1; }
  int64_t vector_step() const { return columns.count * lanes; }

 private:
  const Image<A> image;
  const void* base;
  const RowRing ring;
  int64_t sample = 0, first_vector = 0, vectors = 0, room = 0;  // of vectors: for how many there is room
  Columns columns{};
  std::vector<int64_t> slot_rows;  // of each slot, -1: none
  Buffer<A> lines, planes;

  int64_t size() const { return room * vector_step(); }
  void pack(int64_t h, A* target) {
    const int64_t n = columns.inside(), w = columns.first + columns.from();
    target += columns.from() * lanes;
    if (image.strides[1] == 1 && image.vectors.whole()) {
      const void* from = image.at(base, sample, image.vectors.first(first_vector), h, w);
      return image.io.read_vectors(from, n, image.strides[3], vectors, target, vector_step());
    }
    for (int64_t v = first_vector; v < first_vector + vectors; ++v, target += vector_step()) {
      const int64_t some = image.vectors.size(v);
      const void* from = image.at(base, sample, image.vectors.first(v), h, w);
      if (image.strides[1] == 1)
        image.io.read(from, n, image.strides[3], some, 1, target, lanes);
      else
        pack_planes(from, n, some, target);
    }
  }
  void pack_planes(const void* from, int64_t n, int64_t some, A* target) {
    const int64_t pitch = round_up(n, lanes);
    planes.resize(lanes * pitch);
    if (some < lanes) std::fill(planes.begin(), planes.end(), A(0));
    image.io.read(from, some, image.strides[1], n, image.strides[3], planes.data(), pitch);
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) transpose_block(planes.data() + j, pitch, target + j * lanes, lanes);
    if (j == n) return;
    alignas(64) A rest[lanes * lanes];
    transpose_block(planes.data() + j, pitch, rest, lanes);
    std::copy_n(rest, (n - j) * lanes, target + j * lanes);
  }
};

// A row of results of some vectors as (vectors, columns, lanes), on its way to an image.
template <class A>
class ResultLine {
 public:
  static constexpr int64_t lanes = kLanes<A>;
  explicit ResultLine(const Image<A>& image) : image(image) {}

  A* begin(int64_t vectors, int64_t columns) {
    pitch = round_up(columns, lanes);
    line.resize(vectors * pitch * lanes);
    return line.data();
  }
  A* again() { return line.data(); }
  int64_t vector_step() const { return pitch * lanes; }
  // Writes to the columns w, w + step, … of row h, n of them, and the vectors from `first` on.
  void write(void* base, int64_t b, int64_t first, int64_t h, int64_t w, int64_t step, int64_t n) {
    const A* from = line.data();
    for (int64_t v = first; from < line.data() + line.size(); ++v, from += vector_step()) {
      const int64_t some = image.vectors.size(v);
      void* to = image.at(base, b, image.vectors.first(v), h, w);
      if (image.strides[1] == 1) {
        image.io.write(from, lanes, n, some, to, step * image.strides[3], 1);
        continue;
      }
      planes.resize(lanes * pitch);
      for (int64_t j = 0; j < n; j += lanes) transpose_block(from + j * lanes, lanes, planes.data() + j, pitch);
      image.io.write(planes.data(), pitch, some, n, to, image.strides[1], step * image.strides[3]);
    }
  }

 private:
  const Image<A> image;
  int64_t pitch = 0;
  Buffer<A> line, planes;
};

// How many outputs are computed side by side: 7 or 8, for which there are registers, whichever leaves fewer over. Rows
// have room for whole blocks.
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
        slot_rows(p.taps() * this->ring.rows, -1),
        across(p.taps()) {}

  // wanted: columns of windows.
  void begin(int64_t b, const Columns& wanted) {
    sample = b, columns = wanted;
    std::fill(slot_rows.begin(), slot_rows.end(), -1);
    pitch = round_up(columns.inside(), lanes);
    if (p.has_spatial() && !in_place()) lines.resize(ring.rows * p.taps() * tap_step());
  }
  // Tap k of row y at its phase v: the first column inside the image, for the first group. Null: outside.
  const A* line(int64_t y, int64_t k, int64_t v) {
    if (!p.has_spatial() || y < 0 || y >= p.rows * p.scale) return nullptr;
    if (in_place())
      return static_cast<const A*>(o.spatial) + sample * p.ss[0] + k * p.ss[2] + y * p.ss[3] + first() * p.ss[4];
    const int64_t slot = ring.slot(y);
    if (slot_rows[slot * p.taps() + k] != y) one_by_one() ? fill(y, k, 1) : fill(y, 0, p.taps());
    return lines.data() + (slot * p.taps() + k) * tap_step() + v * pitch;
  }
  int64_t group_step() const { return in_place() ? p.ss[1] : line_step(); }
  // Whether lines are the tensor itself: then any may be asked for at any time.
  bool in_place() const { return io.bytes == sizeof(A) && o.activation.is_identity() && p.scale == 1 && p.ss[4] == 1; }
  int64_t first() const { return columns.first + columns.from(); }
  int64_t count() const { return columns.inside(); }
  // Shows `all` the taps of a group in the rows [y, y + count); for taps in place.
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
  // Adds all taps of a tile, of `count` groups, which are read later; if those of a row are side by side.
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
  std::vector<int64_t> slot_rows;
  Buffer<A> lines;

  ChannelLanes<A> across;
  Buffer<A> row, few;  // of load_positions

  // Whether a row of one tap is filled without the other taps.
  bool one_by_one() const { return o.activation.is_elementwise() && !innermost(); }
  // Whether the taps of each position are side by side, and the positions too.
  bool innermost() const { return p.ss[2] == 1 && p.ss[4] == p.taps() && p.groups == 1 && p.scale == 1; }
  // Loads all raw taps of row y at once, where that is so.
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
    std::fill_n(slot_rows.begin() + slot + k, count, y);
    if (o.activation.is_identity()) return;
    for (int64_t i = 0; i < p.groups * p.scale; ++i)
      activate(o.activation, target + i * pitch, count, tap_step(), pitch);
  }
};

// Where the block from `begin` on begins: the last one of a row ends with the row, if that has room for it, and repeats
// outputs of the one before.
inline int64_t block_at(int64_t begin, int64_t count, int64_t block) {
  return std::max<int64_t>(0, std::min(begin, count - block));
}

// The spatial taps of a row of outputs as the kernels take them: (blocks, sources, B).
template <class A>
struct BlockTaps {
  // Source number t of n: its tap of output j is taps[j] for j from first to last, else zero; taps may be null. to: the
  // t-th row of the first block.
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
