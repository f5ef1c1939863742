// Which of the CPU kernels' instruction sets this process uses.
#pragma once

#include <cstdlib>
#include <cstring>

#include "depthwise_conv2d/depthwise_conv2d.h"

namespace effkern {

inline const char* cpu_isa_name(CpuIsa isa) {
  constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
  return kNames[static_cast<int>(isa)];
}

inline CpuIsa best_cpu_isa() {
#if defined(EFFKERN_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return __builtin_cpu_supports("avx512bf16") ? CpuIsa::kAvx512Bf16 : CpuIsa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    return CpuIsa::kAvx2;
  }
#endif
  return CpuIsa::kBaseline;
}

// The best one, lowered by EFFKERN_CPU. Sets *error, for the caller to raise, if that names an
// instruction set that is unknown or not here.
inline CpuIsa detect_cpu_isa(const char** error) {
  const CpuIsa best = best_cpu_isa();
  const char* wanted = std::getenv("EFFKERN_CPU");
  *error = nullptr;
  if (!wanted || !*wanted) return best;
  for (CpuIsa isa : {CpuIsa::kBaseline, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAvx512Bf16}) {
    if (std::strcmp(cpu_isa_name(isa), wanted) != 0) continue;
    if (isa <= best) return isa;
    *error = "EFFKERN_CPU: wanted an instruction set that this processor and this build have";
    return best;
  }
  *error = "EFFKERN_CPU: wanted baseline, avx2, avx512 or avx512_bf16";
  return best;
}

}  // namespace effkern
