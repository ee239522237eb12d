// What the CPU and the CUDA kernel of relation_geometry_bias share: input checks, and the geometry of one pair.
//
//   N query boxes, M key boxes, H heads, F frequencies, D = 8 F embedding numbers
//
// Weight and bias travel as one "affine" matrix (H, D + 1) and the embedding carries a last number 1, so that the bias
// and its gradient need no code of their own.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>
#include <tuple>

namespace vod2 {

// Width and height of a box are at least this many pixels: degenerate boxes must not divide by zero.
constexpr double kMinSize = 1e-3;

struct GeometryInputs {
  at::Tensor query;        // (N, 4) xyxy, contiguous, compute dtype
  at::Tensor key;          // (M, 4)
  at::Tensor affine;       // (H, D + 1)
  at::Tensor frequencies;  // (F,) scale / wavelength^(k / F), on the CPU
  at::Tensor exact_frequencies;  // the same in float64
  double eps;
  double floor;
  double offset;
  int64_t num_query() const { return query.size(0); }
  int64_t num_key() const { return key.size(0); }
  int64_t num_heads() const { return affine.size(0); }
  int64_t num_columns() const { return affine.size(1); }  // D + 1
};

// Checks shapes, dtypes and devices, and converts to the compute dtype: the widest of the inputs, at least float32.
GeometryInputs prepare_geometry_inputs(
    const at::Tensor& query_boxes,
    const at::Tensor& key_boxes,
    const at::Tensor& weight,
    const at::Tensor& bias,
    double scale,
    double wavelength,
    double eps,
    double floor,
    double offset);

// Checks that grad is (H, N, M) and returns it contiguous in the compute dtype.
at::Tensor prepare_grad(const at::Tensor& grad, const GeometryInputs& in);

// Splits the gradient of the affine matrix into those of weight and bias, in their dtypes.
std::tuple<at::Tensor, at::Tensor> split_affine_grad(
    const at::Tensor& affine_grad,
    const at::Tensor& weight,
    const at::Tensor& bias);

template <typename T>
struct CenteredBox {
  T cx, cy, w, h;
};

template <typename T>
C10_HOST_DEVICE inline CenteredBox<T> centered(const T* xyxy, T offset) {
  const T smallest = static_cast<T>(kMinSize);
  T w = xyxy[2] - xyxy[0] + offset;
  T h = xyxy[3] - xyxy[1] + offset;
  w = w < smallest ? smallest : w;  // written so that NaN stays NaN
  h = h < smallest ? smallest : h;
  return {(xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2, w, h};
}

// The four log-space quantities dx, dy, dw, dh of a pair.
template <typename T>
C10_HOST_DEVICE inline void pair_geometry(const CenteredBox<T>& query, const CenteredBox<T>& key, T eps, T out[4]) {
  out[0] = std::log(std::abs(query.cx - key.cx) / query.w + eps);
  out[1] = std::log(std::abs(query.cy - key.cy) / query.h + eps);
  out[2] = std::log(query.w / key.w);
  out[3] = std::log(query.h / key.h);
}

}  // namespace vod2
