// effkern._C: the planner, build facts, CPU features and the lean path of eager calls, without
// torch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/cpu_ceilings.h"
#include "common/cpu_isa.h"
#include "depthwise_conv2d/depthwise_conv2d.h"
#include "depthwise_conv2d/depthwise_conv2d_eager_module.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm.h"
#include "depthwise_conv2d_layer_norm/depthwise_conv2d_layer_norm_cuda_plan.h"
#include "effkern_build_info.h"
#include "fused_mbconv/fused_mbconv.h"
#include "pointwise/pointwise_cuda_plan.h"

namespace py = pybind11;

namespace effkern {
namespace {

template <class Enum, size_t N>
Enum parse(const char* what, const std::string& name, const char* const (&names)[N]) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) {
    std::string known;
    for (const char* each : names) known += std::string(known.empty() ? "" : ", ") + each;
    throw py::value_error(std::string(what) + ": wanted one of " + known + ", got '" + name + "'");
  }
  return static_cast<Enum>(found - std::begin(names));
}

constexpr const char* kPasses[] = {"forward", "grad_input", "grad_weight"};
constexpr const char* kDTypes[] = {"float64", "float32", "float16", "bfloat16"};
constexpr const char* kDevices[] = {"cpu", "cuda"};
constexpr const char* kLayouts[] = {"contiguous", "channels_last", "strided"};
constexpr const char* kSums[] = {"none", "channel", "spatial"};
constexpr const char* kIsas[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
constexpr const char* kBackends[] = {
    "auto", "cpu", "cuda", "triton", "torch", "cuda_emulated", "triton_interpreted"};

Activation parse_activation(int activation) {
  if (activation < 0 || activation >= kNumActivations) {
    throw py::value_error("activation: wanted 0 to 6, got " + std::to_string(activation));
  }
  return static_cast<Activation>(activation);
}

CpuIsa running_isa() {
  const char* error;
  const CpuIsa isa = detect_cpu_isa(&error);
  if (error) throw std::runtime_error(error);
  return isa;
}

DepthwiseConv2dProblem make_problem(
    const std::string& pass, const std::string& dtype, const std::string& device,
    const std::string& layout, int64_t batch, int64_t in_channels, int64_t height, int64_t width,
    int64_t out_channels, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
    int64_t pad_top, int64_t pad_bottom, int64_t pad_left, int64_t pad_right, int64_t dilation_h,
    int64_t dilation_w, bool has_bias, int activation, bool has_prologue, const std::string& sums) {
  DepthwiseConv2dProblem p;
  p.pass = parse<Pass>("pass_", pass, kPasses);
  p.dtype = parse<DType>("dtype", dtype, kDTypes);
  p.device = parse<DeviceType>("device", device, kDevices);
  p.layout = parse<Layout>("layout", layout, kLayouts);
  p.batch = batch;
  p.in_channels = in_channels;
  p.height = height;
  p.width = width;
  p.out_channels = out_channels ? out_channels : in_channels;
  p.kernel_h = kernel_h;
  p.kernel_w = kernel_w;
  p.stride_h = stride_h;
  p.stride_w = stride_w;
  p.pad_top = pad_top;
  p.pad_bottom = pad_bottom;
  p.pad_left = pad_left;
  p.pad_right = pad_right;
  p.dilation_h = dilation_h;
  p.dilation_w = dilation_w;
  p.has_bias = has_bias;
  p.activation = parse_activation(activation);
  p.has_prologue = has_prologue;
  p.sums = parse<Sums>("sums", sums, kSums);
  const int64_t positive[] = {in_channels, height,   width,      kernel_h,  kernel_w,
                              stride_h,    stride_w, dilation_h, dilation_w};
  const int64_t counts[] = {batch, pad_top, pad_bottom, pad_left, pad_right};
  const bool valid = *std::min_element(std::begin(positive), std::end(positive)) > 0 &&
                     *std::min_element(std::begin(counts), std::end(counts)) >= 0;
  if (!valid || p.out_channels % p.in_channels || p.out_height() < 1 || p.out_width() < 1) {
    throw py::value_error(
        "DepthwiseConv2dProblem: wanted sizes above zero, out_channels a multiple of in_channels, "
        "and a kernel that fits into the padded input");
  }
  return p;
}

std::string tile(const DepthwiseConv2dPlan& plan) {
  return std::to_string(plan.tile_rows) + "x" + std::to_string(plan.tile_cols) + "x" +
         std::to_string(plan.lanes);
}

py::dict build_info() {
  py::dict info;
  info["version"] = EFFKERN_VERSION;
  info["torch"] = EFFKERN_BUILD_TORCH;
  info["torch_target"] = EFFKERN_BUILD_TORCH_TARGET;
  info["cuda"] = EFFKERN_BUILD_CUDA;
  info["cuda_archs"] = EFFKERN_BUILD_CUDA_ARCHS;
  info["cuda_reason"] = EFFKERN_BUILD_CUDA_REASON;
  info["compiler"] = EFFKERN_BUILD_COMPILER;
  info["commit"] = EFFKERN_BUILD_COMMIT;
  return info;
}

py::dict cpu_features() {
  py::dict features;
#if defined(__x86_64__)
  __builtin_cpu_init();
  features["avx2"] = __builtin_cpu_supports("avx2") != 0;
  features["fma"] = __builtin_cpu_supports("fma") != 0;
  features["f16c"] = __builtin_cpu_supports("f16c") != 0;
  features["avx512f"] = __builtin_cpu_supports("avx512f") != 0;
  features["avx512bw"] = __builtin_cpu_supports("avx512bw") != 0;
  features["avx512dq"] = __builtin_cpu_supports("avx512dq") != 0;
  features["avx512vl"] = __builtin_cpu_supports("avx512vl") != 0;
  features["avx512bf16"] = __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return features;
}

void bind_problem(py::module_& m) {
  using P = DepthwiseConv2dProblem;
  py::class_<P>(m, "DepthwiseConv2dProblem", "What to compute: sizes, dtype and layout of a call.")
      .def(py::init(&make_problem), py::kw_only(), py::arg("pass_") = "forward",
           py::arg("dtype") = "float32", py::arg("device") = "cpu",
           py::arg("layout") = "contiguous", py::arg("batch") = 1, py::arg("in_channels"),
           py::arg("height"), py::arg("width"), py::arg("out_channels") = 0, py::arg("kernel_h"),
           py::arg("kernel_w"), py::arg("stride_h") = 1, py::arg("stride_w") = 1,
           py::arg("pad_top") = 0, py::arg("pad_bottom") = 0, py::arg("pad_left") = 0,
           py::arg("pad_right") = 0, py::arg("dilation_h") = 1, py::arg("dilation_w") = 1,
           py::arg("has_bias") = false, py::arg("activation") = 0, py::arg("has_prologue") = false,
           py::arg("sums") = "none")
      .def_property_readonly("pass_", [](const P& p) { return kPasses[static_cast<int>(p.pass)]; })
      .def_property_readonly("dtype", [](const P& p) { return kDTypes[static_cast<int>(p.dtype)]; })
      .def_property_readonly("device",
                             [](const P& p) { return kDevices[static_cast<int>(p.device)]; })
      .def_property_readonly("layout",
                             [](const P& p) { return kLayouts[static_cast<int>(p.layout)]; })
      .def_readonly("batch", &P::batch)
      .def_readonly("in_channels", &P::in_channels)
      .def_readonly("out_channels", &P::out_channels)
      .def_readonly("height", &P::height)
      .def_readonly("width", &P::width)
      .def_readonly("kernel_h", &P::kernel_h)
      .def_readonly("kernel_w", &P::kernel_w)
      .def_readonly("stride_h", &P::stride_h)
      .def_readonly("stride_w", &P::stride_w)
      .def_readonly("pad_top", &P::pad_top)
      .def_readonly("pad_bottom", &P::pad_bottom)
      .def_readonly("pad_left", &P::pad_left)
      .def_readonly("pad_right", &P::pad_right)
      .def_readonly("dilation_h", &P::dilation_h)
      .def_readonly("dilation_w", &P::dilation_w)
      .def_readonly("has_bias", &P::has_bias)
      .def_property_readonly("activation",
                             [](const P& p) { return static_cast<int>(p.activation); })
      .def_readonly("has_prologue", &P::has_prologue)
      .def_property_readonly("sums", [](const P& p) { return kSums[static_cast<int>(p.sums)]; })
      .def_property_readonly("out_h", &P::out_height)
      .def_property_readonly("out_w", &P::out_width)
      .def_property_readonly("flops", &valid_flops, "On real pixels, two per multiply-add.")
      .def_property_readonly("bytes", &compulsory_bytes, "Input, output and weights, once each.");
}

void bind_plan(py::module_& m) {
  using Plan = DepthwiseConv2dPlan;
  py::class_<Plan>(m, "DepthwiseConv2dPlan", "How a problem is computed, and why so.")
      .def_property_readonly("backend", [](const Plan& p) { return backend_name(p.backend); })
      .def_property_readonly("kernel", [](const Plan& p) { return kernel_name(p.kernel); })
      .def_property_readonly("tile", &tile, "Register tile: rows x columns x lanes.")
      .def_readonly("lanes", &Plan::lanes)
      .def_readonly("block_rows", &Plan::block_rows)
      .def_readonly("block_cols", &Plan::block_cols)
      .def_readonly("block_channels", &Plan::block_channels)
      .def_readonly("splits", &Plan::splits)
      .def_readonly("grid", &Plan::grid)
      .def_readonly("shared_memory", &Plan::shared_memory)
      .def_readonly("scratch", &Plan::scratch_per_thread, "Bytes per thread.")
      .def_readonly("workspace", &Plan::workspace, "Bytes for partial sums.")
      .def_readonly("bytes", &Plan::bytes)
      .def_readonly("flops", &Plan::flops)
      .def_readonly("reason", &Plan::reason);
  m.def(
      "plan_depthwise_conv2d",
      [](const DepthwiseConv2dProblem& problem, const std::string& backend, int /*threads*/,
         const std::string& isa) {
        const CpuIsa set = isa.empty() ? running_isa() : parse<CpuIsa>("isa", isa, kIsas);
        return plan_depthwise_conv2d(problem, parse<Backend>("backend", backend, kBackends), set);
      },
      py::arg("problem"), py::arg("backend") = "auto", py::arg("threads") = 1, py::arg("isa") = "",
      "The plan of a problem. It does not depend on `threads`, so that results do not either.");
  m.def(
      "plan_depthwise_conv2d_layer_norm",
      [](const DepthwiseConv2dProblem& problem) {
        return plan_depthwise_conv2d_layer_norm(problem, running_isa()).convolution;
      },
      py::arg("problem"), "The plan of the convolution that LayerNorm follows, on CPU.");
}

void bind_layer_norm(py::module_& m) {
  using Plan = DepthwiseConv2dLayerNormCudaPlan;
  py::class_<Plan>(m, "DepthwiseConv2dLayerNormCudaPlan",
                   "How the CUDA kernel computes depthwise_conv2d_layer_norm, or why not.")
      .def_readonly("refusal", &Plan::refusal, "Why there is no kernel, or None.")
      .def_readonly("channels", &Plan::channels, "Of a thread.")
      .def_readonly("pixels", &Plan::pixels, "Of a thread's strip.")
      .def_readonly("lanes", &Plan::lanes, "Threads of a strip, with those that have no channels.")
      .def_readonly("group", &Plan::group, "Threads that add up by shuffles.")
      .def_readonly("slots", &Plan::slots, "Strips of a block.")
      .def_readonly("threads", &Plan::threads, "Of a block.")
      .def_readonly("strips", &Plan::strips, "Of a row.")
      .def_readonly("row_tiles", &Plan::row_tiles, "Of an image.")
      .def_readonly("rows", &Plan::rows, "Of a tile.")
      .def_readonly("narrow_weights", &Plan::narrow_weights, "In the tensors' 16 bits.")
      .def_readonly("grid", &Plan::grid)
      .def_readonly("shared_memory", &Plan::shared_memory)
      .def_readonly("bytes", &Plan::bytes)
      .def_readonly("flops", &Plan::flops);
  m.def(
      "plan_depthwise_conv2d_layer_norm_cuda",
      [](const std::string& dtype, int64_t batch, int64_t channels, int64_t height, int64_t width,
         int64_t kernel_h, int64_t kernel_w, int64_t pad_top, int64_t pad_bottom, int64_t pad_left,
         int64_t pad_right) {
        return plan_depthwise_conv2d_layer_norm_cuda({parse<DType>("dtype", dtype, kDTypes), batch,
                                                      channels, height, width, kernel_h, kernel_w,
                                                      pad_top, pad_bottom, pad_left, pad_right});
      },
      py::arg("dtype"), py::arg("batch"), py::arg("channels"), py::arg("height"), py::arg("width"),
      py::arg("kernel_h"), py::arg("kernel_w"), py::arg("pad_top"), py::arg("pad_bottom"),
      py::arg("pad_left"), py::arg("pad_right"), "The CUDA kernel's plan of a problem.");
}

FusedMBConvPlan plan_fused(const std::string& dtype, bool has_residual, int64_t batch,
                           int64_t in_channels, int64_t height, int64_t width, int64_t hidden,
                           int64_t out_channels, int64_t kernel_h, int64_t kernel_w,
                           int64_t stride_h, int64_t stride_w, int64_t pad_top, int64_t pad_bottom,
                           int64_t pad_left, int64_t pad_right) {
  FusedMBConvProblem p;
  p.dtype = parse<DType>("dtype", dtype, kDTypes);
  p.batch = batch, p.in_channels = in_channels, p.height = height, p.width = width;
  p.hidden = hidden, p.has_projection = out_channels != 0;
  p.out_channels = p.has_projection ? out_channels : hidden;
  p.kernel_h = kernel_h, p.kernel_w = kernel_w, p.stride_h = stride_h, p.stride_w = stride_w;
  p.pad_top = pad_top, p.pad_bottom = pad_bottom, p.pad_left = pad_left, p.pad_right = pad_right;
  p.has_residual = has_residual;
  const int64_t positive[] = {in_channels, hidden,   p.out_channels, kernel_h,
                              kernel_w,    stride_h, stride_w};
  if (*std::min_element(std::begin(positive), std::end(positive)) < 1 ||
      p.height + pad_top + pad_bottom < kernel_h || p.width + pad_left + pad_right < kernel_w) {
    throw py::value_error(
        "plan_fused_mbconv: wanted sizes above zero and a kernel that fits into the padded input");
  }
  return plan_fused_mbconv(p);
}

void bind_fused_mbconv(py::module_& m) {
  using Plan = FusedMBConvPlan;
  py::class_<Plan>(m, "FusedMBConvPlan", "How the CUDA kernel computes fused_mbconv, or why not.")
      .def_readonly("refusal", &Plan::refusal, "Why there is no kernel, or None.")
      .def_readonly("warps", &Plan::warps, "Of a block, 32 pixels each.")
      .def_readonly("tile_height", &Plan::tile_height)
      .def_readonly("tile_width", &Plan::tile_width)
      .def_readonly("outputs", &Plan::outputs, "Columns of the projection in registers.")
      .def_readonly("grid", &Plan::grid)
      .def_readonly("shared_memory", &Plan::shared_memory)
      .def_readonly("bytes", &Plan::bytes)
      .def_readonly("flops", &Plan::flops);
  m.def("plan_fused_mbconv", &plan_fused, py::arg("dtype"), py::arg("has_residual"),
        py::arg("batch"), py::arg("in_channels"), py::arg("height"), py::arg("width"),
        py::arg("hidden"), py::arg("out_channels"), py::arg("kernel_h"), py::arg("kernel_w"),
        py::arg("stride_h"), py::arg("stride_w"), py::arg("pad_top"), py::arg("pad_bottom"),
        py::arg("pad_left"), py::arg("pad_right"),
        "The CUDA kernel's plan of a problem; out_channels is 0 without a projection.");
}

void bind_pointwise(py::module_& m) {
  using Plan = PointwiseCudaPlan;
  py::class_<Plan>(m, "PointwiseCudaPlan", "How the CUDA kernel computes pointwise, or why not.")
      .def_readonly("refusal", &Plan::refusal, "Why there is no kernel, or None.")
      .def_readonly("warps", &Plan::warps, "Of a block.")
      .def_readonly("tile_pixels", &Plan::tile_pixels)
      .def_readonly("tile_channels", &Plan::tile_channels, "Output channels of a block.")
      .def_readonly("gate_rows", &Plan::gate_rows, "Images that a block's pixels may belong to.")
      .def_readonly("grid", &Plan::grid)
      .def_readonly("shared_memory", &Plan::shared_memory)
      .def_readonly("bytes", &Plan::bytes)
      .def_readonly("flops", &Plan::flops);
  m.def(
      "plan_pointwise_cuda",
      [](const std::string& dtype, int64_t images, int64_t pixels, int64_t in_channels,
         int64_t out_channels, bool has_gate, bool has_residual, int activation) {
        return plan_pointwise_cuda({parse<DType>("dtype", dtype, kDTypes), images, pixels,
                                    in_channels, out_channels, has_gate, has_residual,
                                    parse_activation(activation)});
      },
      py::arg("dtype"), py::arg("images"), py::arg("pixels"), py::arg("in_channels"),
      py::arg("out_channels"), py::arg("has_gate"), py::arg("has_residual"), py::arg("activation"),
      "The CUDA kernel's plan of a problem with `pixels` of each image.");
}

void bind_ceilings(py::module_& m) {
  using ceilings::Rate;
  const auto without_lock = py::call_guard<py::gil_scoped_release>();
  py::class_<Rate>(m, "Rate", "A measured ceiling of this machine.")
      .def_readonly("per_second", &Rate::per_second, "FLOP/s or bytes/s.")
      .def_readonly("isa", &Rate::isa, "The instruction set of the measuring loop.");
  m.def("measure_fma_peak", &ceilings::measure_fma_peak, py::arg("threads"), py::arg("seconds"),
        without_lock, "Peak rate of float32 multiply-adds, FLOP/s.");
  m.def("measure_copy_bandwidth", &ceilings::measure_copy_bandwidth, py::arg("bytes"),
        py::arg("threads"), py::arg("seconds"), py::arg("streaming"), without_lock,
        "Bytes read and written per second while copying within `bytes` bytes.");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "effkern without torch: planner, build facts, CPU features.";
  bind_problem(m);
  bind_plan(m);
  bind_layer_norm(m);
  bind_fused_mbconv(m);
  bind_pointwise(m);
  bind_ceilings(m);
  if (add_eager_functions(m.ptr()) != 0) throw py::error_already_set();
  m.def("build_info", &build_info);
  m.def("cpu_features", &cpu_features);
  m.def(
      "cpu_isa", [] { return cpu_isa_name(running_isa()); },
      "The instruction set that the CPU kernels use; EFFKERN_CPU lowers it.");
}

}  // namespace effkern
