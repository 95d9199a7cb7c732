// y, tile by tile and plane by plane. Each output is summed in one order and written once.
#pragma once
#include "planar.h"

namespace dynfilters::cpu {

template <class A>
void forward_planar(const Filter2dParams& p, const Operands& o, Access<A> io, Correlate<A> correlate,
                    const Tiles& tiles, Worker& worker) {
  Packer<A> pack(p, o, io);
  TileLayout& layout = pack.layout;
  std::vector<TapOffset> own;  // the taps of a window lie at its own place
  for (int64_t k = 0; k < p.taps(); ++k) own.push_back({k, 0});
  std::vector<A> planes, taps, out;
  Vector<A> nonfinite{};  // filler may be
  int64_t sample = -1;
  do {
    const int64_t task = worker.task(), b = task / tiles.count();
    layout.begin(tiles.at(p, task % tiles.count()), pack.lanes);
    if (b != sample) pack.pack_channel(b), sample = b;
    pack.begin_x();
    const int64_t size = p.has_spatial() ? p.taps() * layout.N : 0;
    planes.assign(size, A(0)), taps.resize(p.phases() * size), out.resize(layout.N);
    for (int64_t ch = 0; ch < p.channels; ++ch) {
      if (p.has_spatial() && ch % p.group_channels() == 0)
        for (int64_t phase = 0; phase < p.phases(); ++phase) {
          pack.pack_planes(b, ch / p.group_channels(), phase, false, planes);
          activate(o.activation, planes.data(), p.taps(), layout.N, layout.N);
          pack.interleave(planes.data(), layout.N, own.data(), p.taps(), taps.data() + phase * size);
        }
      pack.pack_x(b, ch);
      for (int64_t phase = 0; phase < p.phases(); ++phase) {
        correlate(layout.reads.data(), p.taps(), pack.x.data(), taps.data() + phase * size,
                  pack.channel_taps(ch, phase), layout.N, out.data(), false, &nonfinite);
        pack.write_y(out.data(), b, ch, phase);
      }
    }
  } while (worker.next());
}

}  // namespace dynfilters::cpu
