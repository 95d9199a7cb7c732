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

#include "../combine.h"
#include "tap_lines.h"

namespace dynfilters::cpu {

// For blocks of B neighbouring outputs of one vector of channels:
// out[j] (+)= Σ over sources t of tap(s_t[j], channel[t]) · pixel_t[j].
template <class A>
struct Weighing {
  int64_t n;
  const A* const* pixel;  // pixel_t[j] lies pixel_offset + j·pixel_step from here
  int64_t pixel_offset, pixel_step;
  const A* s;        // (blocks, sources, B), s_block and s_source from one to the next
  int64_t s_block, s_source;
  const A* channel;  // (n, lanes)
  int64_t count;     // of outputs; there are pixels and taps for whole blocks
  A* out;
  int64_t out_step;
  bool add;
  bool stream;  // past the caches: out is aligned and not soon read again
  Ahead* ahead;  // a share of it for each block
  int64_t block;     // B
  int64_t whole;     // outputs of whole blocks
  bool in_place;     // taps are read where they lie, a block's right behind the last one's; then may be nothing
};
template <class A>
using Weigh = void (*)(const Weighing<A>&);

template <class A>
inline void put(A* out, Vector<A> value, bool stream) {
#if defined(__AVX512F__)
  if constexpr (sizeof(A) == 4)
    if (stream) return _mm512_stream_ps(out, (__m512)value);
#endif
  store(out, value);
}

// Whole blocks; the sources are any.
template <class A, class Op, int B>
void weigh_any(const Weighing<A>& o) {
  const A* s = o.s;
  for (int64_t j = 0; j < o.count; j += B, s += o.s_block) {
    o.ahead->fetch();
    A* out = o.out + j * o.out_step;
    Vector<A> total[B]{};
    for (int p = 0; o.add && p < B; ++p) total[p] = load(out + p * o.out_step);
    for (int64_t t = 0; t < o.n; ++t) {
      Vector<A> weight{};
      if constexpr (Op::kChannel) weight = load(o.channel + t * kLanes<A>);
      const A* pixel = o.pixel[t] + o.pixel_offset + j * o.pixel_step;
#pragma GCC unroll 8
      for (int p = 0; p < B; ++p)
        total[p] +=
            Op::tap(splat(Op::kSpatial ? s[t * o.s_source + p] : A(0)), weight) * load(pixel + p * o.pixel_step);
    }
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p) put(out + p * o.out_step, total[p], o.stream);
  }
}

// What a row of a window adds to a block: neighbouring outputs share its columns.
template <class A, class Op, int K, int B>
DYNFILTERS_INLINE void add_window_row(const A* pixel, const A* s, int64_t s_source, const A* channel,
                                      Vector<A>* total) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> column[B + K - 1];
#pragma GCC unroll 14
  for (int i = 0; i < B + K - 1; ++i) {
    column[i] = load(pixel + i * lanes);
    // Where one load may serve many products, it must not be made anew for each.
    if (!Op::kChannel && (B <= 4 || kVectorBytes == 64)) asm("" : "+v"(column[i]));
  }
#pragma GCC unroll 7
  for (int i = 0; i < K; ++i) {
    Vector<A> weight{};
    if constexpr (Op::kChannel) weight = load(channel + i * lanes);
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p)
      total[p] += Op::tap(splat(Op::kSpatial ? s[p] : A(0)), weight) * column[i + p];
    s += s_source;
  }
}

// The same where the sources are a window of K rows and columns, and each output's begins one pixel
// behind the last one's.
template <class A, class Op, int K, int B>
void weigh_window(const Weighing<A>& o) {
  constexpr int64_t lanes = kLanes<A>;
  const A *s = o.s, *rows[K];
  for (int i = 0; i < K; ++i) rows[i] = o.pixel[i * K] + o.pixel_offset;
  A* out = o.out;
  const int64_t step = o.out_step, s_source = o.s_source;
  const bool add = o.add, stream = o.stream;
  for (int64_t left = o.count; left > 0; left -= B) {
    o.ahead->fetch();
    Vector<A> total[B]{};
    if (add)
#pragma GCC unroll 8
      for (int p = 0; p < B; ++p) total[p] = load(out + p * step);
    if constexpr (K == 3) {
      add_window_row<A, Op, K, B>(rows[0], s, s_source, o.channel, total);
      add_window_row<A, Op, K, B>(rows[1], s + K * s_source, s_source, o.channel + K * lanes, total);
      add_window_row<A, Op, K, B>(rows[2], s + 2 * K * s_source, s_source, o.channel + 2 * K * lanes, total);
    } else {
      for (int i = 0; i < K; ++i)
        add_window_row<A, Op, K, B>(rows[i], s + i * K * s_source, s_source, o.channel + i * K * lanes, total);
    }
    for (int i = 0; i < K; ++i) rows[i] += B * lanes;
    s += o.s_block;
#pragma GCC unroll 8
    for (int p = 0; p < B; ++p, out += step) put(out, total[p], stream);
  }
}

// All outputs. The last block may repeat outputs; where it cannot, because there are fewer, or it would add
// to them twice, its results go by a room of their own.
template <class A>
void weigh_all(Weigh<A> blocks, Weighing<A>& o) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t whole = o.whole;
  if (whole == o.count) return blocks(o);
  Weighing<A> part = o;
  part.count = whole;
  if (whole) blocks(part);
  const int64_t j = block_at(whole, o.count, o.block);
  part.count = o.block, part.pixel_offset += j * o.pixel_step, part.out += j * o.out_step;
  if (o.s) part.s += o.in_place ? j : whole * o.n;
  if (whole && !o.add) return blocks(part);
  alignas(64) A room[8 * lanes], taps[49 * 8];
  A* const out = part.out;
  part.out = room, part.out_step = lanes, part.add = part.stream = false;
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
struct WeighKernels {
  int64_t block;
  Weigh<A> window, any;
};
template <class A, class Op, int B>
WeighKernels<A> weigh_kernels(int64_t window) {
  constexpr bool wide = B <= 4 || kVectorBytes == 64;  // there are registers for the columns of large windows
  WeighKernels<A> found{B, weigh_window<A, Op, 3, B>, weigh_any<A, Op, B>};
  if constexpr (wide) {
    if (window == 5) found.window = weigh_window<A, Op, 5, B>;
    if (window == 7) found.window = weigh_window<A, Op, 7, B>;
  }
  return found;
}
template <class A, class Op>
WeighKernels<A> weigh_kernels(int64_t window, int64_t columns) {
  const int64_t block = block_for(columns, window);
  if (block == 7) return weigh_kernels<A, Op, 7>(window);
  if (block == 8) return weigh_kernels<A, Op, 8>(window);
  if constexpr (kVectorBytes < 64) return weigh_kernels<A, Op, 4>(window);
  return {};
}

// For some outputs j of the channels of a group, with p = g[j] · pixel_t[j]:
// s_sums[t, j] = Σ_c d_spatial(p, channel[c, t]), c_sums[c, t] += Σ_j d_channel(p, s_t[j]).
// Both are made although one alone may be wanted, which is rare.
template <class A>
struct Summing {
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
  Ahead* ahead;  // a share of it for every 3 sources of a block of 4 outputs, and vector
};
template <class A>
using SumRow = void (*)(const Summing<A>&);

// Sources t and following, NT of them, for the outputs j and following, NP of them. kWindow: each source
// and output is one pixel behind the last one.
template <class A, class Op, int NT, int NP, bool kWindow>
void sum_some(const Summing<A>& o, int64_t t, int64_t j) {
  constexpr int64_t lanes = kLanes<A>;
  const A *pixel[NT], *own[NT], *g = o.g + j * o.g_step, *channel = o.channel + t * lanes;
  A* c_sums = o.c_sums + t * lanes;
  const int64_t step = o.pixel_step, g_step = o.g_step, tap_vector = o.n * lanes;
  for (int i = 0; i < NT; ++i) {
    pixel[i] = o.pixel[t + i] + o.pixel_offset + j * step;
    own[i] = Op::kSpatial ? o.s[t + i] + o.s_offset + j : nullptr;
  }
  Vector<A> total[lanes]{};  // (NT, NP)
  for (int64_t left = o.vectors, pixel_vector = o.pixel_vector, g_vector = o.g_vector; left > 0; --left) {
    o.ahead->fetch();
    Vector<A> grad[NP];
#pragma GCC unroll 4
    for (int p = 0; p < NP; ++p) grad[p] = load(g + p * g_step);
#pragma GCC unroll 3
    for (int i = 0; i < NT; ++i) {
      Vector<A> weight{}, sums{};
      if constexpr (Op::kSpatial && Op::kChannel) weight = load(channel + i * lanes);
      if constexpr (Op::kChannel) sums = load(c_sums + i * lanes);
#pragma GCC unroll 4
      for (int p = 0; p < NP; ++p) {
        const Vector<A> product = grad[p] * load(kWindow ? pixel[0] + (i + p) * lanes : pixel[i] + p * step);
        if constexpr (Op::kSpatial) total[i * NP + p] += Op::d_spatial(product, weight);
        if constexpr (Op::kChannel) sums += Op::d_channel(product, splat(Op::kSpatial ? own[i][p] : A(0)));
      }
      if constexpr (Op::kChannel) store(c_sums + i * lanes, sums);
    }
    for (int i = 0; i < (kWindow ? 1 : NT); ++i) pixel[i] += pixel_vector;
    g += g_vector;
    if constexpr (Op::kChannel) channel += tap_vector, c_sums += tap_vector;
  }
  if constexpr (Op::kSpatial) {
    static_assert(NT * NP <= lanes);
    A found[lanes];
    store(found, sums_of<A>(total));
    for (int i = 0; i < NT; ++i)
      for (int p = 0; p < NP; ++p) o.s_sums[(t + i) * o.s_sums_step + j + p] = found[i * NP + p];
  }
}

template <class A, class Op, int NP, bool kWindow>
void sum_outputs(const Summing<A>& o, int64_t j) {
  int64_t t = 0;
  for (; t + 3 <= o.n; t += 3) sum_some<A, Op, 3, NP, kWindow>(o, t, j);
  for (; t < o.n; ++t) sum_some<A, Op, 1, NP, false>(o, t, j);
}

template <class A, class Op, bool kWindow>
void sums(const Summing<A>& o) {
  constexpr int most = kVectorBytes == 64 ? 4 : 2;  // by the registers there are
  int64_t j = 0;
  for (; j + most <= o.count; j += most) sum_outputs<A, Op, most, kWindow>(o, j);
  for (; j + 2 <= o.count; j += 2) sum_outputs<A, Op, 2, kWindow>(o, j);
  for (; j < o.count; ++j) sum_outputs<A, Op, 1, kWindow>(o, j);
}

// The kernel for a problem, whose windows have K rows and columns of neighbours, or 0.
template <class A, class Op>
SumRow<A> sum_kernel(int64_t window) {
  return window == 3 ? sums<A, Op, true> : sums<A, Op, false>;
}

}  // namespace dynfilters::cpu
