// What the CPU and the CUDA kernels of roi_align share: input checks, and where the samples of a bin lie along one axis.
// vod2/ops/roi_align.py describes the mathematics.
//
//   B maps, C channels, H x W cells, M RoIs, P x Q bins of a RoI
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <cmath>
#include <cstdint>

namespace vod2 {

struct RoiAlignOptions {
  int64_t pooled_height;  // P
  int64_t pooled_width;   // Q
  double spatial_scale;
  int64_t sampling_ratio;  // samples of a bin along each axis; 0: as many as it has cells, rounded up
  bool aligned;
  int64_t num_bins() const { return pooled_height * pooled_width; }
};

// Check shapes, dtypes and devices. A map may have its channels first or last; RoIs must have the dtype of the map.
void check_roi_align(const at::Tensor& features, const at::Tensor& rois, const RoiAlignOptions& options);
void check_roi_align_backward(
    const at::Tensor& grad, const at::Tensor& rois, at::IntArrayRef map_size, const RoiAlignOptions& options);

// Whether the channels of (B, C, H, W) lie last in memory. Where both orders are the same, they do not.
bool channels_lie_last(const at::Tensor& features);

// Zeros (B, C, H, W) for the gradient of a map, in the order of its channels.
at::Tensor zero_map(const at::Tensor& like, at::IntArrayRef map_size, bool channels_last);

// Farther from the map than any box that is not an error, and near enough to compute with.
constexpr double kFarthest = 1e9;

// Whether no coordinate of a RoI is NaN. One with a NaN is NaN whatever the map is, and gives it no gradient.
template <typename T>
C10_HOST_DEVICE inline bool is_known(const T* roi) {
  return roi[1] == roi[1] && roi[2] == roi[2] && roi[3] == roi[3] && roi[4] == roi[4];
}

// A RoI along one axis, in cells.
template <typename T>
struct RoiSpan {
  T start;
  T bin;            // size of a bin; below 0 for a box that ends before it begins
  int64_t samples;  // of a bin
};

template <typename T>
C10_HOST_DEVICE inline T bounded(T place) {
  const T farthest = static_cast<T>(kFarthest);
  place = place < -farthest ? -farthest : place;  // written so that NaN stays NaN
  return place > farthest ? farthest : place;
}

template <typename T>
C10_HOST_DEVICE inline RoiSpan<T> roi_span(T begin, T end, int64_t bins, const RoiAlignOptions& options) {
  const T scale = static_cast<T>(options.spatial_scale);
  const T offset = options.aligned ? static_cast<T>(0.5) : static_cast<T>(0);
  const T start = bounded(begin * scale - offset);
  T size = bounded(end * scale - offset) - start;
  if (!options.aligned && size < 1) {
    size = 1;
  }
  const T bin = size / static_cast<T>(bins);
  int64_t samples = options.sampling_ratio;
  if (samples == 0 && bin > 0) {
    samples = static_cast<int64_t>(std::ceil(bin));
  }
  return {start, bin, samples};
}

template <typename T>
C10_HOST_DEVICE inline T sample_place(const RoiSpan<T>& span, int64_t bin, int64_t sample) {
  return span.start + static_cast<T>(bin) * span.bin +
      (static_cast<T>(sample) + static_cast<T>(0.5)) * span.bin / static_cast<T>(span.samples);
}

// The samples from `first` up to `last` of a bin hold all that may lie on `length` cells.
struct SampleRange {
  int64_t first, last;
};

// A box that is much larger than the map has more samples than anyone can visit, of which the map has a few.
template <typename T>
C10_HOST_DEVICE inline SampleRange samples_near(const RoiSpan<T>& span, int64_t bin, int64_t length) {
  constexpr int64_t kFew = 64;
  if (span.samples <= kFew || !(span.bin > 0)) {
    return {0, span.samples};
  }
  const double step = static_cast<double>(span.bin) / static_cast<double>(span.samples);
  const double start = static_cast<double>(span.start) + static_cast<double>(bin) * static_cast<double>(span.bin);
  // float32 rounds places far from 0 to more than a cell
  const double slack = 4 + 1e-6 * (std::abs(start) + static_cast<double>(span.bin));
  const double count = static_cast<double>(span.samples);
  const double first = std::floor((-1 - slack - start) / step), last = std::ceil((length + slack - start) / step);
  return {
      static_cast<int64_t>(first < 0 ? 0 : (first > count ? count : first)),
      static_cast<int64_t>(last < 0 ? 0 : (last > count ? count : last))};
}

// Between which two of `length` cells a place lies. A sample counts until one cell outside of the map, as its border.
template <typename T>
struct Between {
  int64_t low, high;
  T share;  // of the high one
};

template <typename T>
C10_HOST_DEVICE inline bool on_map(T place, int64_t length) {
  return place >= -1 && place <= static_cast<T>(length);
}

template <typename T>
C10_HOST_DEVICE inline Between<T> between_cells(T place, int64_t length) {
  place = place > 0 ? place : 0;
  const int64_t low = static_cast<int64_t>(place);
  if (low >= length - 1) {
    return {length - 1, length - 1, 0};
  }
  return {low, low + 1, place - static_cast<T>(low)};
}

}  // namespace vod2
