// The forward with hooks on the emulator and in float64, for the runner.
#pragma once

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "emulation/runners/depthwise_conv2d_reference.h"

namespace effkern::runner {

// One call: a scale that no type rounds, in float32 a shift, ReLU of the input, and sums of the
// channels or of the planes.
template <typename T>
struct FusedRun {
  DepthwiseConv2dProblem p;
  View<T> y;
  View<float> sum, squares;
  bool served = false;
  int error = 0;
  Sums wanted{0}, wanted_sum{0}, wanted_squares{0};

  FusedRun(const DepthwiseConv2dProblem& problem, const View<T>& x, const View<T>& weight,
           const View<T>& bias, Memory output, unsigned seed)
      : p(problem),
        y(output, p.batch, p.out_channels, p.out_height(), p.out_width()),
        sum(Memory::kContiguous, 1, 1, seed % 2 ? p.batch : 1, p.out_channels),
        squares(Memory::kContiguous, 1, 1, 1, p.out_channels) {
    p.has_prologue = true;
    p.input_activation = Activation::kReLU;
    p.sums = seed % 2 ? effkern::Sums::kSpatial : effkern::Sums::kChannel;
    const int64_t bytes =
        depthwise_conv2d_fused_workspace_cuda(p, x.data, x.strides, y.data, y.strides);
    if (bytes < 0 || p.output_numel() == 0) return;
    served = true;
    View<float> scale(Memory::kContiguous, 1, 1, 1, p.in_channels);
    scale.each([&](auto... at) { scale.at(at...) = scale.index(at...) % 3 ? 2.f : -0.5f; });
    // A 16-bit type would round its sum with a shift, and of the direct kernels one layout only
    // does.
    const bool has_shift = p.dtype == DType::kFloat32 || has_toeplitz_cuda_kernel(p);
    View<float> shift(Memory::kContiguous, 1, 1, 1, p.in_channels);
    shift.each([&](auto... at) { shift.at(at...) = has_shift ? 1.3f : 0.f; });
    View<T> source(Memory::kContiguous, p.batch, p.in_channels, p.height, p.width);
    source.each([&](int64_t n, int64_t c, int64_t i, int64_t j) {
      // In float32, so that 16-bit types are rounded as in the kernels.
      const float value = float(widen(x.at(n, c, i, j)));
      const float scaled = std::fma(scale.at(0, 0, 0, c), value, shift.at(0, 0, 0, c));
      source.at(n, c, i, j) = narrow<T>(std::fmax(scaled, 0.f));
    });
    const T* offsets = p.has_bias ? bias.data : nullptr;
    const emulation::GuardedMemory workspace{size_t(bytes)};
    const emulation::DeclaredBuffers declared(
        {x.buffer("input", false),
         weight.buffer("weight", false),
         bias.buffer("bias", false),
         scale.buffer("scale", false),
         shift.buffer("shift", false),
         y.buffer("output", true),
         sum.buffer("sum", true),
         squares.buffer("sum_of_squares", true),
         {workspace.data(), workspace.size(), "workspace", true}});
    CudaHooks hooks;
    hooks.scale = scale.data, hooks.shift = has_shift ? shift.data : nullptr;
    hooks.sum = sum.data, hooks.sum_of_squares = squares.data, hooks.workspace = workspace.data();
    error = depthwise_conv2d_fused_cuda(p, x.data, x.strides, weight.data, offsets, hooks, y.data,
                                        y.strides, nullptr);
    expect(source, weight, offsets);
  }

  // The sums are those of the stored output.
  std::vector<std::pair<const View<float>*, const Sums*>> sums() const {
    if (p.sums == effkern::Sums::kSpatial) return {{&sum, &wanted_sum}};
    return {{&sum, &wanted_sum}, {&squares, &wanted_squares}};
  }

 private:
  void expect(const View<T>& source, const View<T>& weight, const T* offsets) {
    const Reference reference(p, source, weight.data, offsets, y);
    wanted = reference.output;
    for (double& value : wanted.value) value = activate(p.activation, value);
    const bool spatial = p.sums == effkern::Sums::kSpatial;
    for (Sums* all : {&wanted_sum, &wanted_squares}) {
      all->value.assign(size_t((spatial ? p.batch : 1) * p.out_channels), 0);
      all->magnitude = all->value;
    }
    y.each([&](int64_t n, int64_t c, int64_t i, int64_t j) {
      const double value = widen(y.at(n, c, i, j));
      const size_t at = size_t((spatial ? n : 0) * p.out_channels + c);
      wanted_sum.value[at] += value, wanted_sum.magnitude[at] += std::fabs(value);
      wanted_squares.value[at] += value * value, wanted_squares.magnitude[at] += value * value;
    });
  }
};

}  // namespace effkern::runner
