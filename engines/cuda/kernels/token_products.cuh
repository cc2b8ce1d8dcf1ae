// Products of a matrix's rows and one vector, by the tensor cores, for every type of weights.
//
// A tile is sixteen rows. Four lanes share a row, 16 bytes each: a chunk of 64 bytes. Which k an element
// has in the product does not matter as long as both sides agree, so that each lane takes its own bytes,
// made to pairs of halves; integers up to 128 are exact as such. The vector is the sum of two halves a
// column, the larger parts and what those leave out, in the even and odd columns of the right matrix.
//
// An int4 row has a scale for every 64 columns, fewer than a chunk has. There the right matrix has a
// pair of columns for each of the four lanes, zero but for that lane's k: so a lane's sums are of its own
// 16 bytes alone, and get the scale of those.
//
// Reference: plain::linear.
#pragma once

#include "token_block.cuh"

namespace dw {

// How many chunks a warp asks for before it needs them: with eight warps, 8 KB each on the way in a
// multiprocessor. As many as there are registers for, in sm_87's code, too.
template <dw_type kType> constexpr int kChunksAhead = kType == DW_FP16 ? 4 : 2;

// Columns 2 i and 2 i + 1 of those in a word of weights, without the scale.
template <dw_type kType> __device__ inline uint32_t halves_in(uint32_t word, int i);
template <> __device__ inline uint32_t halves_in<DW_FP16>(uint32_t word, int) { return word; }
// An integer below 1024 put into the mantissa of 1024 is 1024 plus the integer, exactly.
__device__ inline uint32_t less(uint32_t pair, uint32_t zero) {
    const __half2 v = __hsub2(*reinterpret_cast<const __half2 *>(&pair),
                              *reinterpret_cast<const __half2 *>(&zero));
    return *reinterpret_cast<const uint32_t *>(&v);
}
template <> __device__ inline uint32_t halves_in<DW_INT8>(uint32_t word, int i) {
    return less(__byte_perm(word, 0x64646464, i == 0 ? 0x4140 : 0x4342), 0x64806480); // 1024 + 128
}
template <> __device__ inline uint32_t halves_in<DW_INT4>(uint32_t word, int i) {
    return less(((word >> 4 * i) & 0x000f000f) | 0x64006400, 0x64086408); // 1024 + 8
}

// Rows 0 .. num - 1, each of `pieces` times 16 bytes: row `row` is at row_at(row), and is row index_of(row)
// of `matrix`, which has `in` columns, from column `first_column` on. is_near: in shared memory.
template <dw_type kType, class IndexOf, class RowAt> struct MatrixRows {
    const Matrix &matrix;
    int num, pieces, in, first_column;
    IndexOf index_of;
    RowAt row_at;
    bool is_near;

    __device__ int tiles() const { return (num + 15) / 16; }
    __device__ int chunks() const { return (pieces + 3) / 4; }
};
template <dw_type kType, class IndexOf, class RowAt>
__device__ inline MatrixRows<kType, IndexOf, RowAt>
rows_of(const Matrix &matrix, int num, int pieces, int in, int first_column, IndexOf index_of,
        RowAt row_at, bool is_near) {
    return {matrix, num, pieces, in, first_column, index_of, row_at, is_near};
}

// Rows times the vector x: its larger parts, and `rest` halves further what those leave out.
template <dw_type kType, class IndexOf, class RowAt> class TileProduct {
    static constexpr int kColumns = Packed<kType>::kColumns, kPairs = kColumns / 8; // in a word
    static constexpr bool kGrouped = kType == DW_INT4; // scales of pieces, not of rows
    static constexpr int kAhead = kChunksAhead<kType>;
    struct Loaded {
        uint4 upper, lower;
        __half2 scales; // of the two pieces, if kGrouped
    };

  public:
    __device__ TileProduct(const MatrixRows<kType, IndexOf, RowAt> &rows, const __half *x, int rest)
        : rows_(rows), lane_(thread_again() % 32),
          x_(x + (lane_ & 4 ? rest : 0) + lane_in_row() * kColumns) {}

    // By a warp: tiles first_tile, first_tile + step, ... and of those chunks first .. end - 1, at least one.
    // finish(tile, upper, lower): the sums of rows lane / 4 and lane / 4 + 8, in all four lanes.
    template <class Finish>
    __device__ void run(int first_tile, int step, int first, int end, Finish finish) {
        if (rows_.is_near) {
            run_near(first_tile, step, first, end, finish);
        } else if (first_tile < rows_.tiles()) {
            run_far(first_tile, step, first, end, finish);
        }
    }

  private:
    // Nothing needs to be asked for ahead of its use, and there is little to do: as few instructions.
    template <class Finish>
    __device__ void run_near(int first_tile, int step, int first, int end, Finish finish) {
        const int tiles = rows_.tiles();
#pragma unroll 1
        for (int tile = first_tile; tile < tiles; tile += step) {
            start_tile(tile);
            float upper = 0, lower = 0, c[2][4] = {};
            const float2 scales = row_scales(tile);
#pragma unroll 2
            for (int chunk = first; chunk < end; chunk++) {
                const Loaded loaded = load(chunk);
                multiply(c, loaded, chunk, true);
                end_chunk(c, loaded, upper, lower);
            }
            end_tile(c, scales, upper, lower);
            finish(tile, upper, lower);
        }
    }
    template <class Finish>
    __device__ void run_far(int first_tile, int step, int first, int end, Finish finish) {
        const int tiles = rows_.tiles();
        // Chunks on their way, each in registers of its own until it is used: to move them would be to wait.
        Loaded ahead[kAhead]{};
        int next_tile = first_tile, next_chunk = first;
        start_tile(next_tile);
        auto load_next = [&](int i) { // a tile begins with number 0
            if (next_chunk < end && next_tile < tiles) {
                ahead[i] = load(next_chunk);
            }
            next_chunk++;
            if (i == kAhead - 1 && next_chunk >= end) {
                next_chunk = first;
                next_tile += step;
                if (next_tile < tiles) {
                    start_tile(next_tile);
                }
            }
        };
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            load_next(i);
        }
#pragma unroll 1
        for (int tile = first_tile; tile < tiles; tile += step) {
            float upper = 0, lower = 0, c[2][4] = {};
            const float2 scales = row_scales(tile);
#pragma unroll 1
            for (int chunk = first; chunk < end; chunk += kAhead) {
#pragma unroll
                for (int i = 0; i < kAhead; i++) {
                    multiply(c, ahead[i], chunk + i, chunk + i < end);
                    end_chunk(c, ahead[i], upper, lower);
                    load_next(i);
                }
            }
            end_tile(c, scales, upper, lower);
            finish(tile, upper, lower);
        }
    }

    __device__ int lane_in_row() const { return lane_ % 4; }
    __device__ int row_in_tile() const { return lane_ / 4; }

    __device__ int upper_row(int tile) const { return min(tile * 16 + row_in_tile(), rows_.num - 1); }
    __device__ int lower_row(int tile) const { return min(upper_row(tile) + 8, rows_.num - 1); }

    // Of int8 rows, asked for when their chunks begin.
    __device__ float2 row_scales(int tile) const {
        if constexpr (kType == DW_INT8) {
            return {scale_at<kType>(rows_.matrix, rows_.index_of(upper_row(tile)), rows_.in, 0),
                    scale_at<kType>(rows_.matrix, rows_.index_of(lower_row(tile)), rows_.in, 0)};
        } else {
            return {1, 1};
        }
    }
    __device__ void start_tile(int tile) {
        const int upper = upper_row(tile), lower = lower_row(tile);
        upper_ = rows_.row_at(upper);
        apart_ = static_cast<int>(rows_.row_at(lower) - upper_);
        if constexpr (kGrouped) {
            upper_index_ = rows_.index_of(upper);
            lower_index_ = rows_.index_of(lower);
        }
    }
    __device__ Loaded load(int chunk) const {
        const int piece = min(chunk * 4 + lane_in_row(), rows_.pieces - 1);
        Loaded loaded{};
        loaded.upper = *reinterpret_cast<const uint4 *>(upper_ + piece * 16);
        loaded.lower = *reinterpret_cast<const uint4 *>(upper_ + apart_ + piece * 16);
        if constexpr (kGrouped) {
            const int group = (rows_.first_column + piece * kColumns) / kScaleGroup;
            const __half *scale = static_cast<const __half *>(rows_.matrix.scale) + group;
            loaded.scales = __halves2half2(scale[upper_index_ * (rows_.in / kScaleGroup)],
                                           scale[lower_index_ * (rows_.in / kScaleGroup)]);
        }
        return loaded;
    }
    __device__ void multiply(float (&c)[2][4], const Loaded &loaded, int chunk, bool is_wanted) const {
        const bool is_inside = is_wanted && chunk * 4 + lane_in_row() < rows_.pieces &&
                               (!kGrouped || row_in_tile() / 2 == lane_in_row());
        const uint32_t upper[] = {loaded.upper.x, loaded.upper.y, loaded.upper.z, loaded.upper.w};
        const uint32_t lower[] = {loaded.lower.x, loaded.lower.y, loaded.lower.z, loaded.lower.w};
#pragma unroll
        for (int i = 0; i < kColumns / 8; i++) { // eight columns of the vector at a time
            uint4 x{};
            if (is_inside) {
                x = *reinterpret_cast<const uint4 *>(x_ + chunk * 4 * kColumns + i * 8);
            }
            const uint32_t right[] = {x.x, x.y, x.z, x.w};
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                const int pair = i * 4 + j, word = pair / kPairs, place = pair % kPairs;
                const int other = (pair + 1) / kPairs, other_place = (pair + 1) % kPairs;
                multiply_add(c[j / 2],
                             {halves_in<kType>(upper[word], place), halves_in<kType>(lower[word], place),
                              halves_in<kType>(upper[other], other_place),
                              halves_in<kType>(lower[other], other_place)},
                             right[j], right[j + 1]);
            }
        }
    }

    __device__ static void end_chunk(float (&c)[2][4], const Loaded &loaded, float &upper, float &lower) {
        if constexpr (kGrouped) {
            const float2 scales = __half22float2(loaded.scales);
            upper += scales.x * (c[0][0] + c[0][1] + c[1][0] + c[1][1]);
            lower += scales.y * (c[0][2] + c[0][3] + c[1][2] + c[1][3]);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                c[i / 4][i % 4] = 0;
            }
        }
    }
    __device__ static void end_tile(const float (&c)[2][4], const float2 &scales, float &upper,
                                    float &lower) {
        if constexpr (kGrouped) {
            upper = warp_sum<4>(upper);
            lower = warp_sum<4>(lower);
        } else {
            upper = scales.x * (c[0][0] + c[0][1] + c[1][0] + c[1][1]);
            lower = scales.y * (c[0][2] + c[0][3] + c[1][2] + c[1][3]);
        }
    }

    const MatrixRows<kType, IndexOf, RowAt> rows_;
    const int lane_;
    const __half *const x_;
    // Of the tile that is asked for: the lane's upper row, how far the lower is from it, and which rows
    // of the matrix they are.
    const char *upper_ = nullptr;
    int apart_ = 0, upper_index_ = 0, lower_index_ = 0;
};

// All columns of tiles first_tile, first_tile + step, ... by one warp.
template <dw_type kType, class IndexOf, class RowAt, class Finish>
__device__ inline void multiply_tiles(const MatrixRows<kType, IndexOf, RowAt> &rows, const __half *x,
                                      int rest, int first_tile, int step, Finish finish) {
    TileProduct<kType, IndexOf, RowAt>(rows, x, rest).run(first_tile, step, 0, rows.chunks(), finish);
}

// All rows times x, by the block; take(row, index, product) is called once for each by one thread. Warps
// share a tile's columns if there are fewer tiles than warps. Uses s.partials.
template <dw_type kType, class IndexOf, class RowAt, class Take>
__device__ inline void multiply_rows(TokenShared &s, const MatrixRows<kType, IndexOf, RowAt> &rows,
                                     const __half *x, int rest, Take take) {
    const int warp = thread_again() / 32, lane = thread_again() % 32, tiles = rows.tiles();
    const int chunks = rows.chunks();
    // Powers of two, for nothing here is as slow as a division.
    static_assert(kTokenWarps == 8);
    const int log_most = chunks >= 8 ? 3 : chunks >= 4 ? 2 : chunks >= 2 ? 1 : 0;
    const int log_shares = min(log_most, tiles <= 1 ? 3 : tiles <= 2 ? 2 : tiles <= 4 ? 1 : 0);
    const int shares = 1 << log_shares, share = warp & (shares - 1);
    TileProduct<kType, IndexOf, RowAt>(rows, x, rest)
        .run(warp >> log_shares, kTokenWarps >> log_shares, (chunks * share) >> log_shares,
             (chunks * (share + 1)) >> log_shares, [&](int tile, float upper, float lower) {
                 if (lane % 4 == 0) {
                     float *to = s.partials + (share * tiles + tile) * 16 + lane / 4;
                     to[0] = upper;
                     to[8] = lower;
                 }
             });
    workers_sync();
#pragma unroll 1
    for (int row = thread_again(); row < rows.num; row += kTokenThreads) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kTokenWarps; i++) {
            sum += i < shares ? s.partials[i * tiles * 16 + row] : 0.0f;
        }
        take(row, rows.index_of(row), sum);
    }
}

} // namespace dw
