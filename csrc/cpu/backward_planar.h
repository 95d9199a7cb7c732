// The gradients of one tile after the other, plane by plane, x's and the taps' in one visit. Each
// is a gather: every element is summed by one task in one order and written once. What a chunk of
// tiles adds to grad channel goes to its own part of `partial`.
#pragma once
#include "planar.h"

namespace dynfilters::cpu {

template <class A>
class BackwardPlanar {
 public:
  BackwardPlanar(const Filter2dParams& params, const Operands& operands, Access<A> io, Correlate<A> correlate,
                 SumTaps<A> sum_taps)
      : p(params),
        o(operands),
        pack(params, operands, io),
        layout(pack.layout),
        correlate(correlate),
        sum_taps(sum_taps) {}

  // Tiles [first, last) of sample b. partial: (channels, phases, taps), or null.
  void run(const Tiles& tiles, int64_t b, int64_t first, int64_t last, A* partial) {
    if (b != sample) pack.pack_channel(b), sample = b;
    if (partial) std::fill(partial, partial + p.channels * p.channel_phases * p.taps(), A(0));
    for (int64_t i = first; i < last; ++i) {
      begin_tile(tiles.at(p, i));
      for (int64_t ch = 0; ch < p.channels; ++ch) {
        if (ch % p.group_channels() == 0) begin_group(b, ch / p.group_channels());
        for (int64_t phase = 0; phase < p.phases(); ++phase) pack.pack_g(b, ch, phase);
        if (o.grad_x) grad_x(b, ch);
        if (want_taps()) grad_taps(b, ch, partial);
        if (o.grad_spatial && (ch + 1) % p.group_channels() == 0) write_spatial(b, ch / p.group_channels());
      }
    }
  }

 private:
  const Filter2dParams& p;
  const Operands& o;
  Packer<A> pack;
  TileLayout& layout;
  const Correlate<A> correlate;
  const SumTaps<A> sum_taps;
  int64_t sample = -1, tap_size = 0;
  std::vector<std::vector<TapOffset>> readers;  // for each place within a stride
  std::vector<TapOffset> own;                   // where a window's own taps lie
  std::vector<A> planes, own_taps, reader_taps, sums, unwanted, raw, grads, out;
  std::vector<Mask<A>> mask;
  Vector<A> nonfinite{};  // filler may be

  bool want_taps() const { return o.grad_spatial || o.partial; }
  bool needs_own_taps() const { return want_taps() && p.has_spatial(); }

  void begin_tile(const Tile& tile) {
    layout.begin(tile, pack.lanes);
    pack.begin_x(), pack.begin_g();
    readers.clear(), own.clear();
    for (int64_t v = 0; v < p.stride; ++v)
      for (int64_t w = 0; w < p.stride; ++w) readers.push_back(layout.readers(v, w));
    for (int64_t k = 0; k < p.taps(); ++k) own.push_back({k, layout.g_origin()});
    tap_size = p.taps() * layout.N;
    planes.assign(p.has_spatial() ? p.taps() * layout.g_size : 0, A(0));
    own_taps.resize(needs_own_taps() ? p.phases() * tap_size : 0);
    reader_taps.resize(o.grad_x && p.has_spatial() ? p.phases() * tap_size : 0);
    sums.resize(p.has_spatial() ? p.phases() * tap_size : 0), unwanted.resize(p.taps());
    out.resize(layout.N);
    mask.assign(layout.N / pack.lanes, Mask<A>{});
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < tile.cols; ++j) {
        const int64_t m = i * layout.L + j;
        mask[m / pack.lanes][m % pack.lanes] = -1;
      }
  }

  void begin_group(int64_t b, int64_t group) {
    std::fill(sums.begin(), sums.end(), A(0));
    for (int64_t phase = 0; p.has_spatial() && phase < p.phases(); ++phase) {
      pack.pack_planes(b, group, phase, true, planes);
      activate(o.activation, planes.data(), p.taps(), layout.g_size, layout.g_size);
      if (needs_own_taps())
        pack.interleave(planes.data(), layout.g_size, own.data(), p.taps(), own_taps.data() + phase * tap_size);
      A* target = reader_taps.data() + phase * tap_size;
      for (const auto& taps : readers) {
        if (!o.grad_x) break;
        pack.interleave(planes.data(), layout.g_size, taps.data(), int64_t(taps.size()), target);
        target += int64_t(taps.size()) * layout.N;
      }
    }
  }

  // A pixel receives from the windows that read it, each through the tap that reads it.
  void grad_x(int64_t b, int64_t ch) {
    int64_t before = 0;  // taps of the places done
    for (int64_t place = 0; place < int64_t(readers.size()); ++place) {
      const auto& taps = readers[place];
      const int64_t n = int64_t(taps.size());
      for (int64_t phase = 0; phase < p.phases(); ++phase) {
        correlate(taps.data(), n, pack.g.data() + phase * layout.g_size,
                  reader_taps.data() + phase * tap_size + before * layout.N, pack.channel_taps(ch, phase), layout.N,
                  out.data(), phase > 0, &nonfinite);
      }
      pack.write_grad_x(out.data(), b, ch, place / p.stride, place % p.stride);
      before += n;
    }
  }

  void grad_taps(int64_t b, int64_t ch, A* partial) {
    pack.pack_x(b, ch);
    for (int64_t phase = 0; phase < p.phases(); ++phase) {
      const int64_t channel_phase = p.channel_phases > 1 ? phase : 0;
      sum_taps(
          layout.reads.data(), p.taps(),
          {{{pack.x.data(), pack.g.data() + phase * layout.g_size + layout.g_origin(), pack.channel_taps(ch, phase),
             partial ? partial + (ch * p.channel_phases + channel_phase) * p.taps() : unwanted.data()}},
           1,
           own_taps.data() + phase * tap_size,
           sums.data() + phase * tap_size,
           mask.data(),
           layout.N});
    }
  }

  void write_spatial(int64_t b, int64_t group) {
    const Tile& t = layout.tile;
    const int64_t height = p.rows * p.scale, width = p.cols * p.scale, K = p.taps();
    raw.resize(tap_size), grads.resize(tap_size);
    for (int64_t phase = 0; phase < p.phases(); ++phase) {
      for (int64_t k = 0; k < K; ++k)
        for (int64_t m = 0; m < layout.N; m += pack.lanes)
          store(grads.data() + k * layout.N + m, load(sums.data() + phase * tap_size + m * K + k * pack.lanes));
      if (!o.activation.is_identity()) {
        pack.pack_planes(b, group, phase, false, raw);
        activate_backward(o.activation, raw.data(), grads.data(), K, layout.N, layout.N);
      }
      for (int64_t k = 0; k < K; ++k) {
        const int64_t row = ((b * p.groups + group) * K + k) * height + t.row * p.scale + phase / p.scale;
        pack.io.write(grads.data() + k * layout.N, layout.L, t.rows, t.cols,
                      at(o.grad_spatial, (row * width + t.col * p.scale + phase % p.scale) * pack.io.bytes),
                      p.scale * width, p.scale);
      }
    }
  }
};

template <class A>
void backward_planar(const Filter2dParams& p, const Operands& o, Access<A> io, Correlate<A> correlate,
                     SumTaps<A> sum_taps, const Tiles& tiles, int64_t chunks, Worker& worker) {
  BackwardPlanar<A> run(p, o, io, correlate, sum_taps);
  do {
    const int64_t task = worker.task(), b = task / chunks, chunk = task % chunks, count = tiles.count();
    A* partial = static_cast<A*>(o.partial);
    if (partial) partial += task * p.channels * p.channel_phases * p.taps();
    run.run(tiles, b, count * chunk / chunks, count * (chunk + 1) / chunks, partial);
  } while (worker.next());
}

}  // namespace dynfilters::cpu
