// CPU kernel of relation_geometry_bias. Works on tiles of one query box and kTile key boxes, whose embedding stays in the
// cache: the (N, M, D) embedding never exists.
//
// Of the four quantities of a pair, the two of position belong to the pair alone. The two of size are differences
// u - v of a logarithm of the query box and one of the key box, and
//
//     a sin(u - v) + b cos(u - v) = (b sin u - a cos u) sin v + (a sin u + b cos u) cos v
//
// so that sines and cosines of sizes are computed once for each box, and the query's go into its own affine matrix.
#include "../relation_geometry_bias.h"
#include "multiversion.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace vod2 {
namespace {

constexpr int64_t kTile = 64;

// Above this angle the three-part reduction of pi / 2 below loses accuracy in float32.
constexpr float kLargestFastAngle = 8192.0f;

// Whether all angles x * frequency are small enough, which a NaN is not. Of integers: a bool is no vector.
VOD2_MULTIVERSION bool are_fast_angles(const float* x, float frequency, int64_t n) {
  int32_t fast = 1;
  for (int64_t j = 0; j < n; ++j) {
    fast &= std::abs(x[j] * frequency) <= kLargestFastAngle ? 1 : 0;
  }
  return fast != 0;
}

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
  if (are_fast_angles(x, frequency, n)) {
    fast_sincos(x, frequency, n, sines, cosines);
  } else {
    exact_sincos(x, frequency, n, sines, cosines);
  }
}

// Whether all of x are positive, normal and finite, which a NaN is not: by the bits, one comparison each.
VOD2_MULTIVERSION bool are_fast_logarithms(const float* x, int64_t n) {
  constexpr uint32_t smallest = 0x00800000, infinity = 0x7f800000;
  int32_t fast = 1;
  for (int64_t j = 0; j < n; ++j) {
    uint32_t bits;
    std::memcpy(&bits, x + j, sizeof bits);
    fast &= bits - smallest < infinity - smallest ? 1 : 0;
  }
  return fast != 0;
}

// Logarithm of n positive normal numbers without a branch. x = 2^e m with m in [sqrt(1/2), sqrt(2)), and
// log m = 2 artanh s, s = (m - 1) / (m + 1), by five terms of its series: |s| < .172, so the sixth is below 1e-9.
VOD2_MULTIVERSION void fast_log(const float* x, int64_t n, float* out) {
  constexpr int32_t sqrt_half = 0x3f3504f3;  // the bits of sqrt(1/2)
  constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;  // the first is exact times any exponent
  for (int64_t j = 0; j < n; ++j) {
    int32_t bits;
    std::memcpy(&bits, x + j, sizeof bits);
    const int32_t exponent = (bits - sqrt_half) >> 23;
    const int32_t mantissa = bits - exponent * (1 << 23);
    float m;
    std::memcpy(&m, &mantissa, sizeof m);
    const float e = static_cast<float>(exponent);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float s2 = s * s;
    const float series = s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9))));
    const float twice = s + s;
    out[j] = e * ln2_high + (twice + (twice * series + e * ln2_low));
  }
}

template <typename T>
void exact_log(const T* x, int64_t n, T* out) {
  for (int64_t j = 0; j < n; ++j) {
    out[j] = std::log(x[j]);
  }
}

// out may be x.
void logarithms(const double* x, int64_t n, double* out) {
  exact_log(x, n, out);
}

void logarithms(const float* x, int64_t n, float* out) {
  if (are_fast_logarithms(x, n)) {
    fast_log(x, n, out);
  } else {
    exact_log(x, n, out);
  }
}

// The embedding (columns, kTile) of one query and a tile of key boxes: rows of the pairs, then rows of the key boxes.
// A last row of ones, which is not stored, multiplies the bias.
template <typename T>
struct Embedding {
  const T* pairs;
  const T* keys;
  int64_t split;    // rows of pairs
  int64_t columns;  // all rows, without the ones
  VOD2_INLINE const T* row(int64_t d) const { return d < split ? pairs + d * kTile : keys + (d - split) * kTile; }
};

// logits (kRows, kTile) = affine (kRows, columns + 1) x embedding: each row of the embedding is loaded once for kRows.
template <typename T, int64_t kRows>
VOD2_INLINE void multiply_rows(const T* affine, const Embedding<T>& embedding, T* logits) {
  constexpr int64_t kLane = 32;  // sums that stay in registers
  const int64_t stride = embedding.columns + 1;
  for (int64_t start = 0; start < kTile; start += kLane) {
    T sums[kRows][kLane];
    for (int64_t row = 0; row < kRows; ++row) {
      std::fill(sums[row], sums[row] + kLane, affine[row * stride + embedding.columns]);
    }
    for (int64_t d = 0; d < embedding.columns; ++d) {
      const T* source = embedding.row(d) + start;
      for (int64_t row = 0; row < kRows; ++row) {
        const T factor = affine[row * stride + d];
        for (int64_t j = 0; j < kLane; ++j) {
          sums[row][j] += factor * source[j];
        }
      }
    }
    for (int64_t row = 0; row < kRows; ++row) {
      std::copy(sums[row], sums[row] + kLane, logits + row * kTile + start);
    }
  }
}

template <typename T, int64_t kRows>
VOD2_INLINE void multiply_body(const T* affine, int64_t rows, const Embedding<T>& embedding, T* logits) {
  const int64_t stride = embedding.columns + 1;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    multiply_rows<T, kRows>(affine + row * stride, embedding, logits + row * kTile);
  }
  for (; row < rows; ++row) {
    multiply_rows<T, 1>(affine + row * stride, embedding, logits + row * kTile);
  }
}

VOD2_MULTIVERSION void multiply_four(const float* a, int64_t rows, const Embedding<float>& e, float* out) {
  multiply_body<float, 4>(a, rows, e, out);
}

VOD2_MULTIVERSION void multiply_two(const float* a, int64_t rows, const Embedding<float>& e, float* out) {
  multiply_body<float, 2>(a, rows, e, out);
}

VOD2_MULTIVERSION void multiply_four(const double* a, int64_t rows, const Embedding<double>& e, double* out) {
  multiply_body<double, 4>(a, rows, e, out);
}

VOD2_MULTIVERSION void multiply_two(const double* a, int64_t rows, const Embedding<double>& e, double* out) {
  multiply_body<double, 2>(a, rows, e, out);
}

// Four rows of sums are 16 registers of AVX2, which has no more: two are nearly twice as fast there.
template <typename T>
void multiply(const T* affine, int64_t rows, const Embedding<T>& embedding, T* logits) {
  if (has_many_registers()) {
    multiply_four(affine, rows, embedding, logits);
  } else {
    multiply_two(affine, rows, embedding, logits);
  }
}

// lanes (rows, columns + 1, kLanes) += grad (rows, kTile) x embedding^T (kTile, columns + 1), where every kLanes-th
// product goes to the same lane: the lanes are summed once at the end, not once a tile.
constexpr int64_t kLanes = 8;

// The products of kRows rows of grad with kColumns rows of the embedding, each of which is loaded once for all.
template <typename T, int64_t kRows, int64_t kColumns>
VOD2_INLINE void accumulate_block(const T* grad, const T* source, int64_t stride, T* lanes) {
  T sums[kRows][kColumns][kLanes];
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t d = 0; d < kColumns; ++d) {
      const T* target = lanes + (row * stride + d) * kLanes;
      std::copy(target, target + kLanes, sums[row][d]);
    }
  }
  for (int64_t start = 0; start < kTile; start += kLanes) {
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t d = 0; d < kColumns; ++d) {
        for (int64_t j = 0; j < kLanes; ++j) {
          sums[row][d][j] += grad[row * kTile + start + j] * source[d * kTile + start + j];
        }
      }
    }
  }
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t d = 0; d < kColumns; ++d) {
      std::copy(sums[row][d], sums[row][d] + kLanes, lanes + (row * stride + d) * kLanes);
    }
  }
}

template <typename T, int64_t kRows>
VOD2_INLINE void accumulate_rows(const T* grad, const Embedding<T>& embedding, T* lanes) {
  constexpr int64_t kColumns = 2;  // columns and split are multiples of 4
  const int64_t stride = embedding.columns + 1;
  for (int64_t d = 0; d < embedding.columns; d += kColumns) {
    accumulate_block<T, kRows, kColumns>(grad, embedding.row(d), stride, lanes + d * kLanes);
  }
  for (int64_t row = 0; row < kRows; ++row) {
    T* ones = lanes + (row * stride + embedding.columns) * kLanes;
    for (int64_t start = 0; start < kTile; start += kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) {
        ones[j] += grad[row * kTile + start + j];
      }
    }
  }
}

template <typename T>
VOD2_INLINE void accumulate_body(const T* grad, int64_t rows, const Embedding<T>& embedding, T* lanes) {
  constexpr int64_t kRows = 4;
  const int64_t stride = (embedding.columns + 1) * kLanes;
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    accumulate_rows<T, kRows>(grad + row * kTile, embedding, lanes + row * stride);
  }
  for (; row < rows; ++row) {
    accumulate_rows<T, 1>(grad + row * kTile, embedding, lanes + row * stride);
  }
}

VOD2_MULTIVERSION void accumulate(const float* g, int64_t rows, const Embedding<float>& e, float* lanes) {
  accumulate_body(g, rows, e, lanes);
}

VOD2_MULTIVERSION void accumulate(const double* g, int64_t rows, const Embedding<double>& e, double* lanes) {
  accumulate_body(g, rows, e, lanes);
}

template <typename T>
VOD2_INLINE void raise_body(T floor, int64_t n, T* z) {
  for (int64_t j = 0; j < n; ++j) {
    z[j] = z[j] < floor ? floor : z[j];
  }
}

VOD2_MULTIVERSION void raise_to(float floor, int64_t n, float* z) {
  raise_body(floor, n, z);
}

VOD2_MULTIVERSION void raise_to(double floor, int64_t n, double* z) {
  raise_body(floor, n, z);
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

// Sines and cosines of the frequencies times the logarithms of a box's width and height: of each of the two, F sines,
// then F cosines. In float64: angles of hundreds of radians leave float32 few digits.
template <typename T, typename Write>
void embed_size(const CenteredBox<T>& box, const GeometryInputs& in, const Write& write) {
  const double* frequencies = in.exact_frequencies.data_ptr<double>();
  const int64_t F = in.exact_frequencies.size(0);
  const double sizes[2] = {static_cast<double>(box.w), static_cast<double>(box.h)};
  for (int64_t quantity = 0; quantity < 2; ++quantity) {
    const double logarithm = std::log(sizes[quantity]);
    for (int64_t k = 0; k < F; ++k) {
      const double angle = logarithm * frequencies[k];
      write(quantity * 2 * F + k, static_cast<T>(std::sin(angle)));
      write(quantity * 2 * F + F + k, static_cast<T>(std::cos(angle)));
    }
  }
}

// What is computed once for each key box.
template <typename T>
class KeyTable {
 public:
  explicit KeyTable(const GeometryInputs& in)
      : rows_(in.num_columns() / 2), cx_(in.num_key()), cy_(in.num_key()) {
    const int64_t M = in.num_key();
    // Tile by tile, each (4 F, kTile): what a tile reads lies together. Zero behind the last box.
    embedding_.assign((M + kTile - 1) / kTile * rows_ * kTile, T(0));
    const T* key = in.key.data_ptr<T>();
    at::parallel_for(0, M, 256, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const auto box = centered(key + 4 * j, static_cast<T>(in.offset));
        cx_[j] = box.cx;
        cy_[j] = box.cy;
        T* column = embedding_.data() + j / kTile * rows_ * kTile + j % kTile;
        embed_size(box, in, [&](int64_t row, T value) { column[row * kTile] = value; });
      }
    });
  }

  const T* cx() const { return cx_.data(); }
  const T* cy() const { return cy_.data(); }
  const T* tile(int64_t first) const { return embedding_.data() + first * rows_; }

 private:
  int64_t rows_;
  std::vector<T> cx_, cy_, embedding_;
};

// |center - key| / size + eps of n key boxes.
template <typename T>
VOD2_INLINE void distances(T center, T size, const T* key, T eps, int64_t n, T* out) {
  for (int64_t j = 0; j < n; ++j) {
    out[j] = std::abs(center - key[j]) / size + eps;
  }
}

// One thread's scratch memory, and what it computes tile by tile for one query box after the other.
template <typename T>
class TileWorker {
 public:
  TileWorker(const GeometryInputs& in, const KeyTable<T>& keys)
      : in_(in),
        keys_(keys),
        heads_(in.num_heads()),
        columns_(in.num_columns() - 1),
        half_(columns_ / 2),
        query_size_(half_),
        affine_(heads_ * (columns_ + 1)),
        geometry_(2 * kTile, T(0)),
        pairs_(half_ * kTile, T(0)),
        logits_(heads_ * kTile, T(0)) {}

  // The query box of what follows.
  void set_query(int64_t i) {
    query_ = centered(in_.query.data_ptr<T>() + 4 * i, static_cast<T>(in_.offset));
    embed_size(query_, in_, [&](int64_t row, T value) { query_size_[row] = value; });
    const T* weight = in_.affine.data_ptr<T>();
    std::copy(weight, weight + affine_.size(), affine_.begin());
    for (int64_t head = 0; head < heads_; ++head) {
      T* size = affine_.data() + head * (columns_ + 1) + half_;
      for_each_pair([&](int64_t sine, int64_t cosine) {
        const T a = size[sine], b = size[cosine];
        size[sine] = b * query_size_[sine] - a * query_size_[cosine];
        size[cosine] = a * query_size_[sine] + b * query_size_[cosine];
      });
    }
  }

  // Returns the logits (H, kTile) of the query and the key boxes [first, first + n); columns from n on are stale.
  T* logits(int64_t first, int64_t n) {
    const T eps = static_cast<T>(in_.eps);
    T* of_x = geometry_.data();
    T* of_y = of_x + kTile;
    distances(query_.cx, query_.w, keys_.cx() + first, eps, n, of_x);
    distances(query_.cy, query_.h, keys_.cy() + first, eps, n, of_y);
    const int64_t F = half_ / 4;
    const T* frequencies = in_.frequencies.data_ptr<T>();
    for (int64_t quantity = 0; quantity < 2; ++quantity) {
      T* values = geometry_.data() + quantity * kTile;
      logarithms(values, n, values);
      T* sines = pairs_.data() + quantity * 2 * F * kTile;
      T* cosines = sines + F * kTile;
      for (int64_t k = 0; k < F; ++k) {
        sincos(values, frequencies[k], n, sines + k * kTile, cosines + k * kTile);
      }
    }
    multiply(affine_.data(), heads_, embedding(first), logits_.data());
    return logits_.data();
  }

  // Adds the gradient of the tile at `first`, the one last computed; `grad` (H, kTile) is zero from column n on.
  void accumulate_grad(int64_t first, const T* grad) {
    lanes_.resize(affine_.size() * kLanes, T(0));
    accumulate(grad, heads_, embedding(first), lanes_.data());
  }

  // Writes the sum (H, D + 1) of what was accumulated for the query, and starts over from zero.
  void take_grad(double* total) {
    for (size_t entry = 0; entry < affine_.size(); ++entry) {
      const auto begin = lanes_.begin() + entry * kLanes;
      total[entry] = std::accumulate(begin, begin + kLanes, 0.0);
    }
    for (int64_t head = 0; head < heads_; ++head) {
      double* size = total + head * (columns_ + 1) + half_;
      // The transpose of what `set_query` does.
      for_each_pair([&](int64_t sine, int64_t cosine) {
        const double of_sine = size[sine], of_cosine = size[cosine];
        size[sine] = of_cosine * query_size_[sine] - of_sine * query_size_[cosine];
        size[cosine] = of_sine * query_size_[sine] + of_cosine * query_size_[cosine];
      });
    }
    std::fill(lanes_.begin(), lanes_.end(), T(0));
  }

 private:
  Embedding<T> embedding(int64_t first) const { return {pairs_.data(), keys_.tile(first), half_, columns_}; }

  // The places of a sine and its cosine among the 4 F numbers of sizes.
  template <typename Function>
  void for_each_pair(const Function& function) const {
    const int64_t F = half_ / 4;
    for (int64_t quantity = 0; quantity < 2; ++quantity) {
      for (int64_t k = 0; k < F; ++k) {
        function(quantity * 2 * F + k, quantity * 2 * F + F + k);
      }
    }
  }

  const GeometryInputs& in_;
  const KeyTable<T>& keys_;
  int64_t heads_, columns_, half_;  // half of the columns are of positions, half of sizes
  CenteredBox<T> query_{};
  std::vector<T> query_size_, affine_, geometry_, pairs_, logits_, lanes_;
};

template <typename T>
void forward_kernel(const GeometryInputs& in, T* out) {
  const int64_t N = in.num_query(), M = in.num_key(), H = in.num_heads();
  const T floor = static_cast<T>(in.floor);
  const KeyTable<T> keys(in);
  at::parallel_for(0, N, 1, [&](int64_t begin, int64_t end) {
    TileWorker<T> worker(in, keys);
    for (int64_t i = begin; i < end; ++i) {
      worker.set_query(i);
      for (int64_t first = 0; first < M; first += kTile) {
        const int64_t n = std::min(kTile, M - first);
        T* logits = worker.logits(first, n);
        for (int64_t h = 0; h < H; ++h) {
          T* z = logits + h * kTile;
          raise_to(floor, n, z);
          logarithms(z, n, out + (h * N + i) * M + first);
        }
      }
    }
  });
}

// One sum (H, D + 1) in float64 per query box: the total does not depend on the number of threads.
template <typename T>
void backward_kernel(const GeometryInputs& in, const T* grad, double* totals) {
  const int64_t N = in.num_query(), M = in.num_key(), H = in.num_heads();
  const T floor = static_cast<T>(in.floor);
  const KeyTable<T> keys(in);
  at::parallel_for(0, N, 1, [&](int64_t begin, int64_t end) {
    TileWorker<T> worker(in, keys);
    for (int64_t i = begin; i < end; ++i) {
      worker.set_query(i);
      for (int64_t first = 0; first < M; first += kTile) {
        const int64_t n = std::min(kTile, M - first);
        T* logits = worker.logits(first, n);
        for (int64_t h = 0; h < H; ++h) {
          const T* source = grad + (h * N + i) * M + first;
          T* z = logits + h * kTile;  // becomes the gradient of the logits in place
          log_gradient(source, floor, n, z);
          std::fill(z + n, z + kTile, T(0));
        }
        worker.accumulate_grad(first, logits);
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
