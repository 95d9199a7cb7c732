// The gradients by vectors along planes, those of x and of the taps in one visit of a tile. Each is a gather: every
// element is summed by one task in one order and written once. What a chunk of tiles adds to grad channel goes to its
// own part of `partial`.
#include "flat.h"
#include "planar.h"

namespace dynfilters::cpu {

// The gradients of dense planes, read in place.
template <class A>
class BackwardFlat {
 public:
  BackwardFlat(const Filter2dParams& params, const Operands& operands, Correlate<A> correlate, SumTaps<A> sum_taps)
      : p(params), o(operands), flat(params, operands), correlate(correlate), sum_taps(sum_taps) {}

  // Tiles [first, last) of sample b. partial: (channels, taps), or null.
  void run(const Tiles& tiles, int64_t b, int64_t first, int64_t last, A* partial) {
    const int64_t size = p.channels * p.taps();
    if (partial) std::fill(partial, partial + size, A(0));
    flat.begin_sample(b);
    for (int64_t i = first; i < last; ++i) {
      flat.begin(tiles.at(p, i));
      windows.resize(flat.tap_size()), readers.resize(flat.tap_size()), sums.resize(flat.tap_size());
      unwanted.resize(p.taps());
      all.assign(vectors<A>(flat.N), ~Mask<A>{});
      for (int64_t group = 0; group < p.groups; ++group) run_group(b, group, partial);
    }
    for (int64_t i = 0; partial && i < size; ++i) nonfinite[0] += partial[i] - partial[i];
  }
  bool finite() const { return sum<A>(nonfinite) + flat.dropped == 0; }

 private:
  const Filter2dParams& p;
  const Operands& o;
  Flat<A> flat;
  const Correlate<A> correlate;
  const SumTaps<A> sum_taps;
  std::vector<A> windows, readers, sums, unwanted;
  std::vector<Mask<A>> all;
  Vector<A> nonfinite{};

  void run_group(int64_t b, int64_t group, A* partial) {
    flat.begin_group(b, group);
    if (o.grad_x) flat.pack_readers(readers.data());
    if (o.grad_spatial || o.partial) flat.pack_windows(true, windows.data());
    std::fill(sums.begin(), sums.end(), A(0));
    const int64_t end = (group + 1) * p.group_channels();
    for (int64_t ch = group * p.group_channels(), next; ch < end; ch = next) {
      next = std::min(ch + 2, end);
      for (int64_t c = ch; o.grad_x && c < next; ++c)
        correlate(flat.readers.data(), p.taps(), flat.source(o.grad, b, c), readers.data(), flat.channel_taps(c),
                  flat.N, flat.target(o.grad_x, b, c), false, &nonfinite);
      if (!o.grad_spatial && !o.partial) continue;
      TapSums<A> both{{}, int(next - ch), windows.data(), sums.data(), all.data(), flat.N};
      for (int64_t c = ch; c < next; ++c)
        both.of[c - ch] = {flat.source(o.x, b, c, int(c - ch)), flat.target(const_cast<void*>(o.grad), b, c),
                           flat.channel_taps(c), partial ? partial + c * p.taps() : unwanted.data()};
      sum_taps(flat.reads.data(), p.taps(), both);
    }
    if (o.grad_spatial) flat.write_spatial(sums.data(), b, group);
  }
};

template <class A>
bool backward_flat(const Filter2dParams& p, const Operands& o, Correlate<A> correlate, SumTaps<A> sum_taps,
                   const Tiles& tiles, int64_t chunks, Worker& worker) {
  BackwardFlat<A> backward(p, o, correlate, sum_taps);
  do {
    const int64_t task = worker.task(), b = task / chunks, chunk = task % chunks, count = tiles.count();
    A* partial = static_cast<A*>(o.partial);
    if (partial) partial += task * p.channels * p.taps();
    backward.run(tiles, b, count * chunk / chunks, count * (chunk + 1) / chunks, partial);
  } while (worker.next());
  return backward.finite();
}

// The gradients of tensors of any strides.
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
  std::vector<std::vector<TapOffset>> readers;  // of the pixels of each residue modulo the stride
  std::vector<TapOffset> own;                   // where a window's own taps lie
  std::vector<A> planes, own_taps, reader_taps, sums, unwanted, raw, grads, out;
  std::vector<Mask<A>> mask;
  Vector<A> nonfinite{};  // not asked for: filler may be

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
    int64_t before = 0;  // taps of the residues done
    for (int64_t residue = 0; residue < int64_t(readers.size()); ++residue) {
      const auto& taps = readers[residue];
      const int64_t n = int64_t(taps.size());
      for (int64_t phase = 0; phase < p.phases(); ++phase) {
        correlate(taps.data(), n, pack.g.data() + phase * layout.g_size,
                  reader_taps.data() + phase * tap_size + before * layout.N, pack.channel_taps(ch, phase), layout.N,
                  out.data(), phase > 0, &nonfinite);
      }
      pack.write_grad_x(out.data(), b, ch, residue / p.stride, residue % p.stride);
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

template <class A>
void reduce(const Filter2dParams& p, const A* partial, int64_t chunks, A* out, int64_t begin, int64_t end) {
  const int64_t K = p.taps(), rows = p.channels * p.channel_phases;
  for (int64_t b = begin; b < end; ++b)
    for (int64_t row = 0; row < rows; ++row) {
      const A* part = partial + (b * chunks * rows + row) * K;
      A* target = out + (b * p.channels + row / p.channel_phases) * K * p.channel_phases + row % p.channel_phases;
      for (int64_t k = 0; k < K; ++k) {
        A total = part[k];
        for (int64_t chunk = 1; chunk < chunks; ++chunk) total += part[chunk * rows * K + k];
        target[k * p.channel_phases] = total;
      }
    }
}

bool backward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
              Worker& worker) {
  if (is_by_pixels(plan.algorithm)) return backward_pixels(p, storage, o, plan, chunks, worker);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    const bool flat = plan.algorithm == Algorithm::kFlat;
    Correlate<A> kernel = nullptr;
    SumTaps<A> sums = nullptr;
    with_combine(flat && p.has_channel() ? Combine::kMul : p.combine, [&](auto op) {
      kernel = correlate<A, decltype(op)>;
      sums = sum_taps<A, decltype(op)>;
    });
    if (flat) return backward_flat<A>(p, o, kernel, sums, plan.tiles, chunks, worker);
    backward_planar<A>(p, o, io, kernel, sums, plan.tiles, chunks, worker);
    return true;
  });
}

void reduce_channel(const Filter2dParams& p, const void* partial, int64_t chunks, bool is_double, void* out,
                    int64_t begin, int64_t end) {
  if (is_double)
    reduce(p, static_cast<const double*>(partial), chunks, static_cast<double*>(out), begin, end);
  else
    reduce(p, static_cast<const float*>(partial), chunks, static_cast<float*>(out), begin, end);
}

}  // namespace dynfilters::cpu
