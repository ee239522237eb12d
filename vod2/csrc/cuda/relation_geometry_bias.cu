// CUDA kernels of relation_geometry_bias. One thread computes one pair of boxes, for kHeads heads at a time.
#include "../relation_geometry_bias.h"

#include <ATen/Dispatch.h>
#include <ATen/Functions.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdint>

namespace vod2 {
namespace {

constexpr int kHeads = 16;  // logits that one thread keeps in registers
constexpr int kMaxFrequencies = 16;  // they travel as kernel arguments
constexpr int kThreads = 128;
constexpr int64_t kSharedBytes = 48 * 1024;  // what every device gives a block without being asked
constexpr int64_t kBackwardBlocks = 512;

// Device pointers and sizes of one launch, which serves `heads` heads from the first that `affine` points to.
template <typename T>
struct Problem {
  const T* query;
  const T* key;
  const T* affine;
  T frequencies[kMaxFrequencies];
  T eps, floor, offset;
  int64_t N, M;
  int heads, columns, num_frequencies;
};

template <typename T>
Problem<T> make_problem(const GeometryInputs& in, int64_t first_head, int64_t heads) {
  Problem<T> problem;
  problem.query = in.query.data_ptr<T>();
  problem.key = in.key.data_ptr<T>();
  problem.affine = in.affine.data_ptr<T>() + first_head * in.num_columns();
  std::copy_n(in.frequencies.data_ptr<T>(), in.frequencies.size(0), problem.frequencies);
  problem.eps = static_cast<T>(in.eps);
  problem.floor = static_cast<T>(in.floor);
  problem.offset = static_cast<T>(in.offset);
  problem.N = in.num_query();
  problem.M = in.num_key();
  problem.heads = static_cast<int>(std::min(heads, in.num_heads() - first_head));
  problem.columns = static_cast<int>(in.num_columns());
  problem.num_frequencies = static_cast<int>(in.frequencies.size(0));
  return problem;
}

void check_dim(const GeometryInputs& in) {
  TORCH_CHECK_VALUE(
      in.frequencies.size(0) <= kMaxFrequencies, "weight must have at most ", 8 * kMaxFrequencies,
      " columns on CUDA, got ", in.num_columns() - 1);
}

template <typename T>
__device__ void copy_to_shared(const T* source, T* target, int count) {
  for (int entry = threadIdx.x; entry < count; entry += blockDim.x) {
    target[entry] = source[entry];
  }
}

__device__ inline void sine_cosine(float x, float* s, float* c) { sincosf(x, s, c); }
__device__ inline void sine_cosine(double x, double* s, double* c) { sincos(x, s, c); }

// Computes the logits of one pair; `store(d, value)` receives each of the D embedding numbers on the way.
template <typename T, typename Store>
__device__ void pair_logits(const Problem<T>& p, int64_t pair, const T* affine, T logits[kHeads], Store store) {
  T quantities[4];
  const auto query = centered(p.query + 4 * (pair / p.M), p.offset);
  const auto key = centered(p.key + 4 * (pair % p.M), p.offset);
  pair_geometry(query, key, p.eps, quantities);
  const int bias_column = p.columns - 1;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    logits[h] = h < p.heads ? affine[h * p.columns + bias_column] : T(0);
  }
#pragma unroll
  for (int quantity = 0; quantity < 4; ++quantity) {
    for (int k = 0; k < p.num_frequencies; ++k) {
      const int sine_column = quantity * 2 * p.num_frequencies + k;
      const int cosine_column = sine_column + p.num_frequencies;
      T sine, cosine;
      sine_cosine(quantities[quantity] * p.frequencies[k], &sine, &cosine);
      store(sine_column, sine);
      store(cosine_column, cosine);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h < p.heads) {
          logits[h] += affine[h * p.columns + sine_column] * sine + affine[h * p.columns + cosine_column] * cosine;
        }
      }
    }
  }
}

template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

// out (heads, N, M). Shared memory: affine (heads, D + 1).
template <typename T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Problem<T> p, T* out) {
  T* affine = shared_memory<T>();
  copy_to_shared(p.affine, affine, p.heads * p.columns);
  __syncthreads();
  const int64_t pairs = p.N * p.M;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pair >= pairs) {
    return;
  }
  T logits[kHeads];
  pair_logits(p, pair, affine, logits, [](int, T) {});
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h < p.heads) {
      out[h * pairs + pair] = log(logits[h] < p.floor ? p.floor : logits[h]);
    }
  }
}

// partial (gridDim.x, heads, D + 1): what each block adds to the gradient; no atomics, so that it is deterministic.
// Shared memory: affine and total (heads, D + 1), embedding (D + 1, threads + 1), grads (heads, threads + 1).
template <typename T>
__global__ void __launch_bounds__(kThreads) backward_kernel(Problem<T> p, const T* grad, T* partial) {
  const int threads = blockDim.x, stride = threads + 1, entries = p.heads * p.columns;  // + 1 avoids bank conflicts
  T* affine = shared_memory<T>();
  T* total = affine + entries;
  T* embedding = total + entries;
  T* grads = embedding + p.columns * stride;
  copy_to_shared(p.affine, affine, entries);
  for (int entry = threadIdx.x; entry < entries; entry += threads) {
    total[entry] = T(0);
  }
  embedding[(p.columns - 1) * stride + threadIdx.x] = T(1);  // multiplies the bias column
  __syncthreads();

  const int64_t pairs = p.N * p.M;
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * threads; first < pairs; first += step) {
    const int used = static_cast<int>(min(static_cast<int64_t>(threads), pairs - first));
    if (threadIdx.x < used) {
      const int64_t pair = first + threadIdx.x;
      T logits[kHeads];
      pair_logits(p, pair, affine, logits, [&](int d, T value) { embedding[d * stride + threadIdx.x] = value; });
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h < p.heads) {
          grads[h * stride + threadIdx.x] = logits[h] > p.floor ? grad[h * pairs + pair] / logits[h] : T(0);
        }
      }
    }
    __syncthreads();
    for (int entry = threadIdx.x; entry < entries; entry += threads) {
      const T* row = grads + (entry / p.columns) * stride;
      const T* column = embedding + (entry % p.columns) * stride;
      T sum = 0;
      for (int t = 0; t < used; ++t) {
        sum += row[t] * column[t];
      }
      total[entry] += sum;
    }
    __syncthreads();
  }
  for (int entry = threadIdx.x; entry < entries; entry += threads) {
    partial[static_cast<int64_t>(blockIdx.x) * entries + entry] = total[entry];
  }
}

int64_t backward_numbers(int64_t heads, int64_t columns, int64_t threads) {
  return 2 * heads * columns + (heads + columns) * (threads + 1);
}

// How many threads a block of the backward kernel may have, a multiple of a warp, so that its shared memory fits; or 0.
int64_t backward_threads(int64_t heads, int64_t columns, int64_t number_bytes) {
  int64_t threads = kThreads;
  while (threads > 0 && backward_numbers(heads, columns, threads) * number_bytes > kSharedBytes) {
    threads -= 32;
  }
  return threads;
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
  const c10::cuda::CUDAGuard guard(in.affine.device());  // after the check that all are on one device, a GPU
  at::Tensor out = at::empty({in.num_heads(), in.num_query(), in.num_key()}, in.affine.options());
  if (out.numel() == 0) {
    return out.to(weight.scalar_type());
  }
  check_dim(in);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t pairs = in.num_query() * in.num_key();
  const auto blocks = static_cast<unsigned int>((pairs + kThreads - 1) / kThreads);
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "relation_geometry_bias", [&] {
    for (int64_t first = 0; first < in.num_heads(); first += kHeads) {
      const auto problem = make_problem<scalar_t>(in, first, kHeads);
      const int64_t bytes = problem.heads * problem.columns * sizeof(scalar_t);
      forward_kernel<scalar_t><<<blocks, kThreads, bytes, stream>>>(
          problem, out.data_ptr<scalar_t>() + first * pairs);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    }
  });
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
  const c10::cuda::CUDAGuard guard(in.affine.device());  // after the check that all are on one device, a GPU
  const at::Tensor out_grad = prepare_grad(grad, in);
  at::Tensor affine_grad = at::zeros_like(in.affine);
  if (out_grad.numel() == 0) {
    return split_affine_grad(affine_grad, weight, bias);
  }
  check_dim(in);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t pairs = in.num_query() * in.num_key();
  AT_DISPATCH_FLOATING_TYPES(out_grad.scalar_type(), "relation_geometry_bias_backward", [&] {
    int64_t group = kHeads;
    while (backward_threads(group, in.num_columns(), sizeof(scalar_t)) == 0) {
      group /= 2;  // one head always fits, see check_dim
    }
    for (int64_t first = 0; first < in.num_heads(); first += group) {
      const auto problem = make_problem<scalar_t>(in, first, group);
      const int64_t threads = backward_threads(group, problem.columns, sizeof(scalar_t));
      const int64_t bytes = backward_numbers(problem.heads, problem.columns, threads) * sizeof(scalar_t);
      const int64_t blocks = std::min(kBackwardBlocks, (pairs + threads - 1) / threads);
      at::Tensor partial = at::empty({blocks, problem.heads, problem.columns}, in.affine.options());
      backward_kernel<scalar_t><<<dim3(blocks), dim3(threads), bytes, stream>>>(
          problem, out_grad.data_ptr<scalar_t>() + first * pairs, partial.data_ptr<scalar_t>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
      affine_grad.narrow(0, first, problem.heads).copy_(partial.sum(0));
    }
  });
  return split_affine_grad(affine_grad, weight, bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(vod2, CUDA, library) {
  library.impl("relation_geometry_bias", relation_geometry_bias);
  library.impl("relation_geometry_bias_backward", relation_geometry_bias_backward);
}

}  // namespace vod2
