// Panels of weights in the order in which a tile reads them; part of pointwise_cpu_isa.h.
#pragma once

namespace effkern {
namespace EFFKERN_ISA {

constexpr int kPanelVectors = 2;
constexpr int kLane = kLanes<float>;
constexpr int kPanel = kPanelVectors * kLane;

EFFKERN_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows [0, V * kLane) of the weights to [in_channels][V * kLane], times the gate if there is one;
// zeros behind the last of `rows`.
template <class T, int V>
void pack_panel(const T* weight, int64_t stride, int64_t rows, int64_t channels, const T* gate,
                float* panel) {
  for (int v = 0; v < V; ++v) {
    const T* first = weight + v * kLane * stride;
    const int64_t here = rows - v * kLane;
    for (int64_t k = 0; k < channels; k += kLane) {
      const int64_t n = min64(kLane, channels - k);
      Vec<float> block[kLane];
      if (n == kLane && here >= kLane) {
#pragma GCC unroll 16
        for (int i = 0; i < kLane; ++i) block[i] = load(first + i * stride + k);
      } else {
        for (int i = 0; i < kLane; ++i) {
          block[i] = i < here ? load_upto(first + i * stride + k, n) : Vec<float>{};
        }
      }
      if (gate) {
        const Vec<float> factor = load_upto(gate + k, n);
        for (int i = 0; i < kLane; ++i) block[i] *= factor;
      }
      transpose(block);
      float* to = panel + k * V * kLane + v * kLane;
      for (int64_t i = 0; i < n; ++i) store(to + i * V * kLane, block[i]);
    }
  }
}

// The same from numbers that are in that order already.
template <class T, int V>
void unpack_panel(const T* packed, int64_t channels, const T* gate, float* panel) {
  for (int64_t k = 0; k < channels; ++k) {
    const Vec<float> factor = splat(gate ? to_acc(gate[k]) : 1.0f);
    for (int v = 0; v < V; ++v) {
      const int64_t at = (k * V + v) * kLane;
      store(panel + at, load(packed + at) * factor);
    }
  }
}

// Panels [begin, end) of a matrix, each of kPanel * in_channels numbers from its start; a last one
// of at most kLane channels has one vector per input channel. `scratch` is for such a panel.
template <class T>
void pack_panels(const PointwiseWeight& w, int64_t begin, int64_t end, T* packed, float* scratch) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t rows = min64(kPanel, w.out_channels - i * kPanel);
    const T* from = static_cast<const T*>(w.data) + i * kPanel * w.stride;
    const bool narrow = rows <= kLane;
    if (narrow) {
      pack_panel<T, 1>(from, w.stride, rows, w.in_channels, nullptr, scratch);
    } else {
      pack_panel<T, kPanelVectors>(from, w.stride, rows, w.in_channels, nullptr, scratch);
    }
    T* to = packed + i * kPanel * w.in_channels;
    const int64_t count = w.in_channels * (narrow ? kLane : kPanel);
    for (int64_t at = 0; at < count; at += kLane) store(to + at, load(scratch + at));
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
