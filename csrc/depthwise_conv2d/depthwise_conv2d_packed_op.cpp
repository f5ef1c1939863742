// The operators of the eager path on CPU, with all their integers in one: torch needs 0.2
// microseconds for each argument of a call, as long as a small convolution needs for all of its
// own. effkern/ops/depthwise_conv2d/eager.py packs what is unpacked here.
#include "common/checks.h"
#include "depthwise_conv2d/depthwise_conv2d_op.h"

namespace effkern {
namespace {

// From the lowest bits: the eight numbers of the geometry in the schemas' order, then `extra`
// (activation, or which gradients are needed), then the backend.
constexpr int kGeometryBits = 7, kExtraBits = 4, kBackendBits = 3;

struct Call {
  Geometry geometry;
  int64_t extra, backend;
};

Call unpack(int64_t call) {
  const auto take = [&call](int bits) {
    const int64_t value = call & ((int64_t{1} << bits) - 1);
    call >>= bits;
    return value;
  };
  Call unpacked;
  for (int64_t Geometry::* field :
       {&Geometry::stride_h, &Geometry::stride_w, &Geometry::pad_top, &Geometry::pad_bottom,
        &Geometry::pad_left, &Geometry::pad_right, &Geometry::dilation_h, &Geometry::dilation_w}) {
    unpacked.geometry.*field = take(kGeometryBits);
  }
  unpacked.extra = take(kExtraBits);
  unpacked.backend = take(kBackendBits);
  EFFKERN_CHECK(call == 0, "effkern.depthwise_conv2d: call: wanted 0 or more, got a number below");
  return unpacked;
}

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
               int64_t call) {
  const Call c = unpack(call);
  return run_depthwise_conv2d(input, weight, bias, c.geometry, c.extra, c.backend);
}

Gradients backward(const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                   int64_t call) {
  const Call c = unpack(call);
  const bool needs[3] = {(c.extra & 1) != 0, (c.extra & 2) != 0, (c.extra & 4) != 0};
  return run_depthwise_conv2d_backward(grad_output, input, weight, c.geometry, needs, c.backend);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(effkern, m)
{
  m.def("_depthwise_conv2d_packed(Tensor input, Tensor weight, Tensor? bias, int call) -> Tensor");
  m.def(
      "_depthwise_conv2d_backward_packed(Tensor grad_output, Tensor input, Tensor weight, int "
      "call) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(effkern, CPU, m)
{
  m.impl("_depthwise_conv2d_packed", TORCH_BOX(&forward));
  m.impl("_depthwise_conv2d_backward_packed", TORCH_BOX(&backward));
}

}  // namespace effkern
