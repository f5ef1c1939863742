// The operations of a whole warp that ptx.h names.
#include "emulation/ptx.h"

namespace effkern::emulation {
namespace {

template <int kMatrices, bool kTransposed>
void exchange(Thread* const* lanes, unsigned) {
  if (settings().count) count_matrix_move();
  for (int lane = 0; lane < kWarpSize; ++lane) {
    for (int m = 0; m < kMatrices; ++m) {
      for (int i = 0; i < 1 + kTransposed; ++i) {
        const int row = kTransposed ? 2 * (lane % 4) + i : lane / 4;
        lanes[lane]->out.u64[2 * m + i] = lanes[8 * m + row]->in.u64[0];
      }
    }
  }
}

WarpOperation exchange_operation(int matrices, bool transposed) {
  if (matrices == 1) return transposed ? exchange<1, true> : exchange<1, false>;
  if (matrices == 2) return transposed ? exchange<2, true> : exchange<2, false>;
  return transposed ? exchange<4, true> : exchange<4, false>;
}

// Fragments as the PTX manual has them, see common/ptx.cuh.
template <MmaShape kShape>
void multiply_fragments(Thread* const* lanes, unsigned) {
  constexpr int kDepth = kShape == MmaShape::kK16 ? 16 : 8;
  constexpr bool kTf32 = kShape == MmaShape::kK8Tf32;
  if (settings().count) count_mma();
  float a[16][kDepth], b[kDepth][8], c[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    const float* in = lanes[lane]->in.f32;
    if constexpr (kTf32) {
      for (int i = 0; i < 4; ++i) a[g + 8 * (i & 1)][t + 4 * (i >> 1)] = in[i];
      for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = in[8 + i];
    } else {
      // Two values to a register: i / 2 is the register, i % 2 the column (a) or row (b).
      for (int i = 0; i < kDepth / 2; ++i)
        a[g + 8 * (i >> 1 & 1)][2 * t + (i & 1) + 8 * (i >> 2)] = in[i];
      for (int i = 0; i < kDepth / 4; ++i) b[2 * t + (i & 1) + 8 * (i >> 1)][g] = in[8 + i];
    }
    for (int i = 0; i < 4; ++i) c[g + 8 * (i >> 1)][2 * t + (i & 1)] = in[12 + i];
  }
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      for (int k = 0; k < kDepth; ++k) c[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) lanes[lane]->out.f32[i] = c[g + 8 * (i >> 1)][2 * t + (i & 1)];
  }
}

}  // namespace

const Registers& exchange_rows(const void* row, int matrices, bool transposed, Access access,
                               const char* name, Site site) {
  if (current->lane < 8 * matrices) shared_place(row, 16, access, name, site);
  // The order with other threads: of those that read or write, but where two share a word.
  if (current->lane < 8 * matrices && transposed && access == Access::kWrite) {
    for (int i = 0; i < 16; i += 4) {
      shared_order(static_cast<const char*>(row) + i, access, site);
    }
  }
  current->in.u64[0] = reinterpret_cast<uintptr_t>(row);
  return warp_collective(exchange_operation(matrices, transposed), kFullMask, name, site, true);
}

const Registers& multiply(MmaShape shape, Site site) {
  switch (shape) {
    case MmaShape::kK16:
      return warp_collective(multiply_fragments<MmaShape::kK16>, kFullMask, "mma.m16n8k16", site,
                             true);
    case MmaShape::kK8:
      return warp_collective(multiply_fragments<MmaShape::kK8>, kFullMask, "mma.m16n8k8", site,
                             true);
    case MmaShape::kK8Tf32:
      break;
  }
  return warp_collective(multiply_fragments<MmaShape::kK8Tf32>, kFullMask, "mma.m16n8k8.tf32", site,
                         true);
}

void start_copy(const Copy& copy) {
  const NotTheKernel emulator;
  current->copies.push_back(copy);
}

void land_copies(int last) {
  Thread* me = current;
  size_t kept = 0;
  for (const Copy& copy : me->copies) {
    if (copy.group > last) {
      me->copies[kept++] = copy;
      continue;
    }
    shared_copy_landed(copy.destination, size_t(copy.bytes), copy.site);
    std::memcpy(copy.destination, copy.data, size_t(copy.bytes));
  }
  me->copies.resize(kept);
}

}  // namespace effkern::emulation
