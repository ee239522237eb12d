// CPU kernels of shift_correlation and shift_sum. Channels lie last, so every inner loop runs over numbers that lie side
// by side, whatever the width of the map; whatever reaches outside is left out before that loop.
#include "../st_sampling.h"
#include "multiversion.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vod2 {
namespace {

constexpr int64_t kLanes = 16;  // sums that proceed side by side
constexpr int64_t kBlock = 64;  // channels that are summed in registers
constexpr int64_t kPanel = 256;  // channels for which the neighbours of a cell stay in the cache

// One offset that stays inside the map: where its vector starts, and the weight or the place of the result.
template <typename T>
struct Tap {
  const T* vector;
  T weight;
  int64_t index;
};

// out[tap.index] = < a, tap.vector > for `count` taps, four at a time so that `a` is read once for them.
template <typename T>
VOD2_INLINE void dot_body(const T* a, const Tap<T>* taps, int64_t count, int64_t channels, T* out) {
  constexpr int64_t kTaps = 4;
  const int64_t whole = channels / kLanes * kLanes;
  for (int64_t first = 0; first < count; first += kTaps) {
    const T* vectors[kTaps];
    for (int64_t k = 0; k < kTaps; ++k) {
      vectors[k] = taps[std::min(first + k, count - 1)].vector;
    }
    T sums[kTaps][kLanes] = {};
    for (int64_t c = 0; c < whole; c += kLanes) {
      for (int64_t k = 0; k < kTaps; ++k) {
        for (int64_t j = 0; j < kLanes; ++j) {
          sums[k][j] += a[c + j] * vectors[k][c + j];
        }
      }
    }
    for (int64_t k = 0; k < std::min(kTaps, count - first); ++k) {
      T total = 0;
      for (int64_t j = 0; j < kLanes; ++j) {
        total += sums[k][j];
      }
      for (int64_t c = whole; c < channels; ++c) {
        total += a[c] * vectors[k][c];
      }
      out[taps[first + k].index] = total;
    }
  }
}

VOD2_MULTIVERSION void dot(const float* a, const Tap<float>* taps, int64_t count, int64_t channels, float* out) {
  dot_body(a, taps, count, channels, out);
}

VOD2_MULTIVERSION void dot(const double* a, const Tap<double>* taps, int64_t count, int64_t channels, double* out) {
  dot_body(a, taps, count, channels, out);
}

// out = sum over taps of weight * vector
template <typename T>
VOD2_INLINE void sum_body(const Tap<T>* taps, int64_t count, int64_t channels, T* out) {
  int64_t c = 0;
  for (; c + kBlock <= channels; c += kBlock) {
    T sums[kBlock / kLanes][kLanes] = {};  // in groups that compilers keep in registers
    for (int64_t k = 0; k < count; ++k) {
      const T weight = taps[k].weight;
      const T* vector = taps[k].vector + c;
      for (int64_t group = 0; group < kBlock / kLanes; ++group) {
        for (int64_t j = 0; j < kLanes; ++j) {
          sums[group][j] += weight * vector[group * kLanes + j];
        }
      }
    }
    std::copy(&sums[0][0], &sums[0][0] + kBlock, out + c);
  }
  for (; c < channels; ++c) {
    T total = 0;
    for (int64_t k = 0; k < count; ++k) {
      total += taps[k].weight * taps[k].vector[c];
    }
    out[c] = total;
  }
}

VOD2_MULTIVERSION void sum(const Tap<float>* taps, int64_t count, int64_t channels, float* out) {
  sum_body(taps, count, channels, out);
}

VOD2_MULTIVERSION void sum(const Tap<double>* taps, int64_t count, int64_t channels, double* out) {
  sum_body(taps, count, channels, out);
}

// Calls `work(b, y, x)` for the cells from `begin` to `end`, counted over all maps.
template <typename Work>
void for_cells(const ShiftInputs& in, int64_t begin, int64_t end, Work work) {
  for (int64_t cell = begin; cell < end; ++cell) {
    const int64_t row = cell / in.width();
    work(row / in.height(), row % in.height(), cell % in.width());
  }
}

// out (B, H, W, U) starts at zero.
template <typename T>
void correlation_kernel(const ShiftInputs& in, T* out) {
  const int64_t H = in.height(), W = in.width(), E = in.channels(), U = in.num_offsets();
  const T* query = in.first.data_ptr<T>();
  const T* key = in.second.data_ptr<T>();
  const int32_t* offsets = in.offsets.data_ptr<int32_t>();
  at::parallel_for(0, in.num_cells(), W, [&](int64_t begin, int64_t end) {
    std::vector<Tap<T>> taps(U);
    for_cells(in, begin, end, [&](int64_t b, int64_t y, int64_t x) {
      int64_t count = 0;
      for (int64_t u = 0; u < U; ++u) {
        const int64_t other = shifted_cell(y, x, offsets[2 * u + 1], offsets[2 * u], H, W);
        if (other >= 0) {
          taps[count++] = {key + (b * H * W + other) * E, T(0), u};
        }
      }
      const int64_t cell = (b * H + y) * W + x;
      dot(query + cell * E, taps.data(), count, E, out + cell * U);
    });
  });
}

template <typename T>
void sum_kernel(const ShiftInputs& in, bool transposed, T* out) {
  const int64_t H = in.height(), W = in.width(), C = in.channels(), U = in.num_offsets();
  const T* value = in.first.data_ptr<T>();
  const T* weights = in.second.data_ptr<T>();
  const int32_t* offsets = in.offsets.data_ptr<int32_t>();
  const int sign = transposed ? -1 : 1;
  at::parallel_for(0, in.num_cells(), W, [&](int64_t begin, int64_t end) {
    std::vector<Tap<T>> taps(U);
    for (int64_t panel = 0; panel < C; panel += kPanel) {
      for_cells(in, begin, end, [&](int64_t b, int64_t y, int64_t x) {
        const int64_t map = b * H * W, cell = map + y * W + x;
        int64_t count = 0;
        for (int64_t u = 0; u < U; ++u) {
          const int64_t other = shifted_cell(y, x, sign * offsets[2 * u + 1], sign * offsets[2 * u], H, W);
          if (other >= 0) {
            const T weight = weights[(transposed ? map + other : cell) * U + u];
            taps[count++] = {value + (map + other) * C + panel, weight, u};
          }
        }
        sum(taps.data(), count, std::min(kPanel, C - panel), out + cell * C + panel);
      });
    }
  });
}

at::Tensor shift_correlation(
    const at::Tensor& query, const at::Tensor& key, at::IntArrayRef dx, at::IntArrayRef dy) {
  const auto in = prepare_correlation(query, key, dx, dy);
  at::Tensor out = at::zeros({in.batch(), in.height(), in.width(), in.num_offsets()}, in.first.options());
  if (out.numel() > 0 && in.channels() > 0) {
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "shift_correlation", [&] {
      correlation_kernel<scalar_t>(in, out.data_ptr<scalar_t>());
    });
  }
  return out;
}

at::Tensor shift_sum(
    const at::Tensor& weights, const at::Tensor& value, at::IntArrayRef dx, at::IntArrayRef dy, bool transposed) {
  const auto in = prepare_sum(weights, value, dx, dy);
  at::Tensor out = at::empty(in.first.sizes(), in.first.options());
  if (out.numel() > 0) {
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "shift_sum", [&] {
      sum_kernel<scalar_t>(in, transposed, out.data_ptr<scalar_t>());
    });
  }
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CPU, library) {
  library.impl("shift_correlation", shift_correlation);
  library.impl("shift_sum", shift_sum);
}

}  // namespace vod2
