#include "batch/replicas.h"

#include <chrono>
#include <thread>
#include <utility>

#include "base/error.h"
#include "net/message.h"

namespace flexgen {

namespace {

constexpr int64_t kPieceWords = 16384;  // of a LineSet, in one message

}  // namespace

void tell_replicas(Port& world, const Leads& leads, const ReplicaJob& job, const LineSet& todo) {
  const auto send = [&](MessageWriter& message) {
    for (int lead : leads) world.send(lead, Channel::kRecord, message.bytes()).wait();
  };
  MessageWriter message;
  message.add(todo.num_lines()).add(job.model_name).add(job.created_s).add(job.input_fingerprint).add(job.answer_shares);
  send(message);
  for (int64_t first = 0; first < todo.num_words(); first += kPieceWords) {
    std::vector<uint64_t> words;
    for (int64_t i = first; i < std::min(first + kPieceWords, todo.num_words()); ++i) words.push_back(todo.word(i));
    MessageWriter piece;
    piece.add(words);
    send(piece);
  }
}

ReplicaJob hear_replica_job(Port& world, LineSet& todo) {
  std::vector<std::byte> bytes;
  world.receive(0, Channel::kRecord, &bytes).wait();
  MessageReader in(bytes);
  ReplicaJob job;
  const auto num_lines = in.value<int64_t>();
  job.model_name = in.text();
  job.created_s = in.value<int64_t>();
  job.input_fingerprint = in.text();
  job.answer_shares = in.values<float>();
  while (todo.num_lines() < num_lines) {
    world.receive(0, Channel::kRecord, &bytes).wait();
    for (uint64_t word : MessageReader(bytes).values<uint64_t>())
      for (int bit = 0; bit < 64 && todo.num_lines() < num_lines; ++bit) todo.add(word >> bit & 1);
  }
  return job;
}

/// One replica's records, one after the other. Keeps itself alive while a message may come.
struct RecordCollector::Source : std::enable_shared_from_this<Source> {
  Port* world;
  TaskThread* writer;
  int lead;
  std::mutex* lock;
  std::function<void(RecordText&)> append;
  ChoiceStore pieces;  ///< of the record that is coming: a line 0 with one choice
  std::shared_ptr<std::atomic<int64_t>> collected;
  std::vector<std::byte> message;
  Event over = Event::pending();

  void listen() {
    Event arrived = world->receive(lead, Channel::kRecord, &message);
    arrived.on_done([self = shared_from_this(), arrived] { self->writer->give([self, arrived] { self->take(arrived); }); });
  }
  void take(const Event& arrived) {
    if (arrived.error()) return over.finish(arrived.error());
    if (message.empty()) return over.finish();
    try {
      pieces.add(0, 0, {reinterpret_cast<const char*>(message.data()), message.size()});
      if (message.back() == std::byte{'\n'}) {  // nowhere else in a record is one
        std::lock_guard guard(*lock);
        append(*pieces.record(0, "", ""));
        ++*collected;
        pieces.close(0);
        pieces.open(0, 1);
      }
    } catch (const std::exception& error) {
      world->abort(fmt::format("{}: {}", world->describe(world->rank()), error.what()));
      return over.finish(std::current_exception());
    }
    listen();
  }
};

RecordCollector::RecordCollector(Port& world, const Leads& leads, std::mutex& lock, std::function<void(RecordText&)> append, const std::string& directory) {
  for (int lead : leads) {
    sources_.push_back(std::make_shared<Source>());
    Source& source = *sources_.back();
    source.world = &world;
    source.writer = &writer_;
    source.lead = lead;
    source.lock = &lock;
    source.append = append;
    source.pieces = ChoiceStore(directory);
    source.pieces.open(0, 1);
    source.collected = collected_;
  }
  for (const auto& source : sources_) source->listen();
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

bool RecordCollector::wait(const std::atomic<bool>& stop) {
  constexpr std::chrono::milliseconds kLook(50);
  for (const auto& source : sources_)
    for (; !source->over.done(); std::this_thread::sleep_for(kLook))
      if (stop) return false;
  wait();
  return true;
}

void RecordSender::send(RecordText& record) {
  std::vector<char> piece(kRecordPieceBytes);
  while (const size_t count = record.read(piece.data(), piece.size())) world_.send(0, Channel::kRecord, std::as_bytes(std::span(piece).first(count))).wait();
}

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
