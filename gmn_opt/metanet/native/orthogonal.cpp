// Newton-Schulz iterations on small matrices, where torch's calls cost more than its arithmetic.
// The numbers are those of `_gram` in optim/orthogonalize.py.

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

// out [m, n] (+)= left [m, k] right [k, n], row by row.
template <class T>
void multiply(const T* __restrict left, const T* __restrict right, T* __restrict out, index m,
              index k, index n, bool add) {
    for (index i = 0; i < m; ++i) {
        T* __restrict row = out + i * n;
        if (!add) std::fill(row, row + n, T(0));
        for (index l = 0; l < k; ++l) {
            const T factor = left[i * k + l];
            const T* __restrict other = right + l * n;
            for (index j = 0; j < n; ++j) row[j] += factor * other[j];
        }
    }
}

// out [m, m] = a I + b of
template <class T>
void shifted(const T* of, T* out, index m, T a, T b) {
    for (index i = 0; i < m * m; ++i) out[i] = b * of[i];
    for (index i = 0; i < m; ++i) out[i * m + i] += a;
}

template <class T>
void run(const T* given, T* out, index matrices, index m, index n, index steps,
         const double* factors) {
    const T a = T(factors[0]), b = T(factors[1]), c = T(factors[2]);
    const T damped = T(factors[3]), raised = T(factors[4]), eps = T(factors[5]);
    std::vector<T> space(2 * m * n + 6 * m * m);
    T* x = space.data();
    T *turned = x + m * n, *first = turned + m * n, *gram = first + m * m, *p = gram + m * m,
      *product = p + m * m, *next = product + m * m, *scaled = next + m * m;
    for (; matrices > 0; --matrices, given += m * n, out += m * n) {
        T squares = 0;
        for (index i = 0; i < m * n; ++i) squares += given[i] * given[i];
        const T size = std::sqrt(squares + eps * eps);
        for (index i = 0; i < m * n; ++i) x[i] = given[i] / size;
        for (index i = 0; i < m; ++i)
            for (index j = 0; j < n; ++j) turned[j * m + i] = x[i * n + j];
        multiply(x, turned, first, m, n, m, false);
        std::copy(first, first + m * m, gram);
        for (index step = 0; step < steps; ++step) {
            shifted(gram, p, m, a, b);
            for (index i = 0; i < m * m; ++i) scaled[i] = c * gram[i];
            multiply(scaled, gram, p, m, m, m, true);
            if (step == 0) {
                std::copy(p, p + m * m, product);
            } else {
                multiply(p, product, next, m, m, m, false);
                std::swap(product, next);
            }
            if (step + 1 < steps) {
                multiply(p, gram, next, m, m, m, false);
                multiply(next, p, gram, m, m, m, false);
            }
        }
        if (damped != T(0)) {
            for (index i = 0; i < m * m; ++i) product[i] += raised * first[i];
            for (index i = 0; i < m; ++i) product[i * m + i] -= damped;
        }
        multiply(product, x, out, m, m, n, false);
    }
}

}  // namespace

// `matrices` of [m, n] each, m <= n, one after the other; factors: the three coefficients, what is
// taken back of the identity and of the first Gram matrix, and the least size.
EXPORT void gmn_opt_orthogonal_float32(const float* given, float* out, std::int64_t matrices,
                                       std::int64_t m, std::int64_t n, std::int64_t steps,
                                       const double* factors) {
    run(given, out, matrices, m, n, steps, factors);
}

EXPORT void gmn_opt_orthogonal_float64(const double* given, double* out, std::int64_t matrices,
                                       std::int64_t m, std::int64_t n, std::int64_t steps,
                                       const double* factors) {
    run(given, out, matrices, m, n, steps, factors);
}
