#include "schedule/stage_messages.h"

#include <utility>

#include "schedule/stager.h"

namespace flexgen {
namespace {

Work message_work(const char* name, const Visit& visit, int64_t bytes) {
  Work work;
  work.name = name;
  work.step = visit.step;
  work.layer = visit.layer;
  work.batch = visit.batch;
  work.bytes = static_cast<double>(bytes);
  return work;
}

}  // namespace

MessageLayout::MessageLayout(const Model& model, const Policy& policy) : row_bytes(model.config().hidden_size * static_cast<int64_t>(sizeof(float))) {
  if (policy.on_gpu() && policy.num_groups > 1) message_bytes = policy.max_rows * row_bytes;
}

std::vector<MemoryItem> MessageLayout::memory(const Policy& policy) const {
  if (message_bytes == 0) return {};
  return {{"activations between stages", Tier::kCpu, policy.num_micro_batches * Arena::footprint(message_bytes)}};
}

StageMessages::StageMessages(const Model& model, const Policy& policy, const Arenas& arenas, Lanes& lanes, StageLink link)
    : layout_(model, policy), on_gpu_(policy.on_gpu()), lanes_(lanes), link_(link), passed_(static_cast<size_t>(policy.num_micro_batches)) {
  for (int64_t batch = 0; batch < policy.num_micro_batches; ++batch) messages_.push_back(arenas.cpu->allocate(layout_.message_bytes));
}

void StageMessages::acquire(VisitLease& lease) {
  const Visit& visit = lease.visit;
  if (visit.layer > 0 || link_.num_stages() == 1) return;
  const auto batch = static_cast<size_t>(visit.batch);
  if (!link_.is_first()) {
    const int64_t bytes = bytes_of_rows(*lease.plan);
    auto* const rows = reinterpret_cast<std::byte*>(lease.rows);
    std::byte* const message = on_gpu_ ? messages_[batch].data() : rows;
    Work work = message_work("receive activations", visit, bytes);
    work.after = lease.rows_after;
    if (on_gpu_) work.after.push_back(passed_[batch]);
    work.start = [link = link_, message, bytes](double at_s) {
      return link.port->receive(link.stage() - 1, Channel::kHidden, std::span(message, static_cast<size_t>(bytes)), at_s);
    };
    Event there = lanes_.network_receive->submit(std::move(work));
    if (on_gpu_) {
      Work copy = message_work("receive activations", visit, bytes);
      copy.after = std::move(lease.rows_after);
      copy.after.push_back(there);
      add_copy(&copy.copies, message, rows, bytes);
      there = lanes_.h2d_small->submit(std::move(copy));
    }
    lease.rows_after = {there};
  }
  lease.rows_after.push_back(passed_[batch]);
}

void StageMessages::commit(VisitLease& lease, const Event& done) {
  if (lease.needed_later) return;
  const Visit& visit = lease.visit;
  const auto batch = static_cast<size_t>(visit.batch);
  if (link_.is_last()) {
    passed_[batch] = done;
    return;
  }
  const int64_t bytes = bytes_of_rows(*lease.plan);
  const auto* const rows = reinterpret_cast<const std::byte*>(lease.rows);
  Work work = message_work("send activations", visit, bytes);
  work.after = {done};
  const std::byte* message = rows;
  if (on_gpu_) {
    message = messages_[batch].data();
    Work copy = message_work("send activations", visit, bytes);
    copy.after = {done, passed_[batch]};
    add_copy(&copy.copies, rows, messages_[batch].data(), bytes);
    work.after = {lanes_.d2h->submit(std::move(copy))};
  }
  work.start = [link = link_, message, bytes](double at_s) {
    return link.port->send(link.stage() + 1, Channel::kHidden, std::span(message, static_cast<size_t>(bytes)), at_s);
  };
  lease.sent = passed_[batch] = lanes_.network_send->submit(std::move(work));
}

}  // namespace flexgen
