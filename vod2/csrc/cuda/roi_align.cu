// CUDA kernels of roi_align. Channels lie last, so neighbouring threads read neighbouring numbers. The weights of rows
// and columns are tables that are made first; the gradient of a cell is then a sum over the RoIs that touch it, in their
// order: no atomics, and the same bits each time.
#include "../roi_align.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>

namespace vod2 {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65535;  // further work is done in a loop

// The weights of `length` cells along one axis for the bins of each RoI, and which of them are not 0.
struct AxisTables {
  at::Tensor weights;  // (M, bins, length)
  at::Tensor bounds;   // (M, bins, 2) int32: the first cell, and the one after the last
};

// One thread for one bin of one RoI. `axis` 0: columns, 1: rows. `weights` starts at zero.
template <typename T>
__global__ void weights_kernel(
    const T* rois, int64_t M, int64_t maps, int64_t bins, int64_t length, int axis, RoiAlignOptions options, T* weights,
    int32_t* bounds) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < M * bins; k += step) {
    const T* roi = rois + k / bins * 5;
    CUDA_KERNEL_ASSERT(roi[0] >= 0 && roi[0] < static_cast<T>(maps) && "a roi is of a map that is not there");
    const auto span = roi_span(roi[1 + axis], roi[3 + axis], bins, options);
    const SampleRange range = samples_near(span, k % bins, length);
    int64_t first = length, last = 0;
    for (int64_t sample = range.first; sample < range.last; ++sample) {
      const T place = sample_place(span, k % bins, sample);
      if (on_map(place, length)) {  // NaN is not
        const auto between = between_cells(place, length);
        weights[k * length + between.low] += (1 - between.share) / static_cast<T>(span.samples);
        weights[k * length + between.high] += between.share / static_cast<T>(span.samples);
        first = min(first, between.low);
        last = max(last, between.high + 1);
      }
    }
    bounds[2 * k] = static_cast<int32_t>(first);
    bounds[2 * k + 1] = static_cast<int32_t>(last);
  }
}

// Device pointers and sizes of one launch.
template <typename T>
struct Problem {
  const T* rois;  // (M, 5)
  const T* rows;  // (M, P, H)
  const T* columns;  // (M, Q, W)
  const int32_t* row_bounds;
  const int32_t* column_bounds;
  int64_t B, C, H, W, M, P, Q;
};

// out (M, P * Q, C) of features (B, H, W, C). One block for one bin and blockDim.x channels.
template <typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Problem<T> p, const T* features, T* out) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (c >= p.C) {
    return;
  }
  for (int64_t k = blockIdx.x; k < p.M * p.P * p.Q; k += gridDim.x) {
    const int64_t m = k / (p.P * p.Q), row = m * p.P + k / p.Q % p.P, column = m * p.Q + k % p.Q;
    const T* roi = p.rois + 5 * m;
    const T* map = features + static_cast<int64_t>(roi[0]) * p.H * p.W * p.C + c;
    T total = is_known(roi) ? T(0) : std::numeric_limits<T>::quiet_NaN();
    for (int64_t y = p.row_bounds[2 * row]; y < p.row_bounds[2 * row + 1]; ++y) {
      const T down = p.rows[row * p.H + y];
      for (int64_t x = p.column_bounds[2 * column]; x < p.column_bounds[2 * column + 1] && down != 0; ++x) {
        const T weight = down * p.columns[column * p.W + x];
        if (weight != 0) {  // alike for the whole block
          total += weight * map[(y * p.W + x) * p.C];
        }
      }
    }
    out[k * p.C + c] = total;
  }
}

__device__ inline bool touches(const int32_t* bounds, int64_t bin, int64_t cell) {
  return cell >= bounds[2 * bin] && cell < bounds[2 * bin + 1];
}

// grad_map (B, H, W, C) of grad (M, P * Q, C). One block for one cell and blockDim.x channels.
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_kernel(Problem<T> p, const T* grad, T* grad_map) {
  const int64_t c = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (c >= p.C) {
    return;
  }
  for (int64_t cell = blockIdx.x; cell < p.B * p.H * p.W; cell += gridDim.x) {
    const int64_t b = cell / (p.H * p.W), y = cell / p.W % p.H, x = cell % p.W;
    T total = 0;
    for (int64_t m = 0; m < p.M; ++m) {
      if (static_cast<int64_t>(p.rois[5 * m]) != b || !is_known(p.rois + 5 * m)) {
        continue;
      }
      for (int64_t row = m * p.P; row < (m + 1) * p.P; ++row) {
        const T down = touches(p.row_bounds, row, y) ? p.rows[row * p.H + y] : T(0);
        for (int64_t column = m * p.Q; column < (m + 1) * p.Q && down != 0; ++column) {
          if (touches(p.column_bounds, column, x)) {
            const int64_t bin = row * p.Q + column - m * p.Q;
            total += down * p.columns[column * p.W + x] * grad[bin * p.C + c];
          }
        }
      }
    }
    grad_map[cell * p.C + c] = total;
  }
}

unsigned int blocks_for(int64_t work) {
  return static_cast<unsigned int>(std::clamp<int64_t>(work, 1, kMaxBlocks));
}

template <typename T>
AxisTables make_tables(
    const at::Tensor& rois, int64_t maps, int64_t bins, int64_t length, int axis, const RoiAlignOptions& options) {
  const int64_t M = rois.size(0);
  AxisTables tables{
      at::zeros({M, bins, length}, rois.options()), at::empty({M, bins, 2}, rois.options().dtype(at::kInt))};
  const auto stream = c10::cuda::getCurrentCUDAStream();
  weights_kernel<T><<<blocks_for((M * bins + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      rois.data_ptr<T>(), M, maps, bins, length, axis, options, tables.weights.data_ptr<T>(),
      tables.bounds.data_ptr<int32_t>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return tables;
}

// Calls `launch(problem, blocks)`: blocks for `work` units and all channels.
template <typename T, typename Launch>
void with_problem(
    const at::Tensor& rois, at::IntArrayRef map_size, const RoiAlignOptions& options, int64_t work, Launch launch) {
  const int64_t B = map_size[0], C = map_size[1], H = map_size[2], W = map_size[3];
  const int64_t P = options.pooled_height, Q = options.pooled_width;
  const AxisTables rows = make_tables<T>(rois, B, P, H, 1, options);
  const AxisTables columns = make_tables<T>(rois, B, Q, W, 0, options);
  const int64_t panels = (C + kThreads - 1) / kThreads;
  TORCH_CHECK_VALUE(panels <= kMaxBlocks, "the maps have too many channels: ", C);
  const Problem<T> problem{
      rois.data_ptr<T>(), rows.weights.data_ptr<T>(), columns.weights.data_ptr<T>(), rows.bounds.data_ptr<int32_t>(),
      columns.bounds.data_ptr<int32_t>(), B, C, H, W, rois.size(0), P, Q};
  launch(problem, dim3(blocks_for(work), static_cast<unsigned int>(panels)));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

at::Tensor roi_align(
    const at::Tensor& features, const at::Tensor& rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const RoiAlignOptions options{pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned};
  check_roi_align(features, rois, options);
  const c10::cuda::CUDAGuard guard(features.device());  // after the check that both are on one device, a GPU
  const int64_t M = rois.size(0), C = features.size(1);
  at::Tensor out = at::empty({M, options.num_bins(), C}, features.options());
  if (features.numel() == 0) {
    out.zero_();
  } else if (out.numel() > 0) {
    const at::Tensor maps = features.permute({0, 2, 3, 1}).contiguous(), boxes = rois.contiguous();
    const int64_t work = M * options.num_bins();
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "roi_align", [&] {
      with_problem<scalar_t>(boxes, features.sizes(), options, work, [&](const auto& problem, dim3 blocks) {
        forward_kernel<scalar_t><<<blocks, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            problem, maps.data_ptr<scalar_t>(), out.data_ptr<scalar_t>());
      });
    });
  }
  return out.transpose(1, 2).contiguous().view({M, C, pooled_height, pooled_width});
}

at::Tensor roi_align_backward(
    const at::Tensor& grad, const at::Tensor& rois, at::IntArrayRef map_size, bool channels_last,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  TORCH_CHECK_VALUE(grad.dim() == 4, "grad must have shape (M, C, P, Q), got ", grad.sizes());
  const RoiAlignOptions options{grad.size(2), grad.size(3), spatial_scale, sampling_ratio, aligned};
  check_roi_align_backward(grad, rois, map_size, options);
  const c10::cuda::CUDAGuard guard(grad.device());
  at::Tensor grad_map = zero_map(grad, map_size, true);
  if (grad_map.numel() > 0 && grad.numel() > 0) {
    const at::Tensor grads = grad.permute({0, 2, 3, 1}).contiguous(), boxes = rois.contiguous();  // (M, P, Q, C)
    const int64_t work = map_size[0] * map_size[2] * map_size[3];
    AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "roi_align_backward", [&] {
      with_problem<scalar_t>(boxes, map_size, options, work, [&](const auto& problem, dim3 blocks) {
        backward_kernel<scalar_t><<<blocks, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            problem, grads.data_ptr<scalar_t>(), grad_map.data_ptr<scalar_t>());
      });
    });
  }
  return channels_last ? grad_map : grad_map.contiguous();
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CUDA, library) {
  library.impl("roi_align", roi_align);
  library.impl("roi_align_backward", roi_align_backward);
}

}  // namespace vod2
