// Values of nodes to the ends of blocks, and messages at the ends of blocks back to nodes: see
// incidence.py for what that is. Nodes stand one after the other with their channels side by side, the
// ends of blocks with their channels apart, as edge_pass.cpp takes them: so a sparse matrix acts on
// whole rows of channels, and a small transposition stands before or behind it.

#include <vector>

#include "vectors.h"

namespace {

// A sparse matrix by rows: the entries of row r are begin[r] to begin[r + 1] - 1.
template <class T> struct Matrix {
    index rows, entries;
    const index *begin, *column;
    const T* value;
};

// The matrices that stand one after the other in `numbers` (rows, entries, begin, column) and
// `values`.
template <class T> struct Matrices {
    const index* numbers;
    const T* values;
    Matrix<T> next() {
        Matrix<T> m{numbers[0], numbers[1], numbers + 2, numbers + 3 + numbers[0], values};
        numbers = m.column + m.entries;
        values += m.entries;
        return m;
    }
};

// Ends that are worked on at once.
constexpr index CHUNK = 64;

// to [channels, count] from rows [count, channels] that are `step` apart; rows of `to` likewise.
template <class T>
inline void turn(T* __restrict to, index to_step, const T* __restrict from, index step,
                 index count, index channels) {
    for (index k = 0; k < channels; ++k)
        for (index i = 0; i < count; ++i) to[k * to_step + i] = from[i * step + k];
}

// sum [channels] += row `r` of the matrix times rows of `x`, `step` apart.
template <class T>
inline void add_row(T* __restrict sum, const Matrix<T>& m, index r, const T* __restrict x,
                    index step, index channels) {
    for (index p = m.begin[r]; p < m.begin[r + 1]; ++p) {
        const T value = m.value[p];
        const T* from = x + m.column[p] * step;
        for (index k = 0; k < channels; ++k) sum[k] += value * from[k];
    }
}

template <class T> struct Term {
    const Matrix<T>* matrix;
    const T* x;  // null for zeros
    index step;
};

// out [channels, rows of the matrices] = sum of the terms.
template <class T, index FIXED>
void to_ends(T* out, const Term<T>* terms, index count, index any) {
    const index channels = FIXED ? FIXED : any, rows = terms[0].matrix->rows;
    std::vector<T> kept(size_t(CHUNK * channels));
    T* sums = kept.data();
    for (index at = 0; at < rows; at += CHUNK) {
        const index here = smaller(CHUNK, rows - at);
        std::memset(sums, 0, size_t(here * channels) * sizeof(T));
        for (index i = 0; i < count; ++i)
            if (terms[i].x)
                for (index r = 0; r < here; ++r)
                    add_row(sums + r * channels, *terms[i].matrix, at + r, terms[i].x,
                            terms[i].step, channels);
        turn(out + at, rows, sums, channels, here, channels);
    }
}

// out [rows of the matrix, channels], rows `step` apart, from x [inputs, channels].
template <class T, index FIXED>
void to_nodes(T* out, index step, const Matrix<T>& m, const T* x, index any) {
    const index channels = FIXED ? FIXED : any;
    for (index r = 0; r < m.rows; ++r) {
        T* sum = out + r * step;
        std::memset(sum, 0, size_t(channels) * sizeof(T));
        if (x) add_row(sum, m, r, x, channels, channels);
    }
}

struct Sizes {
    index channels, nodes, blocks, rows, columns;
};

template <class T, index FIXED>
void gather(const Sizes& n, Matrices<T> given, index first, index end, const T* pairs,
            const T* per_block, T* dst, T* src) {
    const Matrix<T> rows = given.next(), columns = given.next(), of_blocks = given.next();
    const index f = n.channels;
    for (index b = first; b < end; ++b) {
        const T* here = pairs ? pairs + b * n.nodes * 2 * f : nullptr;
        const Term<T> at_rows[] = {
            {&rows, here, 2 * f},
            {&of_blocks, per_block ? per_block + b * n.blocks * f : nullptr, f},
        };
        const Term<T> at_columns[] = {{&columns, here ? here + f : nullptr, 2 * f}};
        to_ends<T, FIXED>(dst + b * f * n.rows, at_rows, 2, f);
        to_ends<T, FIXED>(src + b * f * n.columns, at_columns, 1, f);
    }
}

template <class T, index FIXED>
void pool(const Sizes& n, Matrices<T> given, index first, index end, const T* at_dst,
             const T* at_src, T* pairs, T* per_block) {
    const Matrix<T> rows = given.next(), columns = given.next(), of_blocks = given.next();
    const index f = n.channels;
    std::vector<T> kept(size_t(larger(n.rows, n.columns) * f));
    T* turned = kept.data();
    for (index b = first; b < end; ++b) {
        T* here = pairs + b * n.nodes * 2 * f;
        if (at_dst) turn(turned, f, at_dst + b * f * n.rows, n.rows, f, n.rows);
        to_nodes<T, FIXED>(here, 2 * f, rows, at_dst ? turned : nullptr, f);
        to_nodes<T, FIXED>(per_block + b * n.blocks * f, f, of_blocks, at_dst ? turned : nullptr, f);
        if (at_src) turn(turned, f, at_src + b * f * n.columns, n.columns, f, n.columns);
        to_nodes<T, FIXED>(here + f, 2 * f, columns, at_src ? turned : nullptr, f);
    }
}

}  // namespace

// Arrays are contiguous: pairs [batch, nodes, 2 * channels] with destinations before sources,
// per_block [batch, blocks, channels], dst [batch, channels, rows], src [batch, channels, columns].
// Networks from `first` to end - 1 are worked on. Inputs may be null and count as zeros then.
// Returns 0, or 1 without memory.
#define DEFINE(FUNCTION, T, SUFFIX)                                                                \
    EXPORT int gmn_opt_##FUNCTION##_##SUFFIX(                                                      \
        std::int64_t channels, std::int64_t nodes, std::int64_t blocks, std::int64_t rows,         \
        std::int64_t columns, const std::int64_t* numbers, const T* values, std::int64_t first,    \
        std::int64_t end, const T* a, const T* b, T* c, T* d) {                                    \
        const Sizes n{channels, nodes, blocks, rows, columns};                                     \
        const Matrices<T> given{numbers, values};                                                  \
        try {                                                                                      \
            switch (channels) {                                                                    \
                case 4: FUNCTION<T, 4>(n, given, first, end, a, b, c, d); break;                   \
                case 8: FUNCTION<T, 8>(n, given, first, end, a, b, c, d); break;                   \
                case 16: FUNCTION<T, 16>(n, given, first, end, a, b, c, d); break;                 \
                case 32: FUNCTION<T, 32>(n, given, first, end, a, b, c, d); break;                 \
                default: FUNCTION<T, 0>(n, given, first, end, a, b, c, d);                         \
            }                                                                                      \
        } catch (...) {                                                                            \
            return 1;                                                                              \
        }                                                                                          \
        return 0;                                                                                  \
    }

DEFINE(gather, float, float32)
DEFINE(gather, double, float64)
DEFINE(pool, float, float32)
DEFINE(pool, double, float64)
