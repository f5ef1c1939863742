// The CPU kernels of one instruction set, from its macros; see csrc/common/simd.h.
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#include "common/simd.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu.h"

namespace effkern {
namespace EFFKERN_ISA {

EFFKERN_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
EFFKERN_INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace EFFKERN_ISA
}  // namespace effkern

#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu_pixels.h"
// After the pixels.
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cpu_planes.h"

namespace effkern {
namespace EFFKERN_ISA {

template <class A>
A* zero_partial(const LayerNormTask& t, int64_t unit) {
  A* sums = static_cast<A*>(t.partial) + unit * 2 * t.channels;
  for (int64_t c = 0; c < 2 * t.channels; ++c) sums[c] = A(0);
  return sums;
}

// `count` pixels of image n from `pixel` on, whose convolution is x.
template <class T>
void finish_pixels(const LayerNormTask& t, int64_t n, int64_t pixel, int64_t count, int64_t unit,
                   const Acc<T>* x) {
  using A = Acc<T>;
  const PixelArgs<T> args{t.channels, static_cast<const A*>(t.weight),
                          static_cast<const A*>(t.bias), static_cast<A>(t.eps)};
  const int64_t first = n * t.pixels + pixel;
  T* out = static_cast<T*>(t.output) + first * t.channels;
  A *mean = static_cast<A*>(t.mean) + first, *rstd = static_cast<A*>(t.rstd) + first;
  if (!t.grad_output) return normalize_pixels<T>(args, x, out, count, mean, rstd);
  const T* grad = static_cast<const T*>(t.grad_output) + first * t.channels;
  A* sums = zero_partial<A>(t, unit);
  pixel_gradients<T>(args, x, grad, out, count, mean, rstd, sums, sums + t.channels);
}

inline int64_t unit_of(const LayerNormTask& t, int64_t n, int64_t row) {
  const int64_t rows = t.plan.convolution.block_rows;
  return n * ((t.plan.problem.out_height() + rows - 1) / rows) + row / rows;
}

// One pass: the convolution is in the output.
template <class T>
void finish_block(const void* context, int64_t n, int64_t row, int64_t rows, void*) {
  const auto& t = *static_cast<const LayerNormTask*>(context);
  const int64_t width = t.plan.problem.out_width(), first = n * t.pixels + row * width;
  finish_pixels<T>(t, n, row * width, rows * width, unit_of(t, n, row),
                   static_cast<const T*>(t.output) + first * t.channels);
}

// One pass over 16-bit tensors: the rows that the block reads and those that it writes are in the
// scratch memory.
template <class T>
float* output_rows(const LayerNormTask& t, void* scratch) {
  const DepthwiseConv2dProblem& p = t.plan.problem;
  const int64_t rows = t.plan.convolution.block_rows + p.kernel_h - 1;
  return static_cast<float*>(scratch) + t.plan.scratch_offset + rows * p.width * t.channels;
}

template <class T>
BlockTensors widen_block(const void* context, int64_t n, int64_t row, int64_t rows, void* scratch) {
  const auto& t = *static_cast<const LayerNormTask*>(context);
  const DepthwiseConv2dProblem& p = t.plan.problem;
  const Strides4& s = t.source_strides;
  const int64_t pitch = p.width * t.channels, first = row - p.pad_top;
  const T* image = static_cast<const T*>(t.source) + n * s.n;
  float* widened = static_cast<float*>(scratch) + t.plan.scratch_offset;
  const int64_t end = min64(first + rows + p.kernel_h - 1, p.height);
  for (int64_t y = max64(first, 0); y < end; ++y) {
    float* to = widened + (y - first) * pitch;
    if (s.w == t.channels) {
      widen_row(to, image + y * s.h, pitch);
      continue;
    }
    for (int64_t x = 0; x < p.width; ++x) {
      widen_row(to + x * t.channels, image + y * s.h + x * s.w, t.channels);
    }
  }
  // Where the image would begin.
  return {widened - first * pitch, output_rows<T>(t, scratch) - row * p.out_width() * t.channels};
}

template <class T>
void finish_widened(const void* context, int64_t n, int64_t row, int64_t rows, void* scratch) {
  const auto& t = *static_cast<const LayerNormTask*>(context);
  const int64_t width = t.plan.problem.out_width();
  finish_pixels<T>(t, n, row * width, rows * width, unit_of(t, n, row), output_rows<T>(t, scratch));
}

// Two passes: the convolution is in the output, in A.
template <class A>
void second_pass(const LayerNormTask& t, bool channels_last, int64_t begin, int64_t end) {
  const int64_t size = t.plan.unit_pixels, units = (t.pixels + size - 1) / size;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / units, pixel = unit % units * size;
    const int64_t last = min64(pixel + size, t.pixels), first = n * t.pixels;
    A* x = static_cast<A*>(t.output) + first * t.channels;
    if (channels_last) {
      finish_pixels<A>(t, n, pixel, last - pixel, unit, x + pixel * t.channels);
      continue;
    }
    const PlanesArgs<A> args{t.channels, t.pixels, static_cast<const A*>(t.weight),
                             static_cast<const A*>(t.bias), static_cast<A>(t.eps)};
    A *mean = static_cast<A*>(t.mean) + first, *rstd = static_cast<A*>(t.rstd) + first;
    const A* grad = static_cast<const A*>(t.grad_output);
    A* sums = grad ? zero_partial<A>(t, unit) : nullptr;
    for_each_strip<A>(pixel, last, [&](int64_t i, int64_t count, auto* strip) {
      constexpr int V = sizeof(*strip) / sizeof(Vec<A>);
      if (grad) {
        strip_gradients<A, V>(args, x + i, grad + first * t.channels + i, count, mean + i, rstd + i,
                              sums, sums + t.channels);
      } else {
        normalize_strip<A, V>(args, x + i, count, mean + i, rstd + i);
      }
    });
  }
}

template <class A>
void reduce(const LayerNormTask& t, void* grad_weight, void* grad_bias, int64_t begin,
            int64_t end) {
  for (int64_t c = begin; c < end; ++c) {
    double weight = 0, bias = 0;
    const A* sums = static_cast<const A*>(t.partial) + c;
    for (int64_t unit = 0; unit < t.plan.units; ++unit, sums += 2 * t.channels) {
      weight += sums[0];
      bias += sums[t.channels];
    }
    static_cast<A*>(grad_weight)[c] = static_cast<A>(weight);
    static_cast<A*>(grad_bias)[c] = static_cast<A>(bias);
  }
}

inline const LayerNormKernels& layer_norm_kernels(DType dtype, bool widens) {
  static constexpr LayerNormKernels kDouble{
      {nullptr, nullptr, nullptr}, &second_pass<double>, &reduce<double>};
  static constexpr LayerNormKernels kFloat{
      {nullptr, nullptr, &finish_block<float>}, &second_pass<float>, &reduce<float>};
  static constexpr LayerNormKernels kHalf{
      {nullptr, &widen_block<Half>, &finish_widened<Half>}, nullptr, &reduce<float>};
  static constexpr LayerNormKernels kBFloat16{
      {nullptr, &widen_block<BFloat16>, &finish_widened<BFloat16>}, nullptr, &reduce<float>};
  if (!widens) return dtype == DType::kFloat64 ? kDouble : kFloat;
  return dtype == DType::kFloat16 ? kHalf : kBFloat16;
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
