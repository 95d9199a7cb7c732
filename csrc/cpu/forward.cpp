// y by vectors along planes. Each output is summed in one order and written once.
#include "flat.h"
#include "planar.h"

namespace dynfilters::cpu {

// y of dense planes, read in place. Returns whether all results were finite.
template <class A>
bool forward_flat(const Filter2dParams& p, const Operands& o, Correlate<A> correlate, const Tiles& tiles,
                  Worker& worker) {
  Flat<A> flat(p, o);
  std::vector<A> taps;
  Vector<A> nonfinite{};
  int64_t sample = -1;
  do {
    const int64_t task = worker.task(), b = task / tiles.count(), K = p.taps();
    if (b != sample) flat.begin_sample(sample = b);
    flat.begin(tiles.at(p, task % tiles.count()));
    taps.resize(flat.tap_size());
    const int64_t each = p.group_channels();
    for (int64_t group = 0; group < p.groups; ++group) {
      flat.begin_group(b, group), flat.pack_windows(false, taps.data());
      for (int64_t ch = group * each; ch < (group + 1) * each; ++ch)
        correlate(flat.reads.data(), K, flat.source(o.x, b, ch), taps.data(), flat.channel_taps(ch), flat.N,
                  flat.target(o.y, b, ch), false, &nonfinite);
    }
  } while (worker.next());
  return sum<A>(nonfinite) + flat.dropped == 0;
}

// y of tensors of any strides, tile by tile.
template <class A>
void forward_planar(const Filter2dParams& p, const Operands& o, Access<A> io, Correlate<A> correlate,
                    const Tiles& tiles, Worker& worker) {
  Packer<A> pack(p, o, io);
  TileLayout& layout = pack.layout;
  std::vector<TapOffset> own;  // the taps of a window lie at its own position
  for (int64_t k = 0; k < p.taps(); ++k) own.push_back({k, 0});
  std::vector<A> planes, taps, out;
  Vector<A> nonfinite{};  // not asked for: filler may be
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

bool forward(const Filter2dParams& p, Storage storage, const Operands& o, const Plan& plan, Worker& worker) {
  if (is_by_pixels(plan.algorithm)) return forward_pixels(p, storage, o, plan, worker);
  return with_access(storage, [&](auto io) {
    using A = typename decltype(io)::type;
    if (plan.algorithm == Algorithm::kFlat)
      return forward_flat<A>(p, o, p.has_channel() ? correlate<A, Mul> : correlate<A, SpatialOnly>, plan.tiles, worker);
    Correlate<A> kernel = nullptr;
    with_combine(p.combine, [&](auto op) { kernel = correlate<A, decltype(op)>; });
    forward_planar<A>(p, o, io, kernel, plan.tiles, worker);
    return true;
  });
}

}  // namespace dynfilters::cpu
