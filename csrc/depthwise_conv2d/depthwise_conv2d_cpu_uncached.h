// What the direct kernels for channels_last images do where the tensors exceed the caches. A tile
// reads dozens of pixels side by side, more streams than the processor's prefetchers follow: it
// fetches the rows below it. Included before these kernels, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// The rows below a tile, which the tile below it will be the first to read: as many adjacent pixels
// of each as the tile is wide, a part of them with every span of channels that the tile computes.
struct RowsAhead {
  // Null: nothing is fetched.
  const char* begin = nullptr;
  // Rows, the bytes from one to the next, and those of each that go with one span.
  int64_t rows, row_bytes, span_bytes;

  EFFKERN_INLINE void fetch(int64_t span) const {
    if (!begin) return;
    const char* row = begin + span * span_bytes;
    for (int64_t r = 0; r < rows; ++r, row += row_bytes) {
      // Into the L2 cache; an address outside the tensor is no error.
      for (int64_t b = 0; b < span_bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
    }
  }
};

inline constexpr int kLineBytes = 64;

// Stores of N pixels past the caches, a cache line of each at a time: what is less than a line
// makes the memory read the rest of it.
template <class T, int N>
struct LineStores {
  static constexpr int kParts = kLineBytes / (kSpan<T> * static_cast<int>(sizeof(T)));
  Span<T> held[N];
  bool holding = false;

  // Whether spans of the output of this task make whole lines. Sums and hooks read it again.
  static bool fit(const StencilTask& task) {
    const Strides4& o = task.output_strides;
    constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(T));
    const bool aligned = reinterpret_cast<uintptr_t>(task.output) % kLineBytes == 0;
    return task.streams && kParts <= 2 && aligned && (o.n | o.h | o.w) % kLine == 0;
  }

  // `at(i)` is the address of pixel i; `more` if the next span of channels follows.
  template <class Address>
  EFFKERN_INLINE void put(const Span<T> (&spans)[N], const Address& at, bool more) {
    const bool begins = reinterpret_cast<uintptr_t>(at(0)) % kLineBytes == 0;
    if (kParts == 1) {
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) stream_span(at(i), spans[i]);
    } else if (holding) {
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        stream_span(at(i) - kSpan<T>, held[i]);
        stream_span(at(i), spans[i]);
      }
      holding = false;
    } else if (begins && more) {
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) held[i] = spans[i];
      holding = true;
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) store_span(at(i), spans[i]);
    }
  }
};

}  // namespace EFFKERN_ISA
}  // namespace effkern
