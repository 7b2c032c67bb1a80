// One pass over a tensor's numbers for a step of the optimizer: see optim/fused.py.

#include <cmath>

#include "vectors.h"

namespace {

// What the numbers of a step are multiplied by.
struct Factors {
    // One minus the decays of the moments.
    double fast_rate, slow_rate, second_rate;
    // Of the fast moment and of the gradient in the look-ahead.
    double momentum, novelty;
    // Corrects the second moment's start at zero; is added to it.
    double correction, eps;
    // Of the directions over the root of the second moment, and of the weight.
    double gradient, look, slow, weight;
};

inline float root(float x) { return std::sqrt(x); }
inline double root(double x) { return std::sqrt(x); }

template <class T>
void run(const T* __restrict value, const T* __restrict grad, T* __restrict fast,
         T* __restrict slow, T* __restrict second, T* __restrict ahead, T* __restrict delta,
         const Factors& f, index count) {
    const T fast_rate = T(f.fast_rate), slow_rate = T(f.slow_rate), rate = T(f.second_rate);
    const T kept = T(1 - f.second_rate), momentum = T(f.momentum), novelty = T(f.novelty);
    const T correction = T(f.correction), eps = T(f.eps), weight = T(f.weight);
    const T by_gradient = T(f.gradient), by_look = T(f.look), by_slow = T(f.slow);
    for (index i = 0; i < count; ++i) {
        const T g = grad[i], m = fast[i] + fast_rate * (g - fast[i]);
        const T s = slow[i] + slow_rate * (g - slow[i]), v = kept * second[i] + rate * (g * g);
        const T look = momentum * m + novelty * g;
        fast[i] = m;
        slow[i] = s;
        second[i] = v;
        ahead[i] = look;
        const T mixed = by_look * look + by_gradient * g + by_slow * s;
        const T by_size = mixed / root(v * correction + eps);
        // a weight that plays no part may be infinite
        delta[i] = weight != T(0) ? by_size + weight * value[i] : by_size;
    }
}

template <class T>
void run_all(void* const* arrays, const double* factors, const std::int64_t* counts,
             std::int64_t pieces) {
    for (std::int64_t i = 0; i < pieces; ++i, arrays += 7, factors += sizeof(Factors) / 8) {
        Factors f;
        std::memcpy(&f, factors, sizeof f);
        const auto at = [&](int k) { return static_cast<T*>(arrays[k]); };
        run<T>(at(0), at(1), at(2), at(3), at(4), at(5), at(6), f, counts[i]);
    }
}

}  // namespace

// Pieces one after the other. Of each, seven arrays of its count of elements, none of which is
// another: value, grad, fast, slow, second, ahead, delta; and the numbers of Factors.
EXPORT void gmn_opt_step_float32(void* const* arrays, const double* factors,
                                 const std::int64_t* counts, std::int64_t pieces) {
    run_all<float>(arrays, factors, counts, pieces);
}

EXPORT void gmn_opt_step_float64(void* const* arrays, const double* factors,
                                 const std::int64_t* counts, std::int64_t pieces) {
    run_all<double>(arrays, factors, counts, pieces);
}
