#include "generate.h"

#include <algorithm>
#include <vector>

namespace dynfilters::cpu {

namespace {

// ---- logits and mean, in one pass over x ----

constexpr int64_t kOutputs = 9;                    // at a time, in registers: the taps of a 3×3 filter
constexpr int64_t kChannels = 16;                  // planes read side by side: whole vectors of any type
constexpr int kStep = kVectorBytes == 64 ? 2 : 1;  // vectors, or pixels, at a time: by the registers there are
constexpr int64_t kTile = 256, kSumBytes = 64 * 1024;

int64_t tile_size(const GenerateParams& p) {
  const int64_t fits = kSumBytes / (round_up(p.outputs, kOutputs) * 8);
  return std::clamp<int64_t>(fits / 16 * 16, 16, kTile);
}

// The buffers of a thread. Padding is of zeros, so that it adds nothing.
template <class A>
struct PoolScratch {
  static constexpr int64_t lanes = kLanes<A>;
  const GenerateParams& p;
  const GenerateOperands& o;
  const Access<A>& access;
  int64_t outputs, channels, pitch;
  std::vector<A> weight;  // (outputs/9, channels, 9), or (outputs, channels) for pixels
  std::vector<A> bias;    // (outputs)
  std::vector<A> logits;  // (outputs, pitch)
  std::vector<A> rows;    // (16, pitch), or (lanes, channels) for pixels
  std::vector<A> sums;    // (2, 16, lanes), or (2, channels) for pixels; the second one is not used

  PoolScratch(const GenerateParams& params, const GenerateOperands& operands, const Access<A>& how)
      : p(params),
        o(operands),
        access(how),
        outputs(round_up(p.outputs, kOutputs)),
        channels(round_up(p.channels, p.pixels ? lanes : kChannels)),
        pitch(round_up(tile_size(p), lanes)),
        weight(outputs * channels),
        bias(outputs),
        logits(outputs * pitch),
        rows(p.pixels ? lanes * channels : kChannels * pitch),
        sums(2 * (p.pixels ? channels : kChannels * lanes)) {
    if (o.bias) access.read(o.bias, 1, 0, p.outputs, 1, bias.data(), 0);
    access.read(o.weight, p.outputs, p.channels, p.channels, 1, weight.data(), channels);
    if (!p.pixels) interleave();
  }
  const void* at(int64_t offset) const { return static_cast<const char*>(o.x) + offset * access.bytes; }
  bool in_place() const { return access.bytes == int64_t(sizeof(A)); }
  // All ones in the lanes from `first` on.
  Mask<A> from_lane(int64_t first) const {
    Mask<A> mask{};
    for (int i = 0; i < kLanes<A>; ++i) mask[i] = i < first ? 0 : -1;
    return mask;
  }

 private:
  void interleave() {
    std::vector<A> straight(weight);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t c = 0; c < channels; ++c)
        weight[(o / kOutputs * channels + c) * kOutputs + o % kOutputs] = straight[o * channels + c];
  }
};

// The part of 16 planes in 9 outputs, at kCount vectors of positions: vector i begins at at[i] of the
// planes, and of the last one only the lanes in `counted` are new to the sums. Loops over outputs are
// unrolled, without which y would lie in memory.
template <int kCount, class A>
void add_planes(const A* x, int64_t pitch, const int64_t* at, const Mask<A>& counted, const A* weight, A* logits,
                int64_t logits_pitch, A* sums) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> y[kOutputs][kCount];
#pragma GCC unroll 9
  for (int o = 0; o < kOutputs; ++o)
    for (int i = 0; i < kCount; ++i) y[o][i] = load(logits + o * logits_pitch + i * lanes);
  for (int c = 0; c < kChannels; ++c) {
    Vector<A> v[kCount];
    for (int i = 0; i < kCount; ++i) v[i] = load(x + c * pitch + at[i]);
#pragma GCC unroll 9
    for (int o = 0; o < kOutputs; ++o)
      for (int i = 0; i < kCount; ++i) y[o][i] += v[i] * weight[c * kOutputs + o];
    Vector<A> total = load(sums + c * lanes) + (Vector<A>)((Mask<A>)v[kCount - 1] & counted);
    for (int i = 0; i + 1 < kCount; ++i) total += v[i];
    store(sums + c * lanes, total);
  }
#pragma GCC unroll 9
  for (int o = 0; o < kOutputs; ++o)
    for (int i = 0; i < kCount; ++i) store(logits + o * logits_pitch + i * lanes, y[o][i]);
}

// Likewise for `count` positions, at least a vector: the last vector overlaps the one before.
template <class A>
void add_planes(PoolScratch<A>& s, const A* x, int64_t pitch, int64_t count, int64_t c) {
  constexpr int64_t lanes = kLanes<A>;
  std::fill(s.sums.begin(), s.sums.end(), A(0));
  for (int64_t o = 0; o < s.outputs; o += kOutputs) {
    const A* weight = s.weight.data() + (o / kOutputs * s.channels + c) * kOutputs;
    A* sums = s.sums.data() + (o == 0 ? 0 : kChannels * lanes);
    for (int64_t j = 0; j < count;) {
      const bool many = j + lanes < count;
      const int64_t step = many ? kStep * lanes : lanes, last = std::min(j + step, count) - lanes;
      const int64_t at[] = {many && kStep > 1 ? j : last, last};
      A* to = s.logits.data() + o * s.pitch + j;
      (many ? add_planes<kStep, A> : add_planes<1, A>)(x, pitch, at, s.from_lane(j + step - lanes - last), weight, to,
                                                       s.pitch, sums);
      j += step;
    }
  }
}

// Stores the sums of the first `some` of the planes just added.
template <class A>
void store_sums(const PoolScratch<A>& s, int64_t some, A* to) {
  constexpr int64_t lanes = kLanes<A>;
  A sums[kChannels];
  for (int64_t i = 0; i < kChannels; i += lanes) {
    Vector<A> v[lanes];
    for (int64_t j = 0; j < lanes; ++j) v[j] = load(s.sums.data() + (i + j) * lanes);
    store(sums + i, sums_of<A>(v));
  }
  std::copy_n(sums, some, to);
}

// A tile of `count` positions from `first` of sample b.
template <class A>
void tile_of_planes(PoolScratch<A>& s, int64_t b, int64_t first, int64_t count, A* partial) {
  constexpr int64_t lanes = kLanes<A>;
  const GenerateParams& p = s.p;
  const int64_t span = std::max(count, lanes);
  for (int64_t o = 0; o < s.outputs; ++o) std::fill_n(s.logits.data() + o * s.pitch, s.pitch, s.bias[o]);
  for (int64_t c = 0; c < p.channels; c += kChannels) {
    const int64_t some = std::min(kChannels, p.channels - c);
    const void* from = s.at((b * p.channels + c) * p.positions + first);
    if (s.in_place() && some == kChannels && count == span) {
      add_planes(s, static_cast<const A*>(from), p.positions, span, c);
    } else {
      if (some < kChannels || count < span) std::fill(s.rows.begin(), s.rows.end(), A(0));
      s.access.read(from, some, p.positions, count, 1, s.rows.data(), s.pitch);
      add_planes(s, s.rows.data(), s.pitch, span, c);
    }
    store_sums(s, some, partial + c);
  }
  for (int64_t o = 0; o < p.outputs; ++o) {  // the last vector to its place
    A* row = s.logits.data() + o * s.pitch;
    store(row + span - lanes, load(row + round_up(span, lanes) - lanes));
  }
  void* to = static_cast<char*>(s.o.logits) + (b * p.outputs * p.positions + first) * s.access.bytes;
  s.access.write(s.logits.data(), s.pitch, p.outputs, count, to, p.positions, 1);
}

// 9 outputs at kCount pixels, as vectors over channels that are yet to be summed up.
template <int kCount, class A>
void dot_pixels(const A* x, const A* weight, int64_t channels, Vector<A>* dots, A* sums) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> y[kOutputs][kCount] = {};
  for (int64_t c = 0; c < channels; c += lanes) {
    Vector<A> v[kCount], total = load(sums + c);
    for (int i = 0; i < kCount; ++i) total += v[i] = load(x + i * channels + c);
    store(sums + c, total);
#pragma GCC unroll 9
    for (int o = 0; o < kOutputs; ++o) {
      const Vector<A> w = load(weight + o * channels + c);
      for (int i = 0; i < kCount; ++i) y[o][i] += v[i] * w;
    }
  }
#pragma GCC unroll 9
  for (int o = 0; o < kOutputs; ++o)
    for (int i = 0; i < kCount; ++i) dots[o * lanes + i] = y[o][i];
}

// 9 outputs, from `o` on, at up to `lanes` pixels.
template <class A>
void group_of_pixels(PoolScratch<A>& s, const A* x, int64_t count, int64_t o, A* logits) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> dots[kOutputs * lanes] = {};
  const A* weight = s.weight.data() + o * s.channels;
  A* sums = s.sums.data() + (o == 0 ? 0 : s.channels);
  int64_t j = 0;
  for (; j + kStep <= count; j += kStep) dot_pixels<kStep>(x + j * s.channels, weight, s.channels, dots + j, sums);
  for (; j < count; ++j) dot_pixels<1>(x + j * s.channels, weight, s.channels, dots + j, sums);
  for (int i = 0; i < kOutputs; ++i) store(logits + i * s.pitch, sums_of<A>(dots + i * lanes) + s.bias[o + i]);
}

template <class A>
void tile_of_pixels(PoolScratch<A>& s, int64_t b, int64_t first, int64_t count, A* partial) {
  constexpr int64_t lanes = kLanes<A>;
  const GenerateParams& p = s.p;
  const bool in_place = s.in_place() && s.channels == p.channels;
  std::fill(s.sums.begin(), s.sums.end(), A(0));
  for (int64_t j = 0; j < count; j += lanes) {
    const int64_t some = std::min(lanes, count - j);
    const void* from = s.at((b * p.positions + first + j) * p.channels);
    if (!in_place) s.access.read(from, some, p.channels, p.channels, 1, s.rows.data(), s.channels);
    const A* x = in_place ? static_cast<const A*>(from) : s.rows.data();
    for (int64_t o = 0; o < s.outputs; o += kOutputs) group_of_pixels(s, x, some, o, s.logits.data() + o * s.pitch + j);
  }
  std::copy_n(s.sums.begin(), p.channels, partial);
  void* to = static_cast<char*>(s.o.logits) + (b * p.positions + first) * p.outputs * s.access.bytes;
  s.access.write(s.logits.data(), s.pitch, p.outputs, count, to, 1, p.outputs);
}

template <class A>
void run_tiles(const GenerateParams& p, const GenerateOperands& o, const Access<A>& access, int64_t begin,
               int64_t end) {
  PoolScratch<A> scratch(p, o, access);
  const int64_t tiles = tiles_of(p), size = tile_size(p);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task % tiles * size, count = std::min(size, p.positions - first);
    A* partial = static_cast<A*>(o.partial) + task * p.channels;
    (p.pixels ? tile_of_pixels<A> : tile_of_planes<A>)(scratch, task / tiles, first, count, partial);
  }
}

template <class A>
void reduce_mean(const GenerateParams& p, const GenerateOperands& o, const Access<A>& access, int64_t begin,
                 int64_t end) {
  const int64_t tiles = tiles_of(p);
  std::vector<A> total(p.channels);
  for (int64_t b = begin; b < end; ++b) {
    std::fill(total.begin(), total.end(), A(0));
    const A* from = static_cast<const A*>(o.partial) + b * tiles * p.channels;
    for (int64_t t = 0; t < tiles; ++t)
      for (int64_t c = 0; c < p.channels; ++c) total[c] += *from++;
    for (A& value : total) value /= A(p.positions);
    access.write(total.data(), 0, 1, p.channels, static_cast<char*>(o.mean) + b * p.channels * access.bytes, 0, 1);
  }
}

// ---- fully connected layers ----

constexpr int64_t kBlock = FullyConnected::kBlock;
constexpr int kSamples = kVectorBytes == 64 ? 8 : 4;  // at a time, by the registers there are

// The buffers of a thread.
template <class A>
struct LayerScratch {
  const FullyConnected& p;
  const Access<A>& access;
  const int64_t pitch;
  std::vector<A> x;       // (batch, pitch)
  std::vector<A> rows;    // (kBlock, pitch): the weight, as it is
  std::vector<A> weight;  // (pitch, kBlock)
  std::vector<A> bias;    // (kBlock)
  std::vector<A> y;       // (batch, kBlock)

  LayerScratch(const FullyConnected& params, const Access<A>& how)
      : p(params),
        access(how),
        pitch(round_up(p.inputs, kLanes<A>)),
        x(p.batch * pitch),
        rows(kBlock * pitch),
        weight(pitch * kBlock),
        bias(kBlock),
        y(p.batch * kBlock) {
    access.read(p.x, p.batch, p.inputs, p.inputs, 1, x.data(), pitch);
  }
  // The outputs [first, first + some) of the weight and the bias.
  void load_block(int64_t first, int64_t some) {
    constexpr int lanes = kLanes<A>;
    access.read(at(p.weight, first * p.inputs), some, p.inputs, p.inputs, 1, rows.data(), pitch);
    if (p.bias) access.read(at(p.bias, first), 1, 0, some, 1, bias.data(), 0);
    Vector<A> v[lanes];
    for (int64_t o = 0; o < kBlock; o += lanes)
      for (int64_t i = 0; i < pitch; i += lanes) {
#pragma GCC unroll 16
        for (int j = 0; j < lanes; ++j) v[j] = load(rows.data() + (o + j) * pitch + i);
        transpose<A>(v);
#pragma GCC unroll 16
        for (int j = 0; j < lanes; ++j) store(weight.data() + (i + j) * kBlock + o, v[j]);
      }
  }

 private:
  const void* at(const void* base, int64_t offset) const {
    return static_cast<const char*>(base) + offset * access.bytes;
  }
};

// Two vectors of outputs, from the o-th of the block on, of kCount samples from the b-th on.
template <int kCount, class A>
void multiply(LayerScratch<A>& s, int64_t b, int64_t o) {
  constexpr int64_t lanes = kLanes<A>;
  Vector<A> sums[kCount][2];
#pragma GCC unroll 8
  for (auto& sum : sums) sum[0] = load(s.bias.data() + o), sum[1] = load(s.bias.data() + o + lanes);
  const A *x = s.x.data() + b * s.pitch, *weight = s.weight.data() + o;
  for (int64_t i = 0; i < s.p.inputs; ++i, weight += kBlock) {
    const Vector<A> first = load(weight), second = load(weight + lanes);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      sums[j][0] += first * x[j * s.pitch + i];
      sums[j][1] += second * x[j * s.pitch + i];
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j)
    for (int h = 0; h < 2; ++h) {
      Vector<A> sum = sums[j][h];
      if (s.p.relu) sum = sum < 0 ? Vector<A>{} : sum;  // NaN stays
      store(s.y.data() + (b + j) * kBlock + o + h * lanes, sum);
    }
}

template <class A>
void run_layer(const FullyConnected& p, const Access<A>& access, int64_t begin, int64_t end) {
  LayerScratch<A> s(p, access);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kBlock, some = std::min(kBlock, p.outputs - first);
    s.load_block(first, some);
    for (int64_t o = 0; o < kBlock; o += 2 * kLanes<A>) {
      int64_t b = 0;
      for (; b + kSamples <= p.batch; b += kSamples) multiply<kSamples>(s, b, o);
      for (; b < p.batch; ++b) multiply<1>(s, b, o);
    }
    access.write(s.y.data(), kBlock, p.batch, some, static_cast<char*>(p.y) + first * access.bytes, p.outputs, 1);
  }
}

}  // namespace

int64_t tiles_of(const GenerateParams& p) { return (p.positions + tile_size(p) - 1) / tile_size(p); }

void pool_project(const GenerateParams& p, const GenerateOperands& o, Storage storage, int64_t begin, int64_t end) {
  with_access(storage, [&](auto access) { run_tiles<typename decltype(access)::type>(p, o, access, begin, end); });
}

void pool_project_mean(const GenerateParams& p, const GenerateOperands& o, Storage storage, int64_t begin,
                       int64_t end) {
  with_access(storage, [&](auto access) { reduce_mean<typename decltype(access)::type>(p, o, access, begin, end); });
}

void fully_connected(const FullyConnected& p, Storage storage, int64_t begin, int64_t end) {
  with_access(storage, [&](auto access) { run_layer<typename decltype(access)::type>(p, access, begin, end); });
}

}  // namespace dynfilters::cpu
