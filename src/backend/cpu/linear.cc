#include "backend/cpu/linear.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <random>

#include "backend/cpu/cpu_features.h"
#include "backend/cpu/vector_rows.h"
#include "base/error.h"
#include "base/log.h"
#include "base/units.h"

namespace flexgen {
namespace {

constexpr DType kType = DType::kBF16;

/// Any numbers of both signs and several magnitudes do; a prime period keeps rows apart.
std::vector<std::byte> test_matrix(int64_t rows, int64_t cols) {
  std::minstd_rand random(1);
  std::vector<float> period(8191);
  for (float& value : period) value = static_cast<float>(random() % 65536) / 32768.0f - 1.0f;
  std::vector<std::byte> matrix(static_cast<size_t>(size_bytes(kType, rows * cols)));
  const auto length = static_cast<int64_t>(period.size());
  for (int64_t i = 0; i < rows * cols; i += length)
    vector_rows::convert(period.data(), DType::kF32, std::min(length, rows * cols - i), kType, matrix.data() + size_bytes(kType, i));
  return matrix;
}

/// oneDNN, where it is built with OpenMP, asks for each call how many threads the caller may have: one, as the team's workers call it, each for its own tiles.
void keep_onednn_in_this_thread() {
  thread_local bool done = false;
  if (!done) omp_set_num_threads(1);
  done = true;
}

/// oneDNN 2.6 does not check each allocation of what it makes for a product: the process would end by a signal. So that there is room is seen first.
void check_room_for_onednn() {
  constexpr size_t kRoom = 32 << 20;
  void* room = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) throw std::bad_alloc();
  munmap(room, kRoom);
}

}  // namespace

Linear::Linear(WorkerTeam& team) : team_(team), engine_(dnnl::engine::kind::cpu, 0), stream_(engine_), scratch_(static_cast<size_t>(team.size())) {
  for (WorkerScratch& scratch : scratch_) scratch.product.resize(kMaxPanel * kTileRows);
  if (uses_amx()) amx_ = std::make_unique<LinearAmx>(team);
  else if (dot_product::is_supported()) packed_ = std::make_unique<LinearPacked<DotRows>>(team);
  // The first product makes the code that all share: here, before there is a job to lose.
  agrees(kPanelGrain, kTileRows);
}

Linear::Product& Linear::product(int64_t panel, int64_t cols) {
  std::unique_ptr<Product>& entry = products_[{panel, cols}];
  if (entry) return *entry;
  check_room_for_onednn();
  keep_onednn_in_this_thread();
  using dnnl::memory;
  memory::desc x({panel, cols}, memory::data_type::bf16, memory::format_tag::ab);
  memory::desc w({cols, kTileRows}, memory::data_type::bf16, memory::format_tag::ba);
  memory::desc y({panel, kTileRows}, memory::data_type::f32, memory::format_tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  dnnl::matmul::primitive_desc description;
  auto made = std::make_unique<Product>();
  try {
    description = dnnl::matmul::primitive_desc(dnnl::matmul::desc(x, w, y), attributes, engine_);
    made->matmul = dnnl::matmul(description);
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
    throw;
  }
  made->scratch_bytes = static_cast<int64_t>(description.scratchpad_desc().get_size());
  made->workers.resize(static_cast<size_t>(team_.size()));
  for (Product::Worker& worker : made->workers) {
    worker.x = memory(x, engine_, nullptr);
    worker.w = memory(w, engine_, nullptr);
    worker.y = memory(y, engine_, nullptr);
    worker.scratch = memory(description.scratchpad_desc(), engine_, nullptr);
    worker.arguments = {{DNNL_ARG_SRC, worker.x}, {DNNL_ARG_WEIGHTS, worker.w}, {DNNL_ARG_DST, worker.y}, {DNNL_ARG_SCRATCHPAD, worker.scratch}};
  }
  for (WorkerScratch& scratch : scratch_)
    if (static_cast<int64_t>(scratch.library.size()) < made->scratch_bytes) scratch.library.resize(static_cast<size_t>(made->scratch_bytes));
  entry = std::move(made);
  return *entry;
}

void Linear::multiply(Product& product, int worker, const std::byte* x, const std::byte* w, float* y) {
  keep_onednn_in_this_thread();
  Product::Worker& at = product.workers[static_cast<size_t>(worker)];
  at.x.set_data_handle(const_cast<std::byte*>(x));
  at.w.set_data_handle(const_cast<std::byte*>(w));
  at.y.set_data_handle(y);
  at.scratch.set_data_handle(scratch_[static_cast<size_t>(worker)].library.data());
  try {
    product.matmul.execute(stream_, at.arguments);
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
    throw;
  }
}

bool Linear::agrees(int64_t panel, int64_t cols) {
  if (panel == kOnlyPanel) return true;
  if (const auto known = agrees_.find({panel, cols}); known != agrees_.end()) return known->second;
  std::vector<std::byte> x = test_matrix(round_up(panel, kOnlyPanel), cols), w = test_matrix(kTileRows, cols);
  std::vector<float> expected(static_cast<size_t>(round_up(panel, kOnlyPanel) * kTileRows)), actual(static_cast<size_t>(panel * kTileRows));
  for (int64_t row = 0; row < panel; row += kOnlyPanel)
    multiply(product(kOnlyPanel, cols), 0, x.data() + size_bytes(kType, row * cols), w.data(), expected.data() + row * kTileRows);
  multiply(product(panel, cols), 0, x.data(), w.data(), actual.data());
  const bool agrees = std::equal(actual.begin(), actual.end(), expected.begin());
  agrees_[{panel, cols}] = agrees;
  if (!agrees) spdlog::debug("matmul of {} rows, K = {}, has bits of its own: rows go in panels of {} instead", panel, cols, kOnlyPanel);
  return agrees;
}

bool Linear::packed_agrees(int64_t cols) {
  if (const auto known = packed_agrees_.find(cols); known != packed_agrees_.end()) return known->second;
  const std::vector<std::byte> x = test_matrix(kOnlyPanel, cols), w = test_matrix(kTileRows, cols);
  std::vector<float> expected(static_cast<size_t>(kOnlyPanel * kTileRows)), actual(expected.size());
  multiply(product(kOnlyPanel, cols), 0, x.data(), w.data(), expected.data());
  const WeightView weight{kType, kTileRows, cols, {{w.data(), kTileRows}}};
  bool agrees = true;
  constexpr int64_t kEach = 24;
  for (int64_t rows = 1; rows <= kOnlyPanel && agrees; rows += rows < kEach ? 1 : dot_product::kBlockRows) {
    packed_->run(x.data(), rows, weight, {}, false, actual.data());
    agrees = std::equal(actual.begin(), actual.begin() + rows * kTileRows, expected.begin());
  }
  packed_agrees_[cols] = agrees;
  if (!agrees) spdlog::debug("our own matmul, K = {}, has bits of its own: all rows go through oneDNN", cols);
  return agrees;
}

std::vector<Linear::Panel> Linear::cut_rows(int64_t num_rows, int64_t cols) {
  std::vector<Panel> panels;
  for (int64_t row = 0; row < num_rows;) {
    const int64_t rest = num_rows - row;
    int64_t size = std::min(kMaxPanel, round_up(rest, kPanelGrain));
    // The next larger panel that agrees costs less than a whole kOnlyPanel: 32 rows go in one of 48.
    while (size < kMaxPanel && !agrees(size, cols)) size += kPanelGrain;
    if (!agrees(size, cols)) size = kOnlyPanel;
    panels.push_back({row, size, std::min(size, rest)});
    row += size;
  }
  return panels;
}

void Linear::run(const std::byte* x, int64_t num_rows, const WeightView& weight, const WeightView& bias, bool accumulate, float* y) {
  const int64_t cols = weight.cols;
  if (num_rows == 0 || weight.rows == 0) return;
  if (amx_ && LinearAmx::takes(weight)) return amx_->run(x, num_rows, weight, bias, accumulate, y);
  if (packed_ && (num_rows <= kFewRows || cols <= kShortRow) && cols % dot_product::kColumnGrain == 0 && packed_agrees(cols))
    return packed_->run(x, num_rows, weight, bias, accumulate, y);

  const std::vector<Panel> panels = cut_rows(num_rows, cols);
  std::vector<Product*> products;
  for (const Panel& panel : panels) products.push_back(&product(panel.size, cols));
  const Panel& last = panels.back();
  if (last.num_rows < last.size) {
    last_panel_.assign(static_cast<size_t>(size_bytes(kType, last.size * cols)), std::byte{0});
    std::memcpy(last_panel_.data(), x + size_bytes(kType, last.first_row * cols), static_cast<size_t>(size_bytes(kType, last.num_rows * cols)));
  }

  const bool has_short = cut_tiles(weight, kTileRows, &tiles_), needs_copy = weight.dtype != kType || has_short;
  if (needs_copy)
    for (WorkerScratch& scratch : scratch_)
      if (auto size = static_cast<size_t>(size_bytes(kType, kTileRows * cols)); scratch.weight.size() < size) scratch.weight.resize(size);
  const float* bias_data = bias_floats(bias, weight.rows, &bias_);

  // A tile goes through all panels while its rows of W are in the near cache.
  const double flops = 2.0 * static_cast<double>(num_rows) * static_cast<double>(weight.rows) * static_cast<double>(cols);
  const int team = team_.workers_for(flops);
  const PanelUnits units(std::ssize(tiles_), std::ssize(panels), team);
  team_.run(team, units.count(), [&](int64_t index, int worker) {
    const PanelUnits::Unit unit = units[index];
    const LinearTile& tile = tiles_[static_cast<size_t>(unit.tile)];
    WorkerScratch& scratch = scratch_[static_cast<size_t>(worker)];
    const std::byte* w = tile.data;
    if (weight.dtype != kType || tile.num_rows < kTileRows) {
      convert_tile(tile, weight, kType, scratch.weight.data());
      std::fill(scratch.weight.data() + size_bytes(kType, tile.num_rows * cols), scratch.weight.data() + size_bytes(kType, kTileRows * cols), std::byte{0});
      w = scratch.weight.data();
    }
    for (int64_t p = unit.first_panel; p < std::ssize(panels); p += unit.step) {
      const Panel& panel = panels[static_cast<size_t>(p)];
      const std::byte* in = panel.num_rows < panel.size ? last_panel_.data() : x + size_bytes(kType, panel.first_row * cols);
      multiply(*products[static_cast<size_t>(p)], worker, in, w, scratch.product.data());
      vector_rows::add_product(scratch.product.data(), kTileRows, panel.num_rows, tile.num_rows, bias_data == nullptr ? nullptr : bias_data + tile.first_row,
                               accumulate, y + panel.first_row * weight.rows + tile.first_row, weight.rows);
    }
  });
}

}  // namespace flexgen
