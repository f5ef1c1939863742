// Input gradient of stride-2 convolutions, k x k, dilation 1, one output per input channel;
// channels last.
//
// With u = y + pad_top, row u of grad_input meets the taps ky = u mod 2 + 2 j at the rows u / 2 - j
// of grad_output: the parity of u decides which taps count. A 2 x 2 quad of pixels with even first
// u holds all four parity classes and reads the same ceil(k / 2)^2 pixels of grad_output; every tap
// counts exactly once.
//
// A thread owns one channel vector and a strip of quads, and walks down: a row of grad_output is
// loaded once, a quad before it is needed, and stays in registers for all quads that it meets.
//
// In DepthwiseImages, `input` is grad_output (height, width) and `output` is grad_input
// (out_height, out_width); tiles count quads.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

// Channel vectors of a block, at most: many strips beside each other share columns of grad_output.
inline constexpr int kGradVectors = 16;

template <typename T, int kKernel>
__global__ void __launch_bounds__(kDepthwiseThreads, 3)
    depthwise_conv2d_channels_last_grad_input_kernel(DepthwiseImages<T> p,
                                                     ChannelsLastTiles tiles) {
  using Shape = ChannelsLastShape<T, kKernel>;
  constexpr int kChannels = Shape::kChannels, kTaps = kKernel * kKernel;
  constexpr int kQuads = 8 / kChannels, kReach = (kKernel + 1) / 2, kColumns = kReach + kQuads - 1;
  constexpr bool kWeightsInRegisters = kKernel == 3;
  // Of quads at a time: a weight that comes from shared memory serves all of them.
  constexpr int kQuadRows = kWeightsInRegisters || sizeof(T) == 4 ? 1 : 2;
  constexpr int kRows = kReach - 1 + kQuadRows;
  static_assert(kRows % kQuadRows == 0);

  EFFKERN_SHARED(float, weights, [kTaps][kGradVectors * kChannels]);
  const ChannelsLastItem item(tiles, kChannels, p.channels);
  stage_weights(weights, p.weight + int64_t(item.first_channel) * kTaps,
                min(tiles.vectors * kChannels, p.channels - item.first_channel), false);
  if (!item.valid) return;

  float held[kWeightsInRegisters ? kTaps : 1][kChannels];
  if constexpr (kWeightsInRegisters) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      load_shared<kChannels, 4>(&weights[tap][item.vector * kChannels], held[tap]);
    }
  }

  // Of the first quad, which an odd padding puts before the image; in grad_output, of the first
  // that it meets.
  int y = 2 * item.row_tile * tiles.rows - (p.pad_top & 1);
  const int x = 2 * item.strip * kQuads - (p.pad_left & 1);
  int row = (y + p.pad_top) / 2 - (kReach - 1);
  const int column = (x + p.pad_left) / 2 - (kReach - 1);
  const int y_end = min(p.out_height, y + 2 * tiles.rows);
  const int row_end = min(p.height, row + tiles.rows + kReach - 1);
  bool inside[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) inside[i] = unsigned(column + i) < unsigned(p.width);
  const T* from = p.input + item.n * p.input_strides.n + item.channel + row * p.input_strides.h +
                  column * p.input_strides.w;
  bool stored[2 * kQuads];
  T* to[2 * kQuads];
#pragma unroll
  for (int j = 0; j < 2 * kQuads; ++j) {
    stored[j] = unsigned(x + j) < unsigned(p.out_width);
    to[j] = p.output + item.n * p.output_strides.n + item.channel + y * p.output_strides.h +
            (x + j) * p.output_strides.w;
  }

  Packed<T, kChannels> next[kColumns];
  const auto load_row = [&] {
    const bool needed = row >= 0 && row < row_end;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      next[i] = load_or_zero<kChannels>(needed && inside[i], from + i * p.input_strides.w);
    }
    ++row, from += p.input_strides.h;
  };
  // A ring.
  float rows[kRows][kColumns][kChannels];
  const auto take_row = [&](float (&values)[kColumns][kChannels]) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) next[i].widen_to(values[i]);
    load_row();
  };
  // Row `parity` of quads; the last row of grad_output of the first of them is rows[last].
  const auto finish_rows = [&](int last, int parity) {
    // None of them is in the image or the walk. Also keeps the compiler from holding all weights of
    // large kernels in registers.
    if (y + parity + 2 * (kQuadRows - 1) < 0 || y + parity >= y_end) return;
    float sums[kQuadRows][2 * kQuads][kChannels] = {};
#pragma unroll
    for (int ky = parity; ky < kKernel; ky += 2) {
#pragma unroll
      for (int kx = 0; kx < kKernel; ++kx) {
        float tap[kChannels];
        if constexpr (kWeightsInRegisters) {
#pragma unroll
          for (int c = 0; c < kChannels; ++c) tap[c] = held[ky * kKernel + kx][c];
        } else {
          load_shared<kChannels, 4>(&weights[ky * kKernel + kx][item.vector * kChannels], tap);
        }
#pragma unroll
        for (int r = 0; r < kQuadRows; ++r) {
          const auto& values = rows[(last + r + kRows - ky / 2) % kRows];
#pragma unroll
          for (int q = 0; q < kQuads; ++q) {
#pragma unroll
            for (int c = 0; c < kChannels; ++c) {
              float& sum = sums[r][2 * q + kx % 2][c];
              sum = fmaf(values[q + kReach - 1 - kx / 2][c], tap[c], sum);
            }
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kQuadRows; ++r) {
      const int at = 2 * r + parity;
      if (y + at < 0 || y + at >= y_end) continue;
#pragma unroll
      for (int j = 0; j < 2 * kQuads; ++j) {
        store_packed_if(stored[j], to[j] + at * p.output_strides.h, pack<kChannels, T>(sums[r][j]));
      }
    }
  };

  load_row();
#pragma unroll
  for (int i = 0; i < kReach - 1; ++i) take_row(rows[i]);
#pragma unroll 1
  while (y < y_end) {
#pragma unroll
    for (int step = 0; step < kRows / kQuadRows; ++step) {
      const int last = kReach - 1 + step * kQuadRows;
#pragma unroll
      for (int r = 0; r < kQuadRows; ++r) take_row(rows[(last + r) % kRows]);
      if (y >= y_end) return;
      finish_rows(last, 0);
      finish_rows(last, 1);
      y += 2 * kQuadRows;
#pragma unroll
      for (T*& column : to) column += 2 * kQuadRows * p.output_strides.h;
    }
  }
}

}  // namespace effkern
