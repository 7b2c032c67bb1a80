// Vectors of the widest registers, exp on them, and small products whose inner axis runs over
// channels while the vectors run over edges.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Inlining these would only make the compiler slow.
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

namespace {

using index = std::int64_t;

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif

typedef float float_vector __attribute__((vector_size(BYTES)));
typedef double double_vector __attribute__((vector_size(BYTES)));
typedef std::int32_t int32_vector __attribute__((vector_size(BYTES)));
typedef std::int64_t int64_vector __attribute__((vector_size(BYTES)));

template <class T> struct Lanes;
template <> struct Lanes<float> {
    using vector = float_vector;
    using integers = int32_vector;
    using integer = std::int32_t;
};
template <> struct Lanes<double> {
    using vector = double_vector;
    using integers = int64_vector;
    using integer = std::int64_t;
};
template <class T> using Vector = typename Lanes<T>::vector;
template <class T> constexpr int WIDTH = BYTES / int(sizeof(T));

// Rows of outputs and vectors of edges that a product holds in registers.
constexpr int ROWS = 4;
constexpr int VECTORS = REGISTERS == 32 ? 4 : 2;
// Bytes of one buffer of a tile; about five are in use.
constexpr index TILE_BYTES = 65536;

inline index rounded(index n, index to) { return (n + to - 1) / to * to; }
inline index smaller(index a, index b) { return a < b ? a : b; }
inline index larger(index a, index b) { return a > b ? a : b; }

template <class T> inline Vector<T> load(const T* from) {
    Vector<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class T> inline void store(T* to, Vector<T> v) { std::memcpy(to, &v, sizeof v); }
template <class T> inline Vector<T> all(T value) { return Vector<T>{} + value; }

// Not memcpy as a whole: from 2 KiB on it may choose instructions that some processors run several
// times slower where source and target lie differently.
template <class T> inline void copy(T* __restrict to, const T* __restrict from, index count) {
    constexpr int W = WIDTH<T>;
    index i = 0;
    for (; i + W <= count; i += W) store(to + i, load(from + i));
    if (i < count) std::memcpy(to + i, from + i, size_t(count - i) * sizeof(T));
}

// The first `count` lanes at `from`, zero in the others.
template <class T> inline Vector<T> load_first(const T* from, index count) {
    using Integers = typename Lanes<T>::integers;
    using Integer = typename Lanes<T>::integer;
    static_assert(WIDTH<T> <= 16, "the table below holds 16 lanes");
    alignas(64) static const Integer table[32] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                  -1, -1, -1, -1, -1, -1, -1, -1};
    Integers mask, bits;
    std::memcpy(&mask, table + 16 - count, sizeof mask);
    std::memcpy(&bits, from, sizeof bits);
    bits &= mask;
    Vector<T> v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}

template <class T> inline T sum(Vector<T> v) {
    if constexpr (BYTES == 64) {
        typedef T half __attribute__((vector_size(BYTES / 2)));
        typedef T quarter __attribute__((vector_size(BYTES / 4)));
        half h[2];
        std::memcpy(h, &v, sizeof v);
        h[0] += h[1];
        quarter q[2];
        std::memcpy(q, h, sizeof q);
        q[0] += q[1];
        T total = 0;
        for (int i = 0; i < WIDTH<T> / 4; ++i) total += q[0][i];
        return total;
    } else {
        T total = 0;
        for (int i = 0; i < WIDTH<T>; ++i) total += v[i];
        return total;
    }
}

// exp(x), to about one unit in the last place: x = n ln 2 + r, a polynomial in r, times 2^n.
// Arguments are clamped to where 2^n is still a number, or just infinite; NaN stays NaN.
inline float_vector exponential(float_vector x) {
    const float_vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const float_vector low = all(-87.0f), high = all(89.0f);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const float_vector shifted = x * 1.44269504088896341f + magic;
    const float_vector n = shifted - magic;
    float_vector r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float_vector p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    int32_vector bits, offset;
    std::memcpy(&bits, &shifted, sizeof bits);
    std::memcpy(&offset, &magic, sizeof offset);
    bits = (bits - offset + 127) << 23;
    float_vector power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

inline double_vector exponential(double_vector x) {
    const double_vector magic = all(6755399441055744.0);  // 1.5 * 2^52
    const double_vector low = all(-708.0), high = all(710.0);
    x = x < low ? low : x;
    x = x > high ? high : x;
    const double_vector shifted = x * 1.4426950408889634074 + magic;
    const double_vector n = shifted - magic;
    double_vector r = x - n * 6.93147180369123816490e-01;
    r = r - n * 1.90821492927058770002e-10;
    double_vector p = all(1.0 / 6227020800.0);
    const double inverse_factorials[] = {
        1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
        1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,     1.0 / 120.0,
        1.0 / 24.0,        1.0 / 6.0,        1.0 / 2.0,       1.0,
        1.0};
    for (double c : inverse_factorials) p = p * r + c;
    int64_vector bits, offset;
    std::memcpy(&bits, &shifted, sizeof bits);
    std::memcpy(&offset, &magic, sizeof offset);
    bits = (bits - offset + 1023) << 52;
    double_vector power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

template <class V> inline V sigmoid(V z) { return 1 / (1 + exponential(-z)); }

// ---------------------------------------------------------------------------------- products

// A matrix [rows, inner] so that ROWS of its rows lie together: [rows / ROWS, inner, ROWS], the
// last ones filled up with zeros. Element (r, k) is at from[r * row_step + k * inner_step].
template <class T>
NOINLINE void pack(T* to, const T* from, index rows, index inner, index row_step, index inner_step) {
    for (index r0 = 0; r0 < rows; r0 += ROWS)
        for (index k = 0; k < inner; ++k)
            for (index r = r0; r < r0 + ROWS; ++r)
                *to++ = r < rows ? from[r * row_step + k * inner_step] : T(0);
}

template <class T, int COUNT>
inline void multiply_strip(T* out, const T* packed, index inner, const T* x, index stride) {
    constexpr int W = WIDTH<T>;
    Vector<T> acc[ROWS][COUNT];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < COUNT; ++v) acc[r][v] = load(out + r * stride + v * W);
    for (index k = 0; k < inner; ++k) {
        Vector<T> in[COUNT];
#pragma GCC unroll 8
        for (int v = 0; v < COUNT; ++v) in[v] = load(x + k * stride + v * W);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const Vector<T> w = all(packed[k * ROWS + r]);
#pragma GCC unroll 8
            for (int v = 0; v < COUNT; ++v) acc[r][v] += w * in[v];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < COUNT; ++v) store(out + r * stride + v * W, acc[r][v]);
}

// out [rows, stride] += packed matrix times x [inner, stride], over `vectors` vectors of edges.
template <class T>
NOINLINE void multiply(T* out, const T* packed, index rows, index inner, const T* x, index stride,
              index vectors) {
    constexpr int W = WIDTH<T>;
    for (index r = 0; r < rows; r += ROWS) {
        const T* a = packed + r * inner;
        index v = 0;
        for (; v + VECTORS <= vectors; v += VECTORS)
            multiply_strip<T, VECTORS>(out + r * stride + v * W, a, inner, x + v * W, stride);
        for (; v < vectors; ++v)
            multiply_strip<T, 1>(out + r * stride + v * W, a, inner, x + v * W, stride);
    }
}

// into [rows, columns, lanes] += a [rows, stride] b [columns, stride]^T, still to be summed over
// lanes; rows and columns are multiples of ROWS.
template <class T>
NOINLINE void outer(T* into, const T* a, const T* b, index rows, index columns, index stride,
           index vectors) {
    constexpr int W = WIDTH<T>, COLUMNS = REGISTERS == 32 ? 4 : 2;
    static_assert(ROWS % COLUMNS == 0, "buffers are filled up to multiples of ROWS");
    for (index i = 0; i < rows; i += ROWS)
        for (index j = 0; j < columns; j += COLUMNS) {
            Vector<T> acc[ROWS][COLUMNS] = {};
            for (index v = 0; v < vectors; ++v) {
                Vector<T> right[COLUMNS];
#pragma GCC unroll 8
                for (int c = 0; c < COLUMNS; ++c) right[c] = load(b + (j + c) * stride + v * W);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; ++r) {
                    const Vector<T> left = load(a + (i + r) * stride + v * W);
#pragma GCC unroll 8
                    for (int c = 0; c < COLUMNS; ++c) acc[r][c] += left * right[c];
                }
            }
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
                for (int c = 0; c < COLUMNS; ++c) {
                    T* at = into + ((i + r) * columns + j + c) * W;
                    store(at, load(at) + acc[r][c]);
                }
        }
}

}  // namespace
