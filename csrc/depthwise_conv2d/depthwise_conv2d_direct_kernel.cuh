// Direct convolution on FMA units: output = epilogue(sum over taps of input * weight), kernels k x
// k with stride 1 or 2 and dilation 1, one output per input channel.
//
// Channels last: a thread owns neighbouring channels (one vector) and a strip of output columns,
// and walks down the image. Each input row is loaded once and added to every output row that it
// touches; their accumulators move up by one row per step. Contiguous: a block stages a tile in
// shared memory, with its halo and its zero padding; a thread owns 4 x 4 outputs of one plane.
//
// The input gradient of a stride-1 convolution is the same computation on grad_output, with the
// taps in reverse order and the padding (k - 1 - pad).
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"
#include "depthwise_conv2d/depthwise_conv2d_tile.cuh"

namespace effkern {

template <typename T, int kKernel, int kStride, typename Epilogue>
__global__ void __launch_bounds__(kDepthwiseThreads, 2)
    depthwise_conv2d_channels_last_kernel(DepthwiseImages<T> p, ChannelsLastTiles tiles,
                                          Epilogue epilogue) {
  using Shape = ChannelsLastShape<T, kKernel>;
  constexpr int kChannels = Shape::kChannels, kOutputs = Shape::kOutputs;
  constexpr int kPixels = kOutputs / kChannels, kTaps = kKernel * kKernel;
  constexpr int kColumns = (kPixels - 1) * kStride + kKernel;
  // Output rows under way at a time.
  constexpr int kLive = (kKernel - 1) / kStride + 1;
  constexpr bool kWeightsInRegisters = kKernel == 3;

  EFFKERN_SHARED(float, weights, [kTaps][Shape::kMaxVectors * kChannels]);
  const ChannelsLastItem item(tiles, kChannels, p.channels);
  stage_weights(weights, p.weight + int64_t(item.first_channel) * kTaps,
                min(tiles.vectors * kChannels, p.channels - item.first_channel), p.flip_taps);
  if (!item.valid) return;

  float held[kWeightsInRegisters ? kTaps : 1][kChannels];
  if constexpr (kWeightsInRegisters) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      load_shared<kChannels, 4>(&weights[tap][item.vector * kChannels], held[tap]);
    }
  }

  const int first_row = item.row_tile * tiles.rows, first_column = item.strip * kPixels;
  const int rows = min(tiles.rows, p.out_height - first_row);
  const int y0 = first_row * kStride - p.pad_top, x0 = first_column * kStride - p.pad_left;
  bool inside[kColumns];
#pragma unroll
  for (int i = 0; i < kColumns; ++i) inside[i] = unsigned(x0 + i) < unsigned(p.width);

  const T* from = p.input + item.n * p.input_strides.n + item.channel + y0 * p.input_strides.h +
                  x0 * p.input_strides.w;
  T* to = p.output + item.n * p.output_strides.n + item.channel + first_row * p.output_strides.h +
          first_column * p.output_strides.w;

  float initial[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) initial[c] = epilogue.initial(item.channel + c);
  // sums[j] belongs to row (step - j) of the tile.
  float sums[kLive][kOutputs];
#pragma unroll
  for (int j = 0; j < kLive; ++j) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) sums[j][i] = initial[i % kChannels];
  }

#pragma unroll 1
  for (int step = 0; step < rows + kLive - 1; ++step) {
#pragma unroll
    for (int phase = 0; phase < kStride; ++phase, from += p.input_strides.h) {
      // Past the tile, only rows that still reach into it.
      const bool needed = step < rows + (kKernel - 1 - phase) / kStride;
      const int y = y0 + step * kStride + phase;
      if (!needed || unsigned(y) >= unsigned(p.height)) continue;
      Packed<T, kChannels> packed[kColumns];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        packed[i] = load_or_zero<kChannels>(inside[i], from + i * p.input_strides.w);
      }
      float values[kColumns][kChannels];
#pragma unroll
      for (int i = 0; i < kColumns; ++i) packed[i].widen_to(values[i]);
#pragma unroll
      for (int ky = phase; ky < kKernel; ky += kStride) {
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
          for (int i = 0; i < kOutputs; ++i) {
            float& sum = sums[ky / kStride][i];
            sum =
                fmaf(values[i / kChannels * kStride + kx][i % kChannels], tap[i % kChannels], sum);
          }
        }
      }
    }

    const int row = step - (kLive - 1);
    if (row >= 0) {
      epilogue.template finish<TileOrder::kPixelsChannels, kPixels, kChannels>(
          sums[kLive - 1], {item.n, item.channel, first_row + row, first_column,
                            p.out_width - first_column, kChannels});
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        store_if<kChannels>(first_column + i < p.out_width, to + i * p.output_strides.w,
                            sums[kLive - 1] + i * kChannels);
      }
      to += p.output_strides.h;
    }
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
#pragma unroll
      for (int j = kLive - 1; j > 0; --j) sums[j][i] = sums[j - 1][i];
      sums[0][i] = initial[i % kChannels];
    }
  }
}

template <typename T, int kKernel, int kStride, typename Epilogue>
__global__ void __launch_bounds__(kDepthwiseThreads, kKernel == 7 ? 5 : 8)
    depthwise_conv2d_contiguous_kernel(DepthwiseImages<T> p, ContiguousTiles tiles,
                                       Epilogue epilogue) {
  constexpr int kTaps = kKernel * kKernel, kTapPitch = (kTaps + 3) / 4 * 4;
  // Inputs of four outputs; whole float4s are read.
  constexpr int kSpan = 3 * kStride + kKernel, kSpanRead = (kSpan + 3) / 4 * 4;

  // [planes][kTapPitch] weights, then the input.
  EFFKERN_DYNAMIC_SHARED(float, weights);
  float* staged = weights + tiles.planes * kTapPitch;

  const ContiguousItem item(tiles, blockIdx.x);
  const int first_plane = item.plane_block * tiles.planes, planes = p.batch * p.channels;
  stage_plane_weights<kTaps, kTapPitch>(weights, p, first_plane, tiles.planes);
  const int tile_row = item.row_tile * tiles.groups * 4,
            tile_column = item.column_tile * tiles.strips * 4;
  stage_planes(staged, p, tiles, first_plane, tile_row * kStride - p.pad_top,
               tile_column * kStride - p.pad_left);
  __syncthreads();

  const int plane = first_plane + item.plane;
  const int y = tile_row + item.group * 4, x = tile_column + item.strip * 4;
  if (item.plane >= tiles.planes || plane >= planes || y >= p.out_height || x >= p.out_width)
    return;
  const int n = plane / p.channels, c = plane % p.channels;

  float taps[kTapPitch];
  load_shared<kTapPitch, 4>(weights + item.plane * kTapPitch, taps);
  float sums[16];
  const float initial = epilogue.initial(c);
#pragma unroll
  for (float& sum : sums) sum = initial;

  const float* from = staged + (item.plane * tiles.rows + item.group * 4 * kStride) * tiles.pitch +
                      tiles.lead + item.strip * 4 * kStride;
#pragma unroll
  for (int row = 0; row < kSpan; ++row) {
    float values[kSpanRead];
    load_shared<kSpanRead, 4>(from + row * tiles.pitch, values);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int ky = row - i * kStride;
      if (ky < 0 || ky >= kKernel) continue;
#pragma unroll
      for (int kx = 0; kx < kKernel; ++kx) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[i * 4 + j] =
              fmaf(values[j * kStride + kx], taps[ky * kKernel + kx], sums[i * 4 + j]);
        }
      }
    }
  }

  const int rows = p.out_height - y;
  epilogue.template finish<TileOrder::kRowsColumns, 4, 4>(sums,
                                                          {n, c, y, x, rows, p.out_width - x});
  T* to = p.output + n * p.output_strides.n + c * p.output_strides.c + y * p.output_strides.h;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < rows) {
      store_four(to + i * p.output_strides.h, x, p.out_width, sums + i * 4, tiles.store_width);
    }
  }
}

}  // namespace effkern
