// The emulator's side of common/launch.cuh.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/planned_launch.h"
#include "emulation/cuda.h"
#include "emulation/record.h"

// The wrappers' last parameter: where the kernel calls them.
#define EFFKERN_SITE , ::effkern::emulation::Site site = ::effkern::emulation::Site::here()
#define EFFKERN_PASS_SITE , site
#define EFFKERN_GLOBAL_ACCESS(address, bytes, access) \
  ::effkern::emulation::global_access(address, bytes, ::effkern::emulation::Access::access, site)
#define EFFKERN_GLOBAL_ACCESS_IF(active, address, bytes, access)                                  \
  ::effkern::emulation::global_access(address, bytes, ::effkern::emulation::Access::access, site, \
                                      active)
#define EFFKERN_SHARED_ACCESS(address, bytes, access) \
  ::effkern::emulation::shared_access(address, bytes, ::effkern::emulation::Access::access, site)
#define EFFKERN_NOT_FINITE() ::effkern::emulation::not_finite(EFFKERN_EMULATED_SITE)

#define EFFKERN_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::effkern::emulation::dynamic_shared())
// The static variable's address is the declaration's identity, per instantiation of a template.
#define EFFKERN_SHARED(type, name, ...)                                                       \
  static const char effkern_shared_##name = 0;                                                \
  using effkern_shared_type_##name = type __VA_ARGS__;                                        \
  auto& name = *static_cast<effkern_shared_type_##name*>(::effkern::emulation::static_shared( \
      &effkern_shared_##name, sizeof(effkern_shared_type_##name), #name, EFFKERN_EMULATED_SITE))

inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : ::effkern::emulation::last_error().c_str();
}

namespace effkern {
namespace emulation {

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), const LaunchShape& shape,
                          Arguments... arguments) {
  if (is_recording()) {
    std::vector<unsigned char> bytes;
    (append_parameter<std::decay_t<Parameters>>(bytes, arguments), ...);
    return record_launch(shape, reinterpret_cast<const void*>(kernel), std::move(bytes));
  }
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> arguments;
  } call{kernel, {static_cast<Parameters>(arguments)...}};
  return launch(
      shape, reinterpret_cast<const void*>(kernel),
      [](void* context) {
        const auto& made = *static_cast<const Call*>(context);
        std::apply(made.kernel, made.arguments);
      },
      &call);
}

}  // namespace emulation

namespace detail {

// Whether a launch was planned instead.
inline bool plan_launch(const char* kernel, dim3 grid, dim3 block, size_t shared_memory) {
  if (!planned_launches) return false;
  planned_launches->add({kernel, int64_t(grid.x) * grid.y * grid.z,
                         int64_t(block.x) * block.y * block.z, int64_t(shared_memory)});
  return true;
}

}  // namespace detail

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                          size_t shared_memory, cudaStream_t, Arguments... arguments) {
  if (detail::plan_launch(nullptr, grid, block, shared_memory)) return cudaSuccess;
  return emulation::launch_kernel(kernel, {grid, block, shared_memory}, arguments...);
}

template <auto kKernel, typename... Arguments>
cudaError_t launch_kernel(dim3 grid, dim3 block, size_t shared_memory, cudaStream_t,
                          Arguments... arguments) {
  if (detail::plan_launch(detail::kernel_text<kKernel>(), grid, block, shared_memory)) {
    return cudaSuccess;
  }
  return emulation::launch_kernel(kKernel, {grid, block, shared_memory}, arguments...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_cluster_kernel(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                  dim3 cluster, size_t shared_memory, cudaStream_t,
                                  Arguments... arguments) {
  return emulation::launch_kernel(kernel, {grid, block, shared_memory, cluster}, arguments...);
}

template <typename... Parameters>
cudaError_t allow_shared_memory(void (*kernel)(Parameters...), size_t bytes) {
  return emulation::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes);
}

// What the emulator emulates is sm_90.
inline bool device_has_capability(int capability) { return capability <= 90; }

inline const char* launch_error_string(cudaError_t error) { return cudaGetErrorString(error); }

}  // namespace effkern
