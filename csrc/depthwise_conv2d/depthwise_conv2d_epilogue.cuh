// What a depthwise kernel does with its accumulators: one policy struct per fusion.
//
// initial(channel)   the value that an output channel's accumulators start from
// finish(tile, at)   transforms a thread's tile of finished values in place; the kernel then rounds
// and
//                    stores it
#pragma once

#include "common/activation.cuh"
#include "common/vec.cuh"
#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

// Where a thread's tile of kOuter x kInner values lies in the output. Its first value is (n, c, y,
// x). Channels last, a tile is pixels x channels; contiguous, it is rows x columns. Only the first
// `outer` x `inner` values are inside the output.
enum class TileOrder { kPixelsChannels, kRowsColumns };

struct TilePosition {
  int64_t n, c, y, x;
  int outer, inner;
};

// output = activation(convolution + bias).
template <typename T>
struct BiasActivation {
  // Null: no bias.
  const T* bias;
  Activation activation;

  __device__ __forceinline__ Accumulate<T> initial(int64_t channel) const {
    return bias ? load_scalar(bias + channel) : Accumulate<T>(0);
  }

  // Whether initial is not zero and finish does anything; uniform over a launch.
  __device__ __forceinline__ bool has_initial() const { return bias != nullptr; }
  __device__ __forceinline__ bool changes_values() const { return activation != Activation::kNone; }

  template <TileOrder kOrder, int kOuter, int kInner>
  __device__ __forceinline__ void finish(Accumulate<T> (&tile)[kOuter * kInner],
                                         const TilePosition&) const {
    activate<T>(activation, tile);
  }
};

// output = grad * activation'(convolution + bias): the gradient with respect to the convolution.
template <typename T>
struct ActivationGrad {
  const T* bias;
  Activation activation;
  const T* grad;
  Strides4 strides;

  __device__ __forceinline__ Accumulate<T> initial(int64_t channel) const {
    return bias ? load_scalar(bias + channel) : Accumulate<T>(0);
  }

  template <TileOrder kOrder, int kOuter, int kInner>
  __device__ __forceinline__ void finish(Accumulate<T> (&tile)[kOuter * kInner],
                                         const TilePosition& at) const {
    constexpr bool kChannelsInner = kOrder == TileOrder::kPixelsChannels;
    const T* from =
        grad + at.n * strides.n + at.c * strides.c + at.y * strides.h + at.x * strides.w;
    const int64_t outer = kChannelsInner ? strides.w : strides.h;
    const int64_t inner = kChannelsInner ? strides.c : strides.w;
    differentiate<T>(activation, tile);
#pragma unroll
    for (int i = 0; i < kOuter; ++i) {
#pragma unroll
      for (int j = 0; j < kInner; ++j) {
        if (i < at.outer && j < at.inner)
          tile[i * kInner + j] *= load_scalar(from + i * outer + j * inner);
      }
    }
  }
};

}  // namespace effkern
