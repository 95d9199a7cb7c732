// Kernels right and wrong on purpose, by which the shim itself is tested. Each takes n floats and
// gives n floats; the last template argument says what is wrong with it.
#include "../../csrc/cuda/primitives.cuh"

namespace {

using namespace dynfilters::cuda;

enum Fault : int { kNone, kFirst, kSecond, kThird, kFourth };

// Each block reverses its elements through shared memory, twice.
template <int Fault>
void reverse(const float* in, float* out, int) {
  float* held = shared_memory<float>();
  const int i = threadIdx.x, last = blockDim.x - 1, first = blockIdx.x * blockDim.x;
  held[i] = in[first + i];
  if (Fault != kFirst) sync_block();
  const float value = held[last - i];
  if (Fault != kSecond) sync_block();
  held[i] = value;
  if (Fault == kThird && i >= 32) return;  // before a barrier that others wait at
  sync_block();
  out[first + i] = held[last - i] + 1;
}

// Sums of 32 by a butterfly; then a warp's own exchange through shared memory.
template <int Fault>
void butterfly(const float* in, float* out, int) {
  float* held = shared_memory<float>();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = in[i];
  for (int mask = 16; mask > 0; mask /= 2)
    if (Fault != kFirst || threadIdx.x % 32 != 5) sum += shuffle_xor(sum, mask);
  held[threadIdx.x] = sum + in[i];
  if (Fault == kThird)
    shuffle_xor(sum, 1);  // does not order memory
  else if (Fault != kSecond)
    sync_warp();
  const float neighbour = held[threadIdx.x ^ 1];
  const float above = shuffle_up(in[i], 2), below = shuffle_down(in[i], 3);
  out[i] = neighbour + 2 * above + 3 * below;
}

// Each block adds up its 8 rows of blockDim.x floats, three copies ahead in four stages; each
// thread reads what its neighbour copied.
template <int Fault>
void pipeline(const float* in, float* out, int) {
  float* held = shared_memory<float>();
  const int width = blockDim.x, rows = 8, stages = 4, i = threadIdx.x;
  auto start = [&](int row) {
    float* to = held + row % (Fault == kThird ? 3 : stages) * width + i;
    if (row < rows) copy_async<4>(to, in + (blockIdx.x * rows + row) * width + i, row != 5);
    commit_copies();
  };
  for (int row = 0; row < stages - 1; ++row) start(row);
  float sum = 0;
  for (int row = 0; row < rows; ++row) {
    wait_copies<Fault == kFirst ? 3 : 2>();
    if (Fault != kSecond) sync_block();
    sum += held[row % stages * width + (i + 1) % width];
    start(row + stages - 1);
  }
  out[blockIdx.x * width + i] = sum;
}

// A copy of words that goes wrong at the edges.
template <int Fault>
void edges(const float* in, float* out, int n) {
  const int i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  const uint4 word = load_cached(reinterpret_cast<const uint4*>(in + i));
  if (Fault == kFirst && i == n - 4) out[n] = 0;
  if (Fault == kSecond && i == 0) out[0] = in[-1];
  if (Fault == kThird && i == 0) out[1] = float(load_cached(reinterpret_cast<const uint2*>(in + 1)).x);
  if (Fault == kFourth && i == 0) const_cast<float*>(in)[0] = 1;
  store_stream(reinterpret_cast<uint4*>(out + i), word);
}

// What the machine refuses: shared memory past what was asked for, one element written by two
// blocks, a block read by the next one.
template <int Fault>
void blocks(const float* in, float* out, int n) {
  float* held = shared_memory<float>();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  held[threadIdx.x + (Fault == kFirst && threadIdx.x == 63)] = in[i];
  if (Fault == kSecond && threadIdx.x == 0) out[n - 1] = 1;
  if (Fault == kThird) out[i] = out[(i + blockDim.x) % n] + 1;
  if (Fault != kFourth || i != 7) out[i] = held[threadIdx.x];
}

using Toy = void (*)(const float*, float*, int);
template <int F>
constexpr Toy kToys[] = {reverse<F>, butterfly<F>, pipeline<F>, edges<F>, blocks<F>};
constexpr const Toy* kFaults[] = {kToys<0>, kToys<1>, kToys<2>, kToys<3>, kToys<4>};

}  // namespace

extern "C" void shim_toy(int toy, int fault, int blocks, int threads, size_t shared_bytes, const float* in, float* out,
                         int n) {
  launch(kFaults[fault][toy], dim3(blocks), dim3(threads), shared_bytes, nullptr, in, out, n);
}
