// Runs the CUDA kernel of pointwise on the emulator, without torch, against float64.
//
//     pointwise [--order ORDER] [--count]
//
// Prints one line per failure, with --count one of memory transactions per case, and a summary;
// exits with 1 if there was a failure.
#include <cstdio>
#include <iostream>
#include <utility>

#include "emulation/counters.h"
#include "emulation/runners/depthwise_conv2d_reference.h"
#include "pointwise/pointwise_cuda.h"

namespace effkern::runner {
namespace {

int checks = 0, failures = 0;
bool counts = false;

// Which operands there are.
struct Operands {
  bool bias = true, scale = false;
};

// In float64 but for gated numbers, which are rounded as the kernel does; and the sum of the
// magnitudes of what was added, which the errors are proportional to.
template <typename T>
struct Expected {
  const PointwiseCudaProblem& p;
  const View<T>&x, &weight, &bias, &gate, &scale, &residual;

  std::pair<double, double> output(const Operands& operands, int64_t n, int64_t o,
                                   int64_t pixel) const {
    double sum = 0, size = 1e-3;
    for (int64_t c = 0; c < p.in_channels; ++c) {
      double number = widen(x.at(n, c, 0, pixel));
      if (p.has_gate) number = widen(narrow<T>(number * double(widen(gate.at(n, c, 0, 0)))));
      const double term = number * double(widen(weight.at(o, c, 0, 0)));
      sum += term, size += std::fabs(term);
    }
    if (operands.bias) sum += double(widen(bias.at(0, o, 0, 0)));
    sum = activate(p.activation, sum);
    if (operands.scale) sum *= double(widen(scale.at(0, o, 0, 0)));
    if (p.has_residual) sum += double(widen(residual.at(n, o, 0, pixel)));
    return {sum, size};
  }
};

template <typename T>
void run(const PointwiseCudaProblem& p, const Operands& operands) {
  std::mt19937 random(7);
  const auto image = [&](int64_t n, int64_t c, int64_t pixels, double scale) {
    View<T> view(Memory::kChannelsLast, n, c, 1, pixels);
    view.fill(random, scale);
    return view;
  };
  const View<T> x = image(p.images, p.in_channels, p.pixels, 2),
                weight = image(p.out_channels, p.in_channels, 1, 0.5),
                bias = image(1, p.out_channels, 1, 1), scale = image(1, p.out_channels, 1, 1),
                gate = image(p.images, p.in_channels, 1, 1),
                residual = image(p.images, p.out_channels, p.pixels, 2),
                y(Memory::kChannelsLast, p.images, p.out_channels, 1, p.pixels);
  const PointwiseCudaPointers tensors{x.data,
                                      weight.data,
                                      operands.bias ? bias.data : nullptr,
                                      p.has_gate ? gate.data : nullptr,
                                      operands.scale ? scale.data : nullptr,
                                      p.has_residual ? residual.data : nullptr,
                                      y.data};
  const emulation::DeclaredBuffers declared(
      {x.buffer("input", false), weight.buffer("weight", false), bias.buffer("bias", false),
       gate.buffer("gate", false), scale.buffer("scale", false), residual.buffer("residual", false),
       y.buffer("output", true)});
  emulation::reset_counters();
  const int error = pointwise_cuda(p, tensors, nullptr);
  ++checks;
  std::string what = error ? emulation::last_error() : "";
  const Expected<T> expected{p, x, weight, bias, gate, scale, residual};
  y.each([&](int64_t n, int64_t o, int64_t, int64_t pixel) {
    if (!what.empty()) return;
    const auto [value, size] = expected.output(operands, n, o, pixel);
    const double got = widen(y.at(n, o, 0, pixel));
    const double unit = std::is_same_v<T, __half> ? 0x1p-10 : 0x1p-7;
    if (!(std::fabs(got - value) <= unit * std::fabs(value) + 1e-5 * size))
      what = "wrong result: got " + std::to_string(got) + ", wanted " + std::to_string(value);
  });
  if (counts) {
    for (const auto& one : emulation::counters()) emulation::write_json(std::cout, one);
    std::cout << "\n";
  }
  if (what.empty()) return;
  ++failures;
  std::printf("FAILED %ld images of %ld pixels, %ld to %ld channels, activation %d: %s\n", p.images,
              p.pixels, p.in_channels, p.out_channels, int(p.activation), what.c_str());
}

void run_cases() {
  PointwiseCudaProblem p;
  Operands operands;
  const auto sizes = [&](int64_t images, int64_t pixels, int64_t channels, int64_t out) {
    p.images = images, p.pixels = pixels, p.in_channels = channels, p.out_channels = out;
    p.dtype = DType::kBFloat16;
    run<__nv_bfloat16>(p, operands);
#ifndef EFFKERN_EMULATION_TWO_TYPES
    p.dtype = DType::kFloat16;
    run<__half>(p, operands);
#endif
  };
  // Two warps, four and eight, 64 channels and 128; channels of one step, of one slice and of
  // several, with and without a whole last one; a tile and one pixel more; images that begin inside
  // a tile.
  p.activation = Activation::kSiLU;
  sizes(1, 65, 8, 16);
  p.activation = Activation::kGELU, operands.scale = p.has_residual = true;
  sizes(3, 7, 40, 72);
  sizes(1, 130, 16, 104);
  p.activation = Activation::kNone;
  sizes(1, 64, 176, 64);
  sizes(1, 100, 32, 128);
  sizes(1, 530, 264, 136);
  p.has_gate = true, operands = {false, false};
  sizes(5, 29, 56, 24);
  sizes(70, 1, 72, 8);
  sizes(2, 97, 24, 112);
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
