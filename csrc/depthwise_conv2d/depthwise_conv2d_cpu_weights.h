// Packing of the weights of one vector of channels: [taps][lanes], in the order in which the
// stencil walks through them, or [taps] where lanes are pixels. Writes up to kLanes taps more than
// there are. With `step` vectors they take turns: lanes are `step` channels apart, and so many
// vectors lie between the taps. Included after simd.h, once per instruction set.
namespace effkern {
namespace EFFKERN_ISA {

// Rows of taps, one per `step` channels, to vectors of channels, one per tap, as many taps at a
// time as there are lanes.
template <class T>
void pack_transposed(const T* rows, int lanes, int64_t taps, bool flipped, Acc<T>* out,
                     int step = 1) {
  using A = Acc<T>;
  constexpr int L = kLanes<A>;
  const int64_t size = ((lanes - 1) * step + 1) * taps;
  for (int64_t k = 0; k < taps; k += L) {
    // With 8 lanes, one of an odd square of taps is left over: not worth a transpose.
    if (k == taps - 1 && lanes == L) {
      Vec<A> last;
      for (int lane = 0; lane < L; ++lane) last[lane] = to_acc(rows[lane * step * taps + k]);
      store_acc(out + (flipped ? 0 : k) * step * L, last);
      return;
    }
    Vec<A> block[L];
    for (int lane = 0; lane < L; ++lane) {
      // Whole vectors run over into the next row.
      const int64_t at = lane * step * taps + k;
      block[lane] = lane >= lanes    ? Vec<A>{}
                    : at + L <= size ? load(rows + at)
                                     : load_upto(rows + at, taps - k);
    }
    transpose(block);
    for (int64_t i = 0; i < min64(L, taps - k); ++i) {
      store_acc(out + (flipped ? taps - 1 - k - i : k + i) * step * L, block[i]);
    }
  }
}

template <class T, bool kChannels>
void pack_weights(const StencilTask& t, int64_t channel, int lanes, int64_t taps, Acc<T>* out,
                  Acc<T>* bias_out, int step = 1) {
  using A = Acc<T>;
  constexpr int E = kChannels ? kLanes<A> : 1;
  const int pitch = step * E;
  const T* bias = static_cast<const T*>(t.bias);
  for (int lane = 0; lane < E; ++lane) {
    bias_out[lane] =
        bias && lane < lanes ? A(to_acc(bias[(channel + lane * step) * t.bias_stride])) : A(0);
  }
  const T* weight = static_cast<const T*>(t.weight);
  if (t.dense_weight) {
    const T* rows = weight + channel * taps;
    if constexpr (!kChannels) {
      if (!t.flipped) return widen_row(out, rows, taps);
      for (int64_t k = 0; k < taps; ++k) out[k] = to_acc(rows[taps - 1 - k]);
      return;
    } else {
      return pack_transposed(rows, lanes, taps, t.flipped, out, step);
    }
  }
  for (int lane = 0; lane < E; ++lane) {
    A* p = out + lane;
    if (lane >= lanes) {
      for (int64_t k = 0; k < taps; ++k, p += pitch) *p = A(0);
      continue;
    }
    const T* plane = weight + (channel + lane * step) * t.planes * t.weight_stride_o;
    for (int64_t a = 0; a < t.rows.phases; ++a) {
      for (int64_t b = 0; b < t.cols.phases; ++b) {
        for (int64_t i = t.rows.begin[a]; i < t.rows.begin[a + 1]; ++i) {
          const T* row = plane + t.rows.index[i] * t.weight_stride_h;
          for (int64_t m = 0; m < t.planes; ++m, row += t.weight_stride_o) {
            for (int64_t j = t.cols.begin[b]; j < t.cols.begin[b + 1]; ++j, p += pitch) {
              *p = to_acc(row[t.cols.index[j] * t.weight_stride_w]);
            }
          }
        }
      }
    }
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
