// Direct convolution on FMA units, channels_last: output = epilogue(sum over taps of input *
// weight), kernels k x k with stride 1 or 2 and dilation 1, one output per input channel.
//
// A thread owns neighbouring channels (one vector) and a strip of output columns, and walks down
// the image. Each input row is loaded once and added to every output row that it touches; their
// accumulators move up by one row per step.
//
// The input gradient of a stride-1 convolution is the same computation on grad_output, with the
// taps in reverse order and the padding (k - 1 - pad).
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_epilogue.cuh"
#include "depthwise_conv2d/depthwise_conv2d_hooks.cuh"
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
  constexpr bool kHooked = is_hooked<Epilogue>;
  // With hooks, the registers hold scales, shifts and sums.
  constexpr bool kWeightsInRegisters = kKernel == 3 && !kHooked;

  EFFKERN_SHARED(float, weights, [kTaps][Shape::kMaxVectors * kChannels]);
  ChannelsLastItem item(tiles, kChannels, p.channels);
  stage_weights(weights, p.weight + int64_t(item.first_channel) * kTaps,
                min(tiles.vectors * kChannels, p.channels - item.first_channel), p.flip_taps);
  if constexpr (kHooked) {
    // Has no rows, and joins the sums of the block.
    if (!item.valid) item.vector = 0, item.channel = item.first_channel;
  } else {
    if (!item.valid) return;
  }

  float held[kWeightsInRegisters ? kTaps : 1][kChannels];
  if constexpr (kWeightsInRegisters) {
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      load_shared<kChannels, 4>(&weights[tap][item.vector * kChannels], held[tap]);
    }
  }

  const int first_row = item.row_tile * tiles.rows, first_column = item.strip * kPixels;
  int rows = min(tiles.rows, p.out_height - first_row);
  if (kHooked && !item.valid) rows = -kLive;
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
  [[maybe_unused]] float scale[kHooked ? kChannels : 1], shift[kHooked ? kChannels : 1];
  [[maybe_unused]] ChannelSums<kHooked ? kChannels : 1> stored;
  if constexpr (kHooked) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      scale[c] = epilogue.scale_of(item.channel + c);
      shift[c] = epilogue.shift_of(item.channel + c);
    }
  }
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
      if constexpr (kHooked) {
        if (epilogue.has_prologue) transform_pixels(values, inside, scale, shift, epilogue);
      }
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
      if constexpr (kHooked) {
        if (epilogue.moments > 0) {
          stored.template add<T, kPixels>(sums[kLive - 1], p.out_width - first_column);
        }
      }
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
  if constexpr (kHooked) {
    static_assert(kTaps * Shape::kMaxVectors >= 2 * kDepthwiseThreads);
    if (epilogue.moments > 0) {
      stored.reduce(epilogue, tiles, item.first_channel, p.channels, &weights[0][0]);
    }
  }
}

}  // namespace effkern
