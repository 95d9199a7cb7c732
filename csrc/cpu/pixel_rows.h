// y, or the gradient of x, by rows of pixels; the arithmetic is in pixels.h. Sums have one order, every
// element is written once.
//
// A tile is done by a few vectors of channels at a time: their rows, packed as lines, then stay in L1,
// whatever distance the pixels have in memory. The spatial taps of a tile are laid out once for all of
// them, or read where they are. Windows of 3 need no lines: they read the image itself, and the taps that
// would reach beyond it are left out.
#pragma once
#include <vector>

#include "lines.h"
#include "patterns.h"
#include "pixels.h"

namespace dynfilters::cpu {

template <class T>
class PixelPass {
 public:
  using A = Accumulator<T>;
  static constexpr int64_t lanes = kLanes<A>;

  // From the image `in` at `from` to the image `out` at `to`.
  PixelPass(const Filter2dParams& p, const Operands& o, const Access<A>& io, const Sum<A>& sum,
            const BlockKernels<A>& kernels, const Image<A>& in, const void* from, const Image<A>& out, void* to)
      : p(p),
        sum(sum),
        kernels(kernels),
        in(in),
        out(out),
        to(to),
        source(from),
        channel(o.channel),
        lines(in, from, sum.row_ring(p)),
        taps(p, o, io, sum.tap_row_ring(p)),
        result(out),
        stream(streams(o.threads)) {}

  // Tile t of all samples' tiles. more: tile t + 1 is next.
  void run(const Tiles& tiles, int64_t t, bool more) {
    const int64_t b = t / tiles.count();
    tile = tiles.at(p, t % tiles.count());
    prefetcher.clear();
    if (more) plan_prefetch((t + 1) / tiles.count(), tiles.at(p, (t + 1) % tiles.count()));
    if (b != sample) begin_sample(b);
    reads_image = can_read_image() && (!sum.padded || channel_bound.holds());
    taps.begin(b, {tile.col + sum.tap_columns.least, tile.cols + sum.tap_columns.count() - 1, p.cols});
    columns = {tile.col * sum.in_step + sum.columns.least,
               (tile.cols + block() - 1) * sum.in_step + sum.columns.count(), in.width};
    const int64_t each = in.vectors.each(), together = vectors_together();
    for (int64_t group = 0; group < p.groups; ++group) {
      pack_taps(group);
      if (group + 1 < p.groups) plan_prefetch(group + 1);
      if (reads_image && (!sum.padded || moderate_taps(group))) {
        run_on_image(group);
        continue;
      }
      const int64_t end = (group + 1) * each;
      for (int64_t v = group * each; v < end; v += together) run_vectors(group, v, std::min(together, end - v));
    }
  }

 private:
  static constexpr int64_t kLineBytes = 40 * 1024, kStreamBytes = 1024 * 1024;
  static constexpr int64_t kPackVectors = kVectorBytes == 64 ? 8 : 2;
  // Of a pixel at a time: memory is fetched in runs, and the rows under a block stay near.
  static constexpr int64_t kVectors = 1024 / kVectorBytes;
  const Filter2dParams& p;
  Sum<A> sum;
  const BlockKernels<A> kernels;
  const Image<A> in, out;
  void* const to;
  const void* const source;
  const void* const channel;
  PixelLines<A> lines;
  TapLines<A> taps;
  ResultLine<A> result;
  const bool stream;
  Tile tile{};
  Columns columns{};
  Prefetcher prefetcher;
  int64_t sample = -1;
  bool reads_image = false;
  Bound<A> channel_bound;  // of the last pattern's channel taps
  Buffer<A> packed;  // the spatial taps of a group: (rows of the tile, patterns, blocks, sources, B)
  std::vector<const A*> pixel;

  // Rows that the next tile reads and this one does not.
  void plan_prefetch(int64_t b, const Tile& t) {
    const int64_t first_column = t.col * sum.in_step + sum.columns.least;
    const int64_t end_column = (t.col + t.cols - 1) * sum.in_step + sum.columns.most + 1;
    int64_t h = t.row * sum.in_step + sum.rows.least;
    if (b == sample && t.col == tile.col)
      h = std::max(h, (tile.row + tile.rows - 1) * sum.in_step + sum.rows.most + 1);
    for (const int64_t last = (t.row + t.rows - 1) * sum.in_step + sum.rows.most; h <= last; ++h)
      in.fetch(prefetcher, source, b, h, first_column, end_column);
    if (p.has_spatial()) taps.fetch(prefetcher, b, 0, taps.in_place() ? 1 : p.groups, t);
    prefetcher.spread(blocks() * in.vectors.count());
  }
  int64_t block() const { return kernels.block; }
  // As many as leave their lines near.
  int64_t vectors_together() const {
    const int64_t bytes = lines.rows() * columns.count * lanes * int64_t(sizeof(A));
    return part_of_vectors(std::max<int64_t>(1, kLineBytes / bytes));
  }
  // At most so many, and in equal parts.
  int64_t part_of_vectors(int64_t most) const {
    const int64_t each = in.vectors.each(), parts = (each + most - 1) / most;
    return (each + parts - 1) / parts;
  }
  void begin_sample(int64_t b) {
    sample = b;
    for (auto& place : sum.places)
      for (auto& pattern : place.patterns) channel_bound = pattern.pack_channel(p, channel, b, in.vectors);
  }
  // Results that fill the caches next to the threads would only push out what is read next. Narrow vectors cannot.
  bool streams(int64_t threads) const {
    bool aligned = kVectorBytes == 64 && out.in_place() && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
    for (int axis : {0, 2, 3}) aligned = aligned && out.strides[axis] * sizeof(A) % kVectorBytes == 0;
    return aligned && p.batch * out.strides[0] * int64_t(sizeof(A)) >= kStreamBytes * threads;
  }
  // f(place, pattern, row of windows), in one order, for the outputs that exist.
  template <class F>
  void over_rows(const F& f) const {
    for (int64_t i = tile.row; i < tile.row + tile.rows; ++i)
      for (const auto& place : sum.places)
        if (exists(place, i))
          for (const auto& pattern : place.patterns) f(place, pattern, i);
  }
  bool exists(const Place<A>& place, int64_t i) const {
    return i * sum.out_step + place.row < out.height && outputs(place) > 0;
  }
  int64_t outputs(const Place<A>& place) const {
    const int64_t left = out.width - tile.col * sum.out_step - place.column;
    return std::min(tile.cols, (left + sum.out_step - 1) / sum.out_step);
  }

  // Where the taps of row i of windows are packed.
  A* packed_at(const Pattern<A>& pattern, int64_t i) {
    return packed.data() + ((i - tile.row) * sum.taps + pattern.taps_before) * round_up(tile.cols, block());
  }
  void pack_taps(int64_t group) {
    if (!p.has_spatial() || taps_in_place()) return;
    packed.resize(tile.rows * sum.taps * round_up(tile.cols, block()));
    over_rows([&](const auto& place, const auto& pattern, int64_t i) {
      for (int64_t t = 0; t < pattern.size(); ++t) pack_source(place, pattern, t, i, group);
    });
  }
  // Whether the kernels read the taps of windows where they are: lines need a source's side by side. Planes of taps a
  // power of two apart drive each other out of L1, and are read again for every vector. Two narrow ones make it pay
  // to pack them (measured with an L2 of half a megabyte, which cannot hold them either).
  bool taps_in_place() const {
    const bool side_by_side = sum.tap_columns.count() == 1 && sum.places[0].patterns[0].window;
    return p.has_spatial() && taps.in_place() && (reads_image || (side_by_side && in.vectors.each() < kPackVectors));
  }
  void pack_source(const Place<A>& place, const Pattern<A>& pattern, int64_t t, int64_t i, int64_t group) {
    const Source& source = pattern.sources[t];
    const int64_t at = tile.col + source.tap_column - taps.first();  // output 0's among those of the line
    const A* line = taps.line(i * p.scale + source.tap_row, source.k, pattern.phase % p.scale);
    BlockTaps<A>::pack(line ? line + group * taps.group_step() + at : nullptr, -at, taps.count() - at, pattern.size(),
                       outputs(place), block(), packed_at(pattern, i) + t * block());
  }
  // The taps of the next group, if they are taken from where they lie.
  void plan_prefetch(int64_t group) {
    if (!p.has_spatial() || !taps.in_place()) return;
    taps.fetch(prefetcher, sample, group, 1, tile);
    prefetcher.spread(blocks() * in.vectors.each());
  }
  // Of outputs, for one vector of channels.
  int64_t blocks() const {
    return tile.rows * int64_t(sum.places.size()) * (round_up(tile.cols, block()) / block());
  }

  // Whether windows may read and write the images themselves. A row of the tile must hold a block.
  bool can_read_image() const {
    const bool alone = sum.places.size() == 1 && sum.places[0].patterns[0].window == 3;
    return alone && in.in_place() && out.in_place() && tile.cols >= block();
  }
  // Whether taps outside the image, which the formula has times zero, can be left out.
  bool moderate_taps(int64_t group) const {
    Bound<A> bound;
    if (taps_in_place())
      taps.bound(group, tile.row, tile.rows, bound);
    else if (p.has_spatial())
      bound.see(packed.data(), int64_t(packed.size()));
    return bound.holds();
  }
  // Some vectors of a block of columns, down the rows: of those under a window all but one are in L1 then.
  void run_on_image(int64_t group) {
    const Pattern<A>& pattern = sum.places[0].patterns[0];
    const int64_t each = in.vectors.each(), some = part_of_vectors(kVectors);
    BlockArgs<A> o = block_args_on_image(pattern);
    for (int64_t j = 0; j < tile.cols; j += block())
      for (int64_t v = 0; v < each; v += some)
        for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
          o.blocks = std::min(some, each - v);
          put_on_image(o, pattern, group, i, j, group * each + v);
          kernels.window(o);
        }
  }
  // All but where it is. Its blocks are those of one vector after the other.
  BlockArgs<A> block_args_on_image(const Pattern<A>& pattern) {
    pixel.clear();
    for (const Source& at : pattern.sources)
      pixel.push_back(static_cast<const A*>(source) + in.offset(0, 0, at.row, at.column));
    BlockArgs<A> o{};
    o.n = pattern.size(), o.pixel = pixel.data(), o.pixel_step = in.strides[3], o.out_step = out.strides[3];
    o.s_source = block();
    if (taps_in_place()) o.s_source = tap_offset(pattern, 1), o.s_row_extra = tap_offset(pattern, 3) - 3 * o.s_source;
    o.next = {lanes, 0, o.n * lanes, lanes};
    o.stream = stream, o.prefetcher = &prefetcher;
    return o;
  }
  // How far tap t lies from the first one, of the same block.
  int64_t tap_offset(const Pattern<A>& pattern, int64_t t) const {
    const Source &at = pattern.sources[t], &first = pattern.sources[0];
    return (at.k - first.k) * p.ss[2] + (at.tap_row - first.tap_row) * p.ss[3] + at.tap_column - first.tap_column;
  }
  // At row i of windows, in the tile's block from column j on, the vector v.
  void put_on_image(BlockArgs<A>& o, const Pattern<A>& pattern, int64_t group, int64_t i, int64_t j, int64_t v) {
    constexpr int64_t centre = 4;
    const int64_t w = tile.col + block_at(j, tile.cols, block()), c = in.vectors.first(v);
    o.edges = {i > 0, i + 1 < out.height, w > 0, w + block() < out.width};
    o.pixel_offset = in.offset(sample, c, i, w);
    if (taps_in_place())
      o.s = taps.line(i, pattern.sources[centre].k, 0) + group * taps.group_step() + w - taps.first() -
            tap_offset(pattern, centre);
    else if (p.has_spatial())
      o.s = packed_at(pattern, i) + j * o.n;
    if (p.has_channel()) o.channel = pattern.channel.data() + v * o.n * lanes;
    o.out = static_cast<A*>(to) + out.offset(sample, c, i, w);
    o.out_prefetch = stream || !o.edges.below ? 0 : out.strides[2];
  }

  void run_vectors(int64_t group, int64_t first, int64_t count) {
    lines.begin(sample, columns, first, count);
    over_rows([&](const Place<A>& place, const Pattern<A>& pattern, int64_t i) {
      const int64_t h = i * sum.out_step + place.row, w = tile.col * sum.out_step + place.column;
      find_pixels(pattern, i);
      BlockArgs<A> o = block_args(place, pattern, i);
      if (o.in_place) o.s += group * taps.group_step();
      if (p.has_channel()) o.channel += first * pattern.size() * lanes;
      if (out.in_place()) {
        o.out = static_cast<A*>(to) + out.offset(sample, out.vectors.first(first), h, w);
        const bool last = h + sum.out_step >= out.height;
        o.out_prefetch = o.stream || last ? 0 : sum.out_step * out.strides[2];
        run_row(pattern, o, count, lanes);
      } else {
        o.out = o.add ? result.again() : result.begin(count, o.count);
        run_row(pattern, o, count, result.vector_step());
        if (&pattern == &place.patterns.back()) result.write(to, sample, first, h, w, sum.out_step, o.count);
      }
    });
  }
  // Where the sources of row i of windows begin; of a window, those of its first column.
  void find_pixels(const Pattern<A>& pattern, int64_t i) {
    const int64_t n = pattern.size(), step = std::max<int64_t>(pattern.window, 1);
    pixel.resize(n);
    const A* line = nullptr;
    int64_t row = sum.rows.least - 1;  // of the line: none yet
    for (int64_t t = 0; t < n; t += step) {
      const Source& source = pattern.sources[t];
      if (source.row != row) line = lines.line(i * sum.in_step + (row = source.row));
      pixel[t] = line + (source.column - sum.columns.least) * lanes;
    }
  }
  // All but where the results go, for the first vector.
  BlockArgs<A> block_args(const Place<A>& place, const Pattern<A>& pattern, int64_t i) {
    BlockArgs<A> o{};
    o.n = pattern.size(), o.pixel = pixel.data(), o.pixel_step = sum.in_step * lanes;
    o.block = block(), o.in_place = taps_in_place();
    o.s = o.in_place ? taps.line(i, 0, 0) : p.has_spatial() ? packed_at(pattern, i) : nullptr;
    o.s_source = o.in_place ? p.ss[2] : block();
    o.channel = pattern.channel.data(), o.count = outputs(place), o.whole = o.count / block() * block();
    o.out_step = out.in_place() ? sum.out_step * out.strides[3] : lanes;
    o.next = {block() * o.pixel_step, o.in_place ? block() : block() * o.n, 0, block() * o.out_step};
    o.add = &pattern != &place.patterns.front(), o.stream = stream && place.patterns.size() == 1;
    o.prefetcher = &prefetcher;
    return o;
  }
  // A row of outputs, vector by vector.
  void run_row(const Pattern<A>& pattern, BlockArgs<A>& o, int64_t count, int64_t vector_step) {
    for (int64_t v = 0; v < count; ++v) {
      run_blocks(pattern.window ? kernels.window : kernels.any, o);
      o.pixel_offset += lines.vector_step(), o.out += vector_step;
      if (p.has_channel()) o.channel += pattern.size() * lanes;
    }
  }
};

}  // namespace dynfilters::cpu
