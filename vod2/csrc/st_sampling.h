// What the CPU and the CUDA kernels of shift_correlation and shift_sum share; vod2/ops/st_sampling.py describes the
// mathematics.
//
//   B maps, H x W cells, C channels (last in memory), U whole offsets (dx, dy)
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>
#include <c10/util/ArrayRef.h>

#include <cstdint>

namespace vod2 {

struct ShiftInputs {
  at::Tensor first;    // (B, H, W, channels), contiguous: the query, or the value that is summed
  at::Tensor second;   // (B, H, W, channels): the key; or (B, H, W, U): the weights
  at::Tensor offsets;  // (U, 2) int32 on the CPU: dx, dy
  int64_t batch() const { return first.size(0); }
  int64_t height() const { return first.size(1); }
  int64_t width() const { return first.size(2); }
  int64_t channels() const { return first.size(3); }
  int64_t num_offsets() const { return offsets.size(0); }
  int64_t num_cells() const { return batch() * height() * width(); }
};

// Check shapes, dtypes and devices; make everything contiguous.
ShiftInputs prepare_correlation(
    const at::Tensor& query, const at::Tensor& key, at::IntArrayRef dx, at::IntArrayRef dy);
ShiftInputs prepare_sum(const at::Tensor& weights, const at::Tensor& value, at::IntArrayRef dx, at::IntArrayRef dy);

// Number of the cell (y, x) of one map moved by (dx, dy), or -1 if that is outside.
C10_HOST_DEVICE inline int64_t shifted_cell(int64_t y, int64_t x, int64_t dy, int64_t dx, int64_t H, int64_t W) {
  const int64_t row = y + dy, column = x + dx;
  return row >= 0 && row < H && column >= 0 && column < W ? row * W + column : -1;
}

}  // namespace vod2
