// Runs the CPU kernels of pointwise and fused_mbconv without torch, on random small problems in
// float32, against float64: the program that sanitizers look at. Every tensor ends where its
// allocation does.
//
//     pointwise_cpu ISA PROBLEMS    ISA: baseline, avx2, avx512
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fused_mbconv/fused_mbconv_cpu.h"
#include "pointwise/pointwise_cpu.h"

// Instruction sets that are not compiled in, because the machine could not run them.
#if defined(EFFKERN_X86) && !defined(WITH_AVX2)
const effkern::PointwiseKernels& effkern::pointwise_kernels_avx2() { std::abort(); }
const effkern::FusedMBConvKernels& effkern::fused_mbconv_kernels_avx2() { std::abort(); }
#endif
#if defined(EFFKERN_X86) && !defined(WITH_AVX512)
const effkern::PointwiseKernels& effkern::pointwise_kernels_avx512() { std::abort(); }
const effkern::FusedMBConvKernels& effkern::fused_mbconv_kernels_avx512() { std::abort(); }
#endif

namespace {

using namespace effkern;

std::mt19937 generator(7);

int64_t draw(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}

// Uninitialised if `empty`; no element behind the last one.
struct Numbers {
  std::unique_ptr<float[]> data;
  explicit Numbers(int64_t size, bool empty = false) : data(new float[static_cast<size_t>(size)]) {
    std::uniform_real_distribution<float> distribution(-1, 1);
    for (int64_t i = 0; i < size && !empty; ++i)
      data[static_cast<size_t>(i)] = distribution(generator);
  }
  float operator[](int64_t i) const { return data[static_cast<size_t>(i)]; }
};

void run_threads(int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::thread other(body, 0, count / 2, context);
  body(count / 2, count, context);
  other.join();
}

bool close(double got, double wanted) {
  return std::fabs(got - wanted) <= 1e-4 * (1 + std::fabs(wanted));
}

PointwiseStrides strides(bool channels_last, int64_t channels, int64_t pixels) {
  const int64_t image = channels * pixels;
  return channels_last ? PointwiseStrides{image, channels, 1} : PointwiseStrides{image, 1, pixels};
}

bool pointwise_is_right(CpuIsa isa) {
  PointwiseTask task{};
  PointwiseProblem& p = task.problem;
  p = {DType::kFloat32, draw(1, 3), draw(1, 130),    draw(1, 40),     draw(1, 70), draw(0, 1) == 1,
       draw(0, 1) == 1, true,       draw(0, 1) == 1, draw(0, 3) == 0, false};
  const PointwiseStrides in = strides(p.input_channels_last, p.in_channels, p.pixels);
  const PointwiseStrides out = strides(p.output_channels_last, p.out_channels, p.pixels);
  const Numbers input(p.images * p.in_channels * p.pixels), weight(p.out_channels * p.in_channels);
  const Numbers scale(p.out_channels), shift(p.out_channels), gate(p.images * p.in_channels);
  const Numbers input_shift(p.in_channels), residual(p.images * p.out_channels * p.pixels);
  const Numbers output(p.images * p.out_channels * p.pixels, true);
  task.input = input.data.get(), task.input_strides = in;
  task.weight = weight.data.get(), task.weight_stride = p.in_channels;
  if (draw(0, 1)) task.scale = scale.data.get();
  if (draw(0, 1)) task.shift = shift.data.get();
  if (p.has_gate) task.gate = gate.data.get();
  if (p.has_prologue) task.input_shift = input_shift.data.get();
  if (p.has_prologue) task.input_activation = Activation::kReLU;
  if (draw(0, 1)) task.residual = residual.data.get();
  task.residual_strides = task.output_strides = out;
  task.output = output.data.get();
  task.activation = Activation::kReLU;
  const int64_t panel = pointwise_kernels(isa).panel;
  const Numbers packed((p.out_channels + panel - 1) / panel * panel * p.in_channels, true);
  if (draw(0, 1)) {
    const PointwiseWeight from{task.weight, task.weight_stride, p.in_channels, p.out_channels};
    const Parallel threads{&run_threads};
    if (!pack_pointwise_cpu(from, p.dtype, isa, packed.data.get(), threads)) return false;
    task.packed = packed.data.get(), p.packed = true;
  }
  if (!pointwise_cpu(task, isa, 2, Parallel{&run_threads})) return false;
  for (int64_t n = 0; n < p.images; ++n) {
    for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
      for (int64_t o = 0; o < p.out_channels; ++o) {
        double sum = 0;
        for (int64_t c = 0; c < p.in_channels; ++c) {
          double x = input[n * in.image + pixel * in.pixel + c * in.channel];
          if (task.gate) x *= gate[n * p.in_channels + c];
          if (task.input_shift) x = std::max(x + input_shift[c], 0.0);
          sum += x * weight[o * p.in_channels + c];
        }
        if (task.scale) sum *= scale[o];
        if (task.shift) sum += shift[o];
        const int64_t at = n * out.image + pixel * out.pixel + o * out.channel;
        const double wanted = std::max(sum, 0.0) + (task.residual ? residual[at] : 0.0f);
        if (!close(output[at], wanted)) return false;
      }
    }
  }
  return true;
}

bool fused_mbconv_is_right(CpuIsa isa) {
  FusedMBConvTask t{};
  t.dtype = DType::kFloat32;
  t.images = draw(1, 2), t.in_channels = draw(1, 20), t.hidden = draw(1, 40);
  t.height = draw(1, 12), t.width = draw(1, 12);
  t.pad_top = draw(1, 2), t.pad_left = draw(1, 2);
  // 3x3 with stride 1, or any.
  const bool any = draw(0, 1) == 1;
  t.kernel_h = any ? draw(1, 5) : 3, t.kernel_w = any ? draw(1, 5) : 3;
  t.stride_h = any ? draw(1, 3) : 1, t.stride_w = any ? draw(1, 3) : 1;
  const int64_t taps = t.kernel_h * t.kernel_w;
  t.out_height = (t.height + t.pad_top - 2) / t.stride_h + 1;
  t.out_width = (t.width + t.pad_left - 2) / t.stride_w + 1;
  const bool projects = draw(0, 1) == 1;
  t.out_channels = projects ? draw(1, 24) : t.hidden;
  const int64_t pixels = t.height * t.width, out_pixels = t.out_height * t.out_width;
  const Numbers input(t.images * pixels * t.in_channels), weight(t.hidden * taps * t.in_channels);
  const Numbers bias(t.hidden), project_weight(t.out_channels * t.hidden);
  const Numbers project_bias(t.out_channels), residual(t.images * out_pixels * t.out_channels);
  const Numbers output(t.images * out_pixels * t.out_channels, true);
  t.input = input.data.get();
  t.input_strides = {pixels * t.in_channels, t.width * t.in_channels, t.in_channels};
  t.weight = weight.data.get();
  t.bias = bias.data.get();
  if (projects) {
    t.project_weight = project_weight.data.get(), t.project_stride = t.hidden;
    t.project_bias = project_bias.data.get();
  }
  if (draw(0, 1)) t.residual = residual.data.get();
  t.output_strides = {out_pixels * t.out_channels, t.out_width * t.out_channels, t.out_channels};
  t.residual_strides = t.output_strides;
  t.output = output.data.get();
  t.activation = Activation::kReLU;
  if (!fused_mbconv_cpu(t, isa, 2, Parallel{&run_threads})) return false;
  std::vector<double> expanded(static_cast<size_t>(t.hidden));
  for (int64_t at = 0; at < t.images * out_pixels; ++at) {
    const int64_t n = at / out_pixels, y = at % out_pixels / t.out_width, x = at % t.out_width;
    for (int64_t e = 0; e < t.hidden; ++e) {
      double sum = bias[e];
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t iy = y * t.stride_h + tap / t.kernel_w - t.pad_top;
        const int64_t ix = x * t.stride_w + tap % t.kernel_w - t.pad_left;
        if (iy < 0 || iy >= t.height || ix < 0 || ix >= t.width) continue;
        for (int64_t c = 0; c < t.in_channels; ++c) {
          sum += double{weight[(e * taps + tap) * t.in_channels + c]} *
                 input[(n * pixels + iy * t.width + ix) * t.in_channels + c];
        }
      }
      expanded[static_cast<size_t>(e)] = std::max(sum, 0.0);
    }
    for (int64_t o = 0; o < t.out_channels; ++o) {
      double sum = projects ? project_bias[o] : expanded[static_cast<size_t>(o)];
      for (int64_t e = 0; projects && e < t.hidden; ++e) {
        sum += expanded[static_cast<size_t>(e)] * project_weight[o * t.hidden + e];
      }
      if (t.residual) sum += residual[at * t.out_channels + o];
      if (!close(output[at * t.out_channels + o], sum)) return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string name = argv[1];
  const CpuIsa isa = name == "avx512" ? CpuIsa::kAvx512
                     : name == "avx2" ? CpuIsa::kAvx2
                                      : CpuIsa::kBaseline;
  const int problems = std::atoi(argv[2]);
  int failures = 0;
  for (int i = 0; i < problems; ++i) {
    if (!(i % 2 ? fused_mbconv_is_right(isa) : pointwise_is_right(isa))) {
      std::printf("problem %d is wrong\n", i);
      ++failures;
    }
  }
  std::printf("%d problems, %d failures\n", problems, failures);
  return failures ? 1 : 0;
}
