// Depthwise convolution, bias and LayerNorm over the channels of each pixel, channels_last, k x k
// with stride 1: one read and one write of the images.
//
// A thread owns neighbouring channels and a strip of pixels and walks down the image, as in the
// direct kernel of depthwise_conv2d; the threads of a block own all channels of their strips. When
// a row of sums is finished, they exchange what is needed for the mean, then for the variance
// around it, and store the row.
#pragma once

#include "common/ptx.cuh"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_tile.cuh"

namespace effkern {
namespace detail {

// A row of the image, of the columns that a strip reads. Those whose bit is not in `inside` stay as
// they are.
template <typename T, int kChannels, int kColumns>
__device__ __forceinline__ void load_row(Packed<T, kChannels> (&row)[kColumns], const T* from,
                                         int channels, unsigned inside) {
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    load_if(inside >> i & 1, from + i * int64_t(channels), row[i]);
  }
}

// One number per channel, `otherwise` where there is no vector.
template <int kChannels, typename T>
__device__ __forceinline__ void load_vector(const T* vector, int channel, float otherwise,
                                            float (&values)[kChannels]) {
  // At most 16 bytes at a time.
  constexpr int kWide = sizeof(T) == 4 ? 4 : kChannels;
#pragma unroll
  for (int i = 0; i < kChannels; i += kWide) {
    float some[kWide];
    load_or_zero<kWide>(vector != nullptr, vector + (vector != nullptr ? channel + i : 0))
        .widen_to(some);
#pragma unroll
    for (int c = 0; c < kWide; ++c) values[i + c] = vector != nullptr ? some[c] : otherwise;
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

// The sums of kernel row `ky` become those of the row above it, whose next step is `ky`'s.
template <int kChannels, int kKernel>
__device__ __forceinline__ void move_up(float (&sums)[kKernel][kLayerNormOutputs],
                                        const float (&initial)[kChannels], int ky) {
#pragma unroll
  for (int i = 0; i < kLayerNormOutputs; ++i) {
    sums[ky][i] = ky > 0 ? sums[ky - 1][i] : initial[i % kChannels];
  }
}

// sums += a row of the image times a row of the kernel.
template <int kChannels, int kColumns, typename Weight>
__device__ __forceinline__ void add_row(float (&sums)[kLayerNormOutputs],
                                        const float (&values)[kColumns][kChannels],
                                        const Weight* taps) {
  constexpr int kKernel = kColumns + 1 - kLayerNormOutputs / kChannels;
#pragma unroll
  for (int kx = 0; kx < kKernel; ++kx) {
    float tap[kChannels];
    load_tap(taps + kx * kChannels, tap);
#pragma unroll
    for (int i = 0; i < kLayerNormOutputs; ++i) {
      sums[i] = fmaf(values[i / kChannels + kx][i % kChannels], tap[i % kChannels], sums[i]);
    }
  }
}

// dividend / divisor, rounded to nearest but for rare cases: the mean of equal numbers is their
// own.
__device__ __forceinline__ float divide(float dividend, float divisor, float reciprocal) {
  const float quotient = dividend * reciprocal;
  return fmaf(fmaf(-quotient, divisor, dividend), reciprocal, quotient);
}

// A number for each of the first `columns` pixels.
template <int kPixels>
__device__ __forceinline__ void store_pixels(float* to, const float (&values)[kPixels],
                                             int columns) {
#pragma unroll
  for (int i = 0; i < kPixels; ++i) store_if<1>(i < columns, to + i, values + i);
}

}  // namespace detail

// Weight: of the weights in shared memory, float or T.
template <typename T, int kKernel, typename Weight>
__global__ void __launch_bounds__(kLayerNormMostThreads, 1)
    depthwise_conv2d_layer_norm_kernel(LayerNormImages<T> p, LayerNormTiles tiles) {
  using namespace detail;
  constexpr int kChannels = ChannelsLastShape<T, kKernel>::kChannels;
  constexpr int kOutputs = kLayerNormOutputs, kPixels = kOutputs / kChannels;
  constexpr int kTaps = kKernel * kKernel, kColumns = kPixels + kKernel - 1;

  EFFKERN_DYNAMIC_SHARED(unsigned char, memory);
  Weight* const weights = reinterpret_cast<Weight*>(memory + tiles.weights);
  stage_weights<kTaps, kChannels>(weights, p.weight, p.channels);
  __syncthreads();

  const LayerNormItem item(p, tiles, kChannels, kPixels);
  const ChannelSumsOfStrip<kPixels> over_channels(tiles, item, reinterpret_cast<float*>(memory));
  int y = item.first_row - p.pad_top;
  const int x0 = item.first_column - p.pad_left;
  unsigned inside = 0;
#pragma unroll
  for (int i = 0; i < kColumns; ++i) {
    inside |= unsigned(item.valid && unsigned(x0 + i) < unsigned(p.width)) << i;
  }
  const int64_t row_pitch = int64_t(p.width) * p.channels;
  const T* from = p.input + (int64_t(item.n) * p.height + y) * row_pitch +
                  int64_t(x0) * p.channels + item.channel;
  // Of all images; an int holds their number.
  int pixel = (item.n * p.out_height + item.first_row) * p.out_width + item.first_column;
  const int columns = p.out_width - item.first_column;
  const bool saves = p.mean != nullptr && item.valid && item.channel == 0;
  const Weight* const taps =
      weights + item.channel / kChannels * kLayerNormPitch<kTaps, kChannels, Weight>;

  // Nothing is added to the sums of a thread without channels.
  float initial[kChannels];
  load_vector(item.valid ? p.bias : nullptr, item.channel, 0.f, initial);

  // sums[ky] belongs to row (step - ky) of the tile.
  float sums[kKernel][kOutputs] = {};
  Packed<T, kChannels> packed[kColumns] = {};
  if (unsigned(y) < unsigned(p.height)) load_row(packed, from, p.channels, inside);
  // Two steps at a time: sums then move up in registers once for both. What comes after the last
  // row is not stored.
#pragma unroll 1
  for (int pair = 0; pair < tiles.rows + kKernel - 1; pair += 2) {
#pragma unroll
    for (int phase = 0; phase < 2; ++phase, ++y) {
      const int step = pair + phase;
      float values[kColumns][kChannels];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        packed[i].widen_to(values[i]);
#pragma unroll
        for (float& value : values[i]) ptx::keep(value);
      }
      const bool exists = unsigned(y) < unsigned(p.height);
#pragma unroll
      for (int ky = kKernel - 1; ky >= 0; --ky) {
        move_up<kChannels>(sums, initial, ky);
        // Of rows of the tile only.
        if (!exists || unsigned(step - ky) >= unsigned(item.rows)) continue;
        add_row<kChannels>(sums[ky], values, taps + ky * (kKernel * kChannels));
      }
      // On their way while the sums are exchanged.
      from += row_pitch;
      if (unsigned(y + 1) < unsigned(p.height)) load_row(packed, from, p.channels, inside);

      const int row = step - (kKernel - 1);
      if (row < 0) continue;
      float (&z)[kOutputs] = sums[kKernel - 1];
      float mean[kPixels] = {}, rstd[kPixels] = {};
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) mean[i / kChannels] += z[i];
      over_channels.template add_up<0>(mean);
#pragma unroll
      for (float& value : mean) value = divide(value, float(p.channels), p.per_channel);
      const bool stored = row < item.rows;
      if (saves && stored) store_pixels(p.mean + pixel, mean, columns);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        z[i] -= mean[i / kChannels];
        rstd[i / kChannels] = fmaf(z[i], z[i], rstd[i / kChannels]);
      }
#pragma unroll
      for (float& value : rstd) value = item.valid ? value : 0.f;
      over_channels.template add_up<1>(rstd);
#pragma unroll
      for (float& value : rstd) value = rsqrtf(fmaf(value, p.per_channel, p.eps));
      if (saves && stored) store_pixels(p.rstd + pixel, rstd, columns);
      // Not kept in registers from row to row.
      float norm_weight[kChannels], norm_bias[kChannels];
      load_vector(p.norm_weight, item.channel, 1.f, norm_weight);
      load_vector(p.norm_bias, item.channel, 0.f, norm_bias);
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
        const int c = i % kChannels;
        z[i] = fmaf(z[i] * rstd[i / kChannels], norm_weight[c], norm_bias[c]);
      }
      T* const to = p.output + (int64_t(pixel) * p.channels + item.channel);
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        store_if<kChannels>(stored && i < columns, to + i * int64_t(p.channels), z + i * kChannels);
      }
      pixel += p.out_width;
    }
  }
}

}  // namespace effkern
