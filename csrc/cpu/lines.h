// Rows of images, packed to the accumulation type for the kernels of pixels.h when they are first
// needed, and results on their way back. A few rows are held; those outside the image are zeros, and so
// is the room at both ends of a row.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "transpose.h"

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

// Memory to be fetched into L2, in small shares, while something else is computed.
class Prefetcher {
 public:
  void clear() { pieces.clear(), bytes = 0; }
  void add(const void* from, int64_t size) {
    if (size > 0) pieces.push_back({static_cast<const char*>(from), size}), bytes += size;
  }
  // All that there is, and is not fetched yet, in so many shares.
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
  // Pixels of the row h, if they lie one behind the other.
  void fetch(Prefetcher& prefetcher, const void* base, int64_t b, int64_t h, int64_t first, int64_t end) const {
    first = std::max<int64_t>(first, 0), end = std::min(end, width);
    if (strides[0] && strides[1] == 1 && h >= 0 && h < height)
      prefetcher.add(at(base, b, 0, h, first), (end - first) * strides[3] * io.bytes);
  }
  // Whether whole vectors of the accumulation type can be read where they are.
  bool in_place() const { return io.bytes == int64_t(sizeof(A)) && strides[1] == 1 && vectors.whole(); }
};

// Whether the pixels around some are there. Those that are not are not read, and add nothing.
struct EdgeMask {
  bool above = true, below = true, before = true, behind = true;
};

// How many rows are held, and how far apart those are that are needed at once.
struct RowRing {
  int64_t rows, apart;
  int64_t slot(int64_t row) const { return row / apart % rows; }
};

// Rows of an image as (vectors, columns, lanes), for some of its vectors, with zeros where nothing is.
template <class A>
class PixelLines {
 public:
  static constexpr int64_t lanes = kLanes<A>;
  PixelLines(const Image<A>& image, const void* base, const RowRing& ring)
      : image(image), base(base), ring(ring), held(ring.rows, -1) {}

  // The vectors [first, first + count) of sample b.
  void begin(int64_t b, const Columns& wanted, int64_t first, int64_t count) {
    const bool same = wanted == columns && count <= room;
    sample = b, columns = wanted, first_vector = first, vectors = count;
    std::fill(held.begin(), held.end(), -1);
    if (same) return;
    room = count;
    lines.clear();
  }
  // Row h: its first column, at the first vector.
  const A* line(int64_t h) {
    if (lines.empty()) lines.assign((held.size() + 1) * size(), A(0));  // one more of zeros
    if (h < 0 || h >= image.height) return lines.data() + held.size() * size();
    const int64_t slot = ring.slot(h);
    A* target = lines.data() + slot * size();
    if (held[slot] != h) pack(h, target), held[slot] = h;
    return target;
  }
  // Row h of the columns, to be packed later.
  void fetch(Prefetcher& prefetcher, int64_t h) const {
    image.fetch(prefetcher, base, sample, h, columns.first, columns.first + columns.count);
  }
  int64_t rows() const { return int64_t(held.size()) + 1; }
  int64_t vector_step() const { return columns.count * lanes; }

 private:
  const Image<A> image;
  const void* base;
  const RowRing ring;
  int64_t sample = 0, first_vector = 0, vectors = 0, room = 0;  // of vectors: for how many there is room
  Columns columns{};
  std::vector<int64_t> held;
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
  // To the columns w, w + step, … of row h, n of them, and the vectors from `first` on.
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

}  // namespace dynfilters::cpu
