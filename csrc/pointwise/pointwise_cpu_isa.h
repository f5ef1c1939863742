// The CPU kernels of one instruction set, from its macros; see csrc/common/simd.h.
// A matrix product in register tiles: of a block of pixels and a panel of weights, which are packed
// in the order in which the tile reads them. Everything that follows the product is done while the
// tile is in registers, in float32, and rounded once.
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#include "common/simd.h"
#include "common/simd_math.h"
#include "pointwise/pointwise_cpu.h"
#include "pointwise/pointwise_cpu_pack.h"

namespace effkern {
namespace EFFKERN_ISA {

// Pixels of a tile of two vectors of channels, which with the operands of a step fills the
// registers, and of a tile of one, which has as many chains as two units of four cycles need.
constexpr int kTilePixels = EFFKERN_VECTOR == 64 ? 12 : 6;
constexpr int kNarrowTilePixels = EFFKERN_VECTOR == 64 ? 16 : 8;

template <class Pointer>
struct PlainOf;
template <class T>
struct PlainOf<T*> {
  using type = T;
};
template <class Pointer>
using Plain = typename PlainOf<Pointer>::type;

// What is done to the input on its way into the product.
template <class T>
struct Prologue {
  const T *gate, *shift;
  Activation activation;

  // Channels [k, k + n).
  template <class Activate>
  EFFKERN_INLINE Vec<float> apply(Vec<float> v, int64_t k, int64_t n,
                                  const Activate& activate) const {
    if (gate) v *= load_upto(gate + k, n);
    if (shift) v += load_upto(shift + k, n);
    return activate(v);
  }
};

// `count` pixels as rows of in_channels float32.
template <class T>
void copy_pixels(const T* input, const PointwiseStrides& s, int64_t count, int64_t channels,
                 const Prologue<T>& before, float* rows) {
  with_activation<float>(before.activation, [&](auto activate) __attribute__((always_inline)) {
    if (s.channel == 1) {
      for (int64_t p = 0; p < count; ++p, input += s.pixel, rows += channels) {
        for (int64_t k = 0; k < channels; k += kLane) {
          const int64_t n = min64(kLane, channels - k);
          store_upto(rows + k, before.apply(load_upto(input + k, n), k, n, activate), n);
        }
      }
      return;
    }
    for (int64_t k = 0; k < channels; k += kLane) {
      const int64_t n = min64(kLane, channels - k);
      for (int64_t p = 0; p < count; p += kLane) {
        const int64_t m = min64(kLane, count - p);
        Vec<float> block[kLane];
        for (int i = 0; i < kLane; ++i) {
          block[i] = i < n ? load_upto(input + (k + i) * s.channel + p, m) : Vec<float>{};
        }
        transpose(block);
        for (int64_t i = 0; i < m; ++i) {
          float* row = rows + (p + i) * channels;
          store_upto(row + k, before.apply(block[i], k, n, activate), n);
        }
      }
    }
  });
}

// What follows the product, for the channels of a panel; the residual has the type of what is
// stored.
template <class Out>
struct Epilogue {
  // kPanel numbers, or null.
  const float *scale, *shift;
  const Out* residual;
  int64_t residual_stride;
  Out* output;
  int64_t output_stride, channels;
  Activation activation;
};

// Products that are added up one after the other: rounding errors grow with the length of a chain.
constexpr int64_t kProductChain = 384;

// A tile of a product: rows of pixels, a packed panel, and where the sums go, each pixel's V
// vectors after those of the one before.
struct Product {
  const float* rows;
  int64_t pitch;
  const float* panel;
  int64_t channels;
  // What the sums begin with, V vectors, or null for zeros.
  const float* start;
  float* sums;
};

// The sums over channels [k, end), in ascending order, of M pixels and V vectors of channels; added
// to what is there if k is not 0.
template <int M, int V>
EFFKERN_INLINE void multiply_chain(const Product& p, int64_t k, int64_t end) {
  const float* row[M];
  Vec<float> tile[M][V] = {};
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m) {
    row[m] = p.rows + m * p.pitch;
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      if (k == 0 && p.start) tile[m][v] = load(p.start + v * kLane);
    }
  }
  const bool adds = k > 0;
  for (; k < end; ++k) {
    Vec<float> weights[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) weights[v] = load(p.panel + (k * V + v) * kLane);
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m) {
      const Vec<float> x = splat(row[m][k]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) tile[m][v] += x * weights[v];
    }
  }
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      float* sum = p.sums + (m * V + v) * kLane;
      store(sum, adds ? load(sum) + tile[m][v] : tile[m][v]);
    }
  }
}

template <int M, int V>
void multiply_tile(const Product& p) {
  multiply_chain<M, V>(p, 0, min64(p.channels, kProductChain));
  for (int64_t k = kProductChain; k < p.channels; k += kProductChain) {
    multiply_chain<M, V>(p, k, min64(p.channels, k + kProductChain));
  }
}

// `pixels` of them, at most M.
template <int M, int V>
EFFKERN_INLINE void multiply(const Product& p, int64_t pixels) {
  if (pixels == M) return multiply_tile<M, V>(p);
  if constexpr (M > 1) multiply<M - 1, V>(p, pixels);
}

// Everything after the product, of `pixels` pixels from `pixel` on.
template <int V, class Out>
void finish_tile(const float* sums, const Epilogue<Out>& e, int64_t pixel, int64_t pixels) {
  Vec<float> scale[V], shift[V];
  for (int v = 0; v < V; ++v) {
    scale[v] = e.scale ? load(e.scale + v * kLane) : splat(1.0f);
    shift[v] = e.scale && e.shift ? load(e.shift + v * kLane) : Vec<float>{};
  }
  with_activation<float>(e.activation, [&](auto activate) __attribute__((always_inline)) {
    Out* out = e.output + pixel * e.output_stride;
    const Out* added = e.residual ? e.residual + pixel * e.residual_stride : nullptr;
    for (int64_t m = 0; m < pixels; ++m, out += e.output_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v, sums += kLane) {
        // Of a last panel, a vector of channels may have none.
        const int64_t at = v * kLane, left = e.channels - at;
        const int64_t n = left < 0 ? 0 : left;
        Vec<float> x = load(sums);
        if (e.scale) x = x * scale[v] + shift[v];
        x = activate(x);
        if (added) x += load_upto(added + at, n);
        store_upto(out + at, x, n);
      }
      if (added) added += e.residual_stride;
    }
  });
}

// Calls body(first, count) for `pixels` in as few tiles of at most M as there can be, of nearly the
// same size.
template <int M, class Body>
EFFKERN_INLINE void for_each_tile(int64_t pixels, const Body& body) {
  const int64_t tiles = (pixels + M - 1) / M;
  int64_t first = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t count = pixels / tiles + (tile < pixels % tiles);
    body(first, count);
    first += count;
  }
}

template <int M, int V, class Out>
void pointwise_block(const float* rows, int64_t pitch, const float* panel, int64_t channels,
                     const Epilogue<Out>& e, int64_t pixels) {
  alignas(64) float sums[M * V * kLane];
  const float* start = e.scale ? nullptr : e.shift;
  for_each_tile<M>(pixels, [&](int64_t first, int64_t count) __attribute__((always_inline)) {
    multiply<M, V>({rows + first * pitch, pitch, panel, channels, start, sums}, count);
    finish_tile<V, Out>(sums, e, first, count);
  });
}

// [pixels][kPanel] to planes, and the residual.
template <class T>
void store_planes(const float* rows, int64_t pixels, int64_t channels, const T* residual,
                  int64_t residual_stride, T* output, int64_t stride) {
  for (int64_t c = 0; c < channels; c += kLane) {
    const int64_t n = min64(kLane, channels - c);
    for (int64_t p = 0; p < pixels; p += kLane) {
      const int64_t m = min64(kLane, pixels - p);
      Vec<float> block[kLane];
      for (int i = 0; i < kLane; ++i) {
        block[i] = i < m ? load(rows + (p + i) * kPanel + c) : Vec<float>{};
      }
      transpose(block);
      for (int64_t i = 0; i < n; ++i) {
        if (residual) block[i] += load_upto(residual + (c + i) * residual_stride + p, m);
        store_upto(output + (c + i) * stride + p, block[i], m);
      }
    }
  }
}

inline int64_t pointwise_scratch(const PointwiseTask& t) {
  int64_t size = kPanel * t.problem.in_channels;
  if (t.plan.copies_input) size += t.plan.block_pixels * t.problem.in_channels + kLane;
  if (!t.problem.output_channels_last) size += t.plan.block_pixels * kPanel;
  return size;
}

// The numbers of a panel, from channel `o` on, as float32; null if there are none.
template <class T>
const float* widen_panel(const T* values, int64_t o, int64_t count, float (&out)[kPanel]) {
  if (!values) return nullptr;
  for (int64_t i = 0; i < kPanel; ++i) out[i] = i < count ? to_acc(values[o + i]) : 0.0f;
  return out;
}

// A pixel times the weights of a panel as they are: kLane output channels at a time, each in a
// vector of sums over every kLane-th channel.
template <class T, int V>
void dot_panel(const T* weight, int64_t stride, const T* gate, const float* row, const Product& p,
               int64_t rows) {
  for (int v = 0; v < V; ++v) {
    Vec<float> sums[kLane] = {};
    // The last row stands for those that do not exist.
    const T* weights[kLane];
    for (int i = 0; i < kLane; ++i) weights[i] = weight + min64(v * kLane + i, rows - 1) * stride;
    const auto add = [&](int64_t k, auto load_lanes) __attribute__((always_inline)) {
      Vec<float> x = load_lanes(row + k);
      if (gate) x *= load_lanes(gate + k);
#pragma GCC unroll 16
      for (int i = 0; i < kLane; ++i) sums[i] += x * load_lanes(weights[i] + k);
    };
    int64_t k = 0;
    for (; k + kLane <= p.channels; k += kLane) {
      add(k, [](const auto* from) __attribute__((always_inline)) { return load(from); });
    }
    if (const int64_t n = p.channels - k) {
      add(k, [n](const auto* from) __attribute__((always_inline)) { return load_upto(from, n); });
    }
    transpose(sums);
    Vec<float> total = p.start ? load(p.start + v * kLane) : Vec<float>{};
    for (int i = 0; i < kLane; ++i) total += sums[i];
    store(p.sums + v * kLane, total);
  }
}

// Pixels of an image that packing a panel is not worth: it takes as long as about 6 of them.
constexpr int64_t kDotPixels = 4;

EFFKERN_INLINE const float* as_floats(const float* numbers) { return numbers; }
template <class T>
EFFKERN_INLINE const float* as_floats(const T*) {
  return nullptr;
}

// A panel of weights, from their first row on, or packed.
template <class T>
struct Panel {
  const T *weight, *packed, *gate;
};

// A panel, packed if it is not yet, and multiplied with the block.
template <class T, int M, int V, class Out>
void pointwise_panel(const PointwiseTask& t, const Panel<T>& from, const float* rows, int64_t pitch,
                     int64_t pixels, const Epilogue<Out>& e, float* panel) {
  const int64_t channels = t.problem.in_channels, stride = t.weight_stride;
  if (const float* ready = from.gate ? nullptr : as_floats(from.packed)) {
    return pointwise_block<M, V>(rows, pitch, ready, channels, e, pixels);
  }
  if (from.packed) {
    unpack_panel<T, V>(from.packed, channels, from.gate, panel);
    return pointwise_block<M, V>(rows, pitch, panel, channels, e, pixels);
  }
  // Not those of the block, which depend on the threads: the two add up in different orders.
  if (t.problem.pixels > kDotPixels) {
    pack_panel<T, V>(from.weight, stride, e.channels, channels, from.gate, panel);
    return pointwise_block<M, V>(rows, pitch, panel, channels, e, pixels);
  }
  alignas(64) float sums[V * kLane];
  const Product product{rows, pitch, panel, channels, e.scale ? nullptr : e.shift, sums};
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    dot_panel<T, V>(from.weight, stride, from.gate, rows + pixel * pitch, product, e.channels);
    finish_tile<V>(sums, e, pixel, 1);
  }
}

template <class T, class Out>
void pointwise_panel(const PointwiseTask& t, const Panel<T>& from, const float* rows, int64_t pitch,
                     int64_t pixels, const Epilogue<Out>& e, float* panel) {
  if (e.channels <= kLane) {
    pointwise_panel<T, kNarrowTilePixels, 1>(t, from, rows, pitch, pixels, e, panel);
  } else {
    pointwise_panel<T, kTilePixels, 2>(t, from, rows, pitch, pixels, e, panel);
  }
}

template <class T>
void pointwise_units(const PointwiseTask& t, int64_t begin, int64_t end, float* scratch) {
  const PointwiseProblem& p = t.problem;
  const int64_t channels = p.in_channels, block = t.plan.block_pixels;
  const int64_t blocks = (p.pixels + block - 1) / block;
  const int64_t panels = (p.out_channels + kPanel - 1) / kPanel;
  float *panel = scratch, *planes = panel + kPanel * channels, *copy = planes;
  if (!p.output_channels_last) copy += block * kPanel;
  const float* rows = copy;
  int64_t pitch = channels, previous = -1;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t at = unit / panels, image = at / blocks, first = at % blocks * block;
    const int64_t pixels = min64(block, p.pixels - first), o = unit % panels * kPanel;
    const int64_t count = min64(kPanel, p.out_channels - o);
    const T* gate = t.gate ? static_cast<const T*>(t.gate) + image * channels : nullptr;
    const PointwiseStrides &si = t.input_strides, &so = t.output_strides, &sr = t.residual_strides;
    const T* input = static_cast<const T*>(t.input) + image * si.image + first * si.pixel;
    if (!t.plan.copies_input) {
      rows = reinterpret_cast<const float*>(input);
      pitch = si.pixel;
    } else if (at != previous) {
      const Prologue<T> before{t.plan.gates_weight ? nullptr : gate,
                               static_cast<const T*>(t.input_shift), t.input_activation};
      copy_pixels(input, si, pixels, channels, before, copy);
    }
    previous = at;
    const T *weight = static_cast<const T*>(t.weight), *packed = static_cast<const T*>(t.packed);
    const Panel<T> from{weight ? weight + o * t.weight_stride : nullptr,
                        packed ? packed + o * channels : nullptr,
                        t.plan.gates_weight ? gate : nullptr};
    float scales[kPanel], shifts[kPanel];
    const float* scale = widen_panel(static_cast<const T*>(t.scale), o, count, scales);
    const float* shift = widen_panel(static_cast<const T*>(t.shift), o, count, shifts);
    T* output = static_cast<T*>(t.output) + image * so.image + first * so.pixel + o * so.channel;
    const T* residual = static_cast<const T*>(t.residual);
    if (residual) residual += image * sr.image + first * sr.pixel + o * sr.channel;
    if (p.output_channels_last) {
      const Epilogue<T> e{scale, shift, residual, sr.pixel, output, so.pixel, count, t.activation};
      pointwise_panel(t, from, rows, pitch, pixels, e, panel);
    } else {
      const Epilogue<float> e{scale, shift, nullptr, 0, planes, kPanel, count, t.activation};
      pointwise_panel(t, from, rows, pitch, pixels, e, panel);
      store_planes(planes, pixels, count, residual, sr.channel, output, so.channel);
    }
  }
}

// Calls function(T*) for the type of the elements.
template <class Function>
EFFKERN_INLINE void with_type(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kFloat16:
      return function(static_cast<Half*>(nullptr));
    case DType::kBFloat16:
      return function(static_cast<BFloat16*>(nullptr));
    default:
      return function(static_cast<float*>(nullptr));
  }
}

inline void pointwise(const PointwiseTask& task, int64_t begin, int64_t end, float* scratch) {
  with_type(task.problem.dtype,
            [&](auto* type) { pointwise_units<Plain<decltype(type)>>(task, begin, end, scratch); });
}

inline void pack(const PointwiseWeight& weight, DType dtype, int64_t begin, int64_t end,
                 void* packed, float* scratch) {
  with_type(dtype, [&](auto* type) {
    pack_panels(weight, begin, end, static_cast<decltype(type)>(packed), scratch);
  });
}

inline void round_means(const float* from, float factor, void* to, DType dtype, int64_t count) {
  with_type(dtype, [&](auto* type) {
    auto* out = static_cast<decltype(type)>(to);
    for (int64_t i = 0; i < count; i += kLane) {
      const int64_t n = min64(kLane, count - i);
      store_upto(out + i, load_upto(from + i, n) * factor, n);
    }
  });
}

inline void gate(void* values, DType dtype, int64_t rows, int64_t channels, bool hard,
                 const void* scale) {
  const Vec<float> zero{}, one = splat(1.0f);
  with_type(dtype, [&](auto* type) {
    auto* gates = static_cast<decltype(type)>(values);
    const auto* factor = static_cast<decltype(type)>(const_cast<void*>(scale));
    for (int64_t row = 0; row < rows; ++row, gates += channels) {
      for (int64_t c = 0; c < channels; c += kLane) {
        const int64_t n = min64(kLane, channels - c);
        Vec<float> v = load_upto(gates + c, n);
        v = hard ? clamp<float>((v + 3.0f) / 6.0f, zero, one) : vsigmoid<float>(v);
        if (factor) v *= load_upto(factor + c, n);
        store_upto(gates + c, v, n);
      }
    }
  });
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
