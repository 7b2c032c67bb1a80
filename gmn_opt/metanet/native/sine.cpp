// sin(x), and the product of a gradient with cos(x), for networks with sines: see inr/sine.py.
// Single precision, to about one unit in the last place of 1.

#include <cmath>

#include "vectors.h"

namespace {

// Beyond this the reduction below loses digits, and the C library's functions serve.
constexpr float LARGEST = 8192.0f;
// Elements whose largest size is looked up at once.
constexpr index CHUNK = 256;

float_vector chosen(int32_vector mask, float_vector yes, float_vector no) {
    int32_vector a, b;
    std::memcpy(&a, &yes, sizeof a);
    std::memcpy(&b, &no, sizeof b);
    a = (a & mask) | (b & ~mask);
    float_vector out;
    std::memcpy(&out, &a, sizeof out);
    return out;
}

// sin(x + quarters * pi / 2): x = n pi / 2 + r, a polynomial of sine or cosine in r, and a sign.
inline float_vector sine(float_vector x, int quarters) {
    const float_vector magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const float_vector shifted = x * 0.636619772367581343f + magic;
    const float_vector n = shifted - magic;
    float_vector r = x - n * 1.5703125f;
    r = r - n * 4.837512969970703125e-4f;
    r = r - n * 7.54978995489188216e-8f;
    const float_vector r2 = r * r;
    float_vector s = all(-1.9515295891e-4f);
    s = s * r2 + 8.3321608736e-3f;
    s = s * r2 + -1.6666654611e-1f;
    s = s * r2 * r + r;
    float_vector c = all(2.443315711809948e-5f);
    c = c * r2 + -1.388731625493765e-3f;
    c = c * r2 + 4.166664568298827e-2f;
    c = c * r2 * r2 + (1.0f - 0.5f * r2);
    int32_vector bits, offset, sign;
    std::memcpy(&bits, &shifted, sizeof bits);
    std::memcpy(&offset, &magic, sizeof offset);
    bits = bits - offset + quarters;
    float_vector value = chosen(-(bits & 1), c, s);
    std::memcpy(&sign, &value, sizeof sign);
    sign ^= (bits & 2) << 30;
    std::memcpy(&value, &sign, sizeof value);
    return value;
}

bool is_small(const float* x, index count) {
    float_vector most = {};
    index i = 0;
    for (; i + WIDTH<float> <= count; i += WIDTH<float>) {
        const float_vector v = load(x + i), size = v < 0 ? -v : v;
        most = size > most ? size : most;
    }
    float largest = 0;
    for (int lane = 0; lane < WIDTH<float>; ++lane) largest = std::fmax(largest, most[lane]);
    for (; i < count; ++i) largest = std::fmax(largest, std::fabs(x[i]));
    return largest <= LARGEST;
}

// out = sin(x + quarters * pi / 2), times `factor` if that is not null.
template <int QUARTERS>
void run(const float* x, const float* factor, float* out, index count) {
    constexpr int W = WIDTH<float>;
    for (index at = 0; at < count; at += CHUNK) {
        const index here = smaller(CHUNK, count - at);
        const float *from = x + at, *by = factor ? factor + at : nullptr;
        float* to = out + at;
        if (!is_small(from, here)) {
            for (index i = 0; i < here; ++i)
                to[i] = (QUARTERS ? std::cos(from[i]) : std::sin(from[i])) * (by ? by[i] : 1.0f);
            continue;
        }
        index i = 0;
        for (; i + W <= here; i += W) {
            const float_vector value = sine(load(from + i), QUARTERS);
            store(to + i, by ? value * load(by + i) : value);
        }
        if (i < here) {
            float kept[W] = {};
            std::memcpy(kept, from + i, size_t(here - i) * sizeof(float));
            store(kept, sine(load(kept), QUARTERS));
            for (index j = 0; i + j < here; ++j) to[i + j] = kept[j] * (by ? by[i + j] : 1.0f);
        }
    }
}

}  // namespace

// All arrays have `count` elements; `out` may be one of the inputs.
EXPORT void gmn_opt_sine(const float* x, float* out, std::int64_t count) {
    run<0>(x, nullptr, out, count);
}

EXPORT void gmn_opt_sine_backward(const float* x, const float* grad, float* out,
                                  std::int64_t count) {
    run<1>(x, grad, out, count);
}
