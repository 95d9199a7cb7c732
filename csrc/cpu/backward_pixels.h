// The gradients by rows of pixels. What a chunk of tiles adds to grad channel goes to its own part of
// `partial`.
#pragma once
#include "pixel_rows.h"
#include "pixel_sums.h"

namespace dynfilters::cpu {

// The gradients of the taps.
template <class T>
class TapGradientPass {
 public:
  using A = Accumulator<T>;
  static constexpr int64_t lanes = kLanes<A>;

  TapGradientPass(const Filter2dParams& p, const Operands& o, const Access<A>& io, TapSumKernel<A> tap_sum_kernel,
                  const Image<A>& of_x, const Image<A>& of_y)
      : p(p),
        o(o),
        io(io),
        tap_sum_kernel(tap_sum_kernel),
        vectors(of_x.vectors),
        of_x(of_x),
        of_y(of_y),
        sum(sum_for_y<A>(p)),
        x(of_x, o.x, sum.row_ring(p)),
        grad(of_y, o.grad, RowRing{1, 1}),
        taps(p, o, io, RowRing{1, 1}) {}

  void begin_sample(int64_t b) {
    for (auto& place : sum.places)
      if (b != sample) channel_bound = place.patterns[0].pack_channel(p, o.channel, b, vectors);
    sample = b;
    c_sums.assign(p.has_channel() ? p.channel_phases * c_size() : 0, A(0));
  }
  void run(const Tile& next) {
    tile = next;
    const int64_t least = sum.columns.least, reach = sum.columns.count();
    x.begin(sample, {tile.col * p.stride + least, (tile.cols - 1) * p.stride + reach, p.width}, 0, vectors.count());
    grad.begin(sample, {tile.col * p.scale, tile.cols * p.scale, p.cols * p.scale}, 0, vectors.count());
    taps.begin(sample, {tile.col, tile.cols, p.cols});
    for (int64_t y = tile.row * p.scale; y < (tile.row + tile.rows) * p.scale; ++y) row(y);
  }
  // partial: (channels, phases, taps).
  void unpack(A* partial) const {
    const int64_t n = p.taps();
    ChannelLanes<A> lines(n);
    for (int64_t channel_phase = 0; channel_phase < p.channel_phases; ++channel_phase)
      for (int64_t v = 0; v < vectors.count(); ++v)
        lines.write(c_sums.data() + channel_phase * c_size() + v * n * lanes, vectors.size(v), p.channel_phases * n, 1,
                    partial + (vectors.first(v) * p.channel_phases + channel_phase) * n,
                    p.channel_phases > 1 ? 0 : (p.channels - vectors.first(v)) * n);
  }

 private:
  const Filter2dParams& p;
  const Operands& o;
  const Access<A>& io;
  const TapSumKernel<A> tap_sum_kernel;
  const ChannelVectors vectors;
  const Image<A> of_x, of_y;
  Sum<A> sum;
  PixelLines<A> x, grad;
  TapLines<A> taps;
  Tile tile{};
  Bound<A> channel_bound;  // of the last phase's channel taps
  Prefetcher prefetcher;
  int64_t sample = -1;
  std::vector<const A*> pixel, s;
  Buffer<A> s_line, raw, c_sums;  // a row of the gradient of spatial: (taps, groups, phases, pitch)

  int64_t pitch() const { return round_up(tile.cols, lanes); }
  int64_t c_size() const { return vectors.count() * p.taps() * lanes; }

  void row(int64_t y) {
    s_line.resize(p.taps() * p.groups * p.scale * pitch());
    prefetcher.clear();
    if (y % p.scale == 0) x.fetch(prefetcher, y / p.scale * p.stride + sum.rows.most + 1);
    grad.fetch(prefetcher, y + 1);
    prefetcher.spread(vectors.count() * p.scale * std::max<int64_t>(tile.cols / 4, 1) *
                      std::max<int64_t>(p.taps() / 3, 1));
    for (int64_t v = 0; v < p.scale; ++v) sum_phase(y, v);
    if (o.grad_spatial) write_spatial(y);
  }
  void sum_phase(int64_t y, int64_t v) {
    const int64_t phase = y % p.scale * p.scale + v, channel_phase = p.channel_phases > 1 ? phase : 0, n = p.taps();
    const auto& pattern = sum.places[phase].patterns[0];
    s.clear();
    for (const Source& source : pattern.sources) s.push_back(taps.line(y, source.k, v));
    // Of the gradient of y only the outputs' own pixels are read: where they are, if possible.
    const bool in_place = of_y.in_place();
    const A* g = in_place ? static_cast<const A*>(o.grad) + of_y.offset(sample, 0, y, tile.col * p.scale + v)
                          : grad.line(y) + v * lanes;
    const int64_t g_step = p.scale * (in_place ? of_y.strides[3] : lanes);
    const int64_t g_vector = in_place ? lanes : grad.vector_step();
    const bool reads_image = in_place && of_x.in_place() && can_leave_out(g);
    find_pixels(pattern, y, reads_image);
    const int64_t step = p.stride * (reads_image ? of_x.strides[3] : lanes);
    const int64_t vector_step = reads_image ? lanes : x.vector_step();
    const EdgeMask edges = reads_image ? edges_of_row(y) : EdgeMask{};
    for (int64_t group = 0; group < p.groups; ++group) {
      const int64_t first = group * vectors.each(), at = first * n * lanes;
      A* c = p.has_channel() ? c_sums.data() + channel_phase * c_size() + at : nullptr;
      tap_sum_kernel({n, vectors.each(), pixel.data(), s.data(), first * vector_step, step, vector_step,
                      group * taps.group_step(), g + first * g_vector, g_step, g_vector,
                      p.has_channel() ? pattern.channel.data() + at : nullptr, c, tile.cols,
                      s_line.data() + (group * p.scale + v) * pitch(), p.groups * p.scale * pitch(), &prefetcher,
                      edges});
    }
  }
  EdgeMask edges_of_row(int64_t y) const {
    return {y > 0, y + 1 < p.height, tile.col > 0, tile.col + tile.cols < p.width};
  }
  // Where the sources of row y of outputs begin: in the image, or in lines.
  void find_pixels(const Pattern<A>& pattern, int64_t y, bool in_image) {
    pixel.clear();
    for (const Source& source : pattern.sources) {
      const int64_t h = y / p.scale * p.stride + source.row;
      if (in_image)
        pixel.push_back(static_cast<const A*>(o.x) + of_x.offset(sample, 0, h, tile.col + source.column));
      else
        pixel.push_back(x.line(h) + (source.column - sum.columns.least) * lanes);
    }
  }
  // Whether pixels outside x can be left out of the sums of a row: their zeros, times the gradient at g and taps,
  // add nothing then.
  bool can_leave_out(const A* g) const {
    if (window_of(p) != 3 || p.scale > 1 || !channel_bound.holds()) return false;
    Bound<A> bound;
    for (int64_t j = 0; j < tile.cols; ++j) bound.see(g + j * of_y.strides[3], p.channels);
    for (int64_t group = 0; group < p.groups && p.has_spatial(); ++group)
      for (const A* taps_of_row : s) bound.see(taps_of_row + group * taps.group_step(), tile.cols);
    return bound.holds();
  }

  void write_spatial(int64_t y) {
    const int64_t across = p.cols * p.scale, plane = p.rows * p.scale * across, K = p.taps();
    const int64_t each = p.groups * p.scale * pitch();
    if (!o.activation.is_identity()) {
      raw.resize(s_line.size());
      taps.load_row(y, 0, K, raw.data(), pitch());
      for (int64_t i = 0; i < p.groups * p.scale; ++i)
        activate_backward(o.activation, raw.data() + i * pitch(), s_line.data() + i * pitch(), K, each, pitch());
    }
    const A* from = s_line.data();
    for (int64_t k = 0; k < K; ++k)
      for (int64_t g = 0; g < p.groups; ++g)
        for (int64_t v = 0; v < p.scale; ++v, from += pitch()) {
          const int64_t to = ((sample * p.groups + g) * K + k) * plane + y * across + tile.col * p.scale + v;
          io.write(from, 0, 1, tile.cols, cpu::at(o.grad_spatial, to * io.bytes), 0, p.scale);
        }
  }
};

}  // namespace dynfilters::cpu
