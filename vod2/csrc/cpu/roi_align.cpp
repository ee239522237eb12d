// CPU kernels of roi_align. A thread takes one map and a block of its channels, lays the block out cell by cell (a few
// hundred kilobytes, which stay in the cache) and goes through the RoIs of the map. Which cells a bin touches, and how
// much each counts, is found once for all channels; no two threads write to one place, so the gradient needs no atomics
// and does not depend on the number of threads.
#include "../roi_align.h"
#include "multiversion.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

namespace vod2 {
namespace {

constexpr int64_t kLanes = 16;  // sums that proceed side by side
template <typename T>
constexpr int64_t kBlock = 256 / sizeof(T);  // channels that are summed in registers

// One row or column of cells that a bin touches: where it begins in a block, and its share of the mean.
template <typename T>
struct Tap {
  int64_t place;
  T weight;
};

// The taps of some bins, one after the other: those of bin i are taps[begins[i]] up to taps[begins[i + 1]]. The weights
// of the cells of a bin are the products of those of its rows and columns, as its samples are a grid.
template <typename T>
struct Axis {
  std::vector<Tap<T>> taps;
  std::vector<int64_t> begins{0};
  int64_t lowest = std::numeric_limits<int64_t>::max(), highest = -1;  // cells that any bin touches

  void add(int64_t cell, int64_t stride, T weight) {
    if (weight == 0) {
      return;
    }
    lowest = std::min(lowest, cell);
    highest = std::max(highest, cell);
    // Samples proceed along the axis: a cell that was met before is one of the last two.
    const int64_t count = static_cast<int64_t>(taps.size());
    for (int64_t k = std::max(begins.back(), count - 2); k < count; ++k) {
      if (taps[k].place == cell * stride) {
        taps[k].weight += weight;
        return;
      }
    }
    taps.push_back({cell * stride, weight});
  }

  void add_bins(const RoiSpan<T>& span, int64_t bins, int64_t length, int64_t stride) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      const SampleRange range = samples_near(span, bin, length);
      for (int64_t sample = range.first; sample < range.last; ++sample) {
        const T place = sample_place(span, bin, sample);
        if (on_map(place, length)) {
          const auto between = between_cells(place, length);
          const T share = between.share / static_cast<T>(span.samples);
          add(between.low, stride, (1 - between.share) / static_cast<T>(span.samples));
          add(between.high, stride, share);
        }
      }
      begins.push_back(static_cast<int64_t>(taps.size()));
    }
  }
};

// What the kernels need of one RoI: the taps of its P rows and Q columns of bins.
template <typename T>
struct RoiTaps {
  const Tap<T>* row_taps;
  const int64_t* row_begins;
  int64_t P;
  const Tap<T>* column_taps;
  const int64_t* column_begins;
  int64_t Q;
  int64_t origin;  // place of the first cell that the block has
};

// tile (P * Q, kBlock) = weighted sums of the cells of `map` (cells, kBlock)
template <typename T>
VOD2_INLINE void pool_body(const T* map, const RoiTaps<T>& roi, T* tile) {
  for (int64_t p = 0; p < roi.P; ++p) {
    for (int64_t q = 0; q < roi.Q; ++q, tile += kBlock<T>) {
      T sums[kBlock<T> / kLanes][kLanes] = {};  // in groups that compilers keep in registers
      for (int64_t i = roi.row_begins[p]; i < roi.row_begins[p + 1]; ++i) {
        for (int64_t j = roi.column_begins[q]; j < roi.column_begins[q + 1]; ++j) {
          const T weight = roi.row_taps[i].weight * roi.column_taps[j].weight;
          const T* cell = map + (roi.row_taps[i].place + roi.column_taps[j].place - roi.origin);
          for (int64_t group = 0; group < kBlock<T> / kLanes; ++group) {
            for (int64_t lane = 0; lane < kLanes; ++lane) {
              sums[group][lane] += weight * cell[group * kLanes + lane];
            }
          }
        }
      }
      std::copy(&sums[0][0], &sums[0][0] + kBlock<T>, tile);
    }
  }
}

VOD2_MULTIVERSION void pool(const float* map, const RoiTaps<float>& roi, float* tile) {
  pool_body(map, roi, tile);
}

VOD2_MULTIVERSION void pool(const double* map, const RoiTaps<double>& roi, double* tile) {
  pool_body(map, roi, tile);
}

// The transposed sum: adds `tile` (P * Q, kBlock) to the cells of `map` (cells, kBlock).
template <typename T>
VOD2_INLINE void spread_body(const T* tile, const RoiTaps<T>& roi, T* map) {
  for (int64_t p = 0; p < roi.P; ++p) {
    for (int64_t q = 0; q < roi.Q; ++q, tile += kBlock<T>) {
      for (int64_t i = roi.row_begins[p]; i < roi.row_begins[p + 1]; ++i) {
        for (int64_t j = roi.column_begins[q]; j < roi.column_begins[q + 1]; ++j) {
          const T weight = roi.row_taps[i].weight * roi.column_taps[j].weight;
          T* cell = map + (roi.row_taps[i].place + roi.column_taps[j].place - roi.origin);
          for (int64_t lane = 0; lane < kBlock<T>; ++lane) {
            cell[lane] += weight * tile[lane];
          }
        }
      }
    }
  }
}

VOD2_MULTIVERSION void spread(const float* tile, const RoiTaps<float>& roi, float* map) {
  spread_body(tile, roi, map);
}

VOD2_MULTIVERSION void spread(const double* tile, const RoiTaps<double>& roi, double* map) {
  spread_body(tile, roi, map);
}

// out (columns, rows) = transposed `in` (rows, columns); neighbours in memory lie `in_stride` and `out_stride` apart.
template <typename T>
void transpose(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out, int64_t out_stride) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      out[column * out_stride + row] = in[row * in_stride + column];
    }
  }
}

// The RoIs map by map, and the taps of all their bins.
template <typename T>
class Plan {
 public:
  Plan(const T* rois, int64_t count, at::IntArrayRef map_size, const RoiAlignOptions& options)
      : P_(options.pooled_height), Q_(options.pooled_width), maps_(map_size[0]), known_(count) {
    std::vector<std::vector<int64_t>> rois_of(map_size[0]);
    const int64_t H = map_size[2], W = map_size[3], stride = kBlock<T>;
    for (int64_t m = 0; m < count; ++m) {
      const T* roi = rois + 5 * m;
      TORCH_CHECK_VALUE(
          roi[0] >= 0 && roi[0] < static_cast<T>(map_size[0]),
          "roi ", m, " is of map ", roi[0], ", but there are ", map_size[0], " maps");
      const auto across = roi_span(roi[1], roi[3], Q_, options), down = roi_span(roi[2], roi[4], P_, options);
      known_[m] = is_known(roi);
      // NaN lies on no cell: such bins get no taps.
      rows_.lowest = H;
      rows_.highest = -1;
      rows_.add_bins(down, P_, H, W * stride);
      columns_.add_bins(across, Q_, W, stride);
      Map& map = maps_[static_cast<int64_t>(roi[0])];
      map.rois.push_back(m);
      map.first_row = std::min(map.first_row, rows_.lowest);
      map.last_row = std::max(map.last_row, rows_.highest + 1);
    }
  }

  struct Map {
    std::vector<int64_t> rois;
    int64_t first_row = std::numeric_limits<int64_t>::max(), last_row = 0;  // [first, last) are touched
    int64_t num_rows() const { return std::max<int64_t>(0, last_row - first_row); }
  };

  const Map& map(int64_t b) const { return maps_[b]; }
  bool is_known_roi(int64_t m) const { return known_[m]; }
  RoiTaps<T> taps(int64_t m, int64_t origin) const {
    return {
        rows_.taps.data(), rows_.begins.data() + m * P_, P_,
        columns_.taps.data(), columns_.begins.data() + m * Q_, Q_, origin};
  }

 private:
  int64_t P_, Q_;
  std::vector<Map> maps_;
  std::vector<bool> known_;
  Axis<T> rows_, columns_;
};

// A block of the channels of some rows of a map: where it lies in the map, and its copy in which a cell's channels lie
// side by side. Channels beyond the last are 0.
template <typename T>
class Block {
 public:
  Block(at::IntArrayRef map_size, bool channels_last)
      : C_(map_size[1]), H_(map_size[2]), W_(map_size[3]), channels_last_(channels_last) {}

  void place(int64_t b, int64_t first_channel, int64_t first_row, int64_t num_rows) {
    channels_ = std::min(kBlock<T>, C_ - first_channel);
    first_cell_ = first_row * W_;
    cells_ = num_rows * W_;
    const int64_t in_map = channels_last_ ? first_cell_ * C_ + first_channel : first_channel * H_ * W_ + first_cell_;
    begin_ = b * C_ * H_ * W_ + in_map;
    copy_.assign(cells_ * kBlock<T>, T(0));
  }

  void read(const T* map) {
    if (channels_last_) {
      for (int64_t cell = 0; cell < cells_; ++cell) {
        std::copy_n(map + begin_ + cell * C_, channels_, copy_.data() + cell * kBlock<T>);
      }
    } else {
      transpose(map + begin_, H_ * W_, channels_, cells_, copy_.data(), kBlock<T>);
    }
  }

  void write(T* map) const {
    if (channels_last_) {
      for (int64_t cell = 0; cell < cells_; ++cell) {
        std::copy_n(copy_.data() + cell * kBlock<T>, channels_, map + begin_ + cell * C_);
      }
    } else {
      transpose(copy_.data(), kBlock<T>, cells_, channels_, map + begin_, H_ * W_);
    }
  }

  int64_t channels() const { return channels_; }
  T* data() { return copy_.data(); }
  int64_t origin() const { return first_cell_ * kBlock<T>; }

 private:
  int64_t C_, H_, W_;
  bool channels_last_;
  int64_t channels_ = 0, first_cell_ = 0, cells_ = 0, begin_ = 0;
  std::vector<T> copy_;
};

// Calls work(block, tile, rois, first channel) for each map with RoIs and each block of its channels.
template <typename T, typename Work>
void for_blocks(const Plan<T>& plan, at::IntArrayRef map_size, bool channels_last, int64_t bins, Work work) {
  const int64_t blocks = (map_size[1] + kBlock<T> - 1) / kBlock<T>;
  at::parallel_for(0, map_size[0] * blocks, 1, [&](int64_t begin, int64_t end) {
    Block<T> block(map_size, channels_last);
    std::vector<T> tile(bins * kBlock<T>);
    for (int64_t task = begin; task < end; ++task) {
      const auto& map = plan.map(task / blocks);
      const int64_t first_channel = task % blocks * kBlock<T>;
      if (!map.rois.empty()) {
        block.place(task / blocks, first_channel, map.num_rows() > 0 ? map.first_row : 0, map.num_rows());
        work(block, tile.data(), map.rois, first_channel);
      }
    }
  });
}

template <typename T>
void forward_kernel(
    const at::Tensor& features, bool channels_last, const at::Tensor& rois, const RoiAlignOptions& options, T* out) {
  const Plan<T> plan(rois.data_ptr<T>(), rois.size(0), features.sizes(), options);
  const T* source = features.data_ptr<T>();
  const int64_t C = features.size(1), bins = options.num_bins();
  for_blocks<T>(
      plan, features.sizes(), channels_last, bins,
      [&](Block<T>& block, T* tile, const std::vector<int64_t>& own, int64_t first_channel) {
        block.read(source);
        for (const int64_t m : own) {
          T* target = out + (m * C + first_channel) * bins;
          if (plan.is_known_roi(m)) {
            pool(block.data(), plan.taps(m, block.origin()), tile);
            transpose(tile, kBlock<T>, bins, block.channels(), target, bins);
          } else {
            std::fill_n(target, block.channels() * bins, std::numeric_limits<T>::quiet_NaN());
          }
        }
      });
}

template <typename T>
void backward_kernel(
    const at::Tensor& grad, const at::Tensor& rois, const RoiAlignOptions& options, bool channels_last,
    at::Tensor& grad_map) {
  const Plan<T> plan(rois.data_ptr<T>(), rois.size(0), grad_map.sizes(), options);
  const T* source = grad.data_ptr<T>();
  T* target = grad_map.data_ptr<T>();
  const int64_t C = grad.size(1), bins = options.num_bins();
  for_blocks<T>(
      plan, grad_map.sizes(), channels_last, bins,
      [&](Block<T>& block, T* tile, const std::vector<int64_t>& own, int64_t first_channel) {
        for (const int64_t m : own) {
          if (plan.is_known_roi(m)) {
            transpose(source + (m * C + first_channel) * bins, bins, block.channels(), bins, tile, kBlock<T>);
            spread(tile, plan.taps(m, block.origin()), block.data());
          }
        }
        block.write(target);
      });
}

at::Tensor roi_align(
    const at::Tensor& features, const at::Tensor& rois, int64_t pooled_height, int64_t pooled_width,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  const RoiAlignOptions options{pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned};
  check_roi_align(features, rois, options);
  const bool channels_last = channels_lie_last(features);
  const at::Tensor maps = channels_last ? features : features.contiguous(), boxes = rois.contiguous();
  at::Tensor out = at::empty({rois.size(0), features.size(1), pooled_height, pooled_width}, features.options());
  if (maps.numel() == 0) {
    return out.zero_();
  }
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "roi_align", [&] {
    forward_kernel<scalar_t>(maps, channels_last, boxes, options, out.data_ptr<scalar_t>());
  });
  return out;
}

at::Tensor roi_align_backward(
    const at::Tensor& grad, const at::Tensor& rois, at::IntArrayRef map_size, bool channels_last,
    double spatial_scale, int64_t sampling_ratio, bool aligned) {
  TORCH_CHECK_VALUE(grad.dim() == 4, "grad must have shape (M, C, P, Q), got ", grad.sizes());
  const RoiAlignOptions options{grad.size(2), grad.size(3), spatial_scale, sampling_ratio, aligned};
  check_roi_align_backward(grad, rois, map_size, options);
  at::Tensor grad_map = zero_map(grad, map_size, channels_last);
  if (grad_map.numel() > 0 && grad.numel() > 0) {
    const at::Tensor grads = grad.contiguous(), boxes = rois.contiguous();
    AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "roi_align_backward", [&] {
      backward_kernel<scalar_t>(grads, boxes, options, channels_last, grad_map);
    });
  }
  return grad_map;
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CPU, library) {
  library.impl("roi_align", roi_align);
  library.impl("roi_align_backward", roi_align_backward);
}

}  // namespace vod2
