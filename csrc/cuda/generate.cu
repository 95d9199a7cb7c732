#include "excite.cuh"
#include "storage.cuh"

namespace dynfilters::cuda {

namespace {

constexpr size_t kSharedSamples = 48 * 1024, kSharedMost = 96 * 1024;  // any device since sm_80 has the latter

size_t shared_bytes(const GenerateParams& p, Storage storage, int samples) {
  return size_t(p.channels + p.squeezed) * samples * (storage == Storage::kFloat64 ? 8 : 4);
}

template <class T>
void project(const GenerateParams& p, const Tiling& tiling, const GenerateOperands& o, Stream stream) {
  const auto kernel = p.pixels ? pool_project_kernel<T, true> : pool_project_kernel<T, false>;
  launch(kernel, dim3(unsigned(p.batch * tiling.tiles * tiling.groups)), dim3(kGenerateThreads),
         kPoolWords * sizeof(Accumulator<T>), stream, p, tiling, static_cast<const T*>(o.x),
         static_cast<const T*>(o.weight), static_cast<const T*>(o.bias), static_cast<T*>(o.logits),
         static_cast<Accumulator<T>*>(o.partial));
}

template <class T, int kSamples>
void launch_excite(const GenerateParams& p, int tiles, Storage storage, const GenerateOperands& o, Stream stream) {
  const Layers<T> layers{static_cast<const T*>(o.squeeze_weight), static_cast<const T*>(o.squeeze_bias),
                         static_cast<const T*>(o.expand_weight),  static_cast<const T*>(o.expand_bias),
                         static_cast<Accumulator<T>*>(o.partial), static_cast<T*>(o.mean),
                         static_cast<T*>(o.hidden),               static_cast<T*>(o.taps)};
  const int parts = ceil_div(p.expanded, kPart);
  launch(excite<T, kSamples>, dim3(unsigned(ceil_div(p.batch, kSamples)) * parts), dim3(kGenerateThreads),
         shared_bytes(p, storage, kSamples), stream, p, tiles, parts, layers);
}

}  // namespace

size_t partial_sums(const GenerateParams& p) { return size_t(p.batch * Tiling(p).tiles * p.channels); }

bool fits_generate(const GenerateParams& p, Storage storage) { return shared_bytes(p, storage, 1) <= kSharedMost; }

void pool_project(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream) {
  if (!p.batch) return;
  const Tiling tiling(p);
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    project<T>(p, tiling, o, static_cast<Stream>(stream));
    launch(finish_mean<T>, dim3(unsigned(ceil_div(p.batch * p.channels, kGenerateThreads))), dim3(kGenerateThreads), 0,
           static_cast<Stream>(stream), p, tiling.tiles, static_cast<const Accumulator<T>*>(o.partial),
           static_cast<T*>(o.mean));
  });
}

void ddf_generate(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream) {
  if (!p.batch) return;
  const Tiling tiling(p);
  with_storage(storage, [&](auto type) {
    using T = typename decltype(type)::type;
    project<T>(p, tiling, o, static_cast<Stream>(stream));
    const bool few = shared_bytes(p, storage, 4) > kSharedSamples;
    (few ? launch_excite<T, 1> : launch_excite<T, 4>)(p, tiling.tiles, storage, o, static_cast<Stream>(stream));
  });
}

}  // namespace dynfilters::cuda
