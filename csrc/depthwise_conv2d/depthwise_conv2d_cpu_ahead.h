// Prefetching for the direct kernels for channels_last images whose tensors exceed the caches: a
// tile reads dozens of pixels side by side, more streams than the processor's prefetchers follow.
// Included before these kernels, once per instruction set.
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

}  // namespace EFFKERN_ISA
}  // namespace effkern
