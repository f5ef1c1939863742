// Runs the CUDA kernel of fused_mbconv on the emulator, without torch, against float64.
//
//     fused_mbconv [--order ORDER] [--count]
//
// Prints one line per failure, with --count one of memory transactions per case, and a summary;
// exits with 1 if there was a failure.
#include <cstdio>
#include <iostream>
#include <utility>

#include "emulation/counters.h"
#include "emulation/runners/depthwise_conv2d_reference.h"
#include "fused_mbconv/fused_mbconv_cuda.h"

namespace effkern::runner {
namespace {

int checks = 0, failures = 0;
bool counts = false;

template <typename T>
using Image = View<T>;

// In float64 but for the activations, which are rounded as the kernel does; and the sum of the
// magnitudes of what was added, which the errors are proportional to.
template <typename T>
struct Expected {
  const FusedMBConvProblem& p;
  const Image<T>&x, &weight, &bias, &projection, &offset, &scale, &residual;
  std::vector<double> hidden = {};

  void expand(int64_t n, int64_t oy, int64_t ox) {
    hidden.assign(size_t(p.hidden), 0);
    for (int64_t e = 0; e < p.hidden; ++e) {
      double sum = widen(bias.at(0, e, 0, 0));
      weight.each([&](int64_t o, int64_t c, int64_t i, int64_t j) {
        const int64_t y = oy * p.stride_h - p.pad_top + i, z = ox * p.stride_w - p.pad_left + j;
        if (o == e && y >= 0 && y < p.height && z >= 0 && z < p.width)
          sum += double(widen(x.at(n, c, y, z))) * double(widen(weight.at(e, c, i, j)));
      });
      hidden[size_t(e)] = activate(p.activation, sum);
    }
  }
  std::pair<double, double> output(int64_t n, int64_t o, int64_t y, int64_t z) const {
    double sum = 0, size = 1e-3;
    const auto add = [&](double term) { sum += term, size += std::fabs(term); };
    if (p.has_projection) {
      add(widen(offset.at(0, o, 0, 0)));
      for (int64_t e = 0; e < p.hidden; ++e)
        add(widen(narrow<T>(hidden[size_t(e)])) * double(widen(projection.at(o, e, 0, 0))));
    } else {
      add(hidden[size_t(o)]);
    }
    if (p.has_projection) sum *= double(widen(scale.at(0, o, 0, 0)));
    if (p.has_residual) add(widen(residual.at(n, o, y, z)));
    return {sum, size};
  }
};

template <typename T>
void run(const FusedMBConvProblem& p) {
  std::mt19937 random(7);
  const auto image = [&](int64_t n, int64_t c, int64_t h, int64_t w, double scale) {
    Image<T> view(Memory::kChannelsLast, n, c, h, w);
    view.fill(random, scale);
    return view;
  };
  const int64_t height = p.out_height(), width = p.out_width();
  const Image<T> x = image(p.batch, p.in_channels, p.height, p.width, 2),
                 weight = image(p.hidden, p.in_channels, p.kernel_h, p.kernel_w, 0.3),
                 bias = image(1, p.hidden, 1, 1, 1),
                 projection = image(p.out_channels, p.hidden, 1, 1, 0.5),
                 offset = image(1, p.out_channels, 1, 1, 1),
                 scale = image(1, p.out_channels, 1, 1, 1),
                 residual = image(p.batch, p.out_channels, height, width, 2),
                 y(Memory::kChannelsLast, p.batch, p.out_channels, height, width);
  const bool has_projection = p.has_projection;
  const FusedMBConvPointers tensors{x.data,
                                    weight.data,
                                    bias.data,
                                    has_projection ? projection.data : nullptr,
                                    has_projection ? offset.data : nullptr,
                                    has_projection ? scale.data : nullptr,
                                    p.has_residual ? residual.data : nullptr,
                                    y.data};
  const emulation::DeclaredBuffers declared(
      {x.buffer("input", false), weight.buffer("expand_weight", false),
       bias.buffer("expand_bias", false), projection.buffer("project_weight", false),
       offset.buffer("project_bias", false), scale.buffer("project_scale", false),
       residual.buffer("residual", false), y.buffer("output", true)});
  emulation::reset_counters();
  const int error = fused_mbconv_cuda(p, tensors, nullptr);
  ++checks;
  std::string what = error ? emulation::last_error() : "";
  Expected<T> expected{p, x, weight, bias, projection, offset, scale, residual};
  for (int64_t n = 0; n < p.batch; ++n) {
    for (int64_t i = 0; i < height * width && what.empty(); ++i) {
      expected.expand(n, i / width, i % width);
      for (int64_t o = 0; o < p.out_channels && what.empty(); ++o) {
        const auto [value, size] = expected.output(n, o, i / width, i % width);
        const double got = widen(y.at(n, o, i / width, i % width));
        const double unit = std::is_same_v<T, __half> ? 0x1p-10 : 0x1p-7;
        if (!(std::fabs(got - value) <= unit * (std::fabs(value) + size / 4)))
          what = "wrong result: got " + std::to_string(got) + ", wanted " + std::to_string(value);
      }
    }
  }
  if (counts) {
    for (const auto& one : emulation::counters()) emulation::write_json(std::cout, one);
    std::cout << "\n";
  }
  if (what.empty()) return;
  ++failures;
  std::printf("FAILED %ldx%ldx%ldx%ld, %ld expanded, %ld out, kernel %ldx%ld, stride %ld: %s\n",
              p.batch, p.in_channels, p.height, p.width, p.hidden, p.out_channels, p.kernel_h,
              p.kernel_w, p.stride_h, what.c_str());
}

void run_cases() {
  FusedMBConvProblem p;
  p.dtype = DType::kBFloat16, p.activation = Activation::kSiLU, p.has_residual = true;
  p.kernel_h = p.kernel_w = 3, p.pad_top = p.pad_bottom = p.pad_left = p.pad_right = 1;
  const auto sizes = [&p](int64_t batch, int64_t channels, int64_t height, int64_t width,
                          int64_t hidden, int64_t out) {
    p.batch = batch, p.in_channels = channels, p.height = height, p.width = width;
    p.hidden = hidden, p.has_projection = out != 0, p.out_channels = out ? out : hidden;
    run<__nv_bfloat16>(p);
#ifndef EFFKERN_EMULATION_TWO_TYPES
    p.dtype = DType::kFloat16;
    run<__half>(p);
    p.dtype = DType::kBFloat16;
#endif
  };
  sizes(2, 8, 5, 3, 8, 8);
  sizes(1, 24, 9, 13, 72, 72);
  sizes(1, 16, 7, 9, 40, 0);
  p.stride_h = p.stride_w = 2, p.pad_top = p.pad_left = 0;
  p.has_residual = false, p.activation = Activation::kHardswish;
  sizes(2, 24, 10, 15, 96, 48);
  p.kernel_h = 5, p.kernel_w = 4, p.pad_top = 2, p.activation = Activation::kGELU;
  sizes(1, 32, 12, 9, 16, 24);
}

}  // namespace
}  // namespace effkern::runner

int main(int argc, char** argv) {
  using namespace effkern;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--count") {
      runner::counts = emulation::settings().count = true;
    } else if (option == "--order" && i + 1 < argc) {
      emulation::settings().set_order(argv[++i]);
    } else {
      std::fprintf(stderr, "wanted --order or --count, got %s\n", argv[i]);
      return 2;
    }
  }
  runner::run_cases();
  std::printf("%d checks, %d failures\n", runner::checks, runner::failures);
  return runner::failures != 0;
}
