// Schemas and input checks of shift_correlation and shift_sum; vod2/ops/st_sampling.py describes the mathematics.
#include "st_sampling.h"

#include <ATen/Functions.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace vod2 {
namespace {

void check_map(const at::Tensor& map, const char* name) {
  TORCH_CHECK_VALUE(map.dim() == 4, name, " must have shape (B, H, W, channels), got ", map.sizes());
  TORCH_CHECK_VALUE(
      map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble,
      name, " must be float32 or float64, got ", map.scalar_type());
  // Cells are counted in 64 bits, their coordinates in 32.
  TORCH_CHECK_VALUE(
      std::max(map.size(1), map.size(2)) < std::numeric_limits<int32_t>::max() / 2,
      name, " is too large: ", map.sizes());
}

void check_same(const at::Tensor& tensor, const char* name, const at::Tensor& other, const char* other_name) {
  TORCH_CHECK_VALUE(
      tensor.scalar_type() == other.scalar_type(),
      name, " is ", tensor.scalar_type(), ", but ", other_name, " is ", other.scalar_type());
  TORCH_CHECK_VALUE(
      tensor.device() == other.device(), name, " is on ", tensor.device(), ", but ", other_name, " is on ",
      other.device(), ": move them to one device");
}

// Offsets that leave the map in any case are stored as the nearest that do, so that they fit.
at::Tensor offset_tensor(at::IntArrayRef dx, at::IntArrayRef dy, const at::Tensor& map) {
  TORCH_CHECK_VALUE(dx.size() == dy.size(), "dx has ", dx.size(), " offsets, but dy has ", dy.size());
  at::Tensor offsets = at::empty({static_cast<int64_t>(dx.size()), 2}, at::kInt);
  int32_t* target = offsets.data_ptr<int32_t>();
  for (size_t u = 0; u < dx.size(); ++u) {
    target[2 * u] = static_cast<int32_t>(std::clamp(dx[u], -map.size(2), map.size(2)));
    target[2 * u + 1] = static_cast<int32_t>(std::clamp(dy[u], -map.size(1), map.size(1)));
  }
  return offsets;
}

}  // namespace

ShiftInputs prepare_correlation(
    const at::Tensor& query, const at::Tensor& key, at::IntArrayRef dx, at::IntArrayRef dy) {
  check_map(query, "query");
  check_map(key, "key");
  check_same(key, "key", query, "query");
  TORCH_CHECK_VALUE(
      key.sizes() == query.sizes(), "key must have the shape ", query.sizes(), " of query, got ", key.sizes());
  return {query.contiguous(), key.contiguous(), offset_tensor(dx, dy, query)};
}

ShiftInputs prepare_sum(const at::Tensor& weights, const at::Tensor& value, at::IntArrayRef dx, at::IntArrayRef dy) {
  check_map(value, "value");
  check_map(weights, "weights");
  check_same(weights, "weights", value, "value");
  const auto expected = at::IntArrayRef({value.size(0), value.size(1), value.size(2), (int64_t)dx.size()}).vec();
  TORCH_CHECK_VALUE(
      weights.sizes() == at::IntArrayRef(expected),
      "weights must have shape (B, H, W, offsets) = ", at::IntArrayRef(expected), ", got ", weights.sizes());
  return {value.contiguous(), weights.contiguous(), offset_tensor(dx, dy, value)};
}

TORCH_LIBRARY_FRAGMENT(vod2, library) {
  library.def("shift_correlation(Tensor query, Tensor key, int[] dx, int[] dy) -> Tensor");
  library.def("shift_sum(Tensor weights, Tensor value, int[] dx, int[] dy, bool transposed) -> Tensor");
}

}  // namespace vod2
