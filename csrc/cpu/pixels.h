// The innermost kernels for channels: vectors run along the channels of a pixel, and neighbouring
// outputs of a row share what they can. Operands lie in lines (lines.h): all pixels of a row for
// one vector of channels after the other, with room around the row, so that every source of every
// output is there.
//
// Every output is a weighted sum of `n` source pixels: of x for y, of the gradient of y for that
// of x. Sums have one order, whatever is computed side by side.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "../filter2d.h"
#include "tap_lines.h"

namespace dynfilters::cpu {

// From one block to the next.
struct Advance {
  int64_t pixel, s, channel, out;
};

// Blocks of B neighbouring outputs of one vector of channels:
// out[j] (+)= Σ over sources t of tap(s_t[j], channel[t]) · pixel_t[j].
template <class A>
struct BlockArgs {
  int64_t n;
  const A* const* pixel;  // pixel_t[j] lies pixel_offset + j·pixel_step from here
  int64_t pixel_offset, pixel_step;
  const A* s;  // s_t[j] lies t·s_source + j from here, and in row i of a window i·s_row_extra further
  int64_t s_source, s_row_extra;
  const A* channel;  // (n, lanes)
  int64_t count;     // of outputs; there are pixels and taps for whole blocks
  A* out;
  int64_t out_step;
  int64_t out_prefetch;  // how far from each output one lies that is soon written; 0: none
  bool add;
  bool stream;  // past the caches: out is aligned and not soon read again
  Prefetcher* prefetcher;  // a share of it for each block
  int64_t block;   // B
  int64_t whole;   // outputs of whole blocks
  int64_t blocks;  // that are next
  Advance next;
  EdgeMask edges;  // of all these blocks, for windows of 3; for others everything is there
  bool in_place;  // taps are read where they lie, a block's right behind the last one's; then may be nothing
};
template <class A>
using BlockKernel = void (*)(const BlockArgs<A>&);

template <class A>
inline void put(A* out, Vector<A> value, bool stream) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4)
    if (stream) return _mm512_stream_ps(out, (__m512)value);
#endif
  store(out, value);
}

template <class A, int B>
DYNFILTERS_INLINE void begin_block(const BlockArgs<A>& o, const A* out, Vector<A>* total) {
  o.prefetcher->fetch();
  if (o.out_prefetch)
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p) __builtin_prefetch(out + p * o.out_step + o.out_prefetch, 1, 3);
  if (o.add)
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p) total[p] = load(out + p * o.out_step);
}

// The sources are any.
template <class A, class Op, int B>
void block_any(const BlockArgs<A>& o) {
  const A* s = o.s;
  A* out = o.out;
  int64_t offset = o.pixel_offset;
  for (int64_t left = o.blocks; left > 0; --left, s += o.next.s, offset += o.next.pixel, out += o.next.out) {
    Vector<A> total[B]{};
    begin_block<A, B>(o, out, total);
    for (int64_t t = 0; t < o.n; ++t) {
      Vector<A> weight{};
      if constexpr (Op::kChannel) weight = load(o.channel + t * kLanes<A>);
      const A* pixel = o.pixel[t] + offset;
#pragma GCC unroll 8
      for (int p = 0; p < B; ++p)
        total[p] +=
            Op::tap(splat(Op::kSpatial ? s[t * o.s_source + p] : A(0)), weight) * load(pixel + p * o.pixel_step);
    }
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p) put(out + p * o.out_step, total[p], o.stream);
  }
}

// What a row of a window adds to a block, column by column: each is loaded once, for all outputs that it is under.
// before, behind: whether the first and the last one are there.
template <class A, class Op, int K, int B>
DYNFILTERS_INLINE void add_window_row(const A* pixel, int64_t pixel_step, const A* s, int64_t s_source,
                                      const A* channel, bool before, bool behind, Vector<A>* total) {
  constexpr int last = B + K - 2;
  Vector<A> weight[K]{};
  const A* own[K]{};
#pragma GCC unroll 7
  for (int i = 0; i < K; ++i) {
    if constexpr (Op::kChannel) weight[i] = load(channel + i * kLanes<A>);
    if constexpr (Op::kSpatial) own[i] = s, s += s_source;
  }
#pragma GCC unroll 14
  for (int c = 0; c <= last; ++c) {
    if ((c == 0 && !before) || (c == last && !behind)) continue;
    Vector<A> column = load(pixel + c * pixel_step);
    asm("" : "+v"(column));  // or it is loaded anew for each product
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p)
      if (p <= c && c < p + K)
        total[p] += Op::tap(splat(Op::kSpatial ? own[c - p][p] : A(0)), weight[c - p]) * column;
  }
}

// The same where the sources are a window of K rows and columns, and each output's begins one pixel
// behind the last one's. Those of large windows lie in lines, and their blocks along a row.
template <class A, class Op, int K, int B>
void block_window(const BlockArgs<A>& o) {
  constexpr int64_t lanes = kLanes<A>;
  const A *s = o.s, *channel = o.channel, *rows[K];
  for (int i = 0; i < K; ++i) rows[i] = o.pixel[i * K] + o.pixel_offset;
  A* out = o.out;
  const int64_t s_row = K * o.s_source + o.s_row_extra;
  const int64_t step = o.out_step, s_source = o.s_source, pixel_step = K == 3 ? o.pixel_step : lanes;
  const EdgeMask edges = K == 3 ? o.edges : EdgeMask{};
  const bool stream = o.stream;
  for (int64_t left = o.blocks; left > 0; --left, s += o.next.s, out += o.next.out) {
    Vector<A> total[B]{};
    begin_block<A, B>(o, out, total);
    const auto add = [&](int i) __attribute__((always_inline)) {
      add_window_row<A, Op, K, B>(rows[i], pixel_step, s + i * s_row, s_source, channel + i * K * lanes, edges.before,
                                  edges.behind, total);
    };
    if constexpr (K == 3) {
      if (edges.above) add(0);
      add(1);
      if (edges.below) add(2);
      channel += o.next.channel;
    } else {
      for (int i = 0; i < K; ++i) add(i);
    }
    for (int i = 0; i < K; ++i) rows[i] += o.next.pixel;
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p) put(out + p * step, total[p], stream);
  }
}

// All outputs of a row. The last block may repeat outputs; where it cannot, because there are fewer, or it would
// add to them twice, its results go by a room of their own.
template <class A>
void run_blocks(BlockKernel<A> blocks, BlockArgs<A>& o) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t whole = o.whole;
  o.blocks = whole / o.block;
  if (whole == o.count) return blocks(o);
  if (whole) blocks(o);
  BlockArgs<A> part = o;
  const int64_t j = block_at(whole, o.count, o.block);
  part.blocks = 1, part.pixel_offset += j * o.pixel_step, part.out += j * o.out_step;
  if (o.s) part.s += o.in_place ? j : whole * o.n;
  if (whole && !o.add) return blocks(part);
  alignas(64) A room[8 * lanes], taps[49 * 8];
  A* const out = part.out;
  part.out = room, part.out_step = lanes, part.out_prefetch = 0, part.add = part.stream = false;
  if (o.s && o.in_place) {
    for (int64_t t = 0; t < o.n; ++t)
      for (int64_t p = 0; p < o.block; ++p) taps[t * o.block + p] = j + p < o.count ? part.s[t * o.s_source + p] : A(0);
    part.s = taps, part.s_source = o.block;
  }
  blocks(part);
  for (int64_t p = whole - j; p < o.count - j; ++p) {
    const Vector<A> value = load(room + p * lanes);
    store(out + p * o.out_step, o.add ? load(out + p * o.out_step) + value : value);
  }
}

// Of a problem: for windows of neighbours, and for any sources.
template <class A>
struct BlockKernels {
  int64_t block;
  BlockKernel<A> window, any;
};
template <class A, class Op, int B>
BlockKernels<A> block_kernels(int64_t window) {
  BlockKernels<A> found{B, block_window<A, Op, 3, B>, block_any<A, Op, B>};
  if (window == 5) found.window = block_window<A, Op, 5, B>;
  if (window == 7) found.window = block_window<A, Op, 7, B>;
  return found;
}
template <class A, class Op>
BlockKernels<A> block_kernels(int64_t window, int64_t columns) {
  return block_for(columns) == 7 ? block_kernels<A, Op, 7>(window) : block_kernels<A, Op, 8>(window);
}

}  // namespace dynfilters::cpu
