// The CUDA kernels that generate taps: pool_project and ddf_generate. Each call only enqueues work
// on `stream` (a cudaStream_t) of the current device.
#pragma once
#include <cstddef>

#include "../generate.h"

namespace dynfilters::cuda {

void pool_project(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream);
void ddf_generate(const GenerateParams& p, Storage storage, const GenerateOperands& o, void* stream);

// How many sums for the mean there are in GenerateOperands::partial.
size_t partial_sums(const GenerateParams& p);
// Whether shared memory holds a sample's mean and hidden units.
bool fits_generate(const GenerateParams& p, Storage storage);

}  // namespace dynfilters::cuda
