// Weight and bias gradient in two kernels: partial sums over `splits` slabs of images and pixels go
// to a workspace [splits][channels][taps + bias] in the accumulation type, and a second kernel adds
// the slabs in a fixed order. No atomics: the result depends on the problem alone.
//
// grad_weight[c, ky, kx] = sum over (n, y, x) of grad_output[n, c, y, x] input[n, c, y s + ky -
// pad, ...]; the bias gradient, the sum of grad_output, is one more tap.
//
// Channels last: a thread owns a channel vector, one kernel row and every slots-th strip of 4
// output columns. Strided: a thread owns one tap of one output channel. Contiguous planes:
// depthwise_conv2d_wgrad_planes_kernel.cuh.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_strided_kernel.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

inline constexpr int kWeightGradThreads = 256;

template <typename T>
struct WeightGradImages {
  const T* input;
  const T* grad_output;
  Accumulate<T>* partial;
  Strides4 input_strides, grad_output_strides;
  int batch, channels, height, width, out_height, out_width;
  int pad_top, pad_left;
  int splits;
  // 1 where the bias gradient is wanted, else 0.
  int bias;

  __device__ __forceinline__ Accumulate<T>* partial_sums(int split, int channel, int taps) const {
    return partial + (int64_t(split) * channels + channel) * (taps + bias);
  }
};

// The share of a split: [begin, end) of `count` units of work.
struct SplitRange {
  int64_t begin, end;
  __device__ __forceinline__ SplitRange(int64_t count, int split, int splits)
      : begin(count * split / splits), end(count * (split + 1) / splits) {}
};

template <typename T, int kKernel, int kStride>
__global__ void __launch_bounds__(kWeightGradThreads, 2)
    depthwise_conv2d_channels_last_wgrad_kernel(WeightGradImages<T> p, int vectors,
                                                int channel_blocks) {
  constexpr int kChannels = ChannelsLastShape<T, kKernel>::kChannels, kPixels = 4;
  constexpr int kColumns = (kPixels - 1) * kStride + kKernel, kTaps = kKernel * kKernel;
  EFFKERN_SHARED(float, exchange, [kWeightGradThreads][kChannels]);

  const int split = blockIdx.x / channel_blocks;
  const int first_channel = blockIdx.x % channel_blocks * vectors * kChannels;
  const int slots = blockDim.x / (vectors * kKernel);
  const int vector = threadIdx.x % vectors, ky = threadIdx.x / vectors % kKernel;
  const int slot = threadIdx.x / (vectors * kKernel);
  const int channel = first_channel + vector * kChannels;

  const int strips = (p.out_width + kPixels - 1) / kPixels;
  const SplitRange range(int64_t(p.batch) * p.out_height * strips, split, p.splits);
  const int64_t first = range.begin + slot;
  int strip = int(first % strips), y = int(first / strips % p.out_height);
  int n = int(first / strips / p.out_height);

  float sums[kKernel][kChannels] = {}, bias[kChannels] = {};
  const bool works = slot < slots && channel < p.channels, wants_bias = p.bias != 0 && ky == 0;
  for (int64_t item = first; works && item < range.end; item += slots) {
    const T* from = p.grad_output + n * p.grad_output_strides.n + channel +
                    y * p.grad_output_strides.h + strip * kPixels * p.grad_output_strides.w;
    const int in_y = y * kStride + ky - p.pad_top, in_x = strip * kPixels * kStride - p.pad_left;
    const bool row_inside = unsigned(in_y) < unsigned(p.height);
    if (row_inside || wants_bias) {
      float grads[kPixels][kChannels];
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        load_or_zero<kChannels>(strip * kPixels + i < p.out_width,
                                from + i * p.grad_output_strides.w)
            .widen_to(grads[i]);
      }
      if (wants_bias) {
#pragma unroll
        for (int i = 0; i < kPixels * kChannels; ++i)
          bias[i % kChannels] += grads[i / kChannels][i % kChannels];
      }
      if (row_inside) {
        const T* image = p.input + n * p.input_strides.n + channel + in_y * p.input_strides.h +
                         in_x * p.input_strides.w;
        Packed<T, kChannels> packed[kColumns];
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          packed[i] = load_or_zero<kChannels>(unsigned(in_x + i) < unsigned(p.width),
                                              image + i * p.input_strides.w);
        }
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          float values[kChannels];
          packed[i].widen_to(values);
#pragma unroll
          for (int pixel = 0; pixel < kPixels; ++pixel) {
            const int kx = i - pixel * kStride;
            if (kx < 0 || kx >= kKernel) continue;
#pragma unroll
            for (int c = 0; c < kChannels; ++c)
              sums[kx][c] = fmaf(values[c], grads[pixel][c], sums[kx][c]);
          }
        }
      }
    }
    for (strip += slots; strip >= strips; strip -= strips) {
      if (++y == p.out_height) y = 0, ++n;
    }
  }

  // One column of taps at a time: the threads of slot 0 add up the slots in ascending order. The
  // bias is an additional column of which only kernel row 0 has a value.
#pragma unroll
  for (int kx = 0; kx <= kKernel; ++kx) {
    if (kx == kKernel && p.bias == 0) break;
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      store_shared(&exchange[threadIdx.x][c],
                   kx < kKernel ? sums[kx < kKernel ? kx : 0][c] : bias[c]);
    __syncthreads();
    if (slot != 0 || channel >= p.channels || (kx == kKernel && ky != 0)) continue;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float total = 0.f;
#pragma unroll 1
      for (int s = 0; s < slots; ++s) {
        total += load_shared(&exchange[s * vectors * kKernel + threadIdx.x][c]);
      }
      const int column = kx < kKernel ? ky * kKernel + kx : kTaps;
      store_scalar(p.partial_sums(split, channel + c, kTaps) + column, total);
    }
  }
}

// blockIdx.y is the split, over rows of grad_output. `bias` is 1 or 0.
template <typename T, typename Index>
__global__ void __launch_bounds__(kStridedThreads, 3)
    depthwise_conv2d_strided_wgrad_kernel(const T* __restrict__ input,
                                          const T* __restrict__ grad_output,
                                          Accumulate<T>* __restrict__ partial,
                                          StridedShape<Index> s, int bias) {
  const Index columns = s.kernel_h * s.kernel_w + bias;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= int64_t(s.out_channels) * columns) return;
  const Index c = s.channels_innermost ? Index(thread % s.out_channels) : Index(thread / columns);
  const Index tap = s.channels_innermost ? Index(thread / s.out_channels) : Index(thread % columns);
  const bool is_bias = tap == s.kernel_h * s.kernel_w;
  const Index dy = is_bias ? 0 : tap / s.kernel_w * s.dilation_h - s.pad_top;
  const Index dx = is_bias ? 0 : tap % s.kernel_w * s.dilation_w - s.pad_left;

  const SplitRange range(int64_t(s.batch) * s.out_height, blockIdx.y, gridDim.y);
  // Short sums first, then compensated (Kahan): the rounding error of one long chain would grow
  // with its length.
  constexpr int kChunk = 16;
  Accumulate<T> total = 0, lost = 0;
  for (int64_t row = range.begin; row < range.end; ++row) {
    const Index n = Index(row / s.out_height), y = Index(row % s.out_height),
                in_y = y * s.stride_h + dy;
    if (!is_bias && (in_y < 0 || in_y >= s.height)) continue;
    const T* grads =
        grad_output + n * s.output_strides.n + c * s.output_strides.c + y * s.output_strides.h;
    const T* values = input + n * s.input_strides.n + c / s.multiplier * s.input_strides.c +
                      in_y * s.input_strides.h;
    for (Index begin = 0; begin < s.out_width; begin += kChunk) {
      const Index end = min(begin + kChunk, s.out_width);
      Accumulate<T> sum = 0;
      for (Index x = begin; x < end; ++x) {
        const Index in_x = x * s.stride_w + dx;
        if (is_bias) {
          sum += load_scalar(grads + x * Index(s.output_strides.w));
        } else if (in_x >= 0 && in_x < s.width) {
          sum += load_scalar(grads + x * Index(s.output_strides.w)) *
                 load_scalar(values + in_x * Index(s.input_strides.w));
        }
      }
      const Accumulate<T> term = sum - lost, next = total + term;
      lost = (next - total) - term;
      total = next;
    }
  }
  store_scalar(partial + (blockIdx.y * int64_t(s.out_channels) + c) * columns + tap, total);
}

// Of a block that adds splits.
inline constexpr int kReduceWarps = 8;

// A lane's share, in whole rows, of the products that belong to a tap, or, of the tap past the last
// one, of grad_output.
template <typename T>
__device__ __forceinline__ Accumulate<T> sum_tap(const T* input, const T* grad_output,
                                                 const StridedShape<int64_t>& s, int64_t c,
                                                 int64_t tap, int lane) {
  const bool is_bias = tap == s.kernel_h * s.kernel_w;
  const int64_t dy = is_bias ? 0 : tap / s.kernel_w * s.dilation_h - s.pad_top;
  const int64_t dx = is_bias ? 0 : tap % s.kernel_w * s.dilation_w - s.pad_left;
  // Columns that meet one of the input.
  int64_t begin = 0, end = s.out_width;
  if (!is_bias) {
    if (dx < 0) begin = (s.stride_w - 1 - dx) / s.stride_w;
    end = dx < s.width ? min(end, (s.width - 1 - dx) / s.stride_w + 1) : 0;
  }
  Accumulate<T> total = 0;
#pragma unroll 1
  for (int64_t row = lane; row < s.batch * s.out_height; row += 32) {
    const int64_t n = row / s.out_height, y = row - n * s.out_height, in_y = y * s.stride_h + dy;
    if (!is_bias && (in_y < 0 || in_y >= s.height)) continue;
    const T* grads =
        grad_output + n * s.output_strides.n + c * s.output_strides.c + y * s.output_strides.h;
    const T* values = input + n * s.input_strides.n + c / s.multiplier * s.input_strides.c +
                      in_y * s.input_strides.h + dx * s.input_strides.w;
    Accumulate<T> sum = 0;
#pragma unroll 4
    for (int64_t x = begin; x < end; ++x) {
      const Accumulate<T> grad = load_scalar(grads + x * s.output_strides.w);
      sum += is_bias ? grad : grad * load_scalar(values + x * s.stride_w * s.input_strides.w);
    }
    total += sum;
  }
  return total;
}

// Adds the splits of each channel's `columns` sums, always in the same order; the last column is
// the bias where grad_bias is not null. A sum that is no finite number is added up once more,
// product by product: zeros beside the image, of which it has no part, times an infinity are NaN,
// and so is what compensates for an infinite sum. A lane has one sum; `rows` warps, 1 or all of a
// block, share the splits of 32 of them.
template <typename T>
__global__ void __launch_bounds__(32 * kReduceWarps)
    depthwise_conv2d_wgrad_reduce_kernel(const Accumulate<T>* __restrict__ partial,
                                         T* __restrict__ grad_weight, T* __restrict__ grad_bias,
                                         int splits, int rows, int64_t columns,
                                         const T* __restrict__ input,
                                         const T* __restrict__ grad_output,
                                         StridedShape<int64_t> s) {
  EFFKERN_SHARED(Accumulate<T>, totals, [kReduceWarps][32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp & (rows - 1);
  const int64_t first =
      rows == 1 ? (int64_t(blockIdx.x) * kReduceWarps + warp) * 32 : int64_t(blockIdx.x) * 32;
  const int64_t i = first + lane, count = s.out_channels * columns;
  const int64_t taps = columns - (grad_bias ? 1 : 0);
  Accumulate<T> total = 0;
  for (int split = row; i < count && split < splits; split += rows)
    total += load_scalar(partial + split * count + i);
  if (rows > 1) {
    store_shared_packed(&totals[row][lane], pack<1, Accumulate<T>>(&total));
    __syncthreads();
    total = 0;
#pragma unroll
    for (int other = 0; other < kReduceWarps; ++other) {
      Accumulate<T> one[1];
      load_shared_packed<1>(&totals[other][lane]).widen_to(one);
      total += one[0];
    }
  }

  // Each warp has some of the sums.
  const bool own = (lane & (rows - 1)) == row, infinite = !(total - total == 0);
  if (__any_sync(0xffffffffu, own && infinite)) {
#pragma unroll 1
    for (int other = row; other < 32; other += rows) {
      if (!__shfl_sync(0xffffffffu, int(infinite), other)) continue;
      EFFKERN_NOT_FINITE();
      const int64_t c = (first + other) / columns, tap = first + other - c * columns;
      Accumulate<T> sum =
          sum_tap(input, grad_output, s, c, tap < taps ? tap : s.kernel_h * s.kernel_w, lane);
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (lane == other) total = sum;
    }
  }
  if (!own || i >= count) return;
  const int64_t c = i / columns, tap = i - c * columns;
  store_scalar(tap < taps ? grad_weight + c * taps + tap : grad_bias + c, total);
}

}  // namespace effkern
