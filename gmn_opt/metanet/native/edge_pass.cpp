// The pass of a metanet over all edges, forward and backward: see backends/__init__.py for what it
// computes. No headers of torch or Python: raw pointers and sizes, so that one compilation serves
// every version of both.

#include "edge_tiles.h"

namespace {

// ----------------------------------------------------------------------------------- forward

template <class T> int forward(Problem<T> p, T* fresh, T* at_dst, T* at_src) {
    constexpr int W = WIDTH<T>;
    p.measure();
    const index stride = p.stride(), padded = column_stride<T>(p.widest);
    static thread_local Arena arena;
    T *packed, *packed_residual, *x, *h, *src, *column_sums;
    for (Cutter cut{nullptr};; cut = Cutter{arena.base}) {
        packed = cut.template take<T>(p.f_full() * p.g);
        packed_residual = cut.template take<T>(p.f_full() * p.g);
        x = cut.template take<T>(p.g_full() * stride);
        h = cut.template take<T>(p.f_full() * stride);
        src = cut.template take<T>(p.f * padded);
        column_sums = cut.template take<T>(p.f * padded);
        if (cut.base) break;
        if (!arena.reserve(cut.used)) return 1;
    }
    std::memset(h, 0, size_t(p.f_full() * stride) * sizeof(T));
    const auto pack_both = [&](const Piece& piece) {
        pack(packed, p.matrix(p.weight, piece.network, piece.block), p.f, p.g, p.g, 1);
        if (p.residual)
            pack(packed_residual, p.matrix(p.residual, piece.network, piece.block), p.f, p.g, p.g, 1);
    };
    if (!p.per_block) pack_both(Piece{});
    const index first = first_edge(p);
    Ahead<T> ahead(p.x, p.g, p, first), fresh_ahead(fresh, p.f, p, first);
    each_piece(p, [&](const Piece& piece) {
        if (p.per_block) pack_both(piece);
        fetch_columns(src, p.src, p, piece, T(1));
        std::memset(column_sums, 0, size_t(p.f * column_stride<T>(piece.columns)) * sizeof(T));
        const index edge = p.edges * piece.network;
        T* rows = at_dst + p.f * p.rows * piece.network + piece.row;
        const T mean = T(1) / T(piece.columns);
        each_tile(p, piece, [&](const Tile& tile) {
            const index vectors = rounded(tile.count, W) / W, place = piece.edge + tile.start;
            const index next = p.edges * piece.network + place + tile.count + p.tile();
            ahead.until(next);
            fresh_ahead.until(next);
            fetch(x, p.x + edge * p.g + place, p.g, p.edges, tile.count, stride);
            hidden(h, p, piece, tile, packed, x, src, vectors);
            for (index k = 0; k < p.f; ++k) {
                T* row = h + k * stride;
                for (index v = 0; v < vectors; ++v) {
                    const Vector<T> z = load(row + v * W);
                    store(row + v * W, z * sigmoid(z));
                }
                store(row + tile.count, Vector<T>{});
                add_sums(row, tile, column_sums + k * column_stride<T>(piece.columns),
                         rows + k * p.rows, mean);
            }
            if (!fresh) return;
            T* out = fresh + edge * p.f + place;
            if (!p.residual) {
                put_sum(out, h, x, p.f, p.edges, tile.count, stride);
                return;
            }
            multiply(h, packed_residual, p.f, p.g, x, stride, vectors);
            put(out, h, p.f, p.edges, tile.count, stride);
        });
        put_columns(at_src, column_sums, p, piece, T(1) / T(piece.rows));
    });
    return 0;
}

// ---------------------------------------------------------------------------------- backward

// Adds a gradient [f_full, g_full, lanes] to `to` [f, g] and clears it.
template <class T> NOINLINE void collect(T* to, T* lanes, const Problem<T>& p) {
    constexpr int W = WIDTH<T>;
    for (index i = 0; i < p.f; ++i)
        for (index j = 0; j < p.g; ++j)
            to[i * p.g + j] += sum<T>(load(lanes + (i * p.g_full() + j) * W));
    std::memset(lanes, 0, size_t(p.f_full() * p.g_full()) * BYTES);
}

template <class T>
int backward(Problem<T> p, const T* g_fresh, const T* g_at_dst, const T* g_at_src, T* g_x,
             T* g_weight, T* g_residual, T* g_src, T* g_dst) {
    constexpr int W = WIDTH<T>;
    p.measure();
    const index stride = p.stride(), padded = column_stride<T>(p.widest);
    const index matrix = p.f_full() * p.g_full();
    static thread_local Arena arena;
    T *packed, *turned, *turned_residual, *x, *z, *g_h, *above, *back, *src, *g_columns;
    T *column_sums, *of_weight, *of_residual, *zeros;
    for (Cutter cut{nullptr};; cut = Cutter{arena.base}) {
        packed = cut.template take<T>(matrix);
        turned = cut.template take<T>(matrix);
        turned_residual = cut.template take<T>(matrix);
        x = cut.template take<T>(p.g_full() * stride);
        z = cut.template take<T>(p.f_full() * stride);
        g_h = cut.template take<T>(stride);
        above = cut.template take<T>(p.f_full() * stride);
        back = cut.template take<T>(p.g_full() * stride);
        src = cut.template take<T>(p.f * padded);
        g_columns = cut.template take<T>(p.f * padded);
        column_sums = cut.template take<T>(p.f * padded);
        of_weight = cut.template take<T>(matrix * W);
        of_residual = cut.template take<T>(matrix * W);
        zeros = cut.template take<T>(p.rows);
        if (cut.base) break;
        if (!arena.reserve(cut.used)) return 1;
    }
    std::memset(of_weight, 0, size_t(matrix) * BYTES);
    std::memset(of_residual, 0, size_t(matrix) * BYTES);
    std::memset(zeros, 0, size_t(p.rows) * sizeof(T));
    // channels that only fill up; what they hold would be added nowhere, but may be slow numbers
    std::memset(x, 0, size_t(p.g_full() * stride) * sizeof(T));
    std::memset(z, 0, size_t(p.f_full() * stride) * sizeof(T));
    std::memset(above, 0, size_t(p.f_full() * stride) * sizeof(T));
    const bool residual = p.residual && g_fresh;
    const auto pack_all = [&](const Piece& piece) {
        const T* w = p.matrix(p.weight, piece.network, piece.block);
        pack(packed, w, p.f, p.g, p.g, 1);
        pack(turned, w, p.g, p.f, 1, p.g);
        if (residual)
            pack(turned_residual, p.matrix(p.residual, piece.network, piece.block), p.g, p.f, 1, p.g);
    };
    const auto collect_both = [&](index network, index block) {
        if (g_weight) collect(const_cast<T*>(p.matrix(g_weight, network, block)), of_weight, p);
        if (g_residual && residual)
            collect(const_cast<T*>(p.matrix(g_residual, network, block)), of_residual, p);
    };
    if (!p.per_block) pack_all(Piece{});
    const index first = first_edge(p);
    Ahead<T> ahead(p.x, p.g, p, first), above_ahead(g_fresh, p.f, p, first);
    Ahead<T> below_ahead(g_x, p.g, p, first);
    each_piece(p, [&](const Piece& piece) {
        if (p.per_block) pack_all(piece);
        const index column = column_stride<T>(piece.columns);
        fetch_columns(src, p.src, p, piece, T(1));
        if (g_at_src) {
            fetch_columns(g_columns, g_at_src, p, piece, T(1) / T(piece.rows));
        } else {
            std::memset(g_columns, 0, size_t(p.f * column) * sizeof(T));
        }
        std::memset(column_sums, 0, size_t(p.f * column) * sizeof(T));
        const index edge = p.edges * piece.network;
        const index first_row = p.f * p.rows * piece.network + piece.row;
        const T mean = T(1) / T(piece.columns);
        each_tile(p, piece, [&](const Tile& tile) {
            const index vectors = rounded(tile.count, W) / W, place = piece.edge + tile.start;
            const index next = p.edges * piece.network + place + tile.count + p.tile();
            ahead.until(next);
            above_ahead.until(next);
            below_ahead.until(next);
            fetch(x, p.x + edge * p.g + place, p.g, p.edges, tile.count, stride);
            hidden(z, p, piece, tile, packed, x, src, vectors);
            if (g_fresh)
                fetch(above, g_fresh + edge * p.f + place, p.f, p.edges, tile.count, stride);
            for (index k = 0; k < p.f; ++k) {
                T* row = z + k * stride;
                const T* g_rows = g_at_dst ? g_at_dst + first_row + k * p.rows : zeros;
                spread(g_h, tile, g_columns + k * column, g_rows, mean);
                for (index v = 0; v < vectors; ++v) {
                    const Vector<T> at = load(row + v * W), s = sigmoid(at);
                    Vector<T> g = load(g_h + v * W);
                    if (g_fresh) g += load(above + k * stride + v * W);
                    store(row + v * W, g * (s * (1 + at * (1 - s))));
                }
                store(row + tile.count, Vector<T>{});
                add_sums(row, tile, column_sums + k * column, g_dst + first_row + k * p.rows, T(1));
            }
            if (g_weight) outer(of_weight, z, x, p.f_full(), p.g_full(), stride, vectors);
            if (g_residual && residual)
                outer(of_residual, above, x, p.f_full(), p.g_full(), stride, vectors);
            if (!g_x) return;
            T* out = back;
            if (g_fresh && !residual) {
                out = above;  // the identity hands it down
            } else {
                std::memset(back, 0, size_t(p.g_full() * stride) * sizeof(T));
            }
            multiply(out, turned, p.g, p.f, z, stride, vectors);
            if (residual) multiply(out, turned_residual, p.g, p.f, above, stride, vectors);
            put(g_x + edge * p.g + place, out, p.g, p.edges, tile.count, stride);
        });
        put_columns(g_src, column_sums, p, piece, T(1));
        if (p.per_block) collect_both(piece.network, piece.block);
    });
    if (!p.per_block) collect_both(0, 0);
    return 0;
}

}  // namespace

// Of every function: arrays are contiguous, in the shapes of backends/__init__.py; sizes are (D, E) of
// every block. Rows from first_row to end_row are worked on, of batch * (sum of D). Means at rows
// and everything that rows share is added to what is there. Returns 0, or 1 without memory.

// The digest of the sources that this was built from; the loader refuses any other.
EXPORT const char* gmn_opt_edge_pass_source() { return SOURCE_DIGEST; }

#define DEFINE(T, SUFFIX)                                                                          \
    EXPORT int gmn_opt_edge_forward_##SUFFIX(                                                      \
        const std::int64_t* sizes, std::int64_t blocks, std::int64_t batch, std::int64_t g,        \
        std::int64_t f, int per_block, const T* x, const T* weight, const T* residual,             \
        const T* src, const T* dst, std::int64_t first_row, std::int64_t end_row, T* fresh,        \
        T* at_dst, T* at_src) {                                                                    \
        return forward<T>({sizes, blocks, batch, g, f, per_block != 0, x, weight, residual, src,   \
                           dst, first_row, end_row},                                               \
                          fresh, at_dst, at_src);                                                  \
    }                                                                                              \
    EXPORT int gmn_opt_edge_backward_##SUFFIX(                                                     \
        const std::int64_t* sizes, std::int64_t blocks, std::int64_t batch, std::int64_t g,        \
        std::int64_t f, int per_block, const T* x, const T* weight, const T* residual,             \
        const T* src, const T* dst, std::int64_t first_row, std::int64_t end_row,                  \
        const T* g_fresh, const T* g_at_dst, const T* g_at_src, T* g_x, T* g_weight,               \
        T* g_residual, T* g_src, T* g_dst) {                                                       \
        return backward<T>({sizes, blocks, batch, g, f, per_block != 0, x, weight, residual, src,  \
                            dst, first_row, end_row},                                              \
                           g_fresh, g_at_dst, g_at_src, g_x, g_weight, g_residual, g_src, g_dst);  \
    }

DEFINE(float, float32)
DEFINE(double, float64)
