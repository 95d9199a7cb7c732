#include "fully_connected.h"

#include <algorithm>
#include <vector>

#include "select.h"
#include "transpose.h"

namespace dynfilters::cpu {

namespace {

constexpr int64_t kBlock = FullyConnected::kBlock;
constexpr int kSamples = kVectorBytes == 64 ? 8 : 4;  // at a time, by the registers there are

// What a thread works with.
template <class A>
struct Scratch {
  const FullyConnected& p;
  const Access<A>& access;
  const int64_t pitch;
  std::vector<A> x;       // (batch, pitch)
  std::vector<A> rows;    // (kBlock, pitch): the weight, as it is
  std::vector<A> weight;  // (pitch, kBlock)
  std::vector<A> bias;    // (kBlock)
  std::vector<A> y;       // (batch, kBlock)

  Scratch(const FullyConnected& params, const Access<A>& how)
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
void multiply(Scratch<A>& s, int64_t b, int64_t o) {
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
void run(const FullyConnected& p, const Access<A>& access, int64_t begin, int64_t end) {
  Scratch<A> s(p, access);
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

void fully_connected(const FullyConnected& p, Storage storage, int64_t begin, int64_t end) {
  with_access(storage, [&](auto access) { run<typename decltype(access)::type>(p, access, begin, end); });
}

}  // namespace dynfilters::cpu
