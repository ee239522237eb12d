// CPU kernel of deform_columns: what the taps of a deformable convolution see, as rows for one matrix product. Channels
// lie last, so a tap is a blend of four vectors that lie side by side; where they lie is found once for all channels.
#include "multiversion.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

namespace vod2 {
namespace {

// The four cells around a place and their weights, 0 for those outside of the map.
template <typename T>
struct Corners {
  const T* cells[4];
  T weights[4];
};

// out (channels) = weighted sum of the four cells.
template <typename T>
VOD2_INLINE void blend_body(const Corners<T>& corners, int64_t channels, T* __restrict__ out) {
  const T *a = corners.cells[0], *b = corners.cells[1], *c = corners.cells[2], *d = corners.cells[3];
  const T u = corners.weights[0], v = corners.weights[1], w = corners.weights[2], x = corners.weights[3];
  for (int64_t j = 0; j < channels; ++j) {
    out[j] = u * a[j] + v * b[j] + w * c[j] + x * d[j];
  }
}

VOD2_MULTIVERSION void blend(const Corners<float>& corners, int64_t channels, float* out) {
  blend_body(corners, channels, out);
}

VOD2_MULTIVERSION void blend(const Corners<double>& corners, int64_t channels, double* out) {
  blend_body(corners, channels, out);
}

// A map (H, W, C), and where the channels of a group begin.
template <typename T>
struct Map {
  const T* data;
  int64_t height, width, channels;
};

// The corners of (y, x), times `factor`. False where the place is outside of the map by a cell or more, or a NaN.
template <typename T>
bool find_corners(const Map<T>& map, T y, T x, T factor, Corners<T>& corners) {
  const T height = static_cast<T>(map.height), width = static_cast<T>(map.width);
  if (!(y > -1 && y < height && x > -1 && x < width)) {
    return false;
  }
  const T low_y = std::floor(y), low_x = std::floor(x);
  const T of_y[2] = {1 - (y - low_y), y - low_y}, of_x[2] = {1 - (x - low_x), x - low_x};
  for (int64_t i = 0; i < 2; ++i) {
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t row = static_cast<int64_t>(low_y) + i, column = static_cast<int64_t>(low_x) + j;
      const bool inside = row >= 0 && row < map.height && column >= 0 && column < map.width;
      corners.cells[2 * i + j] = map.data + (inside ? (row * map.width + column) * map.channels : 0);
      corners.weights[2 * i + j] = inside ? of_y[i] * of_x[j] * factor : T(0);
    }
  }
  return true;
}

struct Taps {
  int64_t rows, columns;  // of the kernel
  int64_t stride[2], padding[2], dilation[2];
};

// One cell of the result: `offsets` and `mask` point to its numbers, which lie `step` apart; out (taps, C).
template <typename T>
void gather_cell(
    const Map<T>& map, const Taps& taps, int64_t groups, int64_t y, int64_t x, const T* offsets, const T* mask,
    int64_t step, T* out) {
  const int64_t count = taps.rows * taps.columns, share = map.channels / groups;
  for (int64_t tap = 0; tap < count; ++tap) {
    const T base_y = static_cast<T>(y * taps.stride[0] - taps.padding[0] + tap / taps.columns * taps.dilation[0]);
    const T base_x = static_cast<T>(x * taps.stride[1] - taps.padding[1] + tap % taps.columns * taps.dilation[1]);
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t number = group * count + tap;
      T* target = out + tap * map.channels + group * share;
      const T factor = mask == nullptr ? T(1) : mask[number * step];
      const Map<T> part{map.data + group * share, map.height, map.width, map.channels};
      Corners<T> corners;
      const T down = offsets[2 * number * step], right = offsets[(2 * number + 1) * step];
      if (find_corners(part, base_y + down, base_x + right, factor, corners)) {
        blend(corners, share, target);
      } else {
        std::fill(target, target + share, T(0));
      }
    }
  }
}

Taps taps_of(at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation) {
  for (const auto& pair : {kernel, stride, padding, dilation}) {
    TORCH_CHECK_VALUE(pair.size() == 2, "kernel, stride, padding and dilation must be pairs, got ", pair);
  }
  return {kernel[0], kernel[1], {stride[0], stride[1]}, {padding[0], padding[1]}, {dilation[0], dilation[1]}};
}

at::Tensor deform_columns(
    const at::Tensor& maps,
    const at::Tensor& offsets,
    const std::optional<at::Tensor>& mask,
    at::IntArrayRef kernel,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation) {
  const Taps taps = taps_of(kernel, stride, padding, dilation);
  const int64_t count = taps.rows * taps.columns;
  TORCH_CHECK_VALUE(maps.dim() == 4, "maps must have shape (B, C, H, W), got ", maps.sizes());
  TORCH_CHECK_VALUE(
      offsets.dim() == 4 && offsets.size(0) == maps.size(0) && count > 0 && offsets.size(1) > 0 &&
          offsets.size(1) % (2 * count) == 0,
      "offsets must have shape (B, 2 taps groups, H', W'), got ", offsets.sizes(), " for ", maps.sizes());
  const int64_t B = maps.size(0), C = maps.size(1), groups = offsets.size(1) / (2 * count);
  const int64_t P = offsets.size(2), Q = offsets.size(3);
  TORCH_CHECK_VALUE(C % groups == 0, groups, " groups of offsets do not divide ", C, " channels");
  TORCH_CHECK_VALUE(
      offsets.scalar_type() == maps.scalar_type(), "offsets are ", offsets.scalar_type(), ", maps ", maps.scalar_type());
  const at::Tensor cells = maps.permute({0, 2, 3, 1}).contiguous(), moves = offsets.contiguous();
  at::Tensor factors;
  if (mask.has_value()) {
    TORCH_CHECK_VALUE(
        mask->sizes() == at::IntArrayRef({B, count * groups, P, Q}) && mask->scalar_type() == maps.scalar_type(),
        "mask must have shape (B, taps groups, H', W') and the type of maps, got ", mask->sizes());
    factors = mask->contiguous();
  }
  at::Tensor out = at::empty({B, P, Q, count * C}, maps.options().memory_format(at::MemoryFormat::Contiguous));
  if (out.numel() == 0) {
    return out;
  }
  TORCH_CHECK_VALUE(maps.numel() > 0, "maps without a cell cannot be convolved, got ", maps.sizes());
  AT_DISPATCH_FLOATING_TYPES(maps.scalar_type(), "deform_columns", [&] {
    const scalar_t* const cell_data = cells.const_data_ptr<scalar_t>();
    const scalar_t* const move_data = moves.const_data_ptr<scalar_t>();
    const scalar_t* const mask_data = factors.defined() ? factors.const_data_ptr<scalar_t>() : nullptr;
    scalar_t* const out_data = out.data_ptr<scalar_t>();
    const int64_t height = maps.size(2), width = maps.size(3), area = P * Q;
    at::parallel_for(0, B * area, 16, [&](int64_t begin, int64_t end) {
      for (int64_t cell = begin; cell < end; ++cell) {
        const int64_t b = cell / area, place = cell % area;
        const Map<scalar_t> map{cell_data + b * height * width * C, height, width, C};
        gather_cell(
            map, taps, groups, place / Q, place % Q, move_data + b * offsets.size(1) * area + place,
            mask_data == nullptr ? nullptr : mask_data + b * count * groups * area + place, area,
            out_data + cell * count * C);
      }
    });
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CPU, library) {
  library.impl("deform_columns", deform_columns);
}

}  // namespace vod2
