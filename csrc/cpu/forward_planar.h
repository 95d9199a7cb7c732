// y, tile by tile and plane by plane. Each output is summed in one order and written once.
#pragma once
#include "planar.h"

namespace dynfilters::cpu {

template <class A>
void forward_planar(const Problem& p, const Operands& o, Access<A> io, Correlate<A> correlate, const Tiles& tiles,
                    Share& share) {
  Packer<A> pack(p, o, io);
  Plan& plan = pack.plan;
  std::vector<Reach> own;  // the taps of a window lie at its own place
  for (int64_t k = 0; k < p.taps(); ++k) own.push_back({k, 0});
  std::vector<A> planes, taps, out;
  Vector<A> odd{};  // filler may be
  int64_t sample = -1;
  do {
    const int64_t task = share.task(), b = task / tiles.count();
    plan.begin(tiles.at(p, task % tiles.count()), pack.lanes);
    if (b != sample) pack.pack_channel(b), sample = b;
    pack.begin_x();
    const int64_t size = p.has_spatial() ? p.taps() * plan.N : 0;
    planes.assign(size, A(0)), taps.resize(p.cells() * size), out.resize(plan.N);
    for (int64_t ch = 0; ch < p.channels; ++ch) {
      if (p.has_spatial() && ch % p.group_channels() == 0)
        for (int64_t cell = 0; cell < p.cells(); ++cell) {
          pack.pack_planes(b, ch / p.group_channels(), cell, false, planes);
          activate(o.activation, planes.data(), p.taps(), plan.N, plan.N);
          pack.interleave(planes.data(), plan.N, own.data(), p.taps(), taps.data() + cell * size);
        }
      pack.pack_x(b, ch);
      for (int64_t cell = 0; cell < p.cells(); ++cell) {
        correlate(plan.reads.data(), p.taps(), pack.x.data(), taps.data() + cell * size, pack.channel_taps(ch, cell),
                  plan.N, out.data(), false, &odd);
        pack.write_y(out.data(), b, ch, cell);
      }
    }
  } while (share.next());
}

}  // namespace dynfilters::cpu
