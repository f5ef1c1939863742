// Input, weight and bias gradient of channels_last images in one kernel: k x k with k = 3, stride
// 1, dilation 1, padding k / 2 on each side, one output per input channel. grad_output is read once
// for all of them.
//
// A thread owns a channel vector and, one after the other, strips of pixels of input and
// grad_input, and walks down the image. Each row of grad_output is multiplied with the taps, for
// the 3 rows of grad_input that it touches, and with the 3 rows of the input that it meets, for the
// taps' sums, which stay in registers over all strips. The sums of blocks are added as those of
// depthwise_conv2d_wgrad_kernel.cuh.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_wgrad_kernel.cuh"

namespace effkern {

// Of a thread. The accumulators of 3 rows of grad_input and of 9 taps take half of the registers.
inline constexpr int kGradientsChannels = 4, kGradientsPixels = 4;
// Neighbouring channel vectors of a block, at most.
inline constexpr int kGradientsVectors = 32;

template <typename T>
struct GradientsImages {
  WeightGradImages<T> sums;
  // [channels][taps]
  const T* weight;
  T* grad_input;
  Strides4 grad_input_strides;
};

template <typename T, int kKernel>
__global__ void __launch_bounds__(kDepthwiseThreads, 2)
    depthwise_conv2d_channels_last_gradients_kernel(GradientsImages<T> p, ChannelsLastTiles tiles) {
  constexpr int kTaps = kKernel * kKernel, kPad = kKernel / 2;
  constexpr int kChannels = kGradientsChannels, kPixels = kGradientsPixels;
  constexpr int kColumns = kPixels + kKernel - 1, kOutputs = kPixels * kChannels;
  EFFKERN_SHARED(float, weights, [kTaps][kGradientsVectors * kChannels]);
  EFFKERN_SHARED(float, exchange, [kDepthwiseThreads][kChannels]);

  const WeightGradImages<T>& images = p.sums;
  const int slots = blockDim.x / tiles.vectors, slot = threadIdx.x / tiles.vectors;
  const int split = blockIdx.x / tiles.channel_blocks;
  const int first_channel = blockIdx.x % tiles.channel_blocks * tiles.vectors * kChannels;
  const int vector = threadIdx.x % tiles.vectors, channel = first_channel + vector * kChannels;
  stage_weights(weights, p.weight + int64_t(first_channel) * kTaps,
                min(tiles.vectors * kChannels, images.channels - first_channel), false);

  const SplitRange range(tiles.items, split, images.splits);
  const bool works = slot < slots && channel < images.channels;
  float taps[kTaps][kChannels] = {}, bias[kChannels] = {};
#pragma unroll 1
  for (int item = int(range.begin) + slot; works && item < range.end; item += slots) {
    const int strip = item % tiles.strips, row_tile = item / tiles.strips % tiles.row_tiles;
    const int n = item / tiles.strips / tiles.row_tiles;
    const int first_row = row_tile * tiles.rows, first_column = strip * kPixels;
    const int rows = min(tiles.rows, images.height - first_row);
    // Of grad_output, whose first row and column are before those of the strip.
    bool inside[kColumns];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      inside[i] = unsigned(first_column - kPad + i) < unsigned(images.width);
    }
    const T* from = images.grad_output + n * images.grad_output_strides.n + channel +
                    (first_row - kPad) * images.grad_output_strides.h +
                    (first_column - kPad) * images.grad_output_strides.w;
    const T* input = images.input + n * images.input_strides.n + channel +
                     first_row * images.input_strides.h + first_column * images.input_strides.w;
    T* to = p.grad_input + n * p.grad_input_strides.n + channel +
            first_row * p.grad_input_strides.h + first_column * p.grad_input_strides.w;
    // The row of grad_output meets row ky of both with row ky of the kernel. Rows of the input
    // that are not the strip's are zeros.
    float sums[kKernel][kOutputs] = {};
    Packed<T, kChannels> values[kKernel][kPixels];
#pragma unroll
    for (int i = 0; i < kKernel * kPixels; ++i) {
      values[i / kPixels][i % kPixels] = Packed<T, kChannels>::zero();
    }
#pragma unroll 1
    for (int step = 0; step < rows + kKernel - 1; ++step) {
      const bool there = unsigned(first_row - kPad + step) < unsigned(images.height);
      Packed<T, kChannels> packed[kColumns];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        packed[i] =
            load_or_zero<kChannels>(inside[i] && there, from + i * images.grad_output_strides.w);
      }
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
#pragma unroll
        for (int ky = 0; ky < kKernel - 1; ++ky) values[ky][i] = values[ky + 1][i];
        values[kKernel - 1][i] = load_or_zero<kChannels>(inside[i + kPad] && step < rows,
                                                         input + i * images.input_strides.w);
      }
      from += images.grad_output_strides.h, input += images.input_strides.h;
      float grads[kColumns][kChannels];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) packed[i].widen_to(grads[i]);
      // The strip's own pixels of grad_output.
      if (images.bias && step >= kPad && step < rows + kPad) {
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) {
          bias[i % kChannels] += grads[i / kChannels + kPad][i % kChannels];
        }
      }
#pragma unroll
      for (int ky = 0; ky < kKernel; ++ky) {
        float wide[kPixels][kChannels];
#pragma unroll
        for (int i = 0; i < kPixels; ++i) values[ky][i].widen_to(wide[i]);
#pragma unroll
        for (int kx = 0; kx < kKernel; ++kx) {
          const int tap = ky * kKernel + kx;
          float weight[kChannels];
          load_shared<kChannels, 4>(&weights[tap][vector * kChannels], weight);
#pragma unroll
          for (int i = 0; i < kOutputs; ++i) {
            const int pixel = i / kChannels, c = i % kChannels;
            const float grad = grads[pixel + kKernel - 1 - kx][c];
            sums[ky][i] = fmaf(grad, weight[c], sums[ky][i]);
            taps[tap][c] = fmaf(grad, wide[pixel][c], taps[tap][c]);
          }
        }
      }
      if (step >= kKernel - 1) {
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          store_if<kChannels>(inside[i + kPad], to + i * p.grad_input_strides.w,
                              sums[0] + i * kChannels);
        }
        to += p.grad_input_strides.h;
      }
#pragma unroll
      for (int i = 0; i < kOutputs; ++i) {
#pragma unroll
        for (int ky = 0; ky < kKernel - 1; ++ky) sums[ky][i] = sums[ky + 1][i];
        sums[kKernel - 1][i] = 0.f;
      }
    }
  }

  // One tap at a time: the threads of slot 0 add up the slots in ascending order. The bias is one
  // more.
#pragma unroll
  for (int tap = 0; tap <= kTaps; ++tap) {
    if (tap == kTaps && images.bias == 0) break;
    __syncthreads();
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      store_shared(&exchange[threadIdx.x][c],
                   tap < kTaps ? taps[tap < kTaps ? tap : 0][c] : bias[c]);
    }
    __syncthreads();
    if (slot != 0 || channel >= images.channels) continue;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float total = 0.f;
#pragma unroll 1
      for (int s = 0; s < slots; ++s) {
        total += load_shared(&exchange[s * tiles.vectors + threadIdx.x][c]);
      }
      store_scalar(images.partial_sums(split, channel + c, kTaps) + tap, total);
    }
  }
}

}  // namespace effkern
