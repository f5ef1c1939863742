// What a machine's CPU can reach: peak multiply-add rate and copy bandwidth, measured. The
// benchmarks draw their rooflines from these. Torch's own matrix product and copy_ stay up to half
// below them on two cores, because of their splitting between threads and their cost per call.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace effkern::ceilings {

struct Rate {
  // FLOP/s or bytes/s, summed over the threads.
  double per_second;
  // The instruction set of the measuring loop.
  std::string isa;
};

namespace detail {

constexpr int kMaxThreads = 1024;

typedef float Float4 __attribute__((vector_size(16)));
typedef float Float8 __attribute__((vector_size(32)));
typedef float Float16 __attribute__((vector_size(64)));

// More independent chains than latency times pipes of any current core (AArch64: 4 x 4), and with
// the two constants no more than its registers. The compiler contracts a * b + c to one instruction
// where there is one.
#define EFFKERN_DEFINE_FMA_LOOP(name, target, Vector, chains)                   \
  target inline float name(int64_t iterations) {                                \
    Vector sums[chains], scale = Vector{} + 0.999f, offset = Vector{} + 0.001f; \
    for (int i = 0; i < chains; ++i) sums[i] = Vector{} + float(i);             \
    for (int64_t n = 0; n < iterations; ++n) {                                  \
      _Pragma("GCC unroll 32") for (int i = 0; i < chains; ++i) sums[i] =       \
          sums[i] * scale + offset;                                             \
    }                                                                           \
    float total = 0;                                                            \
    for (int i = 0; i < chains; ++i) total += sums[i][0];                       \
    return total;                                                               \
  }

// The barrier keeps the compiler from turning the loop into memcpy, which chooses its stores by
// size.
#define EFFKERN_DEFINE_COPY_LOOP(name, target, Vector)                   \
  target inline void name(float* to, const float* from, int64_t count) { \
    constexpr int64_t kLanes = sizeof(Vector) / sizeof(float);           \
    for (int64_t i = 0; i < count; i += 4 * kLanes) {                    \
      auto source = reinterpret_cast<const Vector*>(from + i);           \
      auto sink = reinterpret_cast<Vector*>(to + i);                     \
      Vector a = source[0], b = source[1], c = source[2], d = source[3]; \
      sink[0] = a, sink[1] = b, sink[2] = c, sink[3] = d;                \
      asm volatile("" ::: "memory");                                     \
    }                                                                    \
  }

#if defined(__x86_64__)
EFFKERN_DEFINE_FMA_LOOP(fma_loop_avx512, __attribute__((target("avx512f"))), Float16, 24)
EFFKERN_DEFINE_FMA_LOOP(fma_loop_avx2, __attribute__((target("avx2,fma"))), Float8, 12)
EFFKERN_DEFINE_FMA_LOOP(fma_loop_portable, , Float4, 12)
EFFKERN_DEFINE_COPY_LOOP(copy_loop_avx2, __attribute__((target("avx2"))), Float8)

inline void copy_loop_streaming(float* to, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 4) _mm_stream_ps(to + i, _mm_load_ps(from + i));
  _mm_sfence();
}
#else
EFFKERN_DEFINE_FMA_LOOP(fma_loop_portable, , Float4, 24)
#endif
EFFKERN_DEFINE_COPY_LOOP(copy_loop_portable, , Float4)

#undef EFFKERN_DEFINE_FMA_LOOP
#undef EFFKERN_DEFINE_COPY_LOOP

// Calls work(thread) over and over in every thread, all at the same time, for `seconds`; returns
// the calls per second, summed over the threads. prepare(thread) runs once in each thread
// beforehand.
template <typename Prepare, typename Work>
double calls_per_second(int threads, double seconds, Prepare prepare, Work work) {
  using Clock = std::chrono::steady_clock;
  std::atomic<int> waiting{threads};
  std::vector<double> rates(threads);
  auto run = [&](int thread) {
    prepare(thread);
    waiting.fetch_sub(1);
    while (waiting.load() > 0) std::this_thread::yield();
    int64_t calls = 0;
    const auto start = Clock::now();
    double elapsed = 0;
    do {
      work(thread);
      ++calls;
      elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    } while (elapsed < seconds);
    rates[thread] = calls / elapsed;
  };
  std::vector<std::thread> pool;
  for (int thread = 1; thread < threads; ++thread) pool.emplace_back(run, thread);
  run(0);
  for (auto& member : pool) member.join();
  double total = 0;
  for (double rate : rates) total += rate;
  return total;
}

}  // namespace detail

// Multiply-adds on registers, two FLOPs each, with the widest vectors of this CPU.
inline Rate measure_fma_peak(int threads, double seconds) {
  threads = std::clamp(threads, 1, detail::kMaxThreads);
  auto loop = detail::fma_loop_portable;
#if defined(__x86_64__)
  int64_t flops_per_iteration = 12 * 4 * 2;
  std::string isa = "sse2";
  if (__builtin_cpu_supports("avx512f")) {
    loop = detail::fma_loop_avx512, flops_per_iteration = 24 * 16 * 2, isa = "avx512";
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    loop = detail::fma_loop_avx2, flops_per_iteration = 12 * 8 * 2, isa = "avx2";
  }
#else
  const int64_t flops_per_iteration = 24 * 4 * 2;
  const std::string isa = "portable";
#endif
  // About 100 us a call: the clock costs nothing.
  constexpr int64_t kIterations = 50000;
  const double calls = detail::calls_per_second(
      threads, seconds, [](int) {},
      [&](int) {
        const float result = loop(kIterations);
        asm volatile("" ::"m"(result));
      });
  return {calls * double(kIterations * flops_per_iteration), isa};
}

// Copies from one buffer to another, both private to their thread; `bytes` is what all threads read
// and write in one round (so the working set), and read + written bytes are counted. `streaming`
// uses stores that bypass the caches.
inline Rate measure_copy_bandwidth(int64_t bytes, int threads, double seconds, bool streaming) {
  threads = std::clamp(threads, 1, detail::kMaxThreads);
  const int64_t count = std::max<int64_t>(bytes / (2 * sizeof(float) * threads) / 64 * 64, 64);
  auto loop = detail::copy_loop_portable;
  std::string isa = "portable";
#if defined(__x86_64__)
  if (streaming) {
    loop = detail::copy_loop_streaming, isa = "sse2 streaming";
  } else if (__builtin_cpu_supports("avx2")) {
    loop = detail::copy_loop_avx2, isa = "avx2";
  }
#endif
  struct Free {
    void operator()(float* buffer) const { std::free(buffer); }
  };
  using Buffer = std::unique_ptr<float, Free>;
  std::vector<Buffer> from(threads), to(threads);
  for (auto* buffers : {&from, &to}) {
    for (auto& buffer : *buffers) {
      buffer.reset(static_cast<float*>(
          std::aligned_alloc(4096, (count * sizeof(float) + 4095) / 4096 * 4096)));
      if (!buffer) return {0, "out of memory"};
    }
  }
  // Small buffers are copied several times between two looks at the clock.
  const int64_t repeats = std::max<int64_t>(1, (1 << 20) / (count * int64_t(sizeof(float))));
  const double calls = detail::calls_per_second(
      threads, seconds,
      [&](int thread) {
        std::memset(from[thread].get(), 1, count * sizeof(float));
        std::memset(to[thread].get(), 1, count * sizeof(float));
      },
      [&](int thread) {
        for (int64_t i = 0; i < repeats; ++i) loop(to[thread].get(), from[thread].get(), count);
      });
  return {calls * double(repeats * count * 2 * sizeof(float)), isa};
}

}  // namespace effkern::ceilings
