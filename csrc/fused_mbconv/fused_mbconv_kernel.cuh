// fused_mbconv on tensor cores: two products, one after the other, whose intermediate, the expanded
// tensor, stays in registers. 16-bit types, channels_last.
//
// A warp computes 32 pixels. The input of the block's tile is in shared memory for all taps; the
// convolution is a product of depth kernel_h * kernel_w * channels whose left operand's rows are
// addresses: of a pixel, plus an offset for each eight products, whichever tap they belong to. Of
// 64 expanded channels, the accumulators become, activated and rounded, the left operand of the
// projection: the one's fragment is the layout of the other's (FlashAttention-2, arXiv 2307.08691).
#pragma once

#include "common/activation_16_bits.cuh"
#include "fused_mbconv/fused_mbconv_tile.cuh"

namespace effkern {
namespace detail {

// Tiles of 16 pixels of a warp; tiles of 8 channels of a chunk; products of 16 of a slice.
inline constexpr int kFusedMBConvRowTiles = kFusedMBConvRows / 16;
inline constexpr int kFusedMBConvColumnTiles = kFusedMBConvChunk / 8;
inline constexpr int kFusedMBConvSteps = kFusedMBConvSlice / 16;

// What a lane reads of a stage of weights: row lane % 8 of each of four 8 x 8 matrices.
template <typename T>
struct WeightRows {
  const T* row;
  int vector;

  // Products 16 `step` and on of the weights of 16 channels, the `pair`th.
  __device__ __forceinline__ void load(uint32_t (&b)[4], int step, int pair) const {
    ptx::ldmatrix<4>(b, row + (vector ^ (2 * step)) * 8 + pair * 16 * kFusedMBConvSlice);
  }
};

// sums += a step of all pixels times 8 kTiles channels.
template <typename T, int kTiles, int kColumns>
__device__ __forceinline__ void multiply_step(float (&sums)[kFusedMBConvRowTiles][kColumns][4],
                                              const T* tile,
                                              const int (&pixels)[kFusedMBConvRowTiles],
                                              const T* zeros, int offset, const WeightRows<T>& rows,
                                              int step) {
  uint32_t a[kFusedMBConvRowTiles][4];
#pragma unroll
  for (int i = 0; i < kFusedMBConvRowTiles; ++i)
    ptx::ldmatrix<4>(a[i], offset < 0 ? zeros : tile + (pixels[i] + offset));
#pragma unroll
  for (int pair = 0; pair < kTiles / 2; ++pair) {
    uint32_t b[4];
    rows.load(b, step, pair);
    const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
    for (int i = 0; i < kFusedMBConvRowTiles; ++i) {
      ptx::mma_m16n8k16<T>(sums[i][2 * pair], a[i], first);
      ptx::mma_m16n8k16<T>(sums[i][2 * pair + 1], a[i], second);
    }
  }
}

// The same of the `steps` steps of a slice.
template <typename T, int kTiles, int kColumns>
__device__ __forceinline__ void multiply_slice(float (&sums)[kFusedMBConvRowTiles][kColumns][4],
                                               const T* tile,
                                               const int (&pixels)[kFusedMBConvRowTiles],
                                               const T* zeros, const int* offsets,
                                               const WeightRows<T>& rows, int steps) {
  if (steps == kFusedMBConvSteps) {
    const uint4 four = load_shared_packed<4>(offsets).bits;
    const int each[kFusedMBConvSteps] = {int(four.x), int(four.y), int(four.z), int(four.w)};
#pragma unroll
    for (int step = 0; step < kFusedMBConvSteps; ++step)
      multiply_step<T, kTiles>(sums, tile, pixels, zeros, each[step], rows, step);
    return;
  }
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int offset = int(load_shared_packed<1>(offsets + step).bits);
    multiply_step<T, kTiles>(sums, tile, pixels, zeros, offset, rows, step);
  }
}

// Of a chunk, the first `columns` channels, rounded up to 16.
template <typename T, int kTiles>
__device__ __forceinline__ void activate_expanded(Activation activation,
                                                  float (&sums)[kFusedMBConvRowTiles][kTiles][4],
                                                  int columns) {
  // What nearly all of these blocks have, without a loop.
  if (activation == Activation::kSiLU) {
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      if (8 * j >= columns) continue;
#pragma unroll
      for (int i = 0; i < 8 * kFusedMBConvRowTiles; ++i) {
        float& x = sums[i / 8][j + i / 4 % 2][i % 4];
        x = silu_to_16_bits(x);
      }
    }
    return;
  }
  if (activation == Activation::kNone) return;
  // The others through one piece of code, past which the array is moved, as `apply` does it.
  constexpr int kValues = kFusedMBConvRowTiles * kTiles * 4, kGroup = 8;
  float (&values)[kValues] = reinterpret_cast<float (&)[kValues]>(sums);
#pragma unroll 1
  for (int i = 0; i < kValues; i += kGroup) {
    float group[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) group[j] = values[j];
    activate<T>(activation, group);
#pragma unroll
    for (int j = 0; j < kValues - kGroup; ++j) values[j] = values[j + kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) values[kValues - kGroup + j] = group[j];
  }
}

// The 8 kTiles channels from `first` on of a warp's pixels, scaled if there is a projection, and
// the residual, to memory.
template <bool kScales, typename T, int kTiles>
__device__ __forceinline__ void store_pixels(const FusedMBConvImages<T>& p,
                                             const FusedMBConvTiles& tiles,
                                             const FusedMBConvPlace& at, float* exchange,
                                             const float (&sums)[kFusedMBConvRowTiles][kTiles][4],
                                             int first) {
  constexpr int kPitch = kFusedMBConvExchangePitch, kTogether = 4;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int64_t image = int64_t(at.n) * (p.out_height * p.out_width * p.out_channels);
  float* const mine = exchange + warp * kFusedMBConvRows * kPitch;
#pragma unroll
  for (int tile = 0; tile < kTiles; tile += kTogether) {
    if (first + 8 * tile >= p.out_channels) continue;
    // All lanes have read the channels before.
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2 * kFusedMBConvRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        store_shared_packed<2>(mine + (8 * i + g) * kPitch + 8 * j + 2 * t,
                               pack<2, float>(sums[i / 2][tile + j] + i % 2 * 2));
      }
    }
    __syncwarp();
    const int channel = first + 8 * (tile + t);
    const bool scales = kScales && p.project_scale != nullptr && channel < p.out_channels;
    float scale[8];
    load_or_zero<8>(scales, p.project_scale + (scales ? channel : 0)).widen_to(scale);
#pragma unroll
    for (float& factor : scale) factor = scales ? factor : 1.f;
#pragma unroll
    for (int i = 0; i < kFusedMBConvRows / 8; ++i) {
      const int row = 8 * i + g;
      float values[8], added[8];
      load_shared<8, 4>(mine + row * kPitch + 8 * t, values);
      int x = warp * kFusedMBConvRows + row;
      const int y = tiles.by_tile_width.split(x), out_y = at.y + y, out_x = at.x + x;
      const bool valid = y < tiles.tile_height && out_y < p.out_height && out_x < p.out_width &&
                         channel < p.out_channels;
      const int64_t place =
          valid ? image + ((out_y * p.out_width + out_x) * p.out_channels + channel) : 0;
      const bool adds = valid && p.residual != nullptr;
      load_or_zero<8>(adds, p.residual + (adds ? place : 0)).widen_to(added);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = values[j] * scale[j] + added[j];
      store_if<8>(valid, p.output + place, values);
    }
  }
}

}  // namespace detail

// kOutputs channels of the projection are held in registers; 0: there is no projection.
template <typename T, int kOutputs>
__global__ void __launch_bounds__(32 * kFusedMBConvMostWarps, 2)
    fused_mbconv_kernel(FusedMBConvImages<T> p, FusedMBConvTiles tiles) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using namespace detail;
  constexpr int kRowTiles = kFusedMBConvRowTiles, kTiles = kFusedMBConvColumnTiles;
  constexpr int kOutputTiles = kOutputs / 8;
  EFFKERN_DYNAMIC_SHARED(T, tile);
  T* const zeros = tile + tiles.zeros;
  float* const hidden_bias = reinterpret_cast<float*>(tile + tiles.biases);
  float* const output_bias = hidden_bias + tiles.chunks * kFusedMBConvChunk;
  int* const offsets = reinterpret_cast<int*>(tile + tiles.offsets);
  float* const exchange = reinterpret_cast<float*>(tile + tiles.exchange);

  const FusedMBConvPlace at(tiles);
  stage_input(tile, p, tiles, at);
  FusedMBConvWeights<T, kOutputs> weights(tile + tiles.stages, p, tiles);
  if (threadIdx.x == 0) store_shared_packed<8>(zeros, Packed<T, 8>::zero());
  stage_offsets(offsets, p, tiles);
  stage_bias(hidden_bias, p.expand_bias, p.hidden, tiles.chunks * kFusedMBConvChunk);
  stage_bias(output_bias, p.project_bias, p.out_channels, kOutputs);
  __syncthreads();

  const int lane = threadIdx.x % 32, t = lane % 4;
  // Rows of matrices: lanes 0 to 15 have the first eight products of a step, the others the second;
  // of weights, every other eight lanes. Pixels outside the tile are computed of its first.
  int pixels[kRowTiles];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    int x = threadIdx.x / 32 * kFusedMBConvRows + 16 * i + lane % 16;
    const int y = tiles.by_tile_width.split(x);
    pixels[i] =
        y < tiles.tile_height ? y * p.stride_h * tiles.row_pitch + x * tiles.pixel_pitch : 0;
  }
  const int* const lane_offsets = offsets + lane / 16 * 4;
  const int weight_row = (lane / 16 * 8 + lane % 8) * kFusedMBConvSlice;
  const int weight_vector = (lane / 8 % 2) ^ (lane % 8);

  float projected[kRowTiles][kOutputs > 0 ? kOutputTiles : 1][4];
  if constexpr (kOutputs > 0) {
#pragma unroll
    for (int j = 0; j < kOutputTiles; ++j) {
      float pair[2];
      load_shared<2, 2>(output_bias + 8 * j + 2 * t, pair);
#pragma unroll
      for (int i = 0; i < 4 * kRowTiles; ++i) projected[i / 4][j][i % 4] = pair[i % 2];
    }
  }
#pragma unroll 1
  for (int chunk = 0; chunk < tiles.chunks; ++chunk) {
    const int columns = p.hidden - chunk * kFusedMBConvChunk;
    float sums[kRowTiles][kTiles][4];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      float pair[2];
      load_shared<2, 2>(hidden_bias + chunk * kFusedMBConvChunk + 8 * j + 2 * t, pair);
#pragma unroll
      for (int i = 0; i < 4 * kRowTiles; ++i) sums[i / 4][j][i % 4] = pair[i % 2];
    }
#pragma unroll 1
    for (int slice = 0; slice < tiles.slices; ++slice) {
      const WeightRows<T> rows{weights.next() + weight_row, weight_vector};
      const int steps = min(kFusedMBConvSteps, tiles.steps - slice * kFusedMBConvSteps);
      const int* const each = lane_offsets + slice * (kFusedMBConvSlice / 8);
      if (columns > kFusedMBConvChunk / 2) {
        multiply_slice<T, kTiles>(sums, tile, pixels, zeros, each, rows, steps);
      } else {
        multiply_slice<T, kTiles / 2>(sums, tile, pixels, zeros, each, rows, steps);
      }
    }
    activate_expanded<T>(p.activation, sums, columns);
    if constexpr (kOutputs == 0) {
      store_pixels<false>(p, tiles, at, exchange, sums, chunk * kFusedMBConvChunk);
    } else {
      uint32_t a[kTiles / 2][kRowTiles][4];
#pragma unroll
      for (int step = 0; step < kTiles / 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4 * kRowTiles; ++i) {
          // Channels that do not exist have no part in infinities.
          const bool exists = 16 * step + i % 4 / 2 * 8 < columns;
          const float* pair = sums[i / 4][2 * step + i % 4 / 2] + i % 2 * 2;
          a[step][i / 4][i % 4] = exists ? pack<2, T>(pair).bits : 0;
        }
      }
#pragma unroll
      for (int part = 0; part < weights.kParts; ++part) {
        const WeightRows<T> rows{weights.next() + weight_row, weight_vector};
#pragma unroll
        for (int step = 0; step < kTiles / 2; ++step) {
          if (16 * step >= columns) continue;
#pragma unroll
          for (int pair = 0; pair < 4; ++pair) {
            const int j = 8 * part + 2 * pair;
            if (j >= kOutputTiles || 8 * j >= p.out_channels) continue;
            uint32_t b[4];
            rows.load(b, step, pair);
            const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
            for (int i = 0; i < kRowTiles; ++i) {
              ptx::mma_m16n8k16<T>(projected[i][j], a[step][i], first);
              ptx::mma_m16n8k16<T>(projected[i][j + 1], a[step][i], second);
            }
          }
        }
      }
    }
  }
  if constexpr (kOutputs > 0) {
    // All warps have read the tile, which the pixels take the place of.
    __syncthreads();
    store_pixels<true>(p, tiles, at, exchange, projected, 0);
  }
#endif
}

}  // namespace effkern
