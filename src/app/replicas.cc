#include "app/replicas.h"

#include "base/error.h"
#include "dist/message.h"

namespace flexgen {

void tell_replicas(Port& world, const Leads& leads, const ReplicaJob& job) {
  MessageWriter message;
  std::vector<uint64_t> todo(job.todo.begin(), job.todo.end());
  message.add(todo).add(job.model_name).add(job.created_s).add(job.input_fingerprint).add(job.answer_shares);
  for (int lead : leads) world.send(lead, Channel::kRecord, message.bytes()).wait();
}

ReplicaJob hear_replica_job(Port& world) {
  std::vector<std::byte> bytes;
  world.receive(0, Channel::kRecord, &bytes).wait();
  MessageReader in(bytes);
  ReplicaJob job;
  const std::vector<uint64_t> todo = in.values<uint64_t>();
  job.todo.assign(todo.begin(), todo.end());
  job.model_name = in.text();
  job.created_s = in.value<int64_t>();
  job.input_fingerprint = in.text();
  job.answer_shares = in.values<float>();
  return job;
}

/// One replica's records, one after the other. Keeps itself alive while a message may come.
struct RecordCollector::Source : std::enable_shared_from_this<Source> {
  Port* world;
  int lead;
  std::mutex* lock;
  std::function<void(const std::string&)> append;
  std::shared_ptr<std::atomic<int64_t>> collected;
  std::vector<std::byte> message;
  Event over = Event::pending();

  void listen() {
    Event arrived = world->receive(lead, Channel::kRecord, &message);
    arrived.on_done([self = shared_from_this(), arrived] { self->take(arrived); });
  }
  void take(const Event& arrived) {
    if (arrived.error()) return over.finish(arrived.error());
    if (message.empty()) return over.finish();
    try {
      std::lock_guard guard(*lock);
      append(std::string(reinterpret_cast<const char*>(message.data()), message.size()));
      ++*collected;
    } catch (const std::exception& error) {
      world->abort(fmt::format("{}: {}", world->describe(world->rank()), error.what()));
      return over.finish(std::current_exception());
    }
    listen();
  }
};

RecordCollector::RecordCollector(Port& world, const Leads& leads, std::mutex& lock, std::function<void(const std::string&)> append) {
  for (int lead : leads) {
    sources_.push_back(std::make_shared<Source>());
    Source& source = *sources_.back();
    source.world = &world;
    source.lead = lead;
    source.lock = &lock;
    source.append = append;
    source.collected = collected_;
    source.listen();
  }
}

RecordCollector::~RecordCollector() {
  for (const auto& source : sources_) {
    try {
      source->over.wait();
    } catch (const std::exception&) {  // known to whoever waited before
    }
  }
}

void RecordCollector::wait() {
  for (const auto& source : sources_) source->over.wait();
}

void RecordSender::send(const std::string& record) { world_.send(0, Channel::kRecord, std::as_bytes(std::span(record))).wait(); }

void RecordSender::finish() { world_.send(0, Channel::kRecord, {}).wait(); }

void end_replicas(Port& world, const Leads& leads, bool stop) {
  const std::byte word[1]{static_cast<std::byte>(stop)};
  for (int lead : leads) world.send(lead, Channel::kRecord, word).wait();
}

Event hear_the_end(Port& world, std::function<void()> stop) {
  auto message = std::make_shared<std::vector<std::byte>>();
  Event heard = world.receive(0, Channel::kRecord, message.get());
  heard.on_done([message, heard, stop = std::move(stop)] {
    if (!heard.error() && message->size() == 1 && (*message)[0] == std::byte{1}) stop();
  });
  return heard;
}

}  // namespace flexgen
