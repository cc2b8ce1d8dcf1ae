// The blocks of the KV pool that are free. Each holds block_tokens positions of all layers.
#pragma once

#include <cstdint>
#include <vector>

namespace dw {

class BlockPool {
  public:
    BlockPool(int pool_tokens, int block_tokens);

    // Grow a block table until it covers num_tokens. Returns false and changes nothing when there
    // are not enough free blocks.
    bool grow(std::vector<int32_t> &table, int num_tokens);

    // Give back the blocks of a table that its first num_tokens do not need.
    void shrink(std::vector<int32_t> &table, int num_tokens);

    // Positions that a table could cover if it took all free blocks.
    int room(const std::vector<int32_t> &table) const {
        return static_cast<int>(table.size() + free_.size()) * block_tokens_;
    }

    int num_free() const { return static_cast<int>(free_.size()); }
    int num_total() const { return num_total_; }
    int block_tokens() const { return block_tokens_; }

  private:
    int blocks_for(int num_tokens) const { return (num_tokens + block_tokens_ - 1) / block_tokens_; }

    int block_tokens_;
    int num_total_;
    std::vector<int32_t> free_; // the last one given back is the next one taken
};

} // namespace dw
