// The innermost kernels for vectors of channels: vectors run along the channels of a pixel, and neighbouring outputs of
// a row share what they can. Operands lie in lines (lines.h): all pixels of a row for one vector of channels after the
// other, with room around the row, so that every source of every output is there.
//
// Every output is a weighted sum of `n` source pixels: of x for y, of the gradient of y for that of x. Sums have one
// order, whatever is computed side by side.
#pragma once
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "../filter2d.h"
#include "lines.h"

namespace dynfilters::cpu {

// Steps from one block to the next, in elements.
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
  const A* s;  // s_t[j] lies t·s_source + j from here, in row i of a K×K window another i·s_row_extra further
  int64_t s_source, s_row_extra;
  const A* channel;  // (n, lanes)
  int64_t count;     // of outputs; there are pixels and taps for whole blocks
  A* out;
  int64_t out_step;
  int64_t out_prefetch;  // from each output to one that is soon written; 0: none
  bool add;
  bool stream;             // past the caches: out is aligned and not soon read again
  Prefetcher* prefetcher;  // which each block gives one share
  int64_t block;           // B
  int64_t whole;           // outputs of whole blocks
  int64_t blocks;          // that are next
  Advance next;
  EdgeMask edges;  // of all these blocks, for windows of 3; for others everything is there
  bool in_place;   // taps are read where they lie, a block's right behind the last one's; then may be nothing
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

// For any sources.
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

// Adds one row of a window to a block, column by column: each is loaded once, for all outputs whose window has it.
// before, behind: whether the first and the last column are inside the image.
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
      if (p <= c && c < p + K) total[p] += Op::tap(splat(Op::kSpatial ? own[c - p][p] : A(0)), weight[c - p]) * column;
  }
}

// For windows of K rows and columns, each one pixel behind the last one. Large windows read lines, and their blocks
// follow one another along a row.
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

// Computes all outputs of a row. The last block may repeat outputs; where it cannot, because there are fewer, or it
// would add to them twice, its results go to a buffer first.
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

// The kernels for a call: for windows of neighbours, and for any sources.
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

// ---- the gradients of taps ----

// For a row of outputs j and the channels of a group, with p = g[j] · pixel_t[j]:
// s_sums[t, j] = Σ_c d_spatial(p, channel[c, t]), c_sums[c, t] += Σ_j d_channel(p, s_t[j]).
// Both are computed although one alone may be wanted, which is rare.
template <class A>
struct TapSumArgs {
  int64_t n, vectors;
  const A* const* pixel;
  const A* const* s;
  int64_t pixel_offset, pixel_step, pixel_vector;  // the last one: from a vector to the next
  int64_t s_offset;
  const A* g;
  int64_t g_step, g_vector;
  const A* channel;  // (vectors, n, lanes)
  A* c_sums;         // likewise
  int64_t count;     // of outputs
  A* s_sums;         // s_sums_step from a source to the next
  int64_t s_sums_step;
  Prefetcher* prefetcher;  // which every 3 sources of a block of 4 outputs and a vector give one share
  EdgeMask edges;          // of all outputs, for windows of 3: pixels that are not there are not read, and add nothing
};
template <class A>
using TapSumKernel = void (*)(const TapSumArgs<A>&);

// Keeps the compiler from loading anew for each product, where there are registers enough.
template <class A>
DYNFILTERS_INLINE Vector<A> load_once(const A* from) {
  Vector<A> value = load(from);
  if constexpr (kVectorBytes == 64) asm("" : "+v"(value));
  return value;
}

// total: (NT, NP), each a sum over channels that is still spread over lanes.
template <class A, int NT, int NP>
DYNFILTERS_INLINE void store_sums(const Vector<A>* total, A* s_sums, int64_t step) {
  static_assert(NT * NP <= kLanes<A>);
  A found[kLanes<A>];
  store(found, sums_of<A>(total));
  for (int i = 0; i < NT; ++i) std::copy_n(found + i * NP, NP, s_sums + i * step);
}

// NT sources from t on, for NP outputs from j on. kWindow: each source and output is one pixel behind the last one.
template <class A, class Op, int NT, int NP, bool kWindow>
void sum_some(const TapSumArgs<A>& o, int64_t t, int64_t j) {
  constexpr int64_t lanes = kLanes<A>;
  const A *pixel[NT], *own[NT], *g = o.g + j * o.g_step, *channel = o.channel + t * lanes;
  A* c_sums = o.c_sums + t * lanes;
  const int64_t step = o.pixel_step, g_step = o.g_step, tap_vector = o.n * lanes;
  const bool before = !kWindow || o.edges.before || j > 0, behind = !kWindow || o.edges.behind || j + NP < o.count;
  constexpr int last = NT + NP - 2;
  const auto is_there = [=](int i) { return (i != 0 || before) && (i != last || behind); };
  for (int i = 0; i < NT; ++i) {
    pixel[i] = o.pixel[t + i] + o.pixel_offset + j * step;
    own[i] = Op::kSpatial ? o.s[t + i] + o.s_offset + j : nullptr;
  }
  Vector<A> total[lanes]{};  // (NT, NP)
  for (int64_t left = o.vectors, pixel_vector = o.pixel_vector, g_vector = o.g_vector; left > 0; --left) {
    o.prefetcher->fetch();
    Vector<A> grad[NP], column[NT + NP - 1];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) grad[p] = load_once(g + p * g_step);
#pragma GCC unroll 6
    for (int i = 0; kWindow && i <= last; ++i)
      if (is_there(i)) column[i] = load_once(pixel[0] + i * step);
#pragma GCC unroll 3
    for (int i = 0; i < NT; ++i) {
      Vector<A> weight{}, sums{};
      if constexpr (Op::kSpatial && Op::kChannel) weight = load_once(channel + i * lanes);
      if constexpr (Op::kChannel) sums = load(c_sums + i * lanes);
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        if (!is_there(i + p)) continue;
        const Vector<A> product = grad[p] * (kWindow ? column[i + p] : load(pixel[i] + p * step));
        if constexpr (Op::kSpatial) total[i * NP + p] += Op::d_spatial(product, weight);
        if constexpr (Op::kChannel) sums += Op::d_channel(product, splat(Op::kSpatial ? own[i][p] : A(0)));
      }
      if constexpr (Op::kChannel) store(c_sums + i * lanes, sums);
    }
    for (int i = 0; i < (kWindow ? 1 : NT); ++i) pixel[i] += pixel_vector;
    g += g_vector;
    if constexpr (Op::kChannel) channel += tap_vector, c_sums += tap_vector;
  }
  if constexpr (Op::kSpatial) store_sums<A, NT, NP>(total, o.s_sums + t * o.s_sums_step + j, o.s_sums_step);
}

// Whether the row of a window that begins with source t is inside the image.
template <class A, bool kWindow>
bool has_row(const TapSumArgs<A>& o, int64_t t) {
  return !kWindow || ((t > 0 || o.edges.above) && (t < 6 || o.edges.below));
}

template <class A, class Op, int NP, bool kWindow>
void sum_outputs(const TapSumArgs<A>& o, int64_t j) {
  int64_t t = 0;
  for (; t + 3 <= o.n; t += 3)
    if (has_row<A, kWindow>(o, t))
      sum_some<A, Op, 3, NP, kWindow>(o, t, j);
    else
      for (int i = 0; i < 3; ++i) std::fill_n(o.s_sums + (t + i) * o.s_sums_step + j, NP, A(0));
  if constexpr (!kWindow)
    for (; t < o.n; ++t) sum_some<A, Op, 1, NP, false>(o, t, j);
}

// Takes as many outputs at a time as there are registers for, so that few are left alone.
template <class A, class Op, bool kWindow>
void sums(const TapSumArgs<A>& o) {
  int64_t j = 0;
  if constexpr (kVectorBytes == 64) {
    const int64_t few = -o.count & 3, threes = 3 * few <= o.count ? few : 0;
    for (; j < 3 * threes; j += 3) sum_outputs<A, Op, 3, kWindow>(o, j);
    for (; j + 4 <= o.count; j += 4) sum_outputs<A, Op, 4, kWindow>(o, j);
  } else {
    for (; j + 2 <= o.count; j += 2) sum_outputs<A, Op, 2, kWindow>(o, j);
  }
  for (; j < o.count; ++j) sum_outputs<A, Op, 1, kWindow>(o, j);
}

// window: as of window_of.
template <class A, class Op>
TapSumKernel<A> tap_sum_kernel_for(int64_t window) {
  return window == 3 ? sums<A, Op, true> : sums<A, Op, false>;
}

}  // namespace dynfilters::cpu
