#include "setup/team.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/cores.h"
#include "base/error.h"
#include "base/last_words.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/units.h"
#include "measure/machine.h"
#include "net/message.h"
#include "setup/hardware.h"

namespace flexgen {
namespace {

double wall_clock_s() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

int stages_of(const TeamFlags& flags, int size) {
  if (flags.pipeline_stages == 0) return size;
  if (flags.pipeline_stages == 1 && !flags.stage_split.empty())
    fail_user("--stages {}: with --pipeline-stages 1 each process has all layers; leave one of them out", flags.stage_split);
  if (size % flags.pipeline_stages != 0)
    fail_user("--pipeline-stages {} with {} processes: they must be a multiple of it, as each replica has so many", flags.pipeline_stages, size);
  return flags.pipeline_stages;
}

/// How many threads a rank has where nobody says: its share of the cores that it may run on (launchers bind ranks to all, to some that others have too, or to their own), and of a quota.
int share_of_threads(const std::vector<int>& cores, const std::vector<std::vector<int>>& cores_of_machine, int local_size) {
  CpuStatus cpu = read_cpu_status();
  if (!cores.empty()) cpu.cores = share_of_cores(cores, cores_of_machine);
  if (cpu.quota) cpu.quota = *cpu.quota / std::max(1, local_size);
  return cpu.threads();
}

std::vector<std::byte> encode(const Progress& progress, const RunReport* report) {
  MessageWriter out;
  out.add(report != nullptr);
  out.add(progress.sequences_done).add(progress.prompt_tokens_done).add(progress.generated_tokens_done).add(progress.elapsed_s);
  const std::vector<LaneReport>& lanes = report ? report->lanes : progress.lanes;
  if (report) {
    out.add(report->elapsed_s)
        .add(report->sequences)
        .add(report->prompt_tokens)
        .add(report->generated_tokens)
        .add(report->shared_prompt_tokens)
        .add(report->cut_off)
        .add(report->stopped);
    out.add(report->work.linear_flops)
        .add(report->work.attention_flops)
        .add(report->work.kv_read_bytes)
        .add(report->work.weight_read_bytes)
        .add(report->work.steps)
        .add(report->work.visits)
        .add(report->work.rows);
  }
  out.add(static_cast<int64_t>(lanes.size()));
  for (const LaneReport& lane : lanes) out.add(static_cast<int64_t>(lane.kind)).add(lane.stats.busy_s).add(lane.stats.bytes).add(lane.stats.operations);
  return out.take();
}

/// Ends the job on all ranks for a failure on this one. Returns whether this rank is to tell the user: rank 0 tells what happened on any.
bool end_for_all(Port& port, const World* world, const std::exception& error) {
  const auto* known = dynamic_cast<const Error*>(&error);
  const bool own = !known || known->kind() != ErrorKind::kPeer;
  port.abort(own ? fmt::format("{}: {}", port.describe(port.rank()), error.what()) : std::string(error.what()));
  if (!world || port.rank() == 0) return true;
  // Rank 0 tells it and ends the job; if nothing has happened by then, it cannot.
  if (own) std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  return own || world->speaks();
}

std::vector<LaneReport> named(int rank, const std::vector<LaneReport>& lanes) {
  std::vector<LaneReport> named = lanes;
  for (LaneReport& lane : named) lane.rank = rank;
  return named;
}

}  // namespace

/// What the ranks told rank 0. Messages come in the port's thread.
struct Team::Board : std::enable_shared_from_this<Board> {
  struct Entry {
    std::vector<std::byte> message;
    Progress progress;
    RunReport report;
    Event final = Event::pending();  ///< the report is there
  };
  explicit Board(Port& port) : port(port), entries(static_cast<size_t>(port.size())) {}

  void listen(int rank) {
    Entry& entry = entries[static_cast<size_t>(rank)];
    Event arrived = port.receive(rank, Channel::kProgress, &entry.message);
    arrived.on_done([self = shared_from_this(), &entry, rank, arrived] {
      if (arrived.error()) return entry.final.finish(arrived.error());
      if (self->take(entry)) entry.final.finish();
      else self->listen(rank);
    });
  }

  bool take(Entry& entry) {
    MessageReader in(entry.message);
    const bool final = in.value<bool>();
    std::lock_guard lock(mutex);
    Progress& progress = entry.progress;
    progress.sequences_done = in.value<int64_t>();
    progress.prompt_tokens_done = in.value<int64_t>();
    progress.generated_tokens_done = in.value<int64_t>();
    progress.elapsed_s = in.value<double>();
    if (final) {
      RunReport& report = entry.report;
      report.elapsed_s = in.value<double>();
      for (int64_t* field : {&report.sequences, &report.prompt_tokens, &report.generated_tokens, &report.shared_prompt_tokens, &report.cut_off})
        *field = in.value<int64_t>();
      report.stopped = in.value<bool>();
      for (double* field : {&report.work.linear_flops, &report.work.attention_flops, &report.work.kv_read_bytes, &report.work.weight_read_bytes})
        *field = in.value<double>();
      for (int64_t* field : {&report.work.steps, &report.work.visits, &report.work.rows}) *field = in.value<int64_t>();
    }
    progress.lanes.clear();
    for (auto count = in.value<int64_t>(); count > 0; --count) {
      LaneReport& lane = progress.lanes.emplace_back();
      lane.kind = static_cast<LaneKind>(in.value<int64_t>());
      lane.stats.busy_s = in.value<double>();
      lane.stats.bytes = in.value<double>();
      lane.stats.operations = in.value<int64_t>();
    }
    if (final) entry.report.lanes = progress.lanes;
    return final;
  }

  Port& port;
  std::mutex mutex;
  std::vector<Entry> entries;
};

void require_alone(const TeamFlags& flags, const char* command) {
  if (const std::optional<Launch> launch = launched(); launch && launch->size > 1)
    fail_user("{} is done by one process, but {} started {}; run it without the launcher", command, launch->launcher, launch->size);
  if (!flags.stage_split.empty()) fail_user("--stages {}: {} is done by one process", flags.stage_split, command);
}

void check_team_flags(const TeamFlags& flags) {
  if (launched_with_others()) return;
  if (!flags.stage_split.empty())
    fail_user("--stages {}: this process was started alone; start one process a stage, like mpirun -n 2 flexgen ...", flags.stage_split);
  if (flags.pipeline_stages > 1)
    fail_user("--pipeline-stages {}: this process was started alone; start a multiple of {}, like mpirun -n {} flexgen ...", flags.pipeline_stages,
              flags.pipeline_stages, flags.pipeline_stages);
}

std::unique_ptr<Team> Team::join(const TeamFlags& flags) {
  check_team_flags(flags);
  if (!launched_with_others()) return nullptr;
  std::unique_ptr<World> world = join_world(*launched(), {flags.rank_timeout_s});
  try {
    return std::unique_ptr<Team>(new Team(world, flags));
  } catch (const std::exception& error) {
    // Nobody hears of it later: without its team the world ends the process.
    if (end_for_all(world->port(), world.get(), error)) write_sentence_of(error);
    throw;
  }
}

Team::Team(std::unique_ptr<World>& world, const TeamFlags& flags) : Team(world->port(), world->local_size(), flags) { world_ = std::move(world); }

Team::Team(Port& world, int local_size, const TeamFlags& flags)
    : world_port_(&world), local_size_(local_size), num_stages_(stages_of(flags, world.size())),
      stages_(world, world.rank() / num_stages_ * num_stages_, num_stages_), stage_split_(flags.stage_split) {
  const std::vector<int> cores = usable_core_numbers();
  const std::string machine = machine_id();
  MessageWriter own;
  // Launchers that give each process a GPU of its own hide the others from it.
  const char* seen = std::getenv("CUDA_VISIBLE_DEVICES");
  const std::string devices = seen ? seen : "all";
  own.add(wall_clock_s()).add(machine).add(cores).add(devices);
  const std::vector<std::string> all = all_gather(world, own.text());
  start_s_ = MessageReader(all.front()).value<double>();
  std::vector<std::vector<int>> cores_of_machine;
  int others = 0, other_stages = 0;
  for (int number = 0; number < world.size(); ++number) {
    MessageReader rank(all[static_cast<size_t>(number)]);
    rank.value<double>();
    if (rank.text() != machine) continue;
    cores_of_machine.push_back(rank.values<int>());
    if (machine.empty() || number == world.rank()) continue;
    ++others;
    if (number / num_stages_ == replica()) ++other_stages;
    if (rank.text() != devices) continue;
    ++device_seat_.of;
    if (number < world.rank()) ++device_seat_.number;
  }
  on_machine_ += others;
  stages_on_machine_ += other_stages;
  threads_ = share_of_threads(cores, cores_of_machine, local_size);
}

Team::~Team() { stop_sharing(); }

std::vector<int> Team::other_leads() const {
  std::vector<int> leads;
  for (int replica = 1; replica < num_replicas(); ++replica) leads.push_back(replica * num_stages_);
  return leads;
}

EngineFlags Team::hardware_flags(const EngineFlags& flags) const {
  EngineFlags own = flags;
  if (own.disk_bytes_per_s > 0) own.disk_bytes_per_s = std::max<int64_t>(1, own.disk_bytes_per_s * stages_on_machine_ / on_machine_);
  return own;
}

EngineOptions Team::engine_options(const EngineFlags& flags, const std::string& model_directory) {
  EngineOptions options = flexgen::engine_options(flags, model_directory, local_size_);
  if (flags.disk_space_bytes == 0) options.budgets.disk_bytes /= local_size_;
  if (options.usual_disk_bytes) options.usual_disk_bytes = [all = std::move(options.usual_disk_bytes), sharers = local_size_] { return all() / sharers; };
  if (flags.threads == 0 && flags.backend != "reference") options.threads = threads_;
  options.disk_bytes_per_s /= on_machine_;
  options.device_seat = device_seat_;
  spdlog::debug("of these this rank has {} on disk, and {} threads", format_bytes(options.budgets.disk_bytes), options.threads);
  if (num_stages_ > 1) {
    options.stages.port = &stages_;
    options.learn_hardware = [own = hardware_flags(flags)](Engine& engine) { set_hardware(engine, own); };
  }
  options.stage_split = stage_split_;
  const int rank = world_port_->rank();
  if (!options.trace_file.empty()) {
    if (rank > 0) {
      trace_part_.emplace(spill_directory(options.trace_file), "this rank's part of the trace");
      options.trace_file = trace_part_->opened_by();
    }
    options.trace_process = {rank + 1, fmt::format("{}{}", world_port_->describe(rank), num_replicas() > 1 ? fmt::format(", replica {}", replica()) : ""),
                             wall_clock_s() - start_s_};
  }
  return options;
}

void Team::agree(const std::vector<std::pair<std::string, std::string>>& facts) {
  MessageWriter own;
  for (const auto& [name, value] : facts) own.add(name).add(value);
  const std::vector<std::string> all = all_gather(*world_port_, own.text());
  for (size_t rank = 1; rank < all.size(); ++rank) {
    MessageReader first(all[0]), other(all[rank]);
    while (!first.at_end() && !other.at_end()) {
      const std::string name = first.text(), value = first.text(), other_name = other.text(), other_value = other.text();
      if (name != other_name)
        fail_user("{} is another flexgen than {}; all ranks must run the same", world_port_->describe(static_cast<int>(rank)), world_port_->describe(0));
      if (value != other_value)
        fail_user("{} has another {} than {}: {} instead of {}; all ranks must have the same", world_port_->describe(static_cast<int>(rank)), name,
                  world_port_->describe(0), other_value, value);
    }
  }
}

void Team::share_progress(std::function<Progress()> poll) {
  poll_ = std::move(poll);
  if (is_root()) {
    board_ = std::make_shared<Board>(*world_port_);
    for (int rank = 1; rank < world_port_->size(); ++rank) board_->listen(rank);
    return;
  }
  sharing_ = true;
  sharer_ = start_thread("sharing progress", [this] {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, std::chrono::seconds(1), [&] { return !sharing_; })) {
      const std::vector<std::byte> message = encode(poll_(), nullptr);
      try {
        world_port_->send(0, Channel::kProgress, message).wait();
      } catch (const Error&) {
        return;  // the run learns of it too
      }
    }
  });
}

void Team::stop_sharing() {
  if (!sharer_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    sharing_ = false;
  }
  changed_.notify_all();
  sharer_.join();
}

Progress Team::merged_progress() {
  FLEXGEN_CHECK(board_ && is_root());
  Progress merged = poll_();
  if (merged.sequences_total > 0) last_ = merged;
  else if (last_.sequences_total > 0) merged = last_;  // it is done, others are not
  const int replicas = num_replicas();
  merged.sequences_total *= replicas;
  merged.prompt_tokens_total *= replicas;
  merged.generated_tokens_total *= replicas;
  merged.lanes = named(0, merged.lanes);
  std::lock_guard lock(board_->mutex);
  for (size_t rank = 1; rank < board_->entries.size(); ++rank) {
    const Progress& other = board_->entries[rank].progress;
    merged.sequences_done += other.sequences_done;
    merged.prompt_tokens_done += other.prompt_tokens_done;
    merged.generated_tokens_done += other.generated_tokens_done;
    for (const LaneReport& lane : named(static_cast<int>(rank), other.lanes)) merged.lanes.push_back(lane);
  }
  return merged;
}

RunReport Team::share_report(const RunReport& own) {
  if (!is_root()) {
    stop_sharing();
    const std::vector<std::byte> message = encode(poll_(), &own);
    world_port_->send(0, Channel::kProgress, message).wait();
    return own;
  }
  RunReport merged = own;
  merged.lanes = named(0, own.lanes);
  for (size_t rank = 1; rank < board_->entries.size(); ++rank) {
    Board::Entry& entry = board_->entries[rank];
    entry.final.wait();
    const RunReport& other = entry.report;
    if (static_cast<int>(rank) % num_stages_ == 0) {
      merged.sequences += other.sequences;
      merged.prompt_tokens += other.prompt_tokens;
      merged.generated_tokens += other.generated_tokens;
      merged.shared_prompt_tokens += other.shared_prompt_tokens;
      merged.cut_off += other.cut_off;
      merged.stopped = merged.stopped || other.stopped;
      merged.work.rows += other.work.rows;
      merged.work.steps = std::max(merged.work.steps, other.work.steps);
    }
    merged.elapsed_s = std::max(merged.elapsed_s, other.elapsed_s);
    merged.work.linear_flops += other.work.linear_flops;
    merged.work.attention_flops += other.work.attention_flops;
    merged.work.kv_read_bytes += other.work.kv_read_bytes;
    merged.work.weight_read_bytes += other.work.weight_read_bytes;
    merged.work.visits += other.work.visits;
    for (const LaneReport& lane : named(static_cast<int>(rank), other.lanes)) merged.lanes.push_back(lane);
  }
  return merged;
}

void Team::join_traces(const std::string& trace_file) {
  if (trace_file.empty()) return;
  constexpr int64_t kChunkBytes = 1 << 20;
  if (!is_root()) {
    std::ifstream in(trace_part_ ? trace_part_->opened_by() : "", std::ios::binary);
    std::string chunk(static_cast<size_t>(kChunkBytes), '\0');
    for (std::streamsize n = 1; n > 0;) {
      in.read(chunk.data(), kChunkBytes);
      n = in.gcount();
      world_port_->send(0, Channel::kControl, std::as_bytes(std::span(chunk.data(), static_cast<size_t>(n)))).wait();  // an empty one ends it
    }
    trace_part_.reset();
    return;
  }
  // Each file is "[\n", events with ",\n" between them, at least one, and "\n]\n".
  const std::string end = "\n]\n";
  std::error_code ignored;
  const auto size = std::filesystem::file_size(trace_file, ignored);
  if (!ignored && size >= end.size()) std::filesystem::resize_file(trace_file, size - end.size(), ignored);
  std::ofstream out(trace_file, std::ios::binary | std::ios::app);
  for (int rank = 1; rank < world_port_->size(); ++rank) {
    std::string held;  // what may turn out to be the end
    bool first = true;
    for (;;) {
      std::vector<std::byte> chunk;
      world_port_->receive(rank, Channel::kControl, &chunk).wait();
      if (chunk.empty()) break;
      std::string_view text(reinterpret_cast<const char*>(chunk.data()), chunk.size());
      if (first) {
        text.remove_prefix(std::min<size_t>(2, text.size()));
        out << ",\n";
      }
      first = false;
      held += text;
      if (held.size() > end.size()) {
        out.write(held.data(), static_cast<std::streamsize>(held.size() - end.size()));
        held.erase(0, held.size() - end.size());
      }
    }
  }
  out << end;
  if (!out.flush()) fail_io("cannot write the trace {}", trace_file);
}

void Team::leave() {
  if (world_) world_->leave();
}

bool Team::fail(const std::exception& error) {
  stop_sharing();
  return end_for_all(*world_port_, world_.get(), error);
}

}  // namespace flexgen
