// Runs the CPU kernels of depthwise_conv2d without torch, on random small problems, against
// float64: the program that sanitizers look at. Every tensor ends where its allocation does.
//
//     depthwise_conv2d_cpu ISA PROBLEMS [SEED]    ISA: baseline, avx2, avx512
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "depthwise_conv2d/depthwise_conv2d_cpu.h"

// Instruction sets that are not compiled in, because the machine could not run them.
#if defined(EFFKERN_X86) && !defined(WITH_AVX2)
const effkern::CpuKernels& effkern::cpu_kernels_avx2() { std::abort(); }
#endif
#if defined(EFFKERN_X86) && !defined(WITH_AVX512)
const effkern::CpuKernels& effkern::cpu_kernels_avx512() { std::abort(); }
#endif

namespace {

using namespace effkern;

double widen(DType dtype, const void* data, int64_t i) {
  if (dtype == DType::kFloat64) return static_cast<const double*>(data)[i];
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  if (dtype == DType::kFloat16) {
    _Float16 value;
    std::memcpy(&value, &bits, 2);
    return static_cast<double>(value);
  }
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

// Only values that every type holds exactly.
void narrow(DType dtype, double value, void* data, int64_t i) {
  const float single = static_cast<float>(value);
  if (dtype == DType::kFloat64) {
    static_cast<double*>(data)[i] = value;
  } else if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[i] = single;
  } else if (dtype == DType::kFloat16) {
    const _Float16 half = static_cast<_Float16>(single);
    std::memcpy(static_cast<char*>(data) + 2 * i, &half, 2);
  } else {
    std::memcpy(static_cast<char*>(data) + 2 * i, reinterpret_cast<const char*>(&single) + 2, 2);
  }
}

struct Tensor {
  DType dtype;
  int64_t n, c, h, w;
  Strides4 strides;
  std::unique_ptr<char[]> data;

  Tensor(DType dtype, bool channels_last, int64_t n, int64_t c, int64_t h, int64_t w)
      : dtype(dtype), n(n), c(c), h(h), w(w) {
    strides = channels_last ? Strides4{c * h * w, 1, w * c, c} : Strides4{c * h * w, h * w, w, 1};
    data.reset(new char[static_cast<size_t>(n * c * h * w * element_size(dtype))]);
    // Signalling values in what a kernel does not write.
    std::memset(data.get(), 0xff, static_cast<size_t>(n * c * h * w * element_size(dtype)));
  }
  int64_t index(int64_t i, int64_t j, int64_t y, int64_t x) const {
    return i * strides.n + j * strides.c + y * strides.h + x * strides.w;
  }
  double at(int64_t i, int64_t j, int64_t y, int64_t x) const {
    return widen(dtype, data.get(), index(i, j, y, x));
  }
  // Eighths from -1 to 1.
  void fill(std::mt19937& random) {
    for (int64_t i = 0; i < n * c * h * w; ++i) {
      narrow(dtype, static_cast<int>(random() % 17 - 8) / 8.0, data.get(), i);
    }
  }
};

void two_threads(int64_t count, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::thread other([&] { body(count / 2, count, context); });
  body(0, count / 2, context);
  other.join();
}

struct Sum {
  double value = 0, magnitude = 0;
  void add(double term) { value += term, magnitude += std::fabs(term); }
};

int failures = 0;

void check(const char* pass, const std::string& problem, DType dtype, double got, const Sum& sum) {
  const double unit = dtype == DType::kFloat64   ? 1e-15
                      : dtype == DType::kFloat32 ? 1e-6
                      : dtype == DType::kFloat16 ? 1e-3
                                                 : 8e-3;
  if (std::fabs(got - sum.value) <= unit * std::fabs(sum.value) + 1e-6 * sum.magnitude + 1e-7)
    return;
  ++failures;
  std::printf("FAILED %s of %s: wanted %g, got %g\n", pass, problem.c_str(), sum.value, got);
}

// The forward with a prologue and sums.
void run_hooks(DepthwiseConv2dProblem p, CpuIsa isa, std::mt19937& random, const std::string& name,
               const Tensor& x, const Tensor& w, const Tensor& bias) {
  p.pass = Pass::kForward;
  p.has_bias = true;
  p.has_prologue = random() % 2;
  // Exact, unlike the others.
  if (p.has_prologue && random() % 2) p.input_activation = Activation::kReLU;
  p.sums = static_cast<Sums>(random() % kNumSums);
  const DType wide = p.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const bool channels_last = p.layout == Layout::kChannelsLast;
  const bool spatial = p.sums == Sums::kSpatial;
  Tensor y(p.dtype, channels_last, p.batch, p.out_channels, p.out_height(), p.out_width());
  Tensor scale(wide, false, 1, p.in_channels, 1, 1), shift(wide, false, 1, p.in_channels, 1, 1);
  Tensor sum(wide, false, spatial ? p.batch : 1, p.out_channels, 1, 1);
  Tensor squares(wide, false, 1, p.out_channels, 1, 1);
  scale.fill(random);
  shift.fill(random);
  StencilTensors tensors{};
  tensors.source = x.data.get(), tensors.source_strides = x.strides;
  tensors.weight = w.data.get(), tensors.weight_strides = w.strides;
  tensors.bias = bias.data.get(), tensors.bias_stride = 1;
  tensors.output = y.data.get(), tensors.output_strides = y.strides;
  StencilHooks hooks;
  if (p.has_prologue) {
    hooks.scale = scale.data.get(), hooks.scale_stride = 1;
    hooks.shift = shift.data.get(), hooks.shift_stride = 1;
  }
  hooks.sum = sum.data.get();
  hooks.sum_of_squares = squares.data.get();
  if (!stencil_cpu(p, plan_depthwise_conv2d(p, Backend::kCpu, isa), tensors, Parallel{two_threads},
                   hooks)) {
    ++failures;
    std::printf("FAILED for want of memory: %s\n", name.c_str());
    return;
  }
  for (int64_t c = 0; c < p.out_channels; ++c) {
    const int64_t from = c / p.multiplier();
    Sum total, total_of_squares;
    for (int64_t n = 0; n < p.batch; ++n) {
      if (spatial) total = Sum();
      for (int64_t oy = 0; oy < p.out_height(); ++oy) {
        for (int64_t ox = 0; ox < p.out_width(); ++ox) {
          Sum wanted;
          wanted.add(bias.at(0, c, 0, 0));
          for (int64_t tap = 0; tap < p.taps(); ++tap) {
            const int64_t row = oy * p.stride_h - p.pad_top + tap / p.kernel_w * p.dilation_h;
            const int64_t col = ox * p.stride_w - p.pad_left + tap % p.kernel_w * p.dilation_w;
            if (row < 0 || row >= p.height || col < 0 || col >= p.width) continue;
            double value = x.at(n, from, row, col);
            if (p.has_prologue) value = value * scale.at(0, from, 0, 0) + shift.at(0, from, 0, 0);
            if (p.input_activation == Activation::kReLU) value = std::fmax(value, 0.0);
            wanted.add(value * w.at(c, 0, tap / p.kernel_w, tap % p.kernel_w));
          }
          const double got = y.at(n, c, oy, ox);
          check("hooked forward", name, p.dtype, got, wanted);
          total.add(got);
          total_of_squares.add(got * got);
        }
      }
      if (spatial) check("spatial sum", name, wide, sum.at(n, c, 0, 0), total);
    }
    if (p.sums != Sums::kChannel) continue;
    check("channel sum", name, wide, sum.at(0, c, 0, 0), total);
    check("sum of squares", name, wide, squares.at(0, c, 0, 0), total_of_squares);
  }
}

void run(CpuIsa isa, std::mt19937& random) {
  const auto pick = [&](std::initializer_list<int64_t> from) {
    return *(from.begin() + static_cast<int64_t>(random() % from.size()));
  };
  DepthwiseConv2dProblem p;
  p.dtype = static_cast<DType>(pick({0, 1, 1, 2, 3}));
  const bool channels_last = random() % 2;
  p.layout = channels_last ? Layout::kChannelsLast : Layout::kContiguous;
  p.batch = pick({1, 1, 2, 3});
  p.in_channels = pick({1, 3, 8, 9, 16, 17, 35});
  p.out_channels = p.in_channels * pick({1, 1, 1, 2});
  p.height = pick({1, 2, 5, 7, 8, 14, 19});
  p.width = pick({1, 3, 7, 8, 13, 16, 19, 33, 150});
  p.kernel_h = p.kernel_w = pick({1, 2, 3, 3, 5, 5, 7, 9});
  if (random() % 6 == 0) p.kernel_w = pick({1, 3, 11});
  p.stride_h = p.stride_w = pick({1, 1, 2, 3});
  p.dilation_h = p.dilation_w = pick({1, 1, 1, 2});
  p.pad_top = p.pad_left = static_cast<int64_t>(random()) % (p.kernel_h + 1);
  p.pad_bottom = p.pad_right = static_cast<int64_t>(random()) % (p.kernel_w + 1);
  if (p.height + p.pad_top + p.pad_bottom <= p.dilation_h * (p.kernel_h - 1) ||
      p.width + p.pad_left + p.pad_right <= p.dilation_w * (p.kernel_w - 1)) {
    return;
  }
  const int64_t out_h = p.out_height(), out_w = p.out_width(), taps = p.taps();
  const std::string name =
      std::to_string(p.batch) + "x" + std::to_string(p.in_channels) + "x" +
      std::to_string(p.height) + "x" + std::to_string(p.width) + " to " +
      std::to_string(p.out_channels) + " channels, kernel " + std::to_string(p.kernel_h) + "x" +
      std::to_string(p.kernel_w) + ", stride " + std::to_string(p.stride_h) + ", padding " +
      std::to_string(p.pad_top) + " " + std::to_string(p.pad_bottom) + ", dilation " +
      std::to_string(p.dilation_h) + ", dtype " + std::to_string(static_cast<int>(p.dtype)) +
      (channels_last ? ", channels_last" : ", contiguous");
  Tensor x(p.dtype, channels_last, p.batch, p.in_channels, p.height, p.width);
  Tensor dy(p.dtype, channels_last, p.batch, p.out_channels, out_h, out_w);
  Tensor w(p.dtype, false, p.out_channels, 1, p.kernel_h, p.kernel_w);
  Tensor bias(p.dtype, false, 1, p.out_channels, 1, 1);
  for (Tensor* tensor : {&x, &dy, &w, &bias}) tensor->fill(random);
  Tensor y(p.dtype, channels_last, p.batch, p.out_channels, out_h, out_w);
  Tensor dx(p.dtype, channels_last, p.batch, p.in_channels, p.height, p.width);
  Tensor dw(p.dtype, false, p.out_channels, 1, p.kernel_h, p.kernel_w);
  Tensor db(p.dtype, false, 1, p.out_channels, 1, 1);

  const Parallel parallel{two_threads};
  p.pass = Pass::kForward;
  p.has_bias = true;
  StencilTensors tensors{};
  tensors.source = x.data.get(), tensors.source_strides = x.strides;
  tensors.weight = w.data.get(), tensors.weight_strides = w.strides;
  tensors.bias = bias.data.get(), tensors.bias_stride = 1;
  tensors.output = y.data.get(), tensors.output_strides = y.strides;
  // Half of the problems as if they exceeded the caches.
  StencilHooks hooks;
  hooks.cached_bytes = random() % 2;
  bool done =
      stencil_cpu(p, plan_depthwise_conv2d(p, Backend::kCpu, isa), tensors, parallel, hooks);
  p.pass = Pass::kGradInput;
  p.has_bias = false;
  tensors.source = dy.data.get(), tensors.source_strides = dy.strides;
  tensors.bias = nullptr;
  tensors.output = dx.data.get(), tensors.output_strides = dx.strides;
  done &= stencil_cpu(p, plan_depthwise_conv2d(p, Backend::kCpu, isa), tensors, parallel, hooks);
  p.pass = Pass::kGradWeight;
  const WeightGradTensors gradients{x.data.get(), x.strides,     dy.data.get(),
                                    dy.strides,   dw.data.get(), db.data.get()};
  done &= weight_grad_cpu(p, plan_depthwise_conv2d(p, Backend::kCpu, isa), gradients, parallel);
  if (!done) {
    ++failures;
    std::printf("FAILED for want of memory: %s\n", name.c_str());
    return;
  }

  std::vector<Sum> want_dx(static_cast<size_t>(p.input_numel()));
  std::vector<Sum> want_dw(static_cast<size_t>(p.out_channels * taps));
  std::vector<Sum> want_db(static_cast<size_t>(p.out_channels));
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t c = 0; c < p.out_channels; ++c) {
      const int64_t from = c / p.multiplier();
      for (int64_t oy = 0; oy < out_h; ++oy) {
        for (int64_t ox = 0; ox < out_w; ++ox) {
          Sum sum;
          sum.add(bias.at(0, c, 0, 0));
          const double grad = dy.at(n, c, oy, ox);
          want_db[static_cast<size_t>(c)].add(grad);
          for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t row = oy * p.stride_h - p.pad_top + tap / p.kernel_w * p.dilation_h;
            const int64_t col = ox * p.stride_w - p.pad_left + tap % p.kernel_w * p.dilation_w;
            if (row < 0 || row >= p.height || col < 0 || col >= p.width) continue;
            const double factor = w.at(c, 0, tap / p.kernel_w, tap % p.kernel_w);
            sum.add(x.at(n, from, row, col) * factor);
            want_dw[static_cast<size_t>(c * taps + tap)].add(grad * x.at(n, from, row, col));
            want_dx[static_cast<size_t>(((n * p.in_channels + from) * p.height + row) * p.width +
                                        col)]
                .add(grad * factor);
          }
          check("forward", name, p.dtype, y.at(n, c, oy, ox), sum);
        }
      }
    }
  }
  size_t i = 0;
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t c = 0; c < p.in_channels; ++c) {
      for (int64_t row = 0; row < p.height; ++row) {
        for (int64_t col = 0; col < p.width; ++col) {
          check("grad_input", name, p.dtype, dx.at(n, c, row, col), want_dx[i++]);
        }
      }
    }
  }
  for (size_t k = 0; k < want_dw.size(); ++k) {
    const int64_t tap = static_cast<int64_t>(k) % taps;
    const double got = dw.at(static_cast<int64_t>(k) / taps, 0, tap / p.kernel_w, tap % p.kernel_w);
    check("grad_weight", name, p.dtype, got, want_dw[k]);
  }
  for (size_t k = 0; k < want_db.size(); ++k) {
    check("grad_bias", name, p.dtype, db.at(0, static_cast<int64_t>(k), 0, 0), want_db[k]);
  }
  run_hooks(p, isa, random, name, x, w, bias);
}

}  // namespace

int main(int argc, char** argv) {
  const char* names[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
  int isa = -1;
  for (int i = 0; i < 4 && argc > 2; ++i) {
    if (std::strcmp(argv[1], names[i]) == 0) isa = i;
  }
  if (isa < 0) {
    std::fprintf(stderr,
                 "wanted ISA PROBLEMS [SEED], ISA one of baseline, avx2, avx512, avx512_bf16\n");
    return 2;
  }
  std::mt19937 random(argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 1u);
  const int problems = std::atoi(argv[2]);
  for (int i = 0; i < problems; ++i) run(static_cast<CpuIsa>(isa), random);
  std::printf("%d problems, %d failures\n", problems, failures);
  return failures > 0;
}
