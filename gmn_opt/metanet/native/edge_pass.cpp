// The pass of a metanet over all edges, forward and backward: see edge_messages.py for what it
// computes. No headers of torch or Python: raw pointers and sizes, so that one compilation serves
// every version of both.
//
// Edges lie along the contiguous axis, so vectors run over edges and weights are broadcast. A tile
// of some hundred edges of one block is loaded once; every intermediate of it stays in the cache.
// Buffers of a tile are [channels, stride] with stride >= tile + one vector: whole vectors may be
// read and written over the end of a row of a block, where the next row overwrites what they left.
//
// Work is cut by rows of blocks, counted over all networks, so that a caller can hand parts of it
// to several threads. What rows share (column sums, gradients of weights) is added to buffers that
// every part has for itself.

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

// Of every function: arrays are contiguous, in the shapes of edge_messages.py; sizes are (D, E) of
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
