// Depthwise convolution, bias and LayerNorm over the channels of each pixel, channels_last, k x k
// with stride 1: one read and one write of the images.
//
// A thread owns neighbouring channels and a strip of pixels and walks down the image, as in the
// direct kernel of depthwise_conv2d; the threads of a block own all channels of their strips. When
// a row of sums is finished, they exchange what is needed for the mean, then for the variance
// around it, and store the row.
#pragma once

#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_tile.cuh"

namespace effkern {
namespace detail {

// A row of the image, of the columns that a strip reads. Zeros where there are none.
template <typename T, int kChannels, int kColumns>
__device__ __forceinline__ void load_row(Packed<T, kChannels> (&row)[kColumns], const T* from,
                                         int channels, bool exists,
                                         const bool (&inside)[kColumns]) {
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    row[i] = load_or_zero<kChannels>(exists && inside[i], from + i * int64_t(channels));
  }
}

// One number per channel, `otherwise` where there is no vector.
template <int kChannels, typename T>
__device__ __forceinline__ void load_vector(const T* vector, int channel, float otherwise,
                                            float (&values)[kChannels]) {
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    values[c] = vector != nullptr ? load_scalar(vector + channel + c) : otherwise;
  }
}

// A tap of neighbouring channels.
template <int kChannels, typename Weight>
__device__ __forceinline__ void load_tap(const Weight* weights, float (&tap)[kChannels]) {
  if constexpr (std::is_same_v<Weight, float>) {
    load_shared<kChannels, 4>(weights, tap);
  } else {
    load_shared_packed<kChannels>(weights).widen_to(tap);
  }
}

// dividend / divisor, rounded to nearest but for rare cases: the mean of equal numbers is their own.
__device__ __forceinline__ float divide(float dividend, float divisor, float reciprocal) {
  const float quotient = dividend * reciprocal;
  return fmaf(fmaf(-quotient, divisor, dividend), reciprocal, quotient);
}

}  // namespace detail

// Weight: of the weights in shared memory, float or T.
template <typename T, int kKernel, typename Weight>
__global__ void __launch_bounds__(kLayerNormMostThreads)
    depthwise_conv2d_layer_norm_kernel(LayerNormImages<T> p, LayerNormTiles tiles) {
  using namespace detail;
  constexpr int kChannels = ChannelsLastShape<T, kKernel>::kChannels;
  constexpr int kOutputs = kLayerNormOutputs, kPixels = kOutputs / kChannels;
  constexpr int kTaps = kKernel * kKernel, kColumns = kPixels + kKernel - 1;

  EFFKERN_DYNAMIC_SHARED(unsigned char, memory);
  float* const partial = reinterpret_cast<float*>(memory);
  Weight* const weights = reinterpret_cast<Weight*>(memory + tiles.weights);
  const int partials = tiles.slots * (tiles.lanes / tiles.group) * kPixels;
  stage_weights<kTaps>(weights, p.weight, p.channels);
  __syncthreads();

  const LayerNormItem item(p, tiles, kChannels, kPixels);
  int y = item.first_row - p.pad_top;
  const int x0 = item.first_column - p.pad_left;
  bool inside[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    inside[i] = item.valid && unsigned(x0 + i) < unsigned(p.width);
  }
  const int64_t row_pitch = int64_t(p.width) * p.channels;
  const T* from = p.input + (int64_t(item.n) * p.height + y) * row_pitch +
                  int64_t(x0) * p.channels + item.channel;
  int64_t pixel =
      (int64_t(item.n) * p.out_height + item.first_row) * p.out_width + item.first_column;
  const Weight* const taps = weights + item.channel;

  float initial[kChannels], norm_weight[kChannels], norm_bias[kChannels];
  load_vector(p.bias, item.channel, 0.f, initial);
  load_vector(p.norm_weight, item.channel, 1.f, norm_weight);
  load_vector(p.norm_bias, item.channel, 0.f, norm_bias);

  // sums[ky] belongs to row (step - ky) of the tile.
  float sums[kKernel][kOutputs] = {};
  Packed<T, kChannels> packed[kColumns];
  load_row(packed, from, p.channels, unsigned(y) < unsigned(p.height), inside);
#pragma unroll 1
  for (int step = 0; step < tiles.rows + kKernel - 1; ++step, ++y) {
    float values[kColumns][kChannels];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) packed[i].widen_to(values[i]);
    const bool exists = unsigned(y) < unsigned(p.height);
#pragma unroll
    for (int ky = kKernel - 1; ky >= 0; --ky) {
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        sums[ky][i] = ky > 0 ? sums[ky - 1][i] : initial[i % kChannels];
      }
      if (!exists || unsigned(step - ky) >= unsigned(item.rows)) continue;
#pragma unroll
      for (int kx = 0; kx < kKernel; ++kx) {
        float tap[kChannels];
        load_tap(taps + (ky * kKernel + kx) * p.channels, tap);
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) {
          float& sum = sums[ky][i];
          sum = fmaf(values[i / kChannels + kx][i % kChannels], tap[i % kChannels], sum);
        }
      }
    }
    // On their way while the sums are exchanged.
    from += row_pitch;
    load_row(packed, from, p.channels, unsigned(y + 1) < unsigned(p.height), inside);

    const int row = step - (kKernel - 1);
    if (row < 0) continue;
    float (&z)[kOutputs] = sums[kKernel - 1];
    float mean[kPixels] = {}, rstd[kPixels] = {};
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) mean[i / kChannels] += item.valid ? z[i] : 0.f;
    sum_over_channels(mean, item, tiles, partial);
#pragma unroll
    for (float& value : mean) value = divide(value, float(p.channels), p.per_channel);
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      z[i] -= mean[i / kChannels];
      rstd[i / kChannels] = fmaf(z[i], z[i], rstd[i / kChannels]);
    }
#pragma unroll
    for (float& value : rstd) value = item.valid ? value : 0.f;
    sum_over_channels(rstd, item, tiles, partial + partials);
    const bool stored = row < item.rows;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      rstd[i] = rsqrtf(fmaf(rstd[i], p.per_channel, p.eps));
      float result[kChannels];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        result[c] = fmaf(z[i * kChannels + c] * rstd[i], norm_weight[c], norm_bias[c]);
      }
      const bool valid = stored && item.first_column + i < p.out_width;
      store_if<kChannels>(valid, p.output + ((pixel + i) * p.channels + item.channel), result);
      const bool saved = valid && item.channel == 0 && p.mean != nullptr;
      store_if<1>(saved, p.mean + pixel + i, mean + i);
      store_if<1>(saved, p.rstd + pixel + i, rstd + i);
    }
    pixel += p.out_width;
  }
}

}  // namespace effkern
