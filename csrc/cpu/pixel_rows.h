// y, or the gradient of x, by rows of pixels; the arithmetic is in pixels.h. Sums have one order, every element is
// written once.
//
// A tile is done by a few vectors of channels at a time: their rows, packed as lines, then stay in L1, however far
// apart pixels are in memory. The spatial taps of a tile are packed once for all vectors, or read in subgrid. 3×3
// windows need no lines: they read the image itself, and leave out the taps that reach beyond it.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "lines.h"
#include "pixels.h"

namespace dynfilters::cpu {

// ---- which pixels a row of outputs reads, and by which taps ----
//
// Of x for y, of the gradient of y for that of x: the same kind of sum, of other pixels.

// One term of the outputs of window (i, j). It reads the pixel (i, j)·Sum::in_step + (row, column) of the image, by tap
// k of window (i + tap_row / scale, j + tap_column), in row i·scale + tap_row of spatial.
struct Source {
  int64_t k, row, column, tap_row, tap_column;
};

// All sources at one phase of the windows.
template <class A>
struct Pattern {
  int64_t phase = 0;
  int64_t taps_before = 0;  // of the patterns before this one
  std::vector<Source> sources;
  int64_t window = 0;  // K, if the sources are K rows and columns of 3, 5 or 7, one apart
  Buffer<A> channel;   // their channel taps: (vectors, sources, lanes)

  int64_t size() const { return int64_t(sources.size()); }
  // Packs the channel taps of a sample; those of lanes without a channel are zero. Returns their bound.
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

// The outputs (i, j)·out_step + (row, column) of all windows (i, j). Their patterns add up.
template <class A>
struct Subgrid {
  int64_t row, column;
  std::vector<Pattern<A>> patterns;
};

// How far the sources of a window reach, along one axis.
struct Extent {
  int64_t least = 0, most = 0;
  int64_t count() const { return most - least + 1; }
};

// All sums of a pass.
template <class A>
struct Sum {
  int64_t in_step, out_step;
  int64_t apart;  // from one row of a window's sources to the next; there are at most p.kh of them
  std::vector<Subgrid<A>> subgrids;
  Extent rows, columns, tap_rows, tap_columns;
  int64_t taps = 0;  // of all patterns
  bool padded;       // sources outside the image are zeros times taps; else they are no terms

  // Rows between those that are needed at once are kept for later, unless dilation makes them too many.
  RowRing row_ring(const Filter2dParams& p) const {
    return p.dilation == 1 ? RowRing{rows.count() + in_step - 1, 1} : RowRing{p.kh, apart};
  }
  RowRing tap_row_ring(const Filter2dParams& p) const {
    return p.dilation == 1 ? RowRing{tap_rows.count(), 1} : RowRing{p.kh, apart};
  }
  // Call it once all subgrids are there.
  void measure() {
    rows = reach(&Source::row), columns = reach(&Source::column);
    tap_rows = reach(&Source::tap_row), tap_columns = reach(&Source::tap_column);
    for (auto& subgrid : subgrids)
      for (auto& pattern : subgrid.patterns) pattern.taps_before = taps, taps += pattern.size();
  }

 private:
  Extent reach(int64_t Source::* of) const {
    bool first = true;
    Extent found;
    for (const auto& subgrid : subgrids)
      for (const auto& pattern : subgrid.patterns)
        for (const Source& source : pattern.sources) {
          const int64_t at = source.*of;
          found = first ? Extent{at, at} : Extent{std::min(found.least, at), std::max(found.most, at)};
          first = false;
        }
    return found;
  }
};

// For y: at each phase, the pixels under the taps.
template <class A>
Sum<A> sum_for_y(const Filter2dParams& p) {
  Sum<A> sum{p.stride, p.scale, p.dilation, {}, {}, {}, {}, {}, 0, true};
  for (int64_t phase = 0; phase < p.phases(); ++phase) {
    Pattern<A> pattern{phase, 0, {}, window_of(p), {}};
    for (int64_t k = 0; k < p.taps(); ++k)
      pattern.sources.push_back(
          {k, k / p.kw * p.dilation - p.pad_h(), k % p.kw * p.dilation - p.pad_w(), phase / p.scale, 0});
    sum.subgrids.push_back({phase / p.scale, phase % p.scale, {pattern}});
  }
  sum.measure();
  return sum;
}

// For the gradient of x: for the pixels of each residue modulo the stride, the windows that read them, at all their
// phases.
template <class A>
Sum<A> sum_for_x(const Filter2dParams& p) {
  Sum<A> sum{p.scale, p.stride, p.dilation / std::gcd(p.stride, p.dilation) * p.scale, {}, {}, {}, {}, {}, 0, false};
  for (int64_t subgrid = 0; subgrid < p.stride * p.stride; ++subgrid) {
    const int64_t a = subgrid / p.stride, b = subgrid % p.stride;
    sum.subgrids.push_back({a, b, {}});
    for (int64_t phase = 0; phase < p.phases(); ++phase) {
      const int64_t u = phase / p.scale, v = phase % p.scale;
      Pattern<A> pattern{phase, 0, {}, p.scale == 1 ? window_of(p) : 0, {}};
      for (int64_t k = p.taps() - 1; k >= 0; --k) {
        const int64_t y = a + p.pad_h() - k / p.kw * p.dilation, x = b + p.pad_w() - k % p.kw * p.dilation;
        if (y % p.stride || x % p.stride) continue;
        const int64_t dy = y / p.stride * p.scale + u, dx = x / p.stride;
        pattern.sources.push_back({k, dy, dx * p.scale + v, dy, dx});
      }
      sum.subgrids.back().patterns.push_back(pattern);
    }
  }
  sum.measure();
  return sum;
}

// ---- the pass ----

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
    if (more) queue_tile((t + 1) / tiles.count(), tiles.at(p, (t + 1) % tiles.count()));
    if (b != sample) begin_sample(b);
    reads_image = can_read_image() && (!sum.padded || channel_bound.holds());
    taps.begin(b, {tile.col + sum.tap_columns.least, tile.cols + sum.tap_columns.count() - 1, p.cols});
    columns = {tile.col * sum.in_step + sum.columns.least,
               (tile.cols + block() - 1) * sum.in_step + sum.columns.count(), in.width};
    const int64_t each = in.vectors.each(), together = vectors_together();
    for (int64_t group = 0; group < p.groups; ++group) {
      pack_taps(group);
      if (group + 1 < p.groups) queue_taps(group + 1);
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
  // Vectors of a pixel that are done at a time: memory is fetched in runs, and the rows under a block stay near.
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
  Buffer<A> packed;        // the spatial taps of a group: (rows of the tile, patterns, blocks, sources, B)
  std::vector<const A*> pixel;

  // Queues the rows that the next tile reads and this one does not.
  void queue_tile(int64_t b, const Tile& t) {
    const int64_t first_column = t.col * sum.in_step + sum.columns.least;
    const int64_t end_column = (t.col + t.cols - 1) * sum.in_step + sum.columns.most + 1;
    int64_t h = t.row * sum.in_step + sum.rows.least;
    if (b == sample && t.col == tile.col) h = std::max(h, (tile.row + tile.rows - 1) * sum.in_step + sum.rows.most + 1);
    for (const int64_t last = (t.row + t.rows - 1) * sum.in_step + sum.rows.most; h <= last; ++h)
      in.fetch(prefetcher, source, b, h, first_column, end_column);
    if (p.has_spatial()) taps.fetch(prefetcher, b, 0, taps.in_place() ? 1 : p.groups, t);
    prefetcher.spread(blocks() * in.vectors.count());
  }
  int64_t block() const { return kernels.block; }
  // As many vectors as leave their lines in L1.
  int64_t vectors_together() const {
    const int64_t bytes = lines.rows() * columns.count * lanes * int64_t(sizeof(A));
    return part_of_vectors(std::max<int64_t>(1, kLineBytes / bytes));
  }
  // At most so many vectors, in equal parts of a group.
  int64_t part_of_vectors(int64_t most) const {
    const int64_t each = in.vectors.each(), parts = (each + most - 1) / most;
    return (each + parts - 1) / parts;
  }
  void begin_sample(int64_t b) {
    sample = b;
    for (auto& subgrid : sum.subgrids)
      for (auto& pattern : subgrid.patterns) channel_bound = pattern.pack_channel(p, channel, b, in.vectors);
  }
  // Whether results go past the caches: those that would fill them only push out what is read next. Narrow vectors have
  // no such store.
  bool streams(int64_t threads) const {
    bool aligned = kVectorBytes == 64 && out.in_place() && reinterpret_cast<uintptr_t>(to) % kVectorBytes == 0;
    for (int axis : {0, 2, 3}) aligned = aligned && out.strides[axis] * sizeof(A) % kVectorBytes == 0;
    return aligned && p.batch * out.strides[0] * int64_t(sizeof(A)) >= kStreamBytes * threads;
  }
  // Calls f(subgrid, pattern, row of windows), in one order, for the outputs that exist.
  template <class F>
  void over_rows(const F& f) const {
    for (int64_t i = tile.row; i < tile.row + tile.rows; ++i)
      for (const auto& subgrid : sum.subgrids)
        if (exists(subgrid, i))
          for (const auto& pattern : subgrid.patterns) f(subgrid, pattern, i);
  }
  bool exists(const Subgrid<A>& subgrid, int64_t i) const {
    return i * sum.out_step + subgrid.row < out.height && outputs(subgrid) > 0;
  }
  int64_t outputs(const Subgrid<A>& subgrid) const {
    const int64_t left = out.width - tile.col * sum.out_step - subgrid.column;
    return std::min(tile.cols, (left + sum.out_step - 1) / sum.out_step);
  }

  // Where the taps of row i of windows are packed.
  A* packed_at(const Pattern<A>& pattern, int64_t i) {
    return packed.data() + ((i - tile.row) * sum.taps + pattern.taps_before) * round_up(tile.cols, block());
  }
  void pack_taps(int64_t group) {
    if (!p.has_spatial() || taps_in_place()) return;
    packed.resize(tile.rows * sum.taps * round_up(tile.cols, block()));
    over_rows([&](const auto& subgrid, const auto& pattern, int64_t i) {
      for (int64_t t = 0; t < pattern.size(); ++t) pack_source(subgrid, pattern, t, i, group);
    });
  }
  // Whether the kernels read the taps of windows in place; of lines only if a source's taps are side by side. Planes of
  // taps a power of two apart drive each other out of L1, and are read again for every vector: from kPackVectors on it
  // pays to pack them (measured with an L2 of half a megabyte, which cannot hold them either).
  bool taps_in_place() const {
    const bool side_by_side = sum.tap_columns.count() == 1 && sum.subgrids[0].patterns[0].window;
    return p.has_spatial() && taps.in_place() && (reads_image || (side_by_side && in.vectors.each() < kPackVectors));
  }
  void pack_source(const Subgrid<A>& subgrid, const Pattern<A>& pattern, int64_t t, int64_t i, int64_t group) {
    const Source& source = pattern.sources[t];
    const int64_t at = tile.col + source.tap_column - taps.first();  // output 0's among those of the line
    const A* line = taps.line(i * p.scale + source.tap_row, source.k, pattern.phase % p.scale);
    BlockTaps<A>::pack(line ? line + group * taps.group_step() + at : nullptr, -at, taps.count() - at, pattern.size(),
                       outputs(subgrid), block(), packed_at(pattern, i) + t * block());
  }
  // Queues the taps of the next group, if they are read in place.
  void queue_taps(int64_t group) {
    if (!p.has_spatial() || !taps.in_place()) return;
    taps.fetch(prefetcher, sample, group, 1, tile);
    prefetcher.spread(blocks() * in.vectors.each());
  }
  // Blocks of outputs of a tile, for one vector of channels.
  int64_t blocks() const { return tile.rows * int64_t(sum.subgrids.size()) * (round_up(tile.cols, block()) / block()); }

  // Whether windows can read and write the images themselves. A row of the tile must hold a block.
  bool can_read_image() const {
    const bool alone = sum.subgrids.size() == 1 && sum.subgrids[0].patterns[0].window == 3;
    return alone && in.in_place() && out.in_place() && tile.cols >= block();
  }
  // Whether taps outside the image can be left out: the formula has them times zero, which is NaN for infinite ones.
  bool moderate_taps(int64_t group) const {
    Bound<A> bound;
    if (taps_in_place())
      taps.bound(group, tile.row, tile.rows, bound);
    else if (p.has_spatial())
      bound.see(packed.data(), int64_t(packed.size()));
    return bound.holds();
  }
  // Goes down the rows with some vectors of a block of columns: then all rows under a window but one are in L1.
  void run_on_image(int64_t group) {
    const Pattern<A>& pattern = sum.subgrids[0].patterns[0];
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
  // All but the position. The next block is that of the next vector.
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
  // From the first tap of a block to its tap t, in memory.
  int64_t tap_offset(const Pattern<A>& pattern, int64_t t) const {
    const Source &at = pattern.sources[t], &first = pattern.sources[0];
    return (at.k - first.k) * p.ss[2] + (at.tap_row - first.tap_row) * p.ss[3] + at.tap_column - first.tap_column;
  }
  // Goes to row i of windows, the tile's block from column j on, and vector v.
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
    over_rows([&](const Subgrid<A>& subgrid, const Pattern<A>& pattern, int64_t i) {
      const int64_t h = i * sum.out_step + subgrid.row, w = tile.col * sum.out_step + subgrid.column;
      find_pixels(pattern, i);
      BlockArgs<A> o = block_args(subgrid, pattern, i);
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
        if (&pattern == &subgrid.patterns.back()) result.write(to, sample, first, h, w, sum.out_step, o.count);
      }
    });
  }
  // Where the sources of row i of windows begin; of K×K windows, those of the first column.
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
  BlockArgs<A> block_args(const Subgrid<A>& subgrid, const Pattern<A>& pattern, int64_t i) {
    BlockArgs<A> o{};
    o.n = pattern.size(), o.pixel = pixel.data(), o.pixel_step = sum.in_step * lanes;
    o.block = block(), o.in_place = taps_in_place();
    o.s = o.in_place ? taps.line(i, 0, 0) : p.has_spatial() ? packed_at(pattern, i) : nullptr;
    o.s_source = o.in_place ? p.ss[2] : block();
    o.channel = pattern.channel.data(), o.count = outputs(subgrid), o.whole = o.count / block() * block();
    o.out_step = out.in_place() ? sum.out_step * out.strides[3] : lanes;
    o.next = {block() * o.pixel_step, o.in_place ? block() : block() * o.n, 0, block() * o.out_step};
    o.add = &pattern != &subgrid.patterns.front(), o.stream = stream && subgrid.patterns.size() == 1;
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
