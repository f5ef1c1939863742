// Input gradient of stride-2 convolutions, k x k, dilation 1, one output per input channel;
// channels last.
//
// With u = y + pad_top, row u of grad_input meets the taps ky = u mod 2 + 2 j at the rows u / 2 - j
// of grad_output: the parity of u decides which taps count. A 2 x 2 quad of pixels with even first
// u holds all four parity classes and reads the same ceil(k / 2)^2 pixels of grad_output; every tap
// counts exactly once.
//
// In DepthwiseImages, `input` is grad_output (height, width) and `output` is grad_input
// (out_height, out_width); tiles count quads.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

template <typename T, int kKernel>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise_conv2d_channels_last_grad_input_kernel(DepthwiseImages<T> p,
                                                     ChannelsLastTiles tiles) {
  using Shape = ChannelsLastShape<T, kKernel>;
  constexpr int kChannels = Shape::kChannels, kTaps = kKernel * kKernel;
  constexpr int kQuads = 8 / kChannels, kReach = (kKernel + 1) / 2, kColumns = kReach + kQuads - 1;

  EFFKERN_SHARED(float, weights, [kTaps][Shape::kMaxVectors * kChannels]);
  const ChannelsLastItem item(tiles, kChannels, p.channels);
  stage_weights(weights, p.weight + int64_t(item.first_channel) * kTaps,
                min(tiles.vectors * kChannels, p.channels - item.first_channel), false);
  if (!item.valid) return;

  // In grad_output, of the first quad.
  const int row = (p.pad_top >> 1) + item.row_tile;
  const int column = (p.pad_left >> 1) + item.strip * kQuads;
  const T* from = p.input + item.n * p.input_strides.n + item.channel;
  // Of the rows and columns (even, odd) of each quad.
  float sums[2][2 * kQuads][kChannels] = {};
#pragma unroll
  for (int j = 0; j < kReach; ++j) {
    const int y = row - j;
    if (unsigned(y) >= unsigned(p.height)) continue;
    float values[kColumns][kChannels];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int x = column + i - (kReach - 1);
      load_or_zero<kChannels>(unsigned(x) < unsigned(p.width),
                              from + y * p.input_strides.h + x * p.input_strides.w)
          .widen_to(values[i]);
    }
#pragma unroll
    for (int ky = 2 * j; ky < min(2 * j + 2, kKernel); ++ky) {
#pragma unroll
      for (int kx = 0; kx < kKernel; ++kx) {
        float tap[kChannels];
        load_shared<kChannels, 4>(&weights[ky * kKernel + kx][item.vector * kChannels], tap);
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) {
            float& sum = sums[ky % 2][2 * q + kx % 2][c];
            sum = fmaf(values[q + kReach - 1 - kx / 2][c], tap[c], sum);
          }
        }
      }
    }
  }

  const int y0 = 2 * row - p.pad_top, x0 = 2 * column - p.pad_left;
  T* to = p.output + item.n * p.output_strides.n + item.channel;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (unsigned(y0 + i) >= unsigned(p.out_height)) continue;
#pragma unroll
    for (int j = 0; j < 2 * kQuads; ++j) {
      store_if<kChannels>(unsigned(x0 + j) < unsigned(p.out_width),
                          to + (y0 + i) * p.output_strides.h + (x0 + j) * p.output_strides.w,
                          sums[i][j]);
    }
  }
}

}  // namespace effkern
