// Schema and input checks of relation_geometry_bias; vod2/ops/relation_geometry_bias.py describes the mathematics.
#include "relation_geometry_bias.h"

#include <ATen/Functions.h>
#include <c10/core/ScalarType.h>
#include <torch/library.h>

#include <cmath>

namespace vod2 {

namespace {

void check_boxes(const at::Tensor& boxes, const char* name) {
  TORCH_CHECK_VALUE(
      boxes.dim() == 2 && boxes.size(1) == 4, name, " must have shape (count, 4), got ", boxes.sizes());
}

void check_same_device(const at::Tensor& tensor, const char* name, const at::Tensor& weight) {
  TORCH_CHECK_VALUE(
      tensor.device() == weight.device(), name, " is on ", tensor.device(), ", but weight is on ", weight.device(),
      ": move them to one device");
}

void check_floating(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(tensor.is_floating_point(), name, " must be floating point, got ", tensor.scalar_type());
}

void check_inputs(
    const at::Tensor& query_boxes, const at::Tensor& key_boxes, const at::Tensor& weight, const at::Tensor& bias) {
  check_boxes(query_boxes, "query_boxes");
  check_boxes(key_boxes, "key_boxes");
  TORCH_CHECK_VALUE(
      weight.dim() == 2 && weight.size(1) > 0 && weight.size(1) % 8 == 0,
      "weight must have shape (heads, dim) with dim a positive multiple of 8, got ", weight.sizes());
  TORCH_CHECK_VALUE(
      bias.dim() == 1 && bias.size(0) == weight.size(0),
      "bias must have shape (heads,) with the ", weight.size(0), " heads of weight, got ", bias.sizes());
  check_floating(query_boxes, "query_boxes");
  check_floating(key_boxes, "key_boxes");
  check_floating(weight, "weight");
  check_floating(bias, "bias");
  check_same_device(query_boxes, "query_boxes", weight);
  check_same_device(key_boxes, "key_boxes", weight);
  check_same_device(bias, "bias", weight);
}

}  // namespace

GeometryInputs prepare_geometry_inputs(
    const at::Tensor& query_boxes,
    const at::Tensor& key_boxes,
    const at::Tensor& weight,
    const at::Tensor& bias,
    double scale,
    double wavelength,
    double eps,
    double floor,
    double offset) {
  check_inputs(query_boxes, key_boxes, weight, bias);
  TORCH_CHECK_VALUE(wavelength > 0, "wavelength must be positive, got ", wavelength);
  TORCH_CHECK_VALUE(eps > 0, "eps must be positive, got ", eps);
  TORCH_CHECK_VALUE(floor > 0, "floor must be positive, got ", floor);

  auto dtype = c10::promoteTypes(query_boxes.scalar_type(), key_boxes.scalar_type());
  dtype = c10::promoteTypes(dtype, c10::promoteTypes(weight.scalar_type(), bias.scalar_type()));
  dtype = c10::promoteTypes(dtype, at::kFloat);

  const int64_t num_frequencies = weight.size(1) / 8;
  at::Tensor frequencies = at::empty({num_frequencies}, at::kDouble);
  for (int64_t k = 0; k < num_frequencies; ++k) {
    const double exponent = static_cast<double>(k) / static_cast<double>(num_frequencies);
    frequencies.data_ptr<double>()[k] = scale / std::pow(wavelength, exponent);
  }
  return {
      query_boxes.to(dtype).contiguous(),
      key_boxes.to(dtype).contiguous(),
      at::cat({weight.to(dtype), bias.to(dtype).unsqueeze(1)}, 1),
      frequencies.to(dtype),
      frequencies,
      eps,
      floor,
      offset};
}

at::Tensor prepare_grad(const at::Tensor& grad, const GeometryInputs& in) {
  TORCH_CHECK_VALUE(
      grad.sizes() == at::IntArrayRef({in.num_heads(), in.num_query(), in.num_key()}),
      "grad must have shape (heads, query boxes, key boxes) = (", in.num_heads(), ", ", in.num_query(), ", ",
      in.num_key(), "), got ", grad.sizes());
  check_same_device(grad, "grad", in.affine);
  return grad.to(in.affine.scalar_type()).contiguous();
}

std::tuple<at::Tensor, at::Tensor> split_affine_grad(
    const at::Tensor& affine_grad, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t dim = weight.size(1);
  return {
      affine_grad.narrow(1, 0, dim).to(weight.scalar_type()).contiguous(),
      affine_grad.select(1, dim).to(bias.scalar_type()).contiguous()};
}

TORCH_LIBRARY_FRAGMENT(vod2, library) {
  library.def(
      "relation_geometry_bias(Tensor query_boxes, Tensor key_boxes, Tensor weight, Tensor bias, float scale, "
      "float wavelength, float eps, float floor, float offset) -> Tensor");
  library.def(
      "relation_geometry_bias_backward(Tensor grad, Tensor query_boxes, Tensor key_boxes, Tensor weight, Tensor bias, "
      "float scale, float wavelength, float eps, float floor, float offset) -> (Tensor, Tensor)");
}

}  // namespace vod2
