// Runs the CUDA kernels of depthwise_conv2d on the emulator, without torch, against float64.
//
//     depthwise_conv2d [--cases LIST] [--order ORDER] [--every N] [--count]
//
// LIST is one of run_cases in depthwise_conv2d_cases.h: smoke, all, ..., of which --every N takes
// the first of N cases. Prints one line per failure, or, with --count, one JSON object per problem
// and pass, and then a summary; exits with 1 if there was a failure.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "depthwise_conv2d/depthwise_conv2d_cuda.h"
#include "emulation/counters.h"
#include "emulation/runners/depthwise_conv2d_fused.h"
#include "emulation/runners/depthwise_conv2d_gradients.h"
#include "emulation/runners/depthwise_conv2d_reference.h"

namespace effkern::runner {
namespace {

struct Options {
  std::string cases = "all";
  int every = 1;
  bool count = false;
};
struct Case {
  DepthwiseConv2dProblem problem;
  Memory input, output;
};

Options options;
int cases = 0, checks = 0, failures = 0;

const char* name_of(DType dtype) {
  const char* names[] = {"float64", "float32", "float16", "bfloat16"};
  return names[int(dtype)];
}

std::string describe(const Case& c) {
  const auto& p = c.problem;
  char text[300];
  std::snprintf(text, sizeof text,
                "%ldx%ldx%ldx%ld %s, %ld channels out, kernel %ldx%ld, stride %ld,%ld, padding "
                "%ld,%ld,%ld,%ld, dilation %ld,%ld, activation %d, bias %d, memory %d to %d",
                p.batch, p.in_channels, p.height, p.width, name_of(p.dtype), p.out_channels,
                p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.pad_top, p.pad_bottom, p.pad_left,
                p.pad_right, p.dilation_h, p.dilation_w, int(p.activation), p.has_bias,
                int(c.input), int(c.output));
  return text;
}

void report(const Case& c, const char* pass, const std::string& what) {
  ++failures;
  std::printf("FAILED %s %s: %s\n", pass, describe(c).c_str(), what.c_str());
}

// Half a rounding unit of T, and what accumulation in float32 (float64) may lose.
template <typename T>
struct Bound {
  static constexpr bool kDouble = std::is_same_v<T, double>;
  static constexpr double kRelative = kDouble                     ? 3e-16
                                      : std::is_same_v<T, float>  ? 6e-8
                                      : std::is_same_v<T, __half> ? 4.9e-4
                                                                  : 3.91e-3;
  static constexpr double kSmallest = std::is_same_v<T, __half> ? 6e-8 : 1e-30;
  static constexpr double kAccumulation = kDouble ? 1e-15 : 2e-6;

  static bool holds(double got, double wanted, double magnitude) {
    return std::fabs(got - wanted) <=
           kRelative * std::fabs(wanted) + kAccumulation * magnitude + kSmallest;
  }
};

void count_pass(const Case& c, const char* pass) {
  if (!options.count) return;
  std::cout << "{\"problem\": \"" << describe(c) << "\", \"pass\": \"" << pass
            << "\", \"kernels\": [";
  const char* separator = "";
  for (const auto& counters : emulation::counters()) {
    std::cout << separator;
    emulation::write_json(std::cout, counters);
    separator = ", ";
  }
  std::cout << "]}\n";
  emulation::reset_counters();
}

template <typename T, typename Wanted>
void check(const Case& c, const char* pass, int error, const View<T>& got, Wanted wanted) {
  ++checks;
  count_pass(c, pass);
  if (error) return report(c, pass, cuda_error_string(error));
  int64_t i = 0, wrong = -1;
  double value = 0, expected = 0;
  got.each([&](auto... at) {
    const auto [v, magnitude] = wanted(i);
    const double g = widen(got.at(at...));
    if (wrong < 0 && !Bound<T>::holds(g, v, magnitude)) wrong = i, value = g, expected = v;
    ++i;
  });
  if (wrong >= 0) {
    report(c, pass,
           "wrong result at element " + std::to_string(wrong) + ": got " + std::to_string(value) +
               ", wanted " + std::to_string(expected));
  }
  const auto* bytes = static_cast<const unsigned char*>(got.memory->data());
  for (size_t b = 0; b < got.mask.size() * sizeof(T); ++b) {
    if (got.mask[b / sizeof(T)] || bytes[b] == emulation::kPoison) continue;
    return report(c, pass, "byte " + std::to_string(b) + " beside the elements was written");
  }
}

using emulation::DeclaredBuffers;

template <typename T>
void run(const Case& c, unsigned seed) {
  const DepthwiseConv2dProblem& p = c.problem;
  std::mt19937 random(seed);
  const int64_t height = p.out_height(), width = p.out_width();
  const auto output_view = [&] {
    return View<T>(c.output, p.batch, p.out_channels, height, width);
  };
  View<T> x(c.input, p.batch, p.in_channels, p.height, p.width);
  View<T> dy = output_view(), y = output_view(), grad = output_view();
  // Results have no elements in common.
  const Memory dense = c.input == Memory::kExpanded ? Memory::kContiguous : c.input;
  View<T> dx(dense, p.batch, p.in_channels, p.height, p.width);
  View<T> weight(Memory::kContiguous, 1, p.out_channels, p.kernel_h, p.kernel_w);
  View<T> bias(Memory::kContiguous, 1, p.out_channels, 1, 1);
  x.fill(random, 2), dy.fill(random, 1), weight.fill(random, 1), bias.fill(random, 1);
  const T* offsets = p.has_bias ? bias.data : nullptr;
  const Reference reference(p, x, weight.data, offsets, dy);
  const auto workspace_bytes = [&](Pass pass, const View<T>& input, const View<T>& output) {
    return size_t(depthwise_conv2d_workspace_cuda(p, pass, input.data, input.strides, output.data,
                                                  output.strides));
  };
  const auto terms = [](const Sums& sums) {
    return
        [&sums](int64_t i) { return std::pair(sums.value[size_t(i)], sums.magnitude[size_t(i)]); };
  };
  {
    const emulation::GuardedMemory workspace(workspace_bytes(Pass::kForward, x, y));
    const DeclaredBuffers declared({x.buffer("input", false),
                                    weight.buffer("weight", false),
                                    bias.buffer("bias", false),
                                    y.buffer("output", true),
                                    {workspace.data(), workspace.size(), "workspace", true}});
    const int error = depthwise_conv2d_forward_cuda(p, x.data, x.strides, weight.data, offsets,
                                                    y.data, y.strides, workspace.data(), nullptr);
    check(c, "forward", error, y, [&](int64_t i) {
      return std::pair(activate(p.activation, reference.output.value[size_t(i)]),
                       reference.output.magnitude[size_t(i)]);
    });
  }
  if constexpr (!std::is_same_v<T, double>) {
    const FusedRun<T> fused(p, x, weight, bias, c.output, seed);
    if (fused.served) {
      check(c, "fused", fused.error, fused.y, [&](int64_t i) {
        return std::pair(fused.wanted.value[size_t(i)], fused.wanted.magnitude[size_t(i)]);
      });
      for (const auto& [got, sums] : fused.sums())
        check(c, "sums", fused.error, *got, terms(*sums));
    }
  }
  if (p.activation != Activation::kNone) {
    const DeclaredBuffers declared({x.buffer("input", false), weight.buffer("weight", false),
                                    bias.buffer("bias", false), dy.buffer("grad_output", false),
                                    grad.buffer("grad", true)});
    const int error = depthwise_conv2d_activation_backward_cuda(p, dy.data, dy.strides, x.data,
                                                                x.strides, weight.data, offsets,
                                                                grad.data, grad.strides, nullptr);
    std::vector<double> outer;
    dy.each([&](auto... at) { outer.push_back(widen(dy.at(at...))); });
    check(c, "activation_backward", error, grad, [&](int64_t i) {
      const double pre = reference.output.value[size_t(i)];
      // Beside a kink, rounding decides on which side.
      const bool kink = std::min({std::fabs(pre), std::fabs(pre - 6), std::fabs(pre + 3),
                                  std::fabs(pre - 3)}) < 1e-5;
      return std::pair(differentiate(p.activation, pre) * outer[size_t(i)],
                       kink ? 1e6 : 1 + reference.output.magnitude[size_t(i)]);
    });
  }
  {
    const emulation::GuardedMemory workspace(workspace_bytes(Pass::kGradInput, dx, dy));
    const DeclaredBuffers declared({dy.buffer("grad_output", false),
                                    weight.buffer("weight", false),
                                    dx.buffer("grad_input", true),
                                    {workspace.data(), workspace.size(), "workspace", true}});
    const int error = depthwise_conv2d_grad_input_cuda(p, dy.data, dy.strides, weight.data, dx.data,
                                                       dx.strides, workspace.data(), nullptr);
    check(c, "grad_input", error, dx, terms(reference.grad_input));
  }
  View<T> dw(Memory::kContiguous, 1, p.out_channels, p.kernel_h, p.kernel_w);
  View<T> db(Memory::kContiguous, 1, p.out_channels, 1, 1);
  const emulation::GuardedMemory workspace(workspace_bytes(Pass::kGradWeight, x, dy));
  const DeclaredBuffers declared({x.buffer("input", false),
                                  dy.buffer("grad_output", false),
                                  dw.buffer("grad_weight", true),
                                  db.buffer("grad_bias", true),
                                  {workspace.data(), workspace.size(), "workspace", true}});
  const int error =
      depthwise_conv2d_grad_weight_cuda(p, x.data, x.strides, dy.data, dy.strides, dw.data,
                                        p.has_bias ? db.data : nullptr, workspace.data(), nullptr);
  check(c, "grad_weight", error, dw, terms(reference.grad_weight));
  if (p.has_bias) check(c, "grad_bias", error, db, terms(reference.grad_bias));
  const GradientsRun<T> gradients(p, x, weight, dy, dense);
  if (!gradients.served) return;
  check(c, "gradients, of input", gradients.error, gradients.dx, terms(reference.grad_input));
  check(c, "gradients, of weight", gradients.error, gradients.dw, terms(reference.grad_weight));
  if (p.has_bias) {
    check(c, "gradients, of bias", gradients.error, gradients.db, terms(reference.grad_bias));
  }
}

void run(const Case& c, unsigned seed) {
  if (c.problem.out_height() <= 0 || c.problem.out_width() <= 0) return;
  if (cases++ % options.every) return;
  switch (c.problem.dtype) {
#ifndef EFFKERN_EMULATION_TWO_TYPES
    case DType::kFloat64:
      return run<double>(c, seed);
    case DType::kFloat16:
      return run<__half>(c, seed);
#else
    case DType::kFloat64:
    case DType::kFloat16:
      return;
#endif
    case DType::kFloat32:
      return run<float>(c, seed);
    case DType::kBFloat16:
      return run<__nv_bfloat16>(c, seed);
  }
}

#include "emulation/runners/depthwise_conv2d_problems.h"
#include "emulation/runners/depthwise_conv2d_tensor_core_cases.h"
// Goes through both lists.
#include "emulation/runners/depthwise_conv2d_cases.h"

}  // namespace
}  // namespace effkern::runner

int main(int argc, char** argv) {
  using namespace effkern::runner;
  effkern::emulation::settings().finite = true;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i], value = i + 1 < argc ? argv[i + 1] : "";
    if (option == "--count") {
      options.count = effkern::emulation::settings().count = true;
      continue;
    }
    ++i;
    if (option == "--cases") {
      options.cases = value;
    } else if (option == "--order") {
      effkern::emulation::settings().set_order(value);
    } else if (option == "--every" && std::atoi(value.c_str()) > 0) {
      options.every = std::atoi(value.c_str());
    } else {
      std::fprintf(stderr, "wanted --cases, --order, --every or --count, got %s\n", option.c_str());
      return 2;
    }
  }
  if (!run_cases(options.cases)) {
    std::fprintf(stderr, "--cases: no list %s\n", options.cases.c_str());
    return 2;
  }
  std::printf("%s: %d checks, %d failures\n", options.cases.c_str(), checks, failures);
  return failures != 0;
}
