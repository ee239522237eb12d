// CPU kernel of relation_geometry_bias. Works on tiles of one query box and kTile key boxes, whose embedding (D + 1
// rows of kTile numbers) stays in the cache: the (N, M, D) embedding never exists.
#include "../relation_geometry_bias.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

// The compiler makes one version of the hot loops per instruction set, and the loader picks the processor's.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define VOD2_MULTIVERSION __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define VOD2_MULTIVERSION
#endif
#define VOD2_INLINE inline __attribute__((always_inline))

namespace vod2 {
namespace {

constexpr int64_t kTile = 128;

// Above this angle the three-part reduction of pi / 2 below loses accuracy in float32.
constexpr float kLargestFastAngle = 8192.0f;

// Sine and cosine of n angles x * frequency without a branch, so that the loop becomes vector instructions. Reduction
// to [-pi/4, pi/4] by Cody and Waite, then minimax polynomials; the error is about one unit in the last place of 1.
VOD2_MULTIVERSION void fast_sincos(const float* x, float frequency, int64_t n, float* sines, float* cosines) {
  constexpr float two_over_pi = 0.636619772f;
  constexpr float round_to_integer = 12582912.0f;  // 1.5 * 2^23: adding it drops the fraction
  for (int64_t j = 0; j < n; ++j) {
    const float angle = x[j] * frequency;
    const float turns = (angle * two_over_pi + round_to_integer) - round_to_integer;
    const int32_t quadrant = static_cast<int32_t>(turns);
    const float r = ((angle - turns * 1.5703125f) - turns * 4.837512969970703125e-4f) - turns * 7.549789948768648e-8f;
    const float r2 = r * r;
    const float sine = r + r * r2 * (-1.6666654611e-1f + r2 * (8.3321608736e-3f - r2 * 1.9515295891e-4f));
    const float tail = 4.166664568298827e-2f - r2 * (1.388731625493765e-3f - r2 * 2.443315711809948e-5f);
    const float cosine = 1.0f - 0.5f * r2 + r2 * r2 * tail;
    const float s = (quadrant & 1) ? cosine : sine;
    const float c = (quadrant & 1) ? sine : cosine;
    sines[j] = (quadrant & 2) ? -s : s;
    cosines[j] = ((quadrant + 1) & 2) ? -c : c;
  }
}

template <typename T>
void exact_sincos(const T* x, T frequency, int64_t n, T* sines, T* cosines) {
  for (int64_t j = 0; j < n; ++j) {
    sines[j] = std::sin(x[j] * frequency);
    cosines[j] = std::cos(x[j] * frequency);
  }
}

void sincos(const double* x, double frequency, int64_t n, double* sines, double* cosines) {
  exact_sincos(x, frequency, n, sines, cosines);
}

void sincos(const float* x, float frequency, int64_t n, float* sines, float* cosines) {
  bool fast = true;
  for (int64_t j = 0; j < n; ++j) {
    fast &= std::abs(x[j] * frequency) <= kLargestFastAngle;  // false for NaN
  }
  if (fast) {
    fast_sincos(x, frequency, n, sines, cosines);
  } else {
    exact_sincos(x, frequency, n, sines, cosines);
  }
}

// logits (rows, kTile) = affine (rows, columns) x embedding (columns, kTile)
template <typename T>
VOD2_INLINE void multiply_body(const T* affine, int64_t rows, int64_t columns, const T* embedding, T* logits) {
  constexpr int64_t kLane = 32;  // sums that stay in registers
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t start = 0; start < kTile; start += kLane) {
      T sums[kLane] = {};
      for (int64_t d = 0; d < columns; ++d) {
        const T factor = affine[row * columns + d];
        const T* source = embedding + d * kTile + start;
        for (int64_t j = 0; j < kLane; ++j) {
          sums[j] += factor * source[j];
        }
      }
      std::copy(sums, sums + kLane, logits + row * kTile + start);
    }
  }
}

VOD2_MULTIVERSION void multiply(const float* a, int64_t rows, int64_t columns, const float* e, float* out) {
  multiply_body(a, rows, columns, e, out);
}

VOD2_MULTIVERSION void multiply(const double* a, int64_t rows, int64_t columns, const double* e, double* out) {
  multiply_body(a, rows, columns, e, out);
}

// lanes (rows, columns, kLanes) += grad (rows, kTile) x embedding^T (kTile, columns), where every kLanes-th product
// goes to the same lane: the lanes are summed once at the end, not once a tile.
constexpr int64_t kLanes = 16;

template <typename T>
VOD2_INLINE void accumulate_body(const T* grad, int64_t rows, int64_t columns, const T* embedding, T* lanes) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t d = 0; d < columns; ++d) {
      T* target = lanes + (row * columns + d) * kLanes;
      T sums[kLanes];
      std::copy(target, target + kLanes, sums);
      for (int64_t start = 0; start < kTile; start += kLanes) {
        for (int64_t j = 0; j < kLanes; ++j) {
          sums[j] += grad[row * kTile + start + j] * embedding[d * kTile + start + j];
        }
      }
      std::copy(sums, sums + kLanes, target);
    }
  }
}

VOD2_MULTIVERSION void accumulate(const float* g, int64_t rows, int64_t columns, const float* e, float* lanes) {
  accumulate_body(g, rows, columns, e, lanes);
}

VOD2_MULTIVERSION void accumulate(const double* g, int64_t rows, int64_t columns, const double* e, double* lanes) {
  accumulate_body(g, rows, columns, e, lanes);
}

// Replaces n logits z by the gradient of log(max(z, floor)) times grad. Divides always, so that it vectorizes.
template <typename T>
VOD2_INLINE void log_gradient_body(const T* __restrict__ grad, T floor, int64_t n, T* __restrict__ z) {
  for (int64_t j = 0; j < n; ++j) {
    const T numerator = z[j] > floor ? grad[j] : T(0);
    const T denominator = z[j] > floor ? z[j] : T(1);
    z[j] = numerator / denominator;
  }
}

VOD2_MULTIVERSION void log_gradient(const float* grad, float floor, int64_t n, float* z) {
  log_gradient_body(grad, floor, n, z);
}

VOD2_MULTIVERSION void log_gradient(const double* grad, double floor, int64_t n, double* z) {
  log_gradient_body(grad, floor, n, z);
}

// One thread's scratch memory, and what it computes tile by tile.
template <typename T>
class TileWorker {
 public:
  explicit TileWorker(const GeometryInputs& in)
      : rows_(in.num_heads()),
        columns_(in.num_columns()),
        eps_(static_cast<T>(in.eps)),
        offset_(static_cast<T>(in.offset)),
        key_(in.key.data_ptr<T>()),
        affine_(in.affine.data_ptr<T>()),
        frequencies_(in.frequencies.data_ptr<T>()),
        num_frequencies_(in.frequencies.size(0)),
        geometry_(4 * kTile, T(0)),
        embedding_(columns_ * kTile, T(0)),
        logits_(rows_ * kTile, T(0)) {
    std::fill(embedding_.end() - kTile, embedding_.end(), T(1));  // multiplies the bias column
  }

  // Returns the logits (H, kTile) of `query` and the key boxes [first, first + n); columns from n on are stale.
  T* logits(const CenteredBox<T>& query, int64_t first, int64_t n) {
    for (int64_t j = 0; j < n; ++j) {
      T pair[4];
      pair_geometry(query, centered(key_ + 4 * (first + j), offset_), eps_, pair);
      for (int64_t quantity = 0; quantity < 4; ++quantity) {
        geometry_[quantity * kTile + j] = pair[quantity];
      }
    }
    for (int64_t quantity = 0; quantity < 4; ++quantity) {
      T* sines = embedding_.data() + quantity * 2 * num_frequencies_ * kTile;
      T* cosines = sines + num_frequencies_ * kTile;
      for (int64_t k = 0; k < num_frequencies_; ++k) {
        sincos(geometry_.data() + quantity * kTile, frequencies_[k], n, sines + k * kTile, cosines + k * kTile);
      }
    }
    multiply(affine_, rows_, columns_, embedding_.data(), logits_.data());
    return logits_.data();
  }

  // Adds the gradient of the tile last computed; `grad` (H, kTile) is zero from column n on.
  void accumulate_grad(const T* grad) {
    lanes_.resize(rows_ * columns_ * kLanes, T(0));
    accumulate(grad, rows_, columns_, embedding_.data(), lanes_.data());
  }

  // Writes the sum (H, D + 1) of what was accumulated, and starts over from zero.
  void take_grad(double* total) {
    for (int64_t entry = 0; entry < rows_ * columns_; ++entry) {
      const auto begin = lanes_.begin() + entry * kLanes;
      total[entry] = std::accumulate(begin, begin + kLanes, 0.0);
    }
    std::fill(lanes_.begin(), lanes_.end(), T(0));
  }

 private:
  int64_t rows_, columns_;
  T eps_, offset_;
  const T* key_;
  const T* affine_;
  const T* frequencies_;
  int64_t num_frequencies_;
  std::vector<T> geometry_, embedding_, logits_, lanes_;
};

template <typename T>
void forward_kernel(const GeometryInputs& in, T* out) {
  const int64_t N = in.num_query(), M = in.num_key(), H = in.num_heads();
  const T* query = in.query.data_ptr<T>();
  const T floor = static_cast<T>(in.floor);
  at::parallel_for(0, N, 1, [&](int64_t begin, int64_t end) {
    TileWorker<T> worker(in);
    for (int64_t i = begin; i < end; ++i) {
      const auto box = centered(query + 4 * i, static_cast<T>(in.offset));
      for (int64_t first = 0; first < M; first += kTile) {
        const int64_t n = std::min(kTile, M - first);
        const T* logits = worker.logits(box, first, n);
        for (int64_t h = 0; h < H; ++h) {
          T* target = out + (h * N + i) * M + first;
          for (int64_t j = 0; j < n; ++j) {
            const T z = logits[h * kTile + j];
            target[j] = z < floor ? floor : z;
          }
        }
      }
    }
  });
}

// One sum (H, D + 1) in float64 per query box: the total does not depend on the number of threads.
template <typename T>
void backward_kernel(const GeometryInputs& in, const T* grad, double* totals) {
  const int64_t N = in.num_query(), M = in.num_key(), H = in.num_heads();
  const T* query = in.query.data_ptr<T>();
  const T floor = static_cast<T>(in.floor);
  at::parallel_for(0, N, 1, [&](int64_t begin, int64_t end) {
    TileWorker<T> worker(in);
    for (int64_t i = begin; i < end; ++i) {
      const auto box = centered(query + 4 * i, static_cast<T>(in.offset));
      for (int64_t first = 0; first < M; first += kTile) {
        const int64_t n = std::min(kTile, M - first);
        T* logits = worker.logits(box, first, n);
        for (int64_t h = 0; h < H; ++h) {
          const T* source = grad + (h * N + i) * M + first;
          T* z = logits + h * kTile;  // becomes the gradient of the logits in place
          log_gradient(source, floor, n, z);
          std::fill(z + n, z + kTile, T(0));
        }
        worker.accumulate_grad(logits);
      }
      worker.take_grad(totals + i * H * in.num_columns());
    }
  });
}

at::Tensor relation_geometry_bias(
    const at::Tensor& query_boxes,
    const at::Tensor& key_boxes,
    const at::Tensor& weight,
    const at::Tensor& bias,
    double scale,
    double wavelength,
    double eps,
    double floor,
    double offset) {
  const auto in =
      prepare_geometry_inputs(query_boxes, key_boxes, weight, bias, scale, wavelength, eps, floor, offset);
  at::Tensor out = at::empty({in.num_heads(), in.num_query(), in.num_key()}, in.affine.options());
  if (out.numel() > 0) {
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "relation_geometry_bias", [&] {
      forward_kernel<scalar_t>(in, out.data_ptr<scalar_t>());
    });
    out.log_();  // PyTorch's own vectorized logarithm
  }
  return out.to(weight.scalar_type());
}

std::tuple<at::Tensor, at::Tensor> relation_geometry_bias_backward(
    const at::Tensor& grad,
    const at::Tensor& query_boxes,
    const at::Tensor& key_boxes,
    const at::Tensor& weight,
    const at::Tensor& bias,
    double scale,
    double wavelength,
    double eps,
    double floor,
    double offset) {
  const auto in =
      prepare_geometry_inputs(query_boxes, key_boxes, weight, bias, scale, wavelength, eps, floor, offset);
  const at::Tensor out_grad = prepare_grad(grad, in);
  at::Tensor totals = at::zeros({in.num_query(), in.num_heads(), in.num_columns()}, at::kDouble);
  if (out_grad.numel() > 0) {
    AT_DISPATCH_FLOATING_TYPES(out_grad.scalar_type(), "relation_geometry_bias_backward", [&] {
      backward_kernel<scalar_t>(in, out_grad.data_ptr<scalar_t>(), totals.data_ptr<double>());
    });
  }
  return split_affine_grad(totals.sum(0), weight, bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CPU, library) {
  library.impl("relation_geometry_bias", relation_geometry_bias);
  library.impl("relation_geometry_bias_backward", relation_geometry_bias_backward);
}

}  // namespace vod2
