// Tiles of edges, the memory they take, and the way over all of them: what both halves of the pass
// over edges (edge_pass.cpp) are made of.
//
// Edges lie along the contiguous axis, so vectors run over edges and weights are broadcast. A tile
// of some hundred edges of one block is loaded once; every intermediate of it stays in the cache.
// Buffers of a tile are [channels, stride] with stride >= tile + one vector: whole vectors may be
// read and written over the end of a row of a block, where the next row overwrites what they left.
//
// Work is cut by rows of blocks, counted over all networks, so that a caller can hand parts of it
// to several threads. What rows share (column sums, gradients of weights) is added to buffers that
// every part has for itself.

#pragma once

#include "vectors.h"

namespace {

// ------------------------------------------------------------------------------------- tiles

// Some consecutive edges of one block, in row-major order.
struct Tile {
    index start, count;  // edges of the block
    index columns;       // of the block
};

// Whether vectors may run along a row; otherwise elements are visited one by one.
template <class T> bool is_wide(index columns) { return columns >= WIDTH<T>; }

// Number of elements of a padded row of column values.
template <class T> index column_stride(index columns) {
    return rounded(columns, WIDTH<T>) + WIDTH<T>;
}

// Calls f(place in the tile, row, first column, count) for every run of edges within a row.
template <class F> inline void each_run(const Tile& tile, F f) {
    index row = tile.start / tile.columns, column = tile.start % tile.columns;
    for (index at = 0; at < tile.count;) {
        const index run = smaller(tile.columns - column, tile.count - at);
        f(at, row, column, run);
        at += run;
        column = 0;
        ++row;
    }
}

// Whether a tile is whole rows of COUNT columns.
template <index COUNT> bool is_narrow(const Tile& tile) {
    return tile.columns == COUNT && tile.start % COUNT == 0 && tile.count % COUNT == 0;
}

// `spread` for whole rows of a few columns.
template <class T, index COUNT>
inline void spread_narrow(T* __restrict out, const Tile& tile, const T* __restrict columns,
                          const T* __restrict rows, T scale) {
    const T* own = rows + tile.start / COUNT;
    const index height = tile.count / COUNT;
    for (index r = 0; r < height; ++r)
        for (index i = 0; i < COUNT; ++i) out[r * COUNT + i] = columns[i] + scale * own[r];
}

// `add_sums` for whole rows of a few columns.
template <class T, index COUNT>
inline void add_sums_narrow(const T* __restrict values, const Tile& tile, T* __restrict columns,
                            T* __restrict rows, T scale) {
    T* own = rows + tile.start / COUNT;
    const index height = tile.count / COUNT;
    for (index r = 0; r < height; ++r) {
        T total = 0;
        for (index i = 0; i < COUNT; ++i) total += values[r * COUNT + i];
        own[r] += scale * total;
    }
    // several sums at once: one alone would wait for itself
    constexpr index LANES = 8;
    T sums[LANES * COUNT] = {};
    index r = 0;
    for (; r + LANES <= height; r += LANES)
        for (index i = 0; i < LANES * COUNT; ++i) sums[i] += values[r * COUNT + i];
    for (; r < height; ++r)
        for (index i = 0; i < COUNT; ++i) sums[i] += values[r * COUNT + i];
    for (index lane = 0; lane < LANES; ++lane)
        for (index i = 0; i < COUNT; ++i) columns[i] += sums[lane * COUNT + i];
}

// out [edges of the tile] = columns[column of the edge] + scale * rows[row of the edge].
// `columns` is padded; up to a vector beyond the tile is overwritten.
template <class T>
NOINLINE void spread(T* __restrict out, const Tile& tile, const T* __restrict columns,
            const T* __restrict rows, T scale) {
    constexpr int W = WIDTH<T>;
    if (tile.columns == 1) {
        const T* own = rows + tile.start;
        for (index i = 0; i < tile.count; ++i) out[i] = columns[0] + scale * own[i];
    } else if (is_narrow<2>(tile)) {
        spread_narrow<T, 2>(out, tile, columns, rows, scale);
    } else if (is_narrow<3>(tile)) {
        spread_narrow<T, 3>(out, tile, columns, rows, scale);
    } else if (is_wide<T>(tile.columns)) {
        each_run(tile, [&](index at, index row, index column, index run) {
            const Vector<T> value = all(scale * rows[row]);
            for (index i = 0; i < run; i += W) store(out + at + i, load(columns + column + i) + value);
        });
    } else {
        each_run(tile, [&](index at, index row, index column, index run) {
            const T value = scale * rows[row];
            for (index i = 0; i < run; ++i) out[at + i] = columns[column + i] + value;
        });
    }
}

// rows[row of the edge] += scale * values, columns[column of the edge] += values. The vector
// behind the tile must be zero. With a single column, `columns` are lanes still to be summed.
template <class T>
NOINLINE void add_sums(const T* __restrict values, const Tile& tile, T* __restrict columns,
              T* __restrict rows, T scale) {
    constexpr int W = WIDTH<T>;
    if (tile.columns == 1) {
        T* own = rows + tile.start;
        for (index i = 0; i < tile.count; ++i) own[i] += scale * values[i];
        Vector<T> total = load(columns);
        for (index i = 0; i < tile.count; i += W) total += load(values + i);
        store(columns, total);
    } else if (is_narrow<2>(tile)) {
        add_sums_narrow<T, 2>(values, tile, columns, rows, scale);
    } else if (is_narrow<3>(tile)) {
        add_sums_narrow<T, 3>(values, tile, columns, rows, scale);
    } else if (is_wide<T>(tile.columns)) {
        each_run(tile, [&](index at, index row, index column, index run) {
            Vector<T> total = {};
            index i = 0;
            for (; i + W <= run; i += W) {
                const Vector<T> v = load(values + at + i);
                total += v;
                store(columns + column + i, load(columns + column + i) + v);
            }
            if (i < run) {
                const Vector<T> v = load_first(values + at + i, run - i);
                total += v;
                store(columns + column + i, load(columns + column + i) + v);
            }
            rows[row] += scale * sum<T>(total);
        });
    } else {
        each_run(tile, [&](index at, index row, index column, index run) {
            T total = 0;
            for (index i = 0; i < run; ++i) {
                total += values[at + i];
                columns[column + i] += values[at + i];
            }
            rows[row] += scale * total;
        });
    }
}

// `channels` rows of `count` elements, `step` apart, to rows `stride` apart; a vector of zeros
// behind each.
template <class T>
NOINLINE void fetch(T* to, const T* from, index channels, index step, index count, index stride) {
    for (index k = 0; k < channels; ++k) {
        copy(to + k * stride, from + k * step, count);
        store(to + k * stride + count, Vector<T>{});
    }
}

template <class T>
NOINLINE void put(T* to, const T* from, index channels, index step, index count, index stride) {
    for (index k = 0; k < channels; ++k) copy(to + k * step, from + k * stride, count);
}

// The same of `from + other`; what lies behind the tile in `from` is overwritten.
template <class T>
NOINLINE void put_sum(T* to, T* from, const T* other, index channels, index step, index count,
                      index stride) {
    constexpr int W = WIDTH<T>;
    for (index k = 0; k < channels; ++k) {
        index i = 0;
        T* a = from + k * stride;
        const T* b = other + k * stride;
        for (; i + W <= count; i += W) store(to + k * step + i, load(a + i) + load(b + i));
        store(a + i, load(a + i) + load(b + i));
        std::memcpy(to + k * step + i, a + i, size_t(count - i) * sizeof(T));
    }
}

// ------------------------------------------------------------------------------------ memory

// Memory that a thread keeps between calls: fresh pages would cost more than the work on them.
struct Arena {
    void* whole = nullptr;
    char* base = nullptr;  // aligned
    size_t size = 0;
    ~Arena() { std::free(whole); }
    bool reserve(size_t bytes) {
        if (bytes <= size) return true;
        std::free(whole);
        size = 0;
        whole = std::malloc(bytes + 64);
        if (!whole) return false;
        base = static_cast<char*>(whole) + (64 - reinterpret_cast<std::uintptr_t>(whole) % 64);
        size = bytes;
        return true;
    }
};

// Hands out aligned pieces; with a base of null, it only counts.
struct Cutter {
    char* base;
    size_t used = 0;
    template <class T> T* take(index count) {
        const size_t start = used;
        used += size_t(rounded(count * index(sizeof(T)), 64));
        return base ? reinterpret_cast<T*>(base + start) : nullptr;
    }
};

template <class T> struct Problem {
    const index* sizes;  // rows and columns of every block
    index blocks, batch, g, f;
    bool per_block;  // one matrix per network and block, not one for all
    const T *x, *weight, *residual, *src, *dst;
    index first_row, end_row;  // of all rows of all networks

    index edges = 0, rows = 0, columns = 0, widest = 1;  // of one network

    void measure() {
        for (index i = 0; i < blocks; ++i) {
            const index d = sizes[2 * i], e = sizes[2 * i + 1];
            edges += d * e;
            rows += d;
            columns += e;
            widest = larger(widest, e);
        }
    }
    index g_full() const { return rounded(g, ROWS); }
    index f_full() const { return rounded(f, ROWS); }
    index tile() const {
        const index unit = VECTORS * WIDTH<T>;
        const index fit = TILE_BYTES / index(sizeof(T)) / larger(f_full(), g_full());
        return larger(1, smaller(fit, 512) / unit) * unit;
    }
    index stride() const { return tile() + WIDTH<T>; }
    const T* matrix(const T* all_of_them, index network, index block) const {
        return per_block ? all_of_them + (network * blocks + block) * f * g : all_of_them;
    }
};

// Asks for the elements of [networks, channels, edges] ahead of their use: by the time a tile is
// done with, the next one is near.
template <class T> struct Ahead {
    const T* base;  // null for none
    index channels, edges, networks, network, edge;  // the last two: what to ask for next
    Ahead(const T* from, index of_channels, const Problem<T>& p, index first)
        : base(from), channels(of_channels), edges(p.edges), networks(p.batch),
          network(p.edges ? first / p.edges : 0), edge(p.edges ? first % p.edges : 0) {}
    void until(index place) {  // counted over the edges of all networks
        constexpr index LINE = 64 / index(sizeof(T));
        if (!base) return;
        while (network < networks && network * edges + edge < place) {
            const T* at = base + network * channels * edges + edge;
            for (index k = 0; k < channels; ++k) __builtin_prefetch(at + k * edges, 0, 2);
            for (edge += LINE; edge >= edges; edge -= edges) ++network;
        }
    }
};

// The rows of one block of one network that are to be worked on.
struct Piece {
    index network, block, rows, columns;  // of the block
    index first, end;                     // rows of the block
    index edge, row, column;              // where the block begins in its network
};

template <class T, class F> void each_piece(const Problem<T>& p, F f) {
    if (!p.rows) return;
    for (index b = p.first_row / p.rows; b * p.rows < p.end_row && b < p.batch; ++b) {
        Piece piece{b, 0, 0, 0, 0, 0, 0, 0, 0};
        for (; piece.block < p.blocks; ++piece.block) {
            piece.rows = p.sizes[2 * piece.block];
            piece.columns = p.sizes[2 * piece.block + 1];
            const index here = b * p.rows + piece.row;
            piece.first = larger(0, p.first_row - here);
            piece.end = smaller(piece.rows, p.end_row - here);
            if (piece.first < piece.end && piece.columns) f(piece);
            piece.edge += piece.rows * piece.columns;
            piece.row += piece.rows;
            piece.column += piece.columns;
        }
    }
}

// Where a part's work begins, counted over the edges of all networks.
template <class T> index first_edge(const Problem<T>& p) {
    index found = p.batch * p.edges;
    each_piece(p, [&](const Piece& piece) {
        found = smaller(found, p.edges * piece.network + piece.edge + piece.first * piece.columns);
    });
    return found;
}

template <class T, class F> void each_tile(const Problem<T>& p, const Piece& piece, F f) {
    const index end = piece.end * piece.columns;
    // whole rows of three columns, which are quicker; of one or two they are whole anyway
    const index most = piece.columns == 3 ? p.tile() / 3 * 3 : p.tile();
    for (index at = piece.first * piece.columns; at < end; at += most)
        f(Tile{at, smaller(most, end - at), piece.columns});
}

// Column values of a piece, scaled and padded: [f, column_stride].
template <class T>
NOINLINE void fetch_columns(T* to, const T* from, const Problem<T>& p, const Piece& piece, T scale) {
    const index stride = column_stride<T>(piece.columns);
    from += p.f * p.columns * piece.network + piece.column;
    for (index k = 0; k < p.f; ++k) {
        T* row = to + k * stride;
        for (index i = 0; i < piece.columns; ++i) row[i] = scale * from[k * p.columns + i];
        for (index i = piece.columns; i < stride; ++i) row[i] = 0;
    }
}

// Adds column sums of a piece to `to` [batch, f, columns].
template <class T>
NOINLINE void put_columns(T* to, const T* from, const Problem<T>& p, const Piece& piece, T scale) {
    const index stride = column_stride<T>(piece.columns);
    to += p.f * p.columns * piece.network + piece.column;
    for (index k = 0; k < p.f; ++k) {
        const T* row = from + k * stride;
        if (piece.columns == 1) {
            to[k * p.columns] += scale * sum<T>(load(row));
            continue;
        }
        for (index i = 0; i < piece.columns; ++i) to[k * p.columns + i] += scale * row[i];
    }
}

// W x + src + dst of a tile into z [f, stride].
template <class T>
NOINLINE void hidden(T* z, const Problem<T>& p, const Piece& piece, const Tile& tile, const T* packed,
            const T* x, const T* src, index vectors) {
    const index stride = p.stride(), padded = column_stride<T>(piece.columns);
    const T* dst = p.dst + p.f * p.rows * piece.network + piece.row;
    for (index k = 0; k < p.f; ++k)
        spread(z + k * stride, tile, src + k * padded, dst + k * p.rows, T(1));
    multiply(z, packed, p.f, p.g, x, stride, vectors);
}

}  // namespace
