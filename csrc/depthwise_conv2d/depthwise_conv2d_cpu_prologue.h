// The prologue of the packed forward: what lies inside the image passes through a scale and a shift
// per channel and an activation; the zeros around it stay. Included after the pack header, once per
// instruction set.
namespace effkern {
namespace EFFKERN_ISA {

template <class A>
struct Prologue {
  Vec<A> scale, shift;
  // relu and relu6 are bounds; kNone where these do it all.
  Vec<A> lo, hi;
  Activation activation;

  // Of the `lanes` output channels from `channel` on, or of one in all lanes.
  Prologue(const StencilTask& t, int64_t channel, int lanes, bool broadcast) {
    const A* scales = static_cast<const A*>(t.scale);
    const A* shifts = static_cast<const A*>(t.shift);
    for (int l = 0; l < kLanes<A>; ++l) {
      const int64_t c = floor_div(channel + (broadcast || l >= lanes ? 0 : l), t.divide);
      scale[l] = scales ? scales[c * t.scale_stride] : A(1);
      shift[l] = shifts ? shifts[c * t.shift_stride] : A(0);
    }
    // No NaN but the plain one, which is what storing a bfloat16 expects.
    scale = scale != scale ? splat(A(__builtin_nan(""))) : scale;
    shift = shift != shift ? splat(A(__builtin_nan(""))) : shift;
    const Activation a = t.source_activation;
    const bool clamps = a == Activation::kReLU || a == Activation::kReLU6;
    lo = splat(clamps ? A(0) : -A(__builtin_inf()));
    hi = splat(a == Activation::kReLU6 ? A(6) : A(__builtin_inf()));
    activation = clamps ? Activation::kNone : a;
  }

  EFFKERN_INLINE Vec<A> operator()(Vec<A> x) const {
    x = clamp<A>(x * scale + shift, lo, hi);
    return activation == Activation::kNone ? x : activate<A>(x, activation);
  }
};

// A packed block of E channels, a vector of them or one.
template <class A, int E>
void apply_prologue(const StencilTask& t, A* packed, int64_t channel, int lanes,
                    const PackBlock& b) {
  constexpr int L = kLanes<A>;
  const Prologue<A> prologue(t, channel, lanes, E == 1);
  const int64_t top = max64(-b.row, 0), bottom = min64(b.height - b.row, b.rows);
  for (int64_t r = top; r < bottom; ++r) {
    for (int64_t phase = 0; phase < b.phases; ++phase) {
      int64_t lo, hi;
      inside(b, phase, &lo, &hi);
      A* row = packed + (r * b.phases + phase) * b.pitch * E;
      A* const end = row + hi * E;
      A* p = row + lo * E;
      for (; p + L <= end; p += L) store_acc(p, prologue(load_acc(p)));
      // What follows is the border.
      if (p < end) store_upto(p, prologue(load_upto(p, end - p)), end - p);
    }
  }
}

}  // namespace EFFKERN_ISA
}  // namespace effkern
