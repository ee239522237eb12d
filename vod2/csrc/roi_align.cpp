// Schemas and input checks of roi_align and its gradient; vod2/ops/roi_align.py describes the mathematics.
#include "roi_align.h"

#include <ATen/Functions.h>
#include <torch/library.h>

namespace vod2 {
namespace {

void check_options(const RoiAlignOptions& options) {
  TORCH_CHECK_VALUE(
      options.pooled_height > 0 && options.pooled_width > 0,
      "the pooled size must be positive, got ", options.pooled_height, " x ", options.pooled_width);
  TORCH_CHECK_VALUE(
      options.spatial_scale > 0 && std::isfinite(options.spatial_scale),
      "spatial_scale must be positive and finite, got ", options.spatial_scale);
  TORCH_CHECK_VALUE(
      options.sampling_ratio >= 0, "sampling_ratio must be 0 (adaptive) or more, got ", options.sampling_ratio);
}

void check_tensors(const at::Tensor& maps, const char* name, const at::Tensor& rois) {
  TORCH_CHECK_VALUE(
      maps.scalar_type() == at::kFloat || maps.scalar_type() == at::kDouble,
      name, " must be float32 or float64, got ", maps.scalar_type());
  TORCH_CHECK_VALUE(
      rois.dim() == 2 && rois.size(1) == 5,
      "rois must have shape (M, 5), the number of the map and xyxy, got ", rois.sizes());
  TORCH_CHECK_VALUE(
      rois.scalar_type() == maps.scalar_type(),
      "rois are ", rois.scalar_type(), ", but ", name, " is ", maps.scalar_type());
  TORCH_CHECK_VALUE(
      rois.device() == maps.device(),
      "rois are on ", rois.device(), ", but ", name, " is on ", maps.device(), ": move them to one device");
}

}  // namespace

void check_roi_align(const at::Tensor& features, const at::Tensor& rois, const RoiAlignOptions& options) {
  TORCH_CHECK_VALUE(features.dim() == 4, "features must have shape (B, C, H, W), got ", features.sizes());
  check_tensors(features, "features", rois);
  check_options(options);
}

void check_roi_align_backward(
    const at::Tensor& grad, const at::Tensor& rois, at::IntArrayRef map_size, const RoiAlignOptions& options) {
  TORCH_CHECK_VALUE(map_size.size() == 4, "map_size must be (B, C, H, W), got ", map_size);
  check_tensors(grad, "grad", rois);
  check_options(options);
  const auto expected =
      at::IntArrayRef({rois.size(0), map_size[1], options.pooled_height, options.pooled_width}).vec();
  TORCH_CHECK_VALUE(
      grad.sizes() == at::IntArrayRef(expected),
      "grad must have shape (M, C, P, Q) = ", at::IntArrayRef(expected), ", got ", grad.sizes());
}

bool channels_lie_last(const at::Tensor& features) {
  return features.is_contiguous(at::MemoryFormat::ChannelsLast) && !features.is_contiguous();
}

at::Tensor zero_map(const at::Tensor& like, at::IntArrayRef map_size, bool channels_last) {
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  return at::empty(map_size, like.options(), format).zero_();
}

TORCH_LIBRARY_FRAGMENT(vod2, library) {
  library.def(
      "roi_align(Tensor features, Tensor rois, int pooled_height, int pooled_width, float spatial_scale, "
      "int sampling_ratio, bool aligned) -> Tensor");
  library.def(
      "roi_align_backward(Tensor grad, Tensor rois, SymInt[] map_size, bool channels_last, float spatial_scale, "
      "int sampling_ratio, bool aligned) -> Tensor");
}

}  // namespace vod2
