// The gradient of x where channel taps are not finite, by the formula.
#include <vector>

#include "activate.h"
#include "kernels.h"

namespace dynfilters::cpu {

namespace {

template <class A>
const A* channel_taps(const Filter2dParams& p, const Operands& o, int64_t b, int64_t c) {
  return static_cast<const A*>(o.channel) + b * p.cs[0] + c * p.cs[1];
}

// Whether the taps of a channel, or of `channels` one behind the other, are finite.
template <class A>
bool are_finite(const Filter2dParams& p, const A* taps, int64_t channels = 1) {
  const int64_t K = p.taps(), n = p.channel_phases * K;
  A nonfinite = 0;  // v - v is 0, or NaN
  if (p.channel_phases == 1 && p.cs[2] == 1 && (channels == 1 || p.cs[1] == K)) {
    constexpr int64_t lanes = kLanes<A>;
    Vector<A> found{};
    int64_t i = 0;
    for (; i + lanes <= channels * K; i += lanes) found += load(taps + i) - load(taps + i);
    for (; i < channels * K; ++i) nonfinite += taps[i] - taps[i];
    return nonfinite + sum<A>(found) == 0;
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < n; ++i) {
      const A tap = taps[c * p.cs[1] + i / p.channel_phases * p.cs[2] + i % p.channel_phases * p.cs[3]];
      nonfinite += tap - tap;
    }
  return nonfinite == 0;
}

template <class A>
class GradX {
 public:
  GradX(const Filter2dParams& params, const Operands& operands, const Access<A>& access)
      : p(params),
        o(operands),
        io(access),
        cols(p.cols * p.scale),
        pitch(round_up(cols, kLanes<A>)),
        line(pitch),
        taps(p.taps() * pitch),
        plane(p.height * p.width) {}

  template <class Op>
  void run(int64_t b, int64_t c, Op op) {
    std::fill(plane.begin(), plane.end(), A(0));
    for (int64_t row = 0; row < p.rows * p.scale; ++row) {
      io.read(at(o.grad, (b * p.ys[0] + c * p.ys[1] + row * p.ys[2]) * io.bytes), 1, 0, cols, p.ys[3], line.data(), 0);
      if (p.has_spatial()) read_spatial(b, c / p.group_channels(), row);
      add_row(channel_taps<A>(p, o, b, c), row, op);
    }
    io.write(plane.data(), p.width, p.height, p.width, at(o.grad_x, (b * p.gs[0] + c * p.gs[1]) * io.bytes), p.gs[2],
             p.gs[3]);
  }

 private:
  const Filter2dParams& p;
  const Operands& o;
  const Access<A>& io;
  const int64_t cols, pitch;
  std::vector<A> line, taps, plane;  // a row of grad; one of activated spatial: (taps, pitch); the gradient of a plane

  void read_spatial(int64_t b, int64_t group, int64_t row) {
    const int64_t place = b * p.ss[0] + group * p.ss[1] + row * p.ss[3];
    io.read(at(o.spatial, place * io.bytes), p.taps(), p.ss[2], cols, p.ss[4], taps.data(), pitch);
    activate(o.activation, taps.data(), p.taps(), pitch, pitch);
  }
  template <class Op>
  void add_row(const A* channel, int64_t row, Op op) {
    for (int64_t k = 0; k < p.taps(); ++k) {
      const int64_t h = row / p.scale * p.stride + k / p.kw * p.dilation - p.pad_h();
      for (int64_t col = 0; h >= 0 && h < p.height && col < cols; ++col) {
        const int64_t w = col / p.scale * p.stride + k % p.kw * p.dilation - p.pad_w();
        if (w < 0 || w >= p.width) continue;
        const int64_t phase = p.channel_phases > 1 ? row % p.scale * p.scale + col % p.scale : 0;
        plane[h * p.width + w] += op.tap(taps[k * pitch + col], channel[k * p.cs[2] + phase * p.cs[3]]) * line[col];
      }
    }
  }
};

}  // namespace

bool channel_is_finite(const Filter2dParams& p, Storage storage, const Operands& o, int64_t begin, int64_t end) {
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    for (int64_t b = begin; b < end; ++b)
      if (!are_finite(p, channel_taps<A>(p, o, b, 0), p.channels)) return false;
    return true;
  });
}

void grad_x_nonfinite(const Filter2dParams& p, Storage storage, const Operands& o, int64_t begin, int64_t end) {
  with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    GradX<A> grad_x(p, o, io);
    for (int64_t b = begin; b < end; ++b)
      for (int64_t c = 0; c < p.channels; ++c)
        if (!are_finite(p, channel_taps<A>(p, o, b, c)))
          with_combine(p.combine, [&](auto op) { grad_x.run(b, c, op); });
  });
}

}  // namespace dynfilters::cpu
