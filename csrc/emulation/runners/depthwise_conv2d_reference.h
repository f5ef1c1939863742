// depthwise_conv2d in float64, on tensors inside guarded buffers, for the runner.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/vec.cuh"
#include "depthwise_conv2d/depthwise_conv2d.h"
#include "emulation/emulator.h"

namespace effkern::runner {

// How a tensor lies in its buffer. kSliced leaves a gap after each row and plane, kPermuted is
// HCWN, kOffset starts one element late, kExpanded has one image for all. kFar and kFarChannels
// have 2^30 elements and more from image to image, kFurther and kFurtherChannels 2^31 and more.
enum class Memory {
  kContiguous,
  kChannelsLast,
  kSliced,
  kSlicedChannels,
  kPermuted,
  kOffset,
  kExpanded,
  kFar,
  kFarChannels,
  kFurther,
  kFurtherChannels
};

inline bool is_channels_last(Memory kind) {
  return kind == Memory::kChannelsLast || kind == Memory::kSlicedChannels ||
         kind == Memory::kFarChannels || kind == Memory::kFurtherChannels;
}

template <typename T>
T narrow(double value) {
  if constexpr (std::is_same_v<T, __half>) return __double2half(value);
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __double2bfloat16(value);
  if constexpr (std::is_floating_point_v<T>) return T(value);
}

// A (N, C, H, W) view whose buffer ends at an inaccessible page. What is not an element is poison,
// and no kernel may touch it; of far images, which would fill the memory, nobody knows that.
template <typename T>
struct View {
  int64_t batch, channels, height, width;
  Strides4 strides;
  std::unique_ptr<emulation::GuardedMemory> memory;
  T* data;
  std::vector<unsigned char> mask;

  View(Memory kind, int64_t n, int64_t c, int64_t h, int64_t w)
      : batch(n), channels(c), height(h), width(w) {
    int64_t first = 0;
    switch (kind) {
      case Memory::kContiguous:
      case Memory::kOffset:
        strides = {c * h * w, h * w, w, 1};
        first = kind == Memory::kOffset;
        break;
      case Memory::kChannelsLast:
        strides = {c * h * w, 1, w * c, c};
        break;
      case Memory::kSliced:
        strides = {(c + 1) * (h + 2) * (w + 3), (h + 2) * (w + 3), w + 3, 1};
        first = 1;
        break;
      case Memory::kSlicedChannels:
        strides = {(h + 1) * (w + 2) * (c + 8), 1, (w + 2) * (c + 8), c + 8};
        first = 8;
        break;
      case Memory::kPermuted:
        strides = {1, n * w, n * w * c, n};
        break;
      case Memory::kExpanded:
      case Memory::kFar:
      case Memory::kFurther:
        strides = {0, h * w, w, 1};
        break;
      case Memory::kFarChannels:
      case Memory::kFurtherChannels:
        strides = {0, 1, w * c, c};
        break;
    }
    const bool far = kind >= Memory::kFar;
    if (far) strides.n = (int64_t(1) << (kind >= Memory::kFurther ? 31 : 30)) + 64;
    const bool empty = n == 0 || c == 0 || h == 0 || w == 0;
    const int64_t elements = empty ? 0
                                   : first + (n - 1) * strides.n + (c - 1) * strides.c +
                                         (h - 1) * strides.h + (w - 1) * strides.w + 1;
    memory = std::make_unique<emulation::GuardedMemory>(size_t(elements) * sizeof(T), 16, !far);
    data = static_cast<T*>(memory->data()) + first;
    if (far) return;
    mask.resize(size_t(elements));
    each([&](auto... at) { mask[size_t(first + index(at...))] = 1; });
  }

  int64_t index(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return n * strides.n + c * strides.c + y * strides.h + x * strides.w;
  }
  T& at(int64_t n, int64_t c, int64_t y, int64_t x) const { return data[index(n, c, y, x)]; }

  template <typename Function>
  void each(Function function) const {
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t y = 0; y < height; ++y)
          for (int64_t x = 0; x < width; ++x) function(n, c, y, x);
  }

  void fill(std::mt19937& random, double scale) {
    std::uniform_real_distribution<double> uniform(-scale, scale);
    each([&](auto... i) { at(i...) = narrow<T>(uniform(random)); });
  }

  emulation::Buffer buffer(const char* name, bool writable) const {
    return {memory->data(), memory->size(), name, writable, mask, sizeof(T)};
  }
};

inline double activate(Activation kind, double x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kReLU:
      return std::fmax(x, 0);
    case Activation::kReLU6:
      return std::fmin(std::fmax(x, 0), 6);
    case Activation::kSiLU:
      return x / (1 + std::exp(-x));
    case Activation::kGELU:
      return 0.5 * x * std::erfc(-x * M_SQRT1_2);
    case Activation::kGELUTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kHardswish:
      break;
  }
  return x * std::fmin(std::fmax(x + 3, 0), 6) / 6;
}

inline double differentiate(Activation kind, double x) {
  const auto sigmoid_derivative = [&](double z, double slope) {
    const double s = 1 / (1 + std::exp(-z)), rest = 1 / (1 + std::exp(z));
    return s + x * s * rest * slope;
  };
  // GELU's 0.5 (1 + tanh(u)) is sigmoid(2 u).
  const double scale = 2 * std::sqrt(2 / M_PI);
  switch (kind) {
    case Activation::kNone:
      return 1;
    case Activation::kReLU:
      return x > 0;
    case Activation::kReLU6:
      return x > 0 && x < 6;
    case Activation::kSiLU:
      return sigmoid_derivative(x, 1);
    case Activation::kGELU:
      return 0.5 * std::erfc(-x * M_SQRT1_2) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
    case Activation::kGELUTanh:
      return sigmoid_derivative(scale * (x + 0.044715 * x * x * x),
                                scale * (1 + 3 * 0.044715 * x * x));
    case Activation::kHardswish:
      break;
  }
  return x <= -3 ? 0 : x < 3 ? x / 3 + 0.5 : 1;
}

// Results and the sums of their terms' magnitudes, which rounding errors are proportional to; dense
// and contiguous.
struct Sums {
  std::vector<double> value, magnitude;
  explicit Sums(int64_t size) : value(size_t(size)), magnitude(size_t(size)) {}
  void add(int64_t i, double term) {
    value[size_t(i)] += term;
    magnitude[size_t(i)] += std::fabs(term);
  }
};

struct Reference {
  Sums output, grad_input, grad_weight, grad_bias;

  template <typename T>
  Reference(const DepthwiseConv2dProblem& p, const View<T>& x, const T* weight, const T* bias,
            const View<T>& dy)
      : output(p.output_numel()),
        grad_input(p.input_numel()),
        grad_weight(p.out_channels * p.taps()),
        grad_bias(p.out_channels) {
    int64_t out = 0;
    dy.each([&](int64_t n, int64_t c, int64_t oy, int64_t ox) {
      const double grad = widen(dy.at(n, c, oy, ox));
      grad_bias.add(c, grad);
      if (bias) output.add(out, widen(bias[c]));
      for (int64_t tap = 0; tap < p.taps(); ++tap) {
        const int64_t y = oy * p.stride_h - p.pad_top + tap / p.kernel_w * p.dilation_h;
        const int64_t z = ox * p.stride_w - p.pad_left + tap % p.kernel_w * p.dilation_w;
        if (y < 0 || y >= p.height || z < 0 || z >= p.width) continue;
        const int64_t from = c / p.multiplier(), w = c * p.taps() + tap;
        const double value = widen(x.at(n, from, y, z)), factor = widen(weight[w]);
        output.add(out, value * factor);
        grad_input.add(((n * p.in_channels + from) * p.height + y) * p.width + z, grad * factor);
        grad_weight.add(w, grad * value);
      }
      ++out;
    });
  }
};

}  // namespace effkern::runner
