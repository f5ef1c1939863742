// The operations of a whole warp that cuda.h names.
#include "emulation/cuda.h"

namespace effkern::emulation {

int shuffle_source(Shuffle kind, int lane, int operand, int width) {
  const int first = lane & ~(width - 1), last = first + width - 1;
  switch (kind) {
    case Shuffle::kIndex:
      return first | (operand & (width - 1));
    case Shuffle::kUp:
      return lane - operand < first ? lane : lane - operand;
    case Shuffle::kDown:
      return lane + operand > last ? lane : lane + operand;
    case Shuffle::kXor:
      break;
  }
  return (lane ^ operand) > last ? lane : lane ^ operand;
}

void shuffle_lanes(Thread* const* lanes, unsigned group) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(group >> lane & 1)) continue;
    const unsigned source = lanes[lane]->in.u32[15];
    const bool gives = group >> source & 1;
    for (int i = 0; i < 2; ++i) lanes[lane]->out.u64[i] = gives ? lanes[source]->in.u64[i] : ~0ull;
  }
}

void vote(Thread* const* lanes, unsigned group) {
  unsigned votes = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (group >> lane & 1) votes |= lanes[lane]->in.u32[0] << lane;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (group >> lane & 1) lanes[lane]->out.u32[0] = votes;
  }
}

void nothing(Thread* const*, unsigned) {}

namespace {

template <typename Function>
void reduce_lanes(Thread* const* lanes, unsigned group, Function function) {
  const int first = __builtin_ctz(group);
  unsigned result = lanes[first]->in.u32[0];
  for (int lane = first + 1; lane < kWarpSize; ++lane) {
    if (group >> lane & 1) {
      result = function(result, lanes[lane]->in.u32[0], lanes[lane]->in.u32[1] != 0);
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (group >> lane & 1) lanes[lane]->out.u32[0] = result;
  }
}

bool less(unsigned a, unsigned b, bool is_signed) { return is_signed ? int(a) < int(b) : a < b; }

}  // namespace

void reduce_add(Thread* const* lanes, unsigned group) {
  reduce_lanes(lanes, group, [](unsigned a, unsigned b, bool) { return a + b; });
}
void reduce_min(Thread* const* lanes, unsigned group) {
  reduce_lanes(lanes, group, [](unsigned a, unsigned b, bool s) { return less(b, a, s) ? b : a; });
}
void reduce_max(Thread* const* lanes, unsigned group) {
  reduce_lanes(lanes, group, [](unsigned a, unsigned b, bool s) { return less(a, b, s) ? b : a; });
}

}  // namespace effkern::emulation
