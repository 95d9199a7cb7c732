// The gradients for channels_last, x's and the taps' row by row together. What a chunk of tiles
// adds to grad channel goes to its own part of `partial`.
#pragma once
#include "pixel_rows.h"

namespace dynfilters::cpu {

template <class T>
class BackwardPixels {
 public:
  using A = Accumulator<T>;
  BackwardPixels(const Problem& problem, const Operands& operands, Weigh<T, A> weigh, SumPixels<T, A> sum_pixels)
      : p(problem),
        o(operands),
        rows(problem, operands, rows_held(problem)),
        weigh(weigh),
        sum_pixels(sum_pixels),
        of_x(patterns_of_x<A>(problem)),
        of_y(patterns_of_y<A>(problem)),
        across(problem.cols * problem.scale) {
    s_line.resize(p.taps() * p.groups * pitch());
    no_taps.assign(p.taps(), rows.no_taps.data());
  }

  // Tiles [first, last) of sample b. partial: (channels, phases, taps), or null.
  void run(const Tiles& tiles, int64_t b, int64_t first, int64_t last, A* partial) {
    rows.begin_sample(sample = b);
    for (auto& pattern : of_x) rows.pack_channel(pattern);
    for (auto& pattern : of_y) rows.pack_channel(pattern);
    c_sums.assign(p.has_channel() ? p.phases * round_up(p.group_channels(), rows.lanes) * p.groups * p.taps() : 0,
                  A(0));
    for (int64_t t = first; t < last; ++t) {
      const Tile tile = tiles.at(p, t);
      for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
        if (o.grad_x)
          for (int64_t h = i * p.stride; h < std::min((i + 1) * p.stride, p.height); ++h) grad_x(h);
        if (o.grad_spatial || partial)
          for (int64_t u = 0; u < p.scale; ++u) grad_taps(i * p.scale + u, partial);
      }
    }
    if (partial) unpack(partial);
  }

 private:
  const Problem& p;
  const Operands& o;
  PixelRows<T> rows;
  const Weigh<T, A> weigh;
  const SumPixels<T, A> sum_pixels;
  std::vector<Pattern<A>> of_x, of_y;
  const int64_t across;
  int64_t sample = 0;
  typename PixelRows<T>::Row row[2];
  std::vector<const A*> no_taps;       // of the window that is not there
  std::vector<A> s_line, raw, c_sums;  // a row of the gradient of spatial: (taps, groups, pitch)

  // One more, for the window that is not there.
  int64_t pitch() const { return round_up(across + 1, rows.lanes); }
  // The rows of taps that a row of pixels is read through, at most.
  static int64_t rows_held(const Problem& p) {
    return (((p.kh - 1) * p.dilation + p.stride - 1) / p.stride + 2) * p.scale;
  }

  void grad_x(int64_t h) {
    for (int64_t ky = 0; ky < p.kh; ++ky) {
      const int64_t centre = h + p.pad_h() - ky * p.dilation;
      for (int64_t u = 0; u < p.scale; ++u)
        if (centre >= 0 && centre % p.stride == 0 && centre / p.stride < p.rows)
          rows.need_taps(centre / p.stride * p.scale + u);
    }
    T* target = static_cast<T*>(o.grad_x) + sample * p.gs[0] + h * p.gs[2];
    for (int64_t b = 0; b < std::min(p.stride, p.width); ++b) {
      const auto& pattern = of_x[h % p.stride * p.stride + b];
      rows.begin_readers(pattern, h / p.stride, row[0]);
      for (int64_t j = 0, w = b; w < p.width; ++j, w += p.stride) {
        rows.at(row[0], j, 0);
        weigh(p, int64_t(pattern.sources.size()), row[0].pixel.data(), row[0].s.data(), rows.taps_step(),
              pattern.channel.data(), target + w * p.gs[3]);
      }
    }
  }

  // Windows of the same phase, two at a time; without a second one, zeros.
  void grad_taps(int64_t y, A* partial) {
    rows.need_taps(y);
    const T* grad = static_cast<const T*>(o.grad) + sample * p.ys[0] + y * p.ys[2];
    for (int64_t v = 0; v < p.scale; ++v) {
      const int64_t cell = y % p.scale * p.scale + v, size = int64_t(c_sums.size()) / p.phases;
      PixelSums<T, A> sums{};
      sums.s_step = rows.taps_step(), sums.s_sums_step = pitch();
      sums.channel = of_y[cell].channel.data(), sums.c_sums = c_sums.data() + (p.phases > 1 ? cell : 0) * size;
      for (auto& each : row) rows.begin_reads(of_y[cell], y, 2, each);
      for (int64_t j = 0; j < p.cols; j += 2) {
        for (int which = 0; which < 2; ++which) {
          const bool there = j + which < p.cols;
          const int64_t z = std::min(j + which, p.cols - 1) * p.scale + v;
          rows.at(row[which], there ? j + which : -p.width - p.pad_w(), z);
          sums.g[which] = there ? grad + z * p.ys[3] : rows.no_pixel.data();
          sums.pixel[which] = row[which].pixel.data(), sums.s[which] = there ? row[which].s.data() : no_taps.data();
          sums.s_sums[which] = s_line.data() + (there ? z : across);
        }
        sum_pixels(p, sums);
      }
    }
    if (o.grad_spatial) write_spatial(y);
  }

  void write_spatial(int64_t y) {
    const int64_t plane = p.rows * p.scale * across, K = p.taps();
    if (!o.activation.is_identity()) {
      raw.resize(s_line.size());
      rows.load_row(y, raw.data(), pitch());
      for (int64_t g = 0; g < p.groups; ++g)
        activate_backward(o.activation, raw.data() + g * pitch(), s_line.data() + g * pitch(), K, p.groups * pitch(),
                          pitch());
    }
    for (int64_t k = 0; k < K; ++k)
      for (int64_t g = 0; g < p.groups; ++g) {
        T* target = static_cast<T*>(o.grad_spatial) + ((sample * p.groups + g) * K + k) * plane + y * across;
        write_row(s_line.data() + (k * p.groups + g) * pitch(), across, target);
      }
  }

  void unpack(A* partial) const {
    const int64_t width = p.group_channels(), padded = round_up(width, rows.lanes), n = p.taps();
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t phase = 0; phase < p.phases; ++phase) {
        const int64_t i = c % width;
        const A* from = c_sums.data() + (phase * p.groups + c / width) * padded * n + i / rows.lanes * n * rows.lanes +
                        i % rows.lanes;
        for (int64_t k = 0; k < n; ++k) partial[(c * p.phases + phase) * n + k] = from[k * rows.lanes];
      }
  }
};

template <class T>
void backward_rows(const Problem& p, const Operands& o, Weigh<T, Accumulator<T>> weigh,
                   SumPixels<T, Accumulator<T>> sum_pixels, const Tiles& tiles, int64_t chunks, int64_t begin,
                   int64_t end) {
  BackwardPixels<T> backward(p, o, weigh, sum_pixels);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / chunks, chunk = task % chunks, count = tiles.count();
    auto partial = static_cast<Accumulator<T>*>(o.partial);
    if (partial) partial += task * p.channels * p.phases * p.taps();
    backward.run(tiles, b, count * chunk / chunks, count * (chunk + 1) / chunks, partial);
  }
}

}  // namespace dynfilters::cpu
