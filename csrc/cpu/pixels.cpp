// y and the gradients by vectors of channels. What a chunk of tiles adds to grad channel goes to its own part of
// `partial`.
#include "pixel_rows.h"

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
    for (auto& subgrid : sum.subgrids)
      if (b != sample) channel_bound = subgrid.patterns[0].pack_channel(p, o.channel, b, vectors);
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
    const auto& pattern = sum.subgrids[phase].patterns[0];
    s.clear();
    for (const Source& source : pattern.sources) s.push_back(taps.line(y, source.k, v));
    // Of the gradient of y only the outputs' own pixels are read, in place if possible.
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
  // Whether pixels outside x can be left out of the sums of a row: so that their zeros, times the gradient at g and
  // taps, add nothing.
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

// ---- small dense planes, transposed ----

// Transposes x and the gradient of y, or y, sample by sample to (pixels, channels), so that the passes can read and
// write pixels in place. Of float32.
class TransposedSamples {
 public:
  TransposedSamples(const Filter2dParams& given_params, const Operands& given)
      : p(given_params), o(given), given(given) {
    const int64_t size = pixels * pitch();
    room.resize((given.grad_x ? 3 : 2) * size);
    x = room.data(), of_y = x + size;
    o.x = x;
    if (given.y) o.y = of_y;
    if (given.grad) o.grad = of_y;
    if (given.grad_x) o.grad_x = grad_x = of_y + size;
    for (auto strides : {p.xs, p.ys, p.gs})
      strides[0] = 0, strides[1] = 1, strides[2] = p.width * pitch(), strides[3] = pitch();
  }
  // The transposed sample, for the passes.
  const Filter2dParams& params() const { return p; }
  const Operands& operands() const { return o; }

  void begin(int64_t b) {
    if (given.y || given.grad_spatial || given.partial) read(given.x, b, x);
    if (given.grad) read(given.grad, b, of_y);
  }
  void end(int64_t b) const {
    if (given.y) write(of_y, b, given.y);
    if (given.grad_x) write(grad_x, b, given.grad_x);
  }

 private:
  Filter2dParams p;
  Operands o;
  const Operands given;
  const int64_t pixels = p.height * p.width;
  Buffer<float> room;
  float *x, *of_y, *grad_x = nullptr;  // of_y: y, or its gradient

  // One vector more than the channels: pixels a power of two apart would drive each other out of L1.
  int64_t pitch() const { return p.channels + kLanes<float>; }
  void read(const void* tensor, int64_t b, float* to) const {
    const float* planes = static_cast<const float*>(tensor) + b * p.channels * pixels;
    transpose_matrix(planes, p.channels, pixels, pixels, to, pitch());
  }
  void write(const float* from, int64_t b, void* tensor) const {
    float* planes = static_cast<float*>(tensor) + b * p.channels * pixels;
    transpose_matrix(from, pixels, p.channels, pitch(), planes, pixels);
  }
};

// Samples that are read and written in place.
struct SamplesInPlace {
  void begin(int64_t) const {}
  void end(int64_t) const {}
};

namespace {

// Makes what was written past the caches visible to the other threads.
inline void fence() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

template <class A>
Image<A> image_of(const Filter2dParams& p, const Access<A>& io, const int64_t (&strides)[4], bool of_y) {
  return {io,
          {strides[0], strides[1], strides[2], strides[3]},
          of_y ? p.rows * p.scale : p.height,
          of_y ? p.cols * p.scale : p.width,
          {p.groups, p.group_channels(), kLanes<A>}};
}

// samples.begin(b) and samples.end(b) are called before and after a tile of sample b, if they do anything: then a
// sample is one tile.
template <class T, class Samples>
void run_forward(const Filter2dParams& p, const AccessTo<T>& io, const Operands& o, const Tiles& tiles, Worker& worker,
                 Samples&& samples) {
  using A = Accumulator<T>;
  BlockKernels<A> kernels{};
  with_combine(p.combine, [&](auto op) { kernels = block_kernels<A, decltype(op)>(window_of(p), tiles.cols); });
  PixelPass<T> pass(p, o, io, sum_for_y<A>(p), kernels, image_of<A>(p, io, p.xs, false), o.x,
                    image_of<A>(p, io, p.ys, true), o.y);
  do {
    const int64_t task = worker.task();
    samples.begin(task / tiles.count());
    pass.run(tiles, task, worker.goes_on());
    samples.end(task / tiles.count());
  } while (worker.next());
}

template <class T, class Samples>
void run_backward(const Filter2dParams& p, const AccessTo<T>& io, const Operands& o, const Tiles& tiles, int64_t chunks,
                  Worker& worker, Samples&& samples) {
  using A = Accumulator<T>;
  BlockKernels<A> kernels{};
  TapSumKernel<A> tap_sum_kernel = nullptr;
  with_combine(p.combine, [&](auto op) {
    kernels = block_kernels<A, decltype(op)>(window_of(p), tiles.cols);
    tap_sum_kernel = tap_sum_kernel_for<A, decltype(op)>(window_of(p));
  });
  const auto of_x = image_of<A>(p, io, p.xs, false), of_y = image_of<A>(p, io, p.ys, true);
  PixelPass<T> grad_x(p, o, io, sum_for_x<A>(p), kernels, of_y, o.grad, image_of<A>(p, io, p.gs, false), o.grad_x);
  TapGradientPass<T> grad_taps(p, o, io, tap_sum_kernel, of_x, of_y);
  A* partial = static_cast<A*>(o.partial);
  const int64_t count = tiles.count();
  const auto first_of = [&](int64_t task) { return task / chunks * count + count * (task % chunks) / chunks; };
  do {
    const int64_t task = worker.task();
    samples.begin(task / chunks);
    grad_taps.begin_sample(task / chunks);
    for (int64_t t = first_of(task); t < first_of(task + 1); ++t) {
      if (o.grad_x) grad_x.run(tiles, t, t + 1 < first_of(task + 1) || worker.goes_on());
      if (o.grad_spatial || partial) grad_taps.run(tiles.at(p, t % count));
    }
    if (partial) grad_taps.unpack(partial + task * p.channels * p.channel_phases * p.taps());
    samples.end(task / chunks);
  } while (worker.next());
}

}  // namespace

bool forward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker) {
  if (plan.algorithm == Algorithm::kTransposed) {
    TransposedSamples samples(p, o);
    run_forward(samples.params(), AccessTo<float>(), samples.operands(), plan.tiles, worker, samples);
  } else {
    with_short_access(storage, [&](auto io) { run_forward(p, io, o, plan.tiles, worker, SamplesInPlace()); });
  }
  fence();
  return true;
}

bool backward_pixels(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, int64_t chunks,
                     Worker& worker) {
  if (plan.algorithm == Algorithm::kTransposed) {
    TransposedSamples samples(p, o);
    run_backward(samples.params(), AccessTo<float>(), samples.operands(), plan.tiles, chunks, worker, samples);
  } else {
    with_short_access(storage, [&](auto io) { run_backward(p, io, o, plan.tiles, chunks, worker, SamplesInPlace()); });
  }
  fence();
  return true;
}

}  // namespace dynfilters::cpu
