// CUDA kernels of shift_correlation and shift_sum. Channels lie last, so neighbouring threads read neighbouring numbers.
// Neither needs atomics: the gradients are the same two kernels, and deterministic.
#include "../st_sampling.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

namespace vod2 {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;
constexpr int kOffsets = 64;  // offsets whose weights a block holds at a time
constexpr int64_t kMaxBlocks = 65535;  // further work is done in a loop

// Device pointers and sizes of one launch.
template <typename T>
struct Problem {
  const T* first;
  const T* second;
  const int32_t* offsets;
  int64_t cells, H, W, channels, U;
};

template <typename T>
Problem<T> make_problem(const ShiftInputs& in, const at::Tensor& offsets) {
  return {
      in.first.data_ptr<T>(), in.second.data_ptr<T>(), offsets.data_ptr<int32_t>(),
      in.num_cells(), in.height(), in.width(), in.channels(), in.num_offsets()};
}

// Number over all maps of cell `cell` moved by sign * offset u, or -1 if that is outside.
template <typename T>
__device__ int64_t neighbour(const Problem<T>& p, int64_t cell, int64_t u, int sign) {
  const int64_t area = p.H * p.W, inside = cell % area;
  const int64_t dx = sign * p.offsets[2 * u], dy = sign * p.offsets[2 * u + 1];
  const int64_t other = shifted_cell(inside / p.W, inside % p.W, dy, dx, p.H, p.W);
  return other < 0 ? -1 : cell - inside + other;
}

// out (cells, U). One warp for one cell and one offset, warps of one block for offsets of the same cell.
template <typename T>
__global__ void __launch_bounds__(kThreads) correlation_kernel(Problem<T> p, T* out) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int64_t cell = blockIdx.x; cell < p.cells; cell += gridDim.x) {
    const T* query = p.first + cell * p.channels;
    for (int64_t u = warp; u < p.U; u += warps) {
      const int64_t other = neighbour(p, cell, u, 1);
      T total = 0;
      if (other >= 0) {
        const T* key = p.second + other * p.channels;
        for (int64_t c = lane; c < p.channels; c += kWarp) {
          total += query[c] * key[c];
        }
      }
      for (int step = kWarp / 2; step > 0; step /= 2) {
        total += __shfl_down_sync(0xffffffffu, total, step);
      }
      if (lane == 0) {
        out[cell * p.U + u] = total;
      }
    }
  }
}

// out (cells, channels). One block for one cell and blockDim.x channels; `sign` is -1 for the transposed sum.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_kernel(Problem<T> p, int sign, T* out) {
  __shared__ T weights[kOffsets];
  __shared__ int64_t others[kOffsets];
  const int64_t c = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  for (int64_t cell = blockIdx.x; cell < p.cells; cell += gridDim.x) {
    T total = 0;
    for (int64_t first = 0; first < p.U; first += kOffsets) {
      const int count = static_cast<int>(min(static_cast<int64_t>(kOffsets), p.U - first));
      for (int k = threadIdx.x; k < count; k += blockDim.x) {
        const int64_t other = neighbour(p, cell, first + k, sign);
        others[k] = other;
        weights[k] = other < 0 ? T(0) : p.second[(sign > 0 ? cell : other) * p.U + first + k];
      }
      __syncthreads();
      if (c < p.channels) {
        for (int k = 0; k < count; ++k) {
          if (others[k] >= 0) {
            total += weights[k] * p.first[others[k] * p.channels + c];
          }
        }
      }
      __syncthreads();  // before the next weights overwrite these
    }
    if (c < p.channels) {
      out[cell * p.channels + c] = total;
    }
  }
}

at::Tensor shift_correlation(
    const at::Tensor& query, const at::Tensor& key, at::IntArrayRef dx, at::IntArrayRef dy) {
  const auto in = prepare_correlation(query, key, dx, dy);
  const c10::cuda::CUDAGuard guard(in.first.device());  // after the check that all are on one device, a GPU
  at::Tensor out = at::empty({in.batch(), in.height(), in.width(), in.num_offsets()}, in.first.options());
  if (out.numel() == 0) {
    return out;
  }
  const at::Tensor offsets = in.offsets.to(query.device());
  const auto blocks = static_cast<unsigned int>(std::min(kMaxBlocks, in.num_cells()));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "shift_correlation", [&] {
    correlation_kernel<scalar_t><<<blocks, kThreads, 0, stream>>>(
        make_problem<scalar_t>(in, offsets), out.data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

at::Tensor shift_sum(
    const at::Tensor& weights, const at::Tensor& value, at::IntArrayRef dx, at::IntArrayRef dy, bool transposed) {
  const auto in = prepare_sum(weights, value, dx, dy);
  const c10::cuda::CUDAGuard guard(in.first.device());  // after the check that all are on one device, a GPU
  at::Tensor out = at::empty(in.first.sizes(), in.first.options());
  if (out.numel() == 0) {
    return out;
  }
  const at::Tensor offsets = in.offsets.to(value.device());
  const int64_t panels = (in.channels() + kThreads - 1) / kThreads;
  TORCH_CHECK_VALUE(panels <= kMaxBlocks, "value has too many channels: ", in.channels());
  const dim3 blocks(
      static_cast<unsigned int>(std::min(kMaxBlocks, in.num_cells())), static_cast<unsigned int>(panels));
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "shift_sum", [&] {
    sum_kernel<scalar_t><<<blocks, kThreads, 0, stream>>>(
        make_problem<scalar_t>(in, offsets), transposed ? -1 : 1, out.data_ptr<scalar_t>());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CUDA, library) {
  library.impl("shift_correlation", shift_correlation);
  library.impl("shift_sum", shift_sum);
}

}  // namespace vod2
