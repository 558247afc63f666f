#include "schedule/stager.h"

namespace flexgen {
namespace {

Work work_of(const Staged& what) {
  Work work;
  work.name = what.name;
  work.step = what.visit.step;
  work.layer = what.visit.layer;
  work.batch = what.visit.batch;
  return work;
}

}  // namespace

void append(std::vector<Event>* events, const std::vector<Event>& more) { events->insert(events->end(), more.begin(), more.end()); }

void add_copy(std::vector<Copy>* copies, const std::byte* from, std::byte* to, int64_t bytes) {
  if (bytes == 0) return;
  if (!copies->empty() && copies->back().from + copies->back().bytes == from && copies->back().to + copies->back().bytes == to) copies->back().bytes += bytes;
  else copies->push_back({from, to, bytes});
}

double bytes_of(const std::vector<Copy>& copies) {
  double bytes = 0;
  for (const Copy& copy : copies) bytes += static_cast<double>(copy.bytes);
  return bytes;
}

Stager::Stager(Tier compute_tier, const Arenas& arenas, Lanes& lanes, int count, int64_t buffer_bytes, int64_t bounce_bytes)
    : on_gpu_(compute_tier == Tier::kGpu), lanes_(&lanes) {
  FLEXGEN_CHECK(on_gpu_ || bounce_bytes == 0);
  ring_ = StagingRing(arenas.of(compute_tier).allocate(count * buffer_bytes), count, buffer_bytes);
  if (on_gpu_) bounce_ = StagingRing(arenas.cpu->allocate(count * bounce_bytes), count, bounce_bytes);
  free_.resize(static_cast<size_t>(count));
  bounce_free_.resize(static_cast<size_t>(count));
}

StagingBuffer& Stager::checked(int64_t key) {
  StagingBuffer& buffer = ring_.at(key);
  FLEXGEN_CHECK(buffer.key == key, "buffer holds {}, wanted {}", buffer.key, key);
  return buffer;
}

void Stager::start(int64_t key) {
  auto start_in = [key](StagingRing& ring, std::vector<std::vector<Event>>& free) {
    std::vector<Event> events = ring.start(key);
    std::erase_if(events, [](const Event& event) { return event.done() && !event.error(); });
    ring.at(key).ready = events;  // compute waits for these itself where nobody fills the buffer
    free[static_cast<size_t>(key % ring.count())] = std::move(events);
  };
  start_in(ring_, free_);
  if (on_gpu_) start_in(bounce_, bounce_free_);
}

void Stager::load(int64_t key, Staged what) {
  StagingBuffer& buffer = checked(key);
  const auto index = static_cast<size_t>(key % ring_.count());
  if (!on_gpu_) {
    FLEXGEN_CHECK(what.copies.empty() && what.bounce_copies.empty());
    if (what.transfers.empty()) return;
    Work work = work_of(what);
    work.after = free_[index];
    append(&work.after, what.disk_after);
    work.transfers = std::move(what.transfers);
    work.bytes = what.disk_bytes;
    buffer.ready.push_back(lanes_->disk_read->submit(std::move(work)));
    return;
  }
  if (!what.copies.empty()) {
    Work work = work_of(what);
    work.after = free_[index];
    append(&work.after, what.copies_after);
    work.bytes = bytes_of(what.copies);
    work.copies = std::move(what.copies);
    buffer.ready.push_back(lanes_->h2d->submit(std::move(work)));
  }
  if (what.transfers.empty()) return;
  StagingBuffer& bounce = bounce_.at(key);
  Work read = work_of(what), copy = work_of(what);
  read.after = bounce_free_[index];
  append(&read.after, what.disk_after);
  read.transfers = std::move(what.transfers);
  read.bytes = what.disk_bytes;
  bounce.ready.push_back(lanes_->disk_read->submit(std::move(read)));
  copy.after = free_[index];
  copy.after.push_back(bounce.ready.back());
  copy.bytes = bytes_of(what.bounce_copies);
  copy.copies = std::move(what.bounce_copies);
  buffer.ready.push_back(lanes_->h2d->submit(std::move(copy)));
  bounce.in_use.push_back(buffer.ready.back());
}

void Stager::use(int64_t key, const Event& done) { checked(key).in_use = {done}; }

Stager::Stored Stager::store(int64_t key, const Event& done, Staged what) {
  StagingBuffer& buffer = checked(key);
  Work write = work_of(what);
  write.after = {done};
  append(&write.after, what.disk_after);
  Stored stored{done, done};
  if (on_gpu_) {
    Work copy = work_of(what);
    copy.after = {done};
    append(&copy.after, what.copies_after);
    const bool bounces = !what.bounce_copies.empty();
    if (bounces) append(&copy.after, bounce_.at(key).ready);
    copy.copies = std::move(what.copies);
    copy.copies.insert(copy.copies.end(), what.bounce_copies.begin(), what.bounce_copies.end());
    copy.bytes = bytes_of(copy.copies);
    if (!copy.copies.empty()) {
      stored.copied = lanes_->d2h->submit(std::move(copy));
      buffer.in_use.push_back(stored.copied);
      if (bounces) bounce_.at(key).in_use.push_back(stored.copied);
      write.after.push_back(stored.copied);
    }
  }
  if (what.transfers.empty()) return stored;
  write.transfers = std::move(what.transfers);
  write.bytes = what.disk_bytes;
  stored.written = lanes_->disk_write->submit(std::move(write));
  (on_gpu_ ? bounce_.at(key) : buffer).in_use.push_back(stored.written);
  return stored;
}

}  // namespace flexgen
